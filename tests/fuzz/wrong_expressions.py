"""Wrong expressions and piecewise definitions."""

from fuzz import NAMES, cases, name, number, other, wrong


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
