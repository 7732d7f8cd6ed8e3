"""Right relations, sets, units and words."""

from fuzz import NAMES, name, number, right


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


@right
def a_place_in_an_order(rng):
    n, word, end = rng.choice(
        [(1, "first", "st"), (2, "second", "nd"), (3, "third", "rd"), (7, "seventh", "th")]
    )
    return rng.sample([f"{n}{end}", f"{n}^{{\\text{{{end}}}}}", word, f"{n}^{{{end}}}"], 2)


@right
def a_chain_with_one_value(rng):
    first, second = rng.sample(NAMES, 2)
    a = number(rng)
    return f"{first}={second}={a}", f"{second}={a}, {first}={a}"


@right
def a_chain_of_names_in_another_order(rng):
    names = rng.sample(NAMES, 3)
    return "=".join(names), "=".join(rng.sample(names, 3))


@right
def a_ratio_in_words(rng):
    a, b = number(rng), number(rng)
    return f"{a} : {b}", f"{a} to {b}"
