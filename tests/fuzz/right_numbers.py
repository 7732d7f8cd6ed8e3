"""Right numbers and expressions."""

from fractions import Fraction

from fuzz import NAMES, cases, frac, fraction, name, number, right


@right
def a_fraction_not_reduced(rng):
    value, scale = fraction(rng), number(rng, 2, 9)
    return (
        frac(value),
        f"\\frac{{{value.numerator * scale}}}{{{value.denominator * scale}}}",
    )


@right
def a_fraction_in_plain_text(rng):
    value = fraction(rng)
    return frac(value), f"{value.numerator}/{value.denominator}"


@right
def a_decimal_that_ends(rng):
    value = Fraction(rng.randint(1, 999), rng.choice([2, 4, 5, 8, 16, 20, 25]))
    return frac(value), f"{float(value)}"


@right
def six_decimals_of_a_fraction(rng):
    value = Fraction(rng.randint(1, 40), rng.choice([3, 7, 9, 11, 13]))
    if value.denominator == 1:
        value = Fraction(1, 3)
    return frac(value), f"{float(value):.{rng.randint(6, 10)}f}"


@right
def a_period(rng):
    digit = rng.randint(1, 8)
    gold = frac(Fraction(digit, 9))
    return gold, rng.choice([f"0.\\overline{{{digit}}}", f"0.({digit})"])


@right
def thousands_grouped(rng):
    value = rng.randint(1000, 10**8)
    spelled = f"{value:,}"
    return str(value), rng.choice(
        [spelled, spelled.replace(",", "{,}"), spelled.replace(",", ",\\!"),
         spelled.replace(",", "\\,"), "\\$" + spelled.replace(",", "{,}")]
    )  # fmt: skip


@right
def a_surd_simplified(rng):
    a, b = number(rng, 2, 12), rng.choice([2, 3, 5, 6, 7, 10])
    return f"{a}\\sqrt{{{b}}}", f"\\sqrt{{{a * a * b}}}"


@right
def a_surd_rationalised(rng):
    a = rng.choice([2, 3, 5, 6, 7])
    return f"\\frac{{1}}{{\\sqrt{{{a}}}}}", f"\\frac{{\\sqrt{{{a}}}}}{{{a}}}"


@right
def a_real_odd_root(rng):
    a, degree = number(rng, 2, 6), rng.choice([3, 5])
    return f"-{a}", f"\\sqrt[{degree}]{{-{a**degree}}}"


@right
def a_power_of_ten(rng):
    a, power = rng.randint(11, 99), number(rng, 2, 12)
    return f"{a / 10} \\times 10^{{{power}}}", rng.choice(
        [f"{a * 10 ** (power - 1)}", f"{a / 10}e{power}", f"{a} \\cdot 10^{{{power - 1}}}"]
    )


@right
def a_mixed_number(rng):
    value = fraction(rng)
    while value < 1:
        value = fraction(rng)
    whole = value.numerator // value.denominator
    return frac(value), f"{whole}{frac(value - whole)}"


@right
def a_base_in_words(rng):
    base = rng.randint(3, 9)
    words = {3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}
    digits = "".join(str(rng.randint(1, base - 1)) for _ in range(4))
    return f"{digits}_{base}", rng.choice(
        [f"{digits}_{{\\text{{{words[base]}}}}}", f"{digits}\\text{{ base }}{base}",
         f"{digits}_{{{base}}}"]
    )  # fmt: skip


@right
def a_number_in_words(rng):
    return rng.choice(
        [("5", "five"), ("21", "\\text{twenty-one}"), ("100", "one hundred"), ("12", "twelve"),
         ("\\frac{2}{3}", "two thirds"), ("45", "forty-five")]
    )  # fmt: skip


@right
def a_number_word(rng):
    a = number(rng)
    word, size = rng.choice([("million", 10**6), ("dozen", 12), ("thousand", 1000)])
    return f"{a * size}", f"{a}\\text{{ {word}}}"


@right
def a_percentage(rng):
    value = rng.randint(1, 99)
    return f"{value}\\%", rng.choice([f"{value}", f"{value / 100}", f"{value} \\%", f"{value}%"])


@right
def a_binomial_computed(rng):
    from math import comb

    n, k = number(rng, 4, 20), number(rng, 2, 4)
    return str(comb(n, k)), f"\\binom{{{n}}}{{{k}}}"


@right
def a_sum_computed(rng):
    n, k = number(rng, 3, 30), rng.choice("ijk")
    return str(n * (n + 1) // 2), f"\\sum_{{{k}=1}}^{{{n}}} {k}"


@right
def a_determinant(rng):
    a, b, c, d = (number(rng, 1, 9) for _ in range(4))
    text = f"\\begin{{vmatrix}} {a} & {b} \\\\ {c} & {d} \\end{{vmatrix}}"
    return str(a * d - b * c), text


@right
def decoration(rng):
    a = number(rng)
    return str(a), rng.choice(
        [f"\\textbf{{{a}}}", f"\\mathbf{{{a}}}", f"\\color{{blue}}{{{a}}}", f"\\underline{{{a}}}",
         f"{a}\\ \\checkmark", f"\\therefore {a}", f"${a}$", f"{a}.", f"\\displaystyle {a}",
         f"\\left({a}\\right)"]
    )  # fmt: skip


@right
def an_expanded_product(rng):
    x, a, b = name(rng), number(rng, 1, 20), number(rng, 1, 20)
    return f"({x}+{a})({x}-{b})", f"{x}^2+{a - b}{x}-{a * b}".replace("+-", "-")


@right
def terms_in_another_order(rng):
    x, y = rng.sample(NAMES, 2)
    a, b = number(rng), number(rng)
    return f"{a}{x}+{b}{y}", f"{b}{y}+{a}{x}"


@right
def a_trigonometric_identity(rng):
    x = name(rng)
    return rng.choice(
        [
            (f"2\\sin {x}\\cos {x}", f"\\sin(2{x})"),
            (f"1-2\\sin^2 {x}", f"\\cos 2{x}"),
            (f"\\tan {x}", f"\\frac{{\\sin {x}}}{{\\cos {x}}}"),
            (f"\\sec^2 {x}-1", f"\\tan^2 {x}"),
        ]
    )


@right
def an_absolute_value_as_a_root(rng):
    x, a = name(rng), number(rng)
    return f"|{x}-{a}|", rng.choice(
        [f"\\sqrt{{({x}-{a})^2}}", f"|{a}-{x}|", f"\\max({x}-{a},{a}-{x})"]
    )


@right
def a_logarithm_taken_apart(rng):
    x, a = name(rng), number(rng, 2, 9)
    return f"\\ln({a}{x})", f"\\ln {a}+\\ln {x}"


@right
def a_sum_closed(rng):
    return rng.choice(
        [
            ("\\sum_{i=1}^{n} i", "\\frac{n(n+1)}{2}"),
            ("\\sum_{k=1}^{n} k^2", "\\frac{n(n+1)(2n+1)}{6}"),
            ("\\sum_{k=0}^{n} 2^k", "2^{n+1}-1"),
            ("n!", "\\prod_{i=1}^{n} i"),
        ]
    )


@right
def a_parity_shifted(rng):
    n = rng.choice("mnk")
    return f"(-1)^{n}", rng.choice([f"(-1)^{{{n}+2}}", f"\\cos({n}\\pi)", f"(-1)^{{-{n}}}"])


@right
def letters_of_functions_as_factors(rng):
    g = rng.choice("gfhFG")
    return f"{g}(M-m)", rng.choice([f"{g}M-{g}m", f"(M-m){g}", f"M{g}-m{g}"])


@right
def the_constant_of_integration_renamed(rng):
    power = number(rng, 2, 9)
    return f"x^{power}+C", f"x^{power}+{rng.choice(['c', 'K', 'C'])}"


@right
def an_integer_parameter_renamed(rng):
    a = number(rng, 2, 9)
    return (
        f"\\frac{{\\pi}}{{{a}}}+2k\\pi",
        rng.choice([f"\\frac{{\\pi}}{{{a}}}+2n\\pi", f"2m\\pi+\\frac{{\\pi}}{{{a}}}"]),
    )


@right
def a_function_with_another_argument(rng):
    x, y = rng.sample(NAMES, 2)
    a = number(rng)
    return f"f({x})={a}{x}+1", rng.choice([f"f({y})={a}{y}+1", f"{a}{x}+1", f"y={a}{x}+1"])


@right
def cases_same(rng):
    x, at = name(rng), number(rng, 0, 20)
    gold = cases(x, f"{x}^2", ">", at, "2")
    return gold, rng.choice(
        [cases(x, f"{x}^2", ">", at, "2", ""), cases(x, "2", "\\le", at, f"{x}^2"),
         f"\\begin{{cases}} {x}^2 & {x}>{at} \\\\ 2 & \\text{{otherwise}} \\end{{cases}}"]
    )  # fmt: skip


@right
def absolute_value_as_cases(rng):
    x = name(rng)
    return f"|{x}|", cases(x, x, "\\ge", 0, f"-{x}")


@right
def digits_that_go_on(rng):
    digits = str(rng.choice([*range(1, 9), 12, 27, 45, 63, 142857]))
    value = Fraction(int(digits), 10 ** len(digits) - 1)
    return frac(value), f"0.{digits * 3}" + rng.choice(["...", "\\ldots", "\\dots"])
