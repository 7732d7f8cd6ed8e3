"""Wrong relations, sets, units and words."""

from fuzz import NAMES, name, number, wrong


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


@wrong
def a_place_in_an_order_for_a_quantity(rng):
    a = 10 * number(rng, 2, 9) + rng.randint(4, 9)
    unit = rng.choice(["\\text{ kg}", "\\%", "\\text{ times}", "^\\circ", "\\text{ apples}"])
    pair = f"{a}{unit}", str(a) + rng.choice(["th", "^{th}", "\\text{th}"])
    return pair if rng.random() < 0.5 else pair[::-1]


@wrong
def inequalities_of_two_names_swapped(rng):
    first, second = rng.sample(NAMES, 2)
    a, b = rng.sample(range(9), 2)
    ops = rng.choice(["<>", "><"])
    gold = f"{first}{ops[0]}{a}, {second}{ops[1]}{b}"
    return gold, rng.choice(
        [f"{second}{ops[0]}{a}, {first}{ops[1]}{b}", f"k{ops[1]}{b}, l{ops[0]}{a}"]
    )


@wrong
def a_chain_of_names_for_one_of_them(rng):
    first, second, third = rng.sample(NAMES, 3)
    gold = rng.choice([f"{first}={second}={third}", f"{first}_1={first}_2=\\cdots={first}_n"])
    return gold, rng.choice([third, f"{first}_n", f"{first}={second}"])


@wrong
def a_list_that_goes_on(rng):
    a = number(rng)
    return f"{a}, {a + 1}, {a + 2}", f"{a}, {a + 1}, {a + 2}, " + rng.choice(["...", "\\ldots"])
