"""The value of a tree at a sampled point."""

from fractions import Fraction
from functools import singledispatch

from rlvr.verifier.exact import Undefined, bounds, is_plain, plain_label
from rlvr.verifier.point import Point, Value
from rlvr.verifier.special import function_of, power_of, quotient
from rlvr.verifier.tree import (
    USUAL_FUNCTIONS,
    Apply,
    Based,
    Big,
    Bracket,
    Call,
    Cases,
    Const,
    Degrees,
    Group,
    Indexed,
    Matrix,
    Name,
    Neg,
    Node,
    Nodes,
    Num,
    Percent,
    Power,
    Product,
    Quantity,
    Quotient,
    Ratio,
    Relation,
    Root,
    Sequence,
    Set,
    Sum,
    Words,
)

COMPLEX_NAMES = {"z", "w"}  # what |z| is taken of may be complex


@singledispatch
def value(node: Node, at: Point) -> Value:
    """Return the number that ``node`` is at the sampled point.

    Raises:
        Undefined: it is infinite, undefined, beyond the limits or no number.
    """
    raise Undefined(f"a {type(node).__name__} is no number")


@value.register
def _(node: Num, at: Point) -> Value:
    return at.note(at.number(node.value))


@value.register
def _(node: Name, at: Point) -> Value:
    drawn = at.draw(node.name)
    if at.plane and node.name in COMPLEX_NAMES:
        return drawn + at.context.j * at.draw(f"imaginary {node.name}")
    return drawn


@value.register
def _(node: Words, at: Point) -> Value:
    return at.draw(plain_label(node))


@value.register
def _(node: Const, at: Point) -> Value:
    if node.name == "inf":
        raise Undefined("infinite")
    return {"pi": +at.context.pi, "e": +at.context.e, "i": at.context.j}[node.name]


@value.register
def _(node: Based, at: Point) -> Value:
    return at.context.mpf(int(node.digits, node.base))


@value.register
def _(node: Group, at: Point) -> Value:
    return value(node.item, at)


@value.register
def _(node: Quantity, at: Point) -> Value:
    return value(node.value, at)


@value.register
def _(node: Neg, at: Point) -> Value:
    return -value(node.item, at)


@value.register
def _(node: Sum, at: Point) -> Value:
    # Terms may cancel; what is left counts against the largest of them.
    terms = [value(item, at) for item in node.items]
    return at.settled(sum(terms, at.context.mpf(0)), max(abs(term) for term in terms))


@value.register
def _(node: Product, at: Point) -> Value:
    # Noted after each factor: the largest value on the way bounds the rounding of the result.
    total = at.context.mpf(1)
    for item in node.items:
        total = at.note(total * value(item, at))
    return total


@value.register
def _(node: Quotient, at: Point) -> Value:
    return quotient(value(node.top, at), value(node.bottom, at), at)


@value.register
def _(node: Ratio, at: Point) -> Value:
    if len(node.parts) != 2:
        raise Undefined("a ratio of several parts is no number")
    return quotient(value(node.parts[0], at), value(node.parts[1], at), at)


@value.register
def _(node: Power, at: Point) -> Value:
    return power_of(value(node.base, at), value(node.exponent, at), at)


@value.register
def _(node: Root, at: Point) -> Value:
    item, degree = value(node.item, at), value(node.degree, at)
    if at.negligible(degree):
        raise Undefined("a root of degree 0")
    ctx = at.context
    # \sqrt[3]{-8} is -2, while the principal power (-8)^(1/3) is complex.
    odd = ctx.isint(degree) and int(degree) % 2 == 1
    if odd and ctx.im(item) == 0 and item < 0:
        return -power_of(-item, 1 / degree, at)
    return power_of(item, 1 / degree, at)


@value.register
def _(node: Percent, at: Point) -> Value:
    return value(node.item, at) / 100


@value.register
def _(node: Degrees, at: Point) -> Value:
    return value(node.item, at) * at.context.pi / 180


@value.register
def _(node: Indexed, at: Point) -> Value:
    return at.draw(label(node, at))


@value.register
def _(node: Call, at: Point) -> Value:
    # a(b) is a product for names that are not usual for functions.
    if is_factor(node):
        return value(node.function, at) * value(node.arguments[0], at)
    return at.draw(label(node, at))


def is_factor(node: Call) -> bool:
    """Return whether ``a(b)`` multiplies: names that are usual for functions do not."""
    name = node.function
    plain = isinstance(name, Name) and name.name not in USUAL_FUNCTIONS
    return plain and len(node.arguments) == 1 and isinstance(node.arguments[0], Name)


def label(node: Node, at: Point) -> str:
    """Return a text that is the same for equal indices and arguments, and for equal names."""
    match node:
        case Name(name) if name in at.sample.fixed:
            return str(at.sample.fixed[name])
        case Name() | Words() | Num():
            return plain_label(node)
        case Indexed(base, index):
            # The index of a bound name has a value: a_k in a sum over k.
            if is_plain(node) and not at.sample.fixed:
                return plain_label(node)
            return f"{label(base, at)} _ {label(index, at)}"
        case Call(function, arguments):
            return f"{label(function, at)} ({', '.join(label(item, at) for item in arguments)})"
        case Sequence(_, items) | Bracket(_, _, items) | Set(items):
            return ",".join(label(item, at) for item in items)
    # x_{1+1} is x_2: an index by its value, to fewer digits than the precision.
    number = value(node, at)
    return str(at.context.nstr(at.context.mpmathify(number), 15))


@value.register
def _(node: Big, at: Point) -> Value:
    low, high = value(node.low, at), value(node.high, at)
    if not (at.context.isint(low) and at.context.isint(high) and isinstance(node.variable, Name)):
        raise Undefined("bounds that are no integers")
    total = at.context.mpf(node.kind == "prod")
    outer = at.sample
    for index in bounds(Fraction(int(low)), Fraction(int(high))):
        # An inner sum may use the same variable.
        at.sample = outer.bound(node.variable.name, Fraction(index))
        term = value(node.body, at)
        total = at.note(total * term if node.kind == "prod" else total + term)
    at.sample = outer
    return total


@value.register
def _(node: Cases, at: Point) -> Value:
    # The first case that applies, as one reads it; "otherwise" is always true.
    for result, condition in node.rows:
        if holds(condition, at):
            return value(result, at)
    raise Undefined("no case applies")


def holds(condition: Node, at: Point) -> bool:
    """Return whether a condition is true at the point.

    Raises:
        Undefined: it is no relation between numbers.
    """
    match condition:
        case Words(text) if text.split()[0].casefold().strip(",") in ("otherwise", "else"):
            return True
        case Sequence("or", items):
            return any(holds(item, at) for item in items)
        case Sequence(_, items):
            return all(holds(item, at) for item in items)
        case Relation(sides, operators) if set(operators) <= COMPARED.keys():
            numbers = [value(side, at) for side in sides]
            if any(at.context.im(number) != 0 for number in numbers):
                raise Undefined("an order of complex numbers")
            signs = [_order(a, b, at) for a, b in zip(numbers, numbers[1:], strict=False)]
            return all(s in COMPARED[o] for s, o in zip(signs, operators, strict=True))
    raise Undefined("a condition in words")


# The signs of left - right that make a relation true.
COMPARED = {"<": (-1,), "<=": (-1, 0), ">": (1,), ">=": (1, 0), "=": (0,), "!=": (-1, 1)}


def _order(first: Value, second: Value, at: Point) -> int:
    gap = first - second
    return 0 if at.negligible(gap) else 1 if gap > 0 else -1


@value.register
def _(node: Apply, at: Point) -> Value:
    if node.function == "det":
        return _determinant(node.arguments, at)
    return function_of(node.function, [value(item, at) for item in node.arguments], at)


def _determinant(arguments: Nodes, at: Point) -> Value:
    if len(arguments) != 1 or not isinstance(arguments[0], Matrix):
        raise Undefined("a determinant of no matrix")
    rows = [[value(item, at) for item in row] for row in arguments[0].rows]
    if len(rows) > 8 or any(len(row) != len(rows) for row in rows):
        raise Undefined("a determinant of no square matrix")
    return at.note(at.context.det(at.context.matrix(rows)))
