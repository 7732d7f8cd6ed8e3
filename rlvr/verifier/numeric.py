"""The value of a tree at a sampled point, and the precision that it takes to see it."""

import math
from fractions import Fraction
from functools import lru_cache, singledispatch
from typing import Any

import mpmath

from rlvr.verifier.exact import Undefined, bounds, is_plain, plain_label
from rlvr.verifier.sample import Sample
from rlvr.verifier.tree import (
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

MAX_SPAN = 12_000  # bits of the largest and the smallest number met
USUAL_SPAN = 1_500  # at a sampled point: others are near, and cheaper
COMPLEX_NAMES = {"z", "w"}  # what |z| is taken of may be complex
MAX_WORK = 20_000  # numbers met at one point
Value = Any  # a real or complex number of one mpmath context


@lru_cache(maxsize=64)
def _context(bits: int) -> mpmath.MPContext:
    # Contexts of their own: mpmath.mp is global. One takes a millisecond to make.
    context = mpmath.MPContext()
    context.prec = bits
    return context


class Point:
    """A sample, and the precision and the branch at which trees are evaluated there.

    ``real``: what leaves the real numbers has no value. ``decimal``: a logarithm without a base
    has base 10. ``plane``: z and w are complex numbers.
    """

    def __init__(
        self,
        sample: Sample,
        bits: int = 200,
        *,
        real: bool = True,
        decimal: bool = False,
        limit: int = MAX_SPAN,
        plane: bool = False,
    ) -> None:
        self.plane = plane
        self.sample, self.real, self.decimal, self.limit = sample, real, decimal, limit
        self.context = _context(-(-bits // 200) * 200)
        self.span = 0  # the largest |log2| of a number met
        self.work = 0

    def number(self, value: Fraction) -> Value:
        return self.context.mpf(value.numerator) / value.denominator

    def draw(self, key: str) -> Value:
        return self.number(self.sample.draw(key))

    def settled(self, result: Value, largest: Value) -> Value:
        """Return ``result`` of terms up to ``largest``, or 0 where only rounding is left of it."""
        if not result or not largest:
            return result
        noise = self.context.mag(largest) - self.context.prec + 30
        return self.context.mpf(0) if self.context.mag(abs(result)) < min(noise, 0) else result

    def note(self, value: Value, *, tiny: bool = True) -> Value:
        """Return ``value`` after noting its magnitude, of small values only where ``tiny``.

        Raises:
            Undefined: it is not finite, leaves the real numbers, or passes a limit.
        """
        self.work += 1
        # Bounds the time: the deadline would kill the whole worker.
        if self.work > MAX_WORK:
            raise Undefined("too long")
        if not self.context.isfinite(value):
            raise Undefined("not finite")
        if self.real and self.context.im(value) != 0:
            raise Undefined("not real")
        size = abs(value)
        if size and (tiny or size > 1):
            self.widen(abs(int(self.context.mag(size))))
        return value

    def widen(self, bits: int) -> None:
        """Note that numbers ``bits`` apart in magnitude meet here."""
        self.span = max(self.span, bits)
        if self.span > self.limit:
            raise Undefined("too large")

    def negligible(self, number: Value) -> bool:
        """Return whether ``number`` is zero but for rounding."""
        return not number or self.context.mag(abs(number)) < self.span - self.context.prec + 30


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
    terms = [value(item, at) for item in node.items]
    return at.settled(sum(terms, at.context.mpf(0)), max(abs(term) for term in terms))


@value.register
def _(node: Product, at: Point) -> Value:
    total = at.context.mpf(1)
    for item in node.items:
        total = at.note(total * value(item, at))
    return total


@value.register
def _(node: Quotient, at: Point) -> Value:
    return _quotient(value(node.top, at), value(node.bottom, at), at)


@value.register
def _(node: Ratio, at: Point) -> Value:
    if len(node.parts) != 2:
        raise Undefined("a ratio of several parts is no number")
    return _quotient(value(node.parts[0], at), value(node.parts[1], at), at)


@value.register
def _(node: Power, at: Point) -> Value:
    return _power(value(node.base, at), value(node.exponent, at), at)


@value.register
def _(node: Root, at: Point) -> Value:
    item, degree = value(node.item, at), value(node.degree, at)
    if at.negligible(degree):
        raise Undefined("a root of degree 0")
    ctx = at.context
    odd = ctx.isint(degree) and int(degree) % 2 == 1
    if odd and ctx.im(item) == 0 and item < 0:
        return -_power(-item, 1 / degree, at)
    return _power(item, 1 / degree, at)


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
    usual = ("f", "g", "h", "F", "G", "phi", "varphi", "psi")
    name = node.function
    plain = isinstance(name, Name) and name.name not in usual
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
        case Relation(sides, operators) if set(operators) <= _COMPARED.keys():
            numbers = [value(side, at) for side in sides]
            if any(at.context.im(number) != 0 for number in numbers):
                raise Undefined("an order of complex numbers")
            signs = [_order(a, b, at) for a, b in zip(numbers, numbers[1:], strict=False)]
            return all(s in _COMPARED[o] for s, o in zip(signs, operators, strict=True))
    raise Undefined("a condition in words")


_COMPARED = {"<": (-1,), "<=": (-1, 0), ">": (1,), ">=": (1, 0), "=": (0,), "!=": (-1, 1)}


def _order(first: Value, second: Value, at: Point) -> int:
    gap = first - second
    return 0 if at.negligible(gap) else 1 if gap > 0 else -1


def _quotient(top: Value, bottom: Value, at: Point) -> Value:
    if at.negligible(bottom):
        raise Undefined("division by zero")
    return at.note(top / bottom)


def _power(base: Value, power: Value, at: Point) -> Value:
    ctx = at.context
    if at.negligible(base):
        if ctx.re(power) <= 0:
            raise Undefined("0 to a power that is not positive")
        return ctx.mpf(0)
    # log2 of the result, before it is computed.
    size = abs(ctx.log(abs(base), 2)) * abs(power)
    if size > at.limit:
        raise Undefined("too large")
    if at.real and ctx.im(base) == 0 and base < 0 and not ctx.isint(power):
        return _real_power(base, power, at)
    return at.note(base**power)


def _real_power(base: Value, power: Value, at: Point) -> Value:
    """Return the real power of a negative number by a fraction of odd denominator."""
    for bottom in (3, 5, 7, 9):
        top = at.context.nint(power * bottom)
        if at.negligible(power * bottom - top):
            return at.note(abs(base) ** power * (-1 if int(top) % 2 else 1))
    raise Undefined("not real")


@value.register
def _(node: Apply, at: Point) -> Value:
    if node.function == "det":
        return _determinant(node.arguments, at)
    return _function(node.function, [value(item, at) for item in node.arguments], at)


def _determinant(arguments: Nodes, at: Point) -> Value:
    if len(arguments) != 1 or not isinstance(arguments[0], Matrix):
        raise Undefined("a determinant of no matrix")
    rows = [[value(item, at) for item in row] for row in arguments[0].rows]
    if len(rows) > 8 or any(len(row) != len(rows) for row in rows):
        raise Undefined("a determinant of no square matrix")
    return at.note(at.context.det(at.context.matrix(rows)))


def _function(name: str, values: list[Value], at: Point) -> Value:
    ctx, number = at.context, values[0]
    if name == "exp":
        return _power(+ctx.e, number, at)
    if name in ("log", "ln"):
        return _logarithm(name, values, at)
    if name in _DIRECT:
        return _direct(name, number, at)
    if name in ("tan", "cot"):
        sine, cosine = (at.settled(f(number), abs(number)) for f in (ctx.sin, ctx.cos))
        return _quotient(sine, cosine, at) if name == "tan" else _quotient(cosine, sine, at)
    if name in _RECIPROCAL:
        return _quotient(ctx.mpf(1), _direct(_RECIPROCAL[name], number, at), at)
    if name == "arccot":
        return at.note(ctx.pi / 2 - ctx.atan(number))
    if name in ("factorial", "factorial2", "binom"):
        return _counting(name, values, at)
    if any(ctx.im(item) != 0 for item in values):
        raise Undefined(f"{name} of complex numbers")
    return _stepping(name, values, at)


def _logarithm(name: str, values: list[Value], at: Point) -> Value:
    ctx = at.context
    if any(at.negligible(number) for number in values):
        raise Undefined("the logarithm of 0")
    top = at.note(ctx.log(values[0]))
    if len(values) == 2:
        return _quotient(top, ctx.log(values[1]), at)
    return top / ctx.log(10) if name == "log" and at.decimal else top


def _direct(name: str, number: Value, at: Point) -> Value:
    ctx = at.context
    # Reducing a large argument of sin costs as many bits as it has.
    if abs(number) > 1e6 and name not in ("abs", "floor", "ceil", "sgn", "arctan"):
        raise Undefined("too large")
    if name in ("sinh", "cosh", "tanh"):
        # 1 - tanh(x) is as small as e^(-2x).
        at.widen(int(3 * abs(number)))
    if name in ("floor", "ceil") and at.negligible(number - ctx.nint(number)):
        return ctx.nint(number)
    result = getattr(ctx, _DIRECT[name])(number)
    return at.settled(at.note(result, tiny=False), abs(number))


def _counting(name: str, values: list[Value], at: Point) -> Value:
    ctx = at.context
    if any(abs(item) > 5000 for item in values):
        raise Undefined("too large")
    whole = all(ctx.isint(item) and item >= 0 for item in values)
    if name == "binom" and whole:
        return at.note(ctx.mpf(math.comb(*(int(item) for item in values))))
    # The gamma function at high precision takes seconds.
    if ctx.prec > 1200 and not whole:
        raise Undefined("too long")
    if name == "binom":
        return at.note(ctx.binomial(*values))
    return at.note(ctx.factorial(values[0]) if name == "factorial" else ctx.fac2(values[0]))


def _stepping(name: str, values: list[Value], at: Point) -> Value:
    ctx = at.context
    if name in ("min", "max"):
        return min(values) if name == "min" else max(values)
    if name == "mod" and len(values) == 2:
        if at.negligible(values[1]):
            raise Undefined("modulo 0")
        return values[0] - values[1] * ctx.floor(values[0] / values[1])
    if name in ("gcd", "lcm") and all(ctx.isint(item) for item in values):
        return ctx.mpf(getattr(math, name)(*(int(item) for item in values)))
    raise Undefined(f"{name} is not evaluated")


_DIRECT = {
    "sin": "sin", "cos": "cos", "arcsin": "asin", "arccos": "acos", "arctan": "atan",
    "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "abs": "fabs", "floor": "floor",
    "ceil": "ceil", "sgn": "sign",
}  # fmt: skip
_RECIPROCAL = {"sec": "cos", "csc": "sin", "coth": "tanh"}
