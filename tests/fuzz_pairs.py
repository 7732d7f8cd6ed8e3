r"""Pairs of a gold answer and an answer that are right, or wrong, by construction.

Each generator takes a random source and returns (gold, answer). A wrong pair differs in value, in
form that carries meaning, or in words that turn the meaning round; a right pair says one thing in
two ways. ``WRONG`` and ``RIGHT`` hold the generators by the name of their kind.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from random import Random

Pair = tuple[str, str]
Generator = Callable[[Random], Pair]
WRONG: dict[str, Generator] = {}
RIGHT: dict[str, Generator] = {}
NAMES = "xyztuvpq"


def wrong(function: Generator) -> Generator:
    WRONG[function.__name__.replace("_", " ")] = function
    return function


def right(function: Generator) -> Generator:
    RIGHT[function.__name__.replace("_", " ").removesuffix(" same")] = function
    return function


def pairs(kinds: dict[str, Generator], count: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """Yield ``count`` tuples (kind, gold, answer), the kinds in turns."""
    rng, names = Random(seed), list(kinds)
    for index in range(count):
        kind = names[index % len(names)]
        yield (kind, *kinds[kind](rng))


def name(rng: Random) -> str:
    return rng.choice(NAMES)


def number(rng: Random, low: int = 2, high: int = 99) -> int:
    return rng.randint(low, high)


def other(rng: Random, value: int, low: int = 2, high: int = 99) -> int:
    """Return another number than ``value``."""
    return rng.choice([n for n in (value - 1, value + 1, *range(low, high, 7)) if n != value])


def frac(value: Fraction) -> str:
    sign = "-" if value < 0 else ""
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def fraction(rng: Random) -> Fraction:
    while True:
        value = Fraction(rng.randint(1, 40), rng.randint(2, 30))
        if value.denominator > 1:
            return value


# Wrong: numbers


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


# Wrong: expressions


@wrong
def an_absolute_value_left_out(rng):
    x, a = name(rng), number(rng, 1, 60)
    return f"|{x}-{a}|", rng.choice([f"{a}-{x}", f"{x}-{a}"])


@wrong
def a_sum_of_absolute_values_in_one_region(rng):
    x, a = name(rng), number(rng, 1, 30)
    b = a + number(rng, 1, 30)
    return f"|{x}-{a}|+|{x}-{b}|", rng.choice(
        [f"{a + b}-2{x}", f"2{x}-{a + b}", f"{b - a}", f"|2{x}-{a + b}|"]
    )


@wrong
def the_root_of_a_square_without_a_bar(rng):
    x, a = name(rng), number(rng, 1, 40)
    return rng.choice(
        [
            (f"\\sqrt{{({x}+{a})^2}}", f"{x}+{a}"),
            (f"\\sqrt{{{x}^2-{2 * a}{x}+{a * a}}}", f"{x}-{a}"),
            (f"\\sqrt{{{x}^2-{2 * a}{x}+{a * a}}}", f"{a}-{x}"),
            (f"\\sqrt{{{a * a}{x}^2}}", f"{a}{x}"),
            (f"\\sqrt[4]{{{x}^4}}", x),
        ]
    )


@wrong
def the_root_of_a_square_of_two_names(rng):
    x, y = rng.sample(NAMES, 2)
    return rng.choice(
        [
            (f"\\sqrt{{{x}^2 {y}}}", f"{x}\\sqrt{{{y}}}"),
            (f"|{x}{y}|", f"{x}{y}"),
            (f"\\sqrt{{{x}^2{y}^2}}", f"{x}{y}"),
        ]
    )


@wrong
def an_absolute_value_left_out_of_an_equation(rng):
    x, y = rng.sample(NAMES, 2)
    a = number(rng, 2, 30)
    return rng.choice(
        [
            (f"|{x}|+|{y}|={a}", f"{x}+{y}={a}"),
            (f"{y}=|{x}-{a}|", f"{y}={x}-{a}"),
            (f"{y}=|{x}-{a}|", f"{y}={a}-{x}"),
            (f"|{x}|+{a}|{y}|\\le {a}", f"{x}+{a}{y}\\le {a}"),
            (f"|{x}|={a}", f"{x}={a}"),
            (f"f({x})=\\sqrt{{{x}^2}}", f"f({x})={x}"),
        ]
    )


@wrong
def a_parity_forgotten(rng):
    n, a = rng.choice("mnkda"), number(rng, 2, 9)
    return rng.choice(
        [
            (f"(-1)^{{{n}}}", "1"),
            (f"(-1)^{n} {a}^{n}", f"{a}^{n}"),
            (f"\\frac{{(-1)^{n}}}{{{n}+{a}}}", f"\\frac{{1}}{{{n}+{a}}}"),
            (f"(-1)^{n}", f"(-1)^{{{n}+1}}"),
            (f"\\frac{{1+(-1)^{n}}}{{2}}", "0"),
            (f"\\frac{{1-(-1)^{n}}}{{2}}", "1"),
        ]
    )


@wrong
def a_floor_forgotten(rng):
    x, a = name(rng), number(rng, 2, 6)
    return rng.choice(
        [
            (f"\\lfloor {x}\\rfloor", x),
            (f"\\lceil {x}\\rceil", f"\\lfloor {x}\\rfloor"),
            (f"\\lfloor {a}{x}\\rfloor", f"{a}\\lfloor {x}\\rfloor"),
            (f"\\left\\lfloor \\frac{{n}}{{{a}}}\\right\\rfloor", f"\\frac{{n}}{{{a}}}"),
            (
                f"\\left\\lfloor \\frac{{n}}{{{a}}}\\right\\rfloor",
                f"\\left\\lceil \\frac{{n}}{{{a}}}\\right\\rceil",
            ),
            (f"\\lfloor {x}\\rfloor+{a}", f"\\lceil {x}\\rceil+{a - 1}"),
        ]
    )


@wrong
def an_inverse_function_beyond_its_range(rng):
    x = name(rng)
    return rng.choice(
        [
            (f"\\arccos(\\cos {x})", x),
            (f"\\arccos(\\cos {x})", f"|{x}|"),
            (f"\\arcsin(\\sin {x})", x),
            (f"\\arctan(\\tan {x})", x),
        ]
    )


@wrong
def a_greatest_or_least_of_two(rng):
    x, a = name(rng), number(rng, 2, 50)
    return rng.choice(
        [
            (f"\\max({x}, {a})", x),
            (f"\\max({x}, {a})", f"{a}"),
            (f"\\min({x}, {a})", f"\\max({x}, {a})"),
        ]
    )


@wrong
def a_coefficient_changed(rng):
    x, a, b, c = name(rng), *(number(rng, 2, 20) for _ in range(3))
    return f"{a}{x}^2+{b}{x}+{c}", f"{a}{x}^2+{other(rng, b, 2, 20)}{x}+{c}"


@wrong
def a_factor_left_out(rng):
    x, a, b = name(rng), number(rng), number(rng)
    return f"{a}({x}+{b})", f"{a}{x}+{b}"


@wrong
def a_power_of_a_sum(rng):
    x, y = rng.sample(NAMES, 2)
    power = rng.randint(2, 5)
    return f"({x}+{y})^{power}", f"{x}^{power}+{y}^{power}"


@wrong
def another_name(rng):
    x, y = rng.sample(NAMES, 2)
    a = number(rng)
    return f"{a}{x}+1", f"{a}{y}+1"


@wrong
def another_index(rng):
    x, k = rng.choice("axbE"), number(rng, 1, 9)
    return f"{x}_{k}", f"{x}_{k + 1}"


@wrong
def a_function_of_a_sum(rng):
    x, a = name(rng), number(rng, 2, 9)
    f = rng.choice(["\\sin", "\\ln", "\\cos"])
    return f"{f}({x}+{a})", f"{f}({x})+{f}({a})"


@wrong
def the_constant_of_integration_left_out(rng):
    x, power = rng.choice("xt"), number(rng, 2, 6)
    return f"{x}^{power}+C", f"{x}^{power}"


@wrong
def the_end_of_a_sum_changed(rng):
    a = number(rng, 1, 3)
    return rng.choice(
        [
            (f"\\sum_{{k=1}}^{{n}} k^{a}", f"\\sum_{{k=1}}^{{n-1}} k^{a}"),
            ("\\sum_{i=1}^{n} i", "\\frac{n(n-1)}{2}"),
            ("n!", "(n-1)!"),
            (f"\\sum_{{k=0}}^{{n}} {a + 1}^k", f"{a + 1}^{{n+1}}-1" if a > 1 else "2^n-1"),
        ]
    )


@wrong
def a_function_of_another_argument(rng):
    x, y = rng.sample(NAMES, 2)
    a = number(rng)
    return f"f({x})={a}{x}+1", f"f({y})={a}{x}+1"


@wrong
def an_exponential_of_another_sign(rng):
    x, a = name(rng), number(rng, 2, 9)
    return f"e^{{-{a}{x}}}", f"e^{{{a}{x}}}"


@wrong
def a_product_for_a_sum(rng):
    x, y = rng.sample(NAMES, 2)
    return f"{x}+{y}", f"{x}{y}"


# Wrong: piecewise definitions and conditions


def cases(x: str, first: str, op: str, at: int, second: str, word: str = "\\text{if } ") -> str:
    rest = {"\\ge": "<", ">": "\\le", "<": "\\ge", "\\le": ">"}[op]
    return (
        f"\\begin{{cases}} {first} & {word}{x}{op} {at} \\\\ {second} & {word}{x}{rest} {at} "
        "\\end{cases}"
    )


@wrong
def another_case_changed(rng):
    x, a, at = name(rng), number(rng, 2, 9), number(rng, 0, 20)
    op = rng.choice(["\\ge", ">", "<"])
    return cases(x, f"{x}^2", op, at, f"-{a}{x}"), cases(x, f"{x}^2", op, at, f"{a}{x}")


@wrong
def a_boundary_moved(rng):
    x, at = name(rng), number(rng, 0, 50)
    return cases(x, "1", ">", at, "2"), cases(x, "1", ">", at + rng.randint(1, 5), "2")


@wrong
def a_boundary_in_the_other_case(rng):
    x, at = name(rng), number(rng, 0, 50)
    return cases(x, "1", ">", at, "2"), cases(x, "1", "\\ge", at, "2")


@wrong
def otherwise_changed(rng):
    x, a = name(rng), number(rng)
    text = "\\begin{cases} 2%s & \\text{when } %s<4 \\\\ %d & \\text{otherwise} \\end{cases}"
    return text % (x, x, a), text % (x, x, other(rng, a))


@wrong
def a_condition_changed(rng):
    x, a, b = name(rng), number(rng), number(rng)
    word = rng.choice(["for", "if", "when", "where"])
    return rng.choice(
        [
            (f"{x}^2 \\text{{ {word} }} {x}\\ge {a}", f"{x}^2 \\text{{ {word} }} {x}\\ge {a + 1}"),
            (f"{x}+1 \\text{{ {word} }} {x}>{a}", f"{x}+1 \\text{{ {word} }} {x}<{a}"),
            (f"a={a} \\text{{ {word} }} b={b}", f"a={a} \\text{{ {word} }} b={b + 1}"),
            (f"y={a} \\text{{ {word} }} c=0", f"y={a} \\text{{ {word} }} c\\ne 0"),
        ]
    )


# Wrong: relations and sets


@wrong
def an_inequality_turned(rng):
    x, a = name(rng), number(rng)
    return f"{x} > {a}", rng.choice([f"{x} < {a}", f"{x} \\ge {a}", f"{x} = {a}", f"-{x} > -{a}"])


@wrong
def an_end_that_belongs(rng):
    a = number(rng, 1, 40)
    b = a + number(rng, 1, 40)
    return f"({a},{b})", rng.choice([f"[{a},{b}]", f"[{a},{b})", f"({a},{b}]"])


@wrong
def an_interval_for_an_inequality(rng):
    x, a = name(rng), number(rng)
    return f"({a},\\infty)", rng.choice([f"{x}\\ge {a}", f"{x}<{a}", f"2{x}>{a}", f"-{x}>{a}"])


@wrong
def a_solution_left_out(rng):
    a, b = number(rng, 1, 40), number(rng, 41, 90)
    return f"{a}, {b}", rng.choice([f"{a}", f"{b}", f"x={a}"])


@wrong
def a_solution_added(rng):
    a, b = number(rng, 1, 40), number(rng, 41, 90)
    return f"{a}", rng.choice([f"{a}, {b}", f"{a} \\text{{ or }} {b}", f"\\{{{a}, {b}\\}}"])


@wrong
def plus_or_minus(rng):
    a = number(rng)
    return rng.choice([(f"\\pm {a}", f"{a}"), (f"{a}", f"\\pm {a}")])


@wrong
def coordinates_swapped(rng):
    a, b = number(rng, 1, 40), number(rng, 41, 90)
    return f"({a},{b})", f"({b},{a})"


@wrong
def names_in_another_order(rng):
    a, b = number(rng, 1, 40), number(rng, 41, 90)
    x, y = rng.sample("abpqmxyn", 2)
    return f"{x}={a}, {y}={b}", rng.choice([f"{b}, {a}", f"{x}={b}, {y}={a}"])


@wrong
def an_element_changed(rng):
    items = rng.sample(range(1, 60), 4)
    first, second, third, fourth = items
    return f"\\{{{first}, {second}, {third}\\}}", f"\\{{{first}, {second}, {fourth}\\}}"


@wrong
def and_for_or(rng):
    x, a = name(rng), number(rng)
    b = a + number(rng)
    return (
        f"{x}<{a} \\text{{ or }} {x}>{b}",
        rng.choice([f"{a}<{x}<{b}", f"{x}<{a} \\text{{ and }} {x}>{b}", f"{x}<{a}"]),
    )


@wrong
def an_equation_changed(rng):
    x, y = rng.sample(NAMES, 2)
    a, b, c = number(rng, 2, 20), number(rng, 2, 20), number(rng, 1, 50)
    return f"{a}{x}+{b}{y}={c}", rng.choice(
        [f"{a}{x}-{b}{y}={c}", f"{a}{x}+{b}{y}={c + 1}", f"{a}{x}+{b}{y}=-{c}"]
    )


@wrong
def a_conic_changed(rng):
    a, b = rng.sample(range(2, 30), 2)
    return f"\\frac{{x^2}}{{{a}}}+\\frac{{y^2}}{{{b}}}=1", rng.choice(
        [
            f"\\frac{{x^2}}{{{b}}}+\\frac{{y^2}}{{{a}}}=1",
            f"\\frac{{x^2}}{{{a}}}-\\frac{{y^2}}{{{b}}}=1",
        ]
    )


@wrong
def an_equation_for_its_value(rng):
    x, a = name(rng), number(rng)
    return f"{x}^2+{x}={a}", rng.choice([f"{a}", f"{x}^2={a}"])


@wrong
def an_absolute_inequality_changed(rng):
    x, a = name(rng), number(rng, 2, 20)
    return f"|{x}|<{a}", rng.choice([f"{x}<{a}", f"|{x}|>{a}", f"[-{a},{a}]", f"(0,{a})"])


@wrong
def another_modulus(rng):
    a, m = number(rng, 1, 4), number(rng, 5, 20)
    return f"x\\equiv {a}\\pmod{{{m}}}", rng.choice(
        [f"x\\equiv {a}\\pmod{{{m + 1}}}", f"x\\equiv {a + 1}\\pmod{{{m}}}"]
    )


@wrong
def a_union_for_an_intersection(rng):
    return rng.choice([("A\\cup B", "A\\cap B"), ("A\\setminus B", "B\\setminus A")])


@wrong
def a_matrix_changed(rng):
    a, b, c, d = (number(rng) for _ in range(4))
    text = "\\begin{pmatrix} %d & %d \\\\ %d & %d \\end{pmatrix}"
    return text % (a, b, c, d), text % rng.choice([(a, b, c, d + 1), (a, b + 1, c, d)])


@wrong
def a_vector_lying(rng):
    a, b = number(rng), number(rng)
    return (
        f"\\begin{{pmatrix}} {a} \\\\ {b} \\end{{pmatrix}}",
        f"\\begin{{pmatrix}} {a} & {b} \\end{{pmatrix}}",
    )


@wrong
def a_ratio_turned(rng):
    a, b = rng.sample(range(1, 10), 2)
    return f"{a}:{b}", f"{b}:{a}"


# Wrong: units and words

UNITS = ["Hz kHz", "N J", "W kW", "mA A", "mol mmol", "V A", "GHz MHz", "kg N", "cm m", "g kg",
         "Pa kPa", "s ms", "km m", "L mL", "J kJ"]  # fmt: skip


@wrong
def another_unit(rng):
    first, second = rng.choice(UNITS).split()
    a = number(rng)
    return f"{a}\\text{{ {first}}}", f"{a}\\text{{ {second}}}"


@wrong
def another_noun(rng):
    first, second = rng.sample(["apples", "oranges", "books", "students", "hens", "ways"], 2)
    a = number(rng)
    return f"{a} \\text{{ {first}}}", f"{a} \\text{{ {second}}}"


@wrong
def a_number_word_added(rng):
    a = number(rng)
    word = rng.choice(["million", "billion", "dozen", "thousand", "ninths", "hundred"])
    return f"{a}", f"{a}\\text{{ {word}}}"


@wrong
def another_number_word(rng):
    a = number(rng)
    first, second = rng.sample(["million", "billion", "thousand", "dozen"], 2)
    return f"{a}\\text{{ {first}}}", rng.choice([f"{a}\\text{{ {second}}}", f"{a}"])


@wrong
def a_compound_quantity_changed(rng):
    hours, minutes = number(rng, 1, 9), number(rng, 1, 58)
    total = 60 * hours + minutes
    return f"{total}\\text{{ minutes}}", f"{hours}\\text{{ hours }}{minutes + 1}\\text{{ minutes}}"


@wrong
def a_clock_halved(rng):
    hour, minute = 2 * rng.randint(1, 6), 2 * rng.randint(5, 29)
    return f"{hour}:{minute:02d}", f"{hour // 2}:{minute // 2:02d}"


@wrong
def another_hour(rng):
    hour, minute = rng.randint(1, 11), rng.randint(0, 59)
    return f"{hour}:{minute:02d}", f"{hour + 1}:{minute:02d}"


@wrong
def another_option(rng):
    first, second = rng.sample("ABCDE", 2)
    return first, rng.choice([second, f"({second})", f"\\text{{{second}}}"])


@wrong
def several_options(rng):
    first, second = rng.sample("ABCDE", 2)
    return first, rng.choice(
        [
            f"({first}) and ({second})",
            f"({first}), ({second})",
            f"{first} or {second}",
            f"({first}) \\text{{ and }} ({second})",
            f"{first}, {second}",
        ]
    )


@wrong
def the_opposite_word(rng):
    first, second = rng.choice(
        [("yes", "no"), ("true", "false"), ("even", "odd"), ("maximum", "minimum"),
         ("increasing", "decreasing"), ("convergent", "divergent"), ("No", "Yes")]
    )  # fmt: skip
    return f"\\text{{{first}}}", f"\\text{{{second}}}"


@wrong
def a_label_before_another_equation(rng):
    a, b = number(rng, 2, 20), number(rng, 2, 20)
    word = rng.choice(["line", "Equation", "plane", "curve"])
    return (
        f"\\text{{{word}: }}{a}x-y-{b}=0",
        rng.choice([f"\\text{{{word}: }}{a}x+y-{b}=0", "0", f"\\text{{{word}: }}{a}x-y+{b}=0"]),
    )


@wrong
def another_quantity(rng):
    a = number(rng)
    first, second = rng.choice([("maximum", "minimum"), ("area", "perimeter"), ("max", "min")])
    return rng.choice(
        [
            (f"\\text{{{first}}}={a}", f"\\text{{{second}}}={a}"),
            (f"\\text{{{first}: }}{a}", f"\\text{{{second}: }}{a}"),
        ]
    )


@wrong
def denied_in_the_box(rng):
    a = number(rng)
    words = rng.choice(["is wrong", "is not the answer", "or more", "at most", "is false"])
    return f"{a}", f"{a}\\text{{ {words}}}"


@wrong
def a_square_for_a_length(rng):
    a = number(rng)
    return f"{a}\\text{{ cm}}^2", rng.choice([f"{a}\\text{{ cm}}^3", f"{a}\\text{{ m}}^2"])


# Right: numbers


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


# Right: expressions


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


# Right: relations, sets, units, words


@right
def a_half_line(rng):
    x, a = name(rng), number(rng)
    return f"({a},\\infty)", rng.choice(
        [f"{x}>{a}", f"{a}<{x}", f"2{x}>{2 * a}", f"-{x}<-{a}", f"{x}\\in({a},\\infty)",
         f"\\{{{x} \\mid {x}>{a}\\}}"]
    )  # fmt: skip


@right
def an_interval(rng):
    x, a = name(rng), number(rng, 1, 40)
    b = a + number(rng, 2, 40)
    return f"[{a},{b})", rng.choice(
        [f"{a}\\le {x}<{b}", f"{x}\\ge {a} \\text{{ and }} {x}<{b}", f"[{a},{b}["]
    )


@right
def an_absolute_inequality(rng):
    x, b = name(rng), number(rng, 2, 20)
    return f"(-{b},{b})", rng.choice([f"|{x}|<{b}", f"{x}^2<{b * b}", f"-{b}<{x}<{b}"])


@right
def an_equation_scaled(rng):
    a, b, c, k = number(rng, 2, 20), number(rng, 2, 20), number(rng, 2, 50), number(rng, 2, 9)
    return f"{a}x+{b}y={c}", rng.choice(
        [f"{k * a}x+{k * b}y={k * c}", f"{c}={a}x+{b}y", f"{a}x+{b}y-{c}=0"]
    )


@right
def a_list_in_another_order(rng):
    a, b, c = rng.sample(range(1, 90), 3)
    return f"{a}, {b}, {c}", rng.choice(
        [f"{c}, {a}, {b}", f"{b}, {a} \\text{{ and }} {c}", f"\\{{{c}, {b}, {a}\\}}"]
    )


@right
def two_solutions(rng):
    a = number(rng)
    return f"\\pm {a}", rng.choice([f"{a}, -{a}", f"x={a} \\text{{ or }} x=-{a}", f"-{a}, {a}"])


@right
def a_vector(rng):
    a, b, c = (number(rng) for _ in range(3))
    return f"({a},{b},{c})", rng.choice(
        [f"\\langle {a},{b},{c}\\rangle", f"\\begin{{pmatrix}} {a}\\\\{b}\\\\{c} \\end{{pmatrix}}",
         f"\\left({a}, {b}, {c}\\right)"]
    )  # fmt: skip


@right
def a_matrix_product(rng):
    a, b, k = number(rng, 1, 9), number(rng, 1, 9), number(rng, 2, 9)
    return (
        f"\\begin{{pmatrix}} {k * a} & {k * b} \\end{{pmatrix}}",
        f"{k}\\begin{{pmatrix}} {a} & {b} \\end{{pmatrix}}",
    )


@right
def a_point_with_its_name(rng):
    a, b = number(rng), number(rng)
    return f"({a},-{b})", rng.choice([f"P({a},-{b})", f"x={a}, y=-{b}", f"(x,y)=({a},-{b})"])


@right
def a_unit_left_out_or_in(rng):
    a = number(rng)
    unit = rng.choice(
        ["\\text{ cm}", "\\ \\mathrm{m}", "\\text{ dollars}", "\\text{ apples}", "\\ \\mathrm{N}"]
    )
    return rng.choice([(f"{a}", f"{a}{unit}"), (f"{a}{unit}", f"{a}")])


@right
def a_unit_converted(rng):
    a = number(rng)
    return rng.choice(
        [(f"{a}\\text{{ m}}", f"{100 * a}\\text{{ cm}}"),
         (f"{a}\\text{{ hours}}", f"{60 * a}\\text{{ minutes}}"),
         (f"{a}\\,\\mathrm{{kg}}", f"{1000 * a}\\,\\mathrm{{g}}"),
         (f"{a}\\text{{ kHz}}", f"{1000 * a}\\text{{ Hz}}"),
         (f"{a}\\text{{ m/s}}", f"{a} \\text{{ meters per second}}")]
    )  # fmt: skip


@right
def a_compound_quantity(rng):
    hours, minutes = number(rng, 1, 9), number(rng, 1, 59)
    return (
        f"{60 * hours + minutes}\\text{{ minutes}}",
        f"{hours}\\text{{ hours }}{minutes}\\text{{ minutes}}",
    )


@right
def degrees(rng):
    a = number(rng, 1, 179)
    return f"{a}^\\circ", rng.choice([f"{a}", f"{a}°", f"{a}\\degree", f"{a}\\text{{ degrees}}"])


@right
def words_of_one_meaning(rng):
    return rng.choice(
        [("\\text{DNE}", "\\text{does not exist}"), ("\\text{no solution}", "\\emptyset"),
         ("\\text{Yes}", "yes"), ("No", "\\text{No}"), ("\\text{all real numbers}", "\\mathbb{R}"),
         ("\\text{no solution}", "\\text{No solutions}"), ("\\text{True}", "true")]
    )  # fmt: skip


@right
def words_around_the_number(rng):
    a = number(rng)
    return f"{a}", rng.choice(
        [f"\\text{{The answer is {a}}}", f"\\text{{There are }} {a} \\text{{ ways}}",
         f"\\text{{She has }} {a} \\text{{ left}}"]
    )  # fmt: skip


@right
def an_option_with_its_text(rng):
    letter, a = rng.choice("ABCDE"), number(rng)
    return letter, rng.choice(
        [f"({letter})", f"\\text{{{letter}}}", f"\\textbf{{({letter})}}", f"{letter}. {a}",
         f"({letter})\\ {a}"]
    )  # fmt: skip


@right
def a_congruence(rng):
    a, m = number(rng, 1, 4), number(rng, 5, 20)
    return f"x\\equiv {a}\\pmod{{{m}}}", rng.choice(
        [f"x\\equiv {a} \\pmod {{{m}}}", f"x\\equiv {a}\\ (\\text{{mod }} {m})"]
    )
