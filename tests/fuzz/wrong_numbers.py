"""Wrong numbers."""

from fractions import Fraction

from fuzz import frac, fraction, number, other, wrong


@wrong
def a_digit_changed(rng):
    digits = str(rng.randint(100, 10**9))
    place = rng.randrange(1, len(digits))
    digit = rng.choice([d for d in "0123456789" if d != digits[place]])
    return digits, digits[:place] + digit + digits[place + 1 :]


@wrong
def a_sign_changed(rng):
    value = rng.choice([str(number(rng)), frac(fraction(rng)), f"\\sqrt{{{number(rng)}}}"])
    return value, f"-{value}"


@wrong
def a_fraction_turned(rng):
    value = fraction(rng)
    while value.numerator == 1:
        value = fraction(rng)
    return frac(value), frac(1 / value)


@wrong
def a_decimal_moved(rng):
    value = rng.randint(1, 999) * 10 + rng.randint(1, 9)
    return f"{value / 100}", f"{value / 10}"


@wrong
def rounded_to_two_places(rng):
    value = Fraction(rng.choice([1, 2, 4, 5, 8]), rng.choice([3, 7, 9, 11, 13]))
    return frac(value), f"{float(value):.2f}"


@wrong
def a_root_rounded(rng):
    inside = rng.choice([2, 3, 5, 6, 7, 10, 11])
    return f"\\sqrt{{{inside}}}", f"{inside**0.5:.3f}"


@wrong
def an_exponent_changed(rng):
    base, power = number(rng, 2, 9), number(rng, 2, 200)
    return f"{base}^{{{power}}}", f"{base}^{{{other(rng, power)}}}"


@wrong
def one_more_than_a_power(rng):
    base, power = number(rng, 2, 9), number(rng, 20, 300)
    return f"{base}^{{{power}}}", f"{base}^{{{power}}}+{rng.choice([1, -1, 2])}".replace("+-", "-")


@wrong
def the_power_of_ten_changed(rng):
    value, power = rng.randint(11, 99) / 10, number(rng, 3, 25)
    return (
        f"{value} \\times 10^{{{power}}}",
        f"{value} \\times 10^{{{power + rng.choice([-1, 1])}}}",
    )


@wrong
def another_base(rng):
    digits, base = rng.randint(100, 333), rng.randint(4, 9)
    return f"{digits}_{base}", f"{digits}_{{{rng.choice([b for b in range(4, 17) if b != base])}}}"


@wrong
def digits_that_the_base_lacks(rng):
    base = rng.randint(3, 8)
    digits = rng.randint(1, base - 1)
    return f"1{digits}_{base}", f"1{rng.randint(base, 9)}_{base}"


@wrong
def a_factorial_off_by_one(rng):
    value = number(rng, 3, 30)
    return f"{value}!", f"{value + 1}!"


@wrong
def a_binomial_changed(rng):
    n = number(rng, 8, 40)
    k = rng.randint(2, n // 2 - 1)
    return f"\\binom{{{n}}}{{{k}}}", f"\\binom{{{n}}}{{{k + 1}}}"


@wrong
def an_index_of_a_root_changed(rng):
    value, degree = rng.choice([2, 3, 5, 6, 7, 10]), rng.randint(2, 5)
    return f"\\sqrt[{degree}]{{{value}}}", f"\\sqrt[{degree + 1}]{{{value}}}"


@wrong
def a_difference_that_is_tiny(rng):
    value = rng.randint(50, 120)
    return rng.choice(
        [
            (f"\\tanh({value})", "1"),
            (f"1+e^{{-{value}}}", "1"),
            (f"\\arctan(10^{{{value}}})", "\\frac{\\pi}{2}"),
            (f"10^{{{value}}}", f"10^{{{value}}}+1"),
            (f"\\frac{{10^{{{value}}}+1}}{{10^{{{value}}}}}", "1"),
        ]
    )


@wrong
def a_logarithm_of_another_base(rng):
    value, base = rng.choice([5, 7, 11, 13]), rng.choice([2, 3, 6])
    return f"\\log_{{{base}}} {value}", f"\\log_{{{base + 1}}} {value}"


@wrong
def an_angle_of_another_function(rng):
    angle = rng.randint(2, 12)
    first, second = rng.sample(["\\sin", "\\cos", "\\tan"], 2)
    return f"{first} {{{angle}}}", f"{second} {{{angle}}}"


@wrong
def a_mixed_number_as_a_product(rng):
    whole, value = number(rng, 2, 9), fraction(rng)
    while value > 1:
        value = fraction(rng)
    return f"{whole}{frac(value)}", frac(whole * value)


@wrong
def another_period(rng):
    digit = rng.randint(1, 7)
    return f"0.\\overline{{{digit}}}", f"0.\\overline{{{digit + 1}}}"


@wrong
def the_conjugate(rng):
    a, b = number(rng), number(rng)
    return f"{a}+{b}i", f"{a}-{b}i"


@wrong
def percent_added(rng):
    value = rng.randint(1, 99) / 100
    return f"{value}", f"{value}\\%"


@wrong
def percent_as_its_number(rng):
    value = rng.randint(2, 99)
    return f"{value}\\%", f"{value / 1000}"


@wrong
def a_list_as_a_decimal(rng):
    value = rng.choice([-1, 1]) * number(rng)
    return f"{value},0", f"{value}"
