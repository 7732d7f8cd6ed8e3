"""The exact value of a tree that rational arithmetic decides, within limits on the numbers."""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import singledispatch

from rlvr.verifier.sample import Sample
from rlvr.verifier.tree import (
    Apply,
    Based,
    Big,
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
    Root,
    Sum,
    Words,
)

MAX_BITS = 60_000  # of a number met on the way
MAX_TERMS = 600  # of a sum or product


class Undefined(ArithmeticError):
    """The tree has no finite value here, or none within the limits."""


class TooLarge(Undefined):
    """The value exists, beyond the limits."""


def small(value: Fraction) -> Fraction:
    if value.numerator.bit_length() + value.denominator.bit_length() > 4 * MAX_BITS:
        raise TooLarge("too large")
    return value


@singledispatch
def exact(node: Node, at: Sample | None = None) -> Fraction | None:
    """Return the rational value of ``node``; None where rational arithmetic cannot decide it.

    Raises:
        Undefined: a division by zero, or numbers beyond the limits.
    """
    return None


@exact.register
def _(node: Num, at: Sample | None = None) -> Fraction | None:
    return node.value


@exact.register
def _(node: Name, at: Sample | None = None) -> Fraction | None:
    return None if at is None else at.draw(node.name)


@exact.register
def _(node: Indexed, at: Sample | None = None) -> Fraction | None:
    return None if at is None or not is_plain(node) else at.draw(plain_label(node))


@exact.register
def _(node: Based, at: Sample | None = None) -> Fraction | None:
    return Fraction(int(node.digits, node.base))


@exact.register
def _(node: Quantity, at: Sample | None = None) -> Fraction | None:
    return exact(node.value, at)


@exact.register
def _(node: Neg, at: Sample | None = None) -> Fraction | None:
    inner = exact(node.item, at)
    return None if inner is None else -inner


@exact.register
def _(node: Percent, at: Sample | None = None) -> Fraction | None:
    inner = exact(node.item, at)
    return None if inner is None else inner / 100


@exact.register
def _(node: Sum, at: Sample | None = None) -> Fraction | None:
    return _folded(node.items, Fraction(0), lambda a, b: a + b, at)


@exact.register
def _(node: Product, at: Sample | None = None) -> Fraction | None:
    return _folded(node.items, Fraction(1), lambda a, b: a * b, at)


def _folded(
    items: Nodes,
    total: Fraction,
    combine: Callable[[Fraction, Fraction], Fraction],
    at: Sample | None,
) -> Fraction | None:
    for item in items:
        value = exact(item, at)
        if value is None:
            return None
        total = small(combine(total, value))
    return total


@exact.register
def _(node: Quotient, at: Sample | None = None) -> Fraction | None:
    return _quotient(exact(node.top, at), exact(node.bottom, at))


@exact.register
def _(node: Ratio, at: Sample | None = None) -> Fraction | None:
    if len(node.parts) != 2:
        return None
    return _quotient(*(exact(part, at) for part in node.parts))


def _quotient(top: Fraction | None, bottom: Fraction | None) -> Fraction | None:
    if top is None or bottom is None:
        return None
    if bottom == 0:
        raise Undefined("division by zero")
    return small(top / bottom)


@exact.register
def _(node: Power, at: Sample | None = None) -> Fraction | None:
    base, power = exact(node.base, at), exact(node.exponent, at)
    if base is None or power is None:
        return None
    if power.denominator != 1:
        # Roots of perfect powers are rational; any other root is left to sampling.
        root = perfect_root(base, power.denominator)
        return None if root is None else _integer_power(root, Fraction(power.numerator))
    return _integer_power(base, power)


@exact.register
def _(node: Root, at: Sample | None = None) -> Fraction | None:
    item, degree = exact(node.item, at), exact(node.degree, at)
    if item is None or degree is None or degree.denominator != 1 or degree < 1:
        return None
    return perfect_root(item, int(degree))


def perfect_root(value: Fraction, degree: int) -> Fraction | None:
    """Return the real root of ``value`` where it is rational; None where it is not, or not real."""
    # The real root: an odd one of a negative number is negative.
    if value < 0:
        if degree % 2 == 0:
            return None
        root = perfect_root(-value, degree)
        return None if root is None else -root
    top, bottom = _whole_root(value.numerator, degree), _whole_root(value.denominator, degree)
    return None if top is None or bottom is None else Fraction(top, bottom)


def _whole_root(number: int, degree: int) -> int | None:
    if number < 2:
        return number
    # Beyond these a root is left to sampling: Newton would take too long.
    if degree > 64 or number.bit_length() > 4000:
        return None
    if degree == 2:
        root = math.isqrt(number)
    else:
        # Newton's iteration from above ends at the floor of the root.
        root = 1 << -(-number.bit_length() // degree)
        while True:
            step = ((degree - 1) * root + number // root ** (degree - 1)) // degree
            if step >= root:
                break
            root = step
    return root if root**degree == number else None


def _integer_power(base: Fraction, power: Fraction) -> Fraction:
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    # Estimated before it is computed: 9^(9^9) must not be tried.
    if base not in (0, 1, -1) and abs(power) * bits > 4 * MAX_BITS:
        raise TooLarge("too large")
    if base == 0 and power <= 0:
        raise Undefined("0 to a power that is not positive")
    if base in (0, 1, -1):
        # 0, 1 and -1 at any power, by parity.
        return base ** (int(power) % 2 or 2)
    return base ** int(power)


@exact.register
def _(node: Big, at: Sample | None = None) -> Fraction | None:
    low, high = exact(node.low, at), exact(node.high, at)
    if low is None or high is None or not isinstance(node.variable, Name):
        return None
    indices = bounds(low, high)
    at, product = at or Sample(0), node.kind == "prod"
    total = Fraction(product)
    for index in indices:
        term = exact(node.body, at.bound(node.variable.name, Fraction(index)))
        if term is None:
            return None
        total = small(total * term if product else total + term)
    return total


def bounds(low: Fraction, high: Fraction) -> range:
    """Return the indices of a sum or product.

    Raises:
        Undefined: the bounds are no integers, run backwards, or are too far apart.
    """
    if low.denominator != 1 or high.denominator != 1 or high < low:
        raise Undefined("bounds that are no integers, or run backwards")
    if high - low > MAX_TERMS:
        raise TooLarge("too many terms")
    return range(int(low), int(high) + 1)


@exact.register
def _(node: Apply, at: Sample | None = None) -> Fraction | None:
    if node.function == "det" and isinstance(node.arguments[0], Matrix):
        return _determinant([[exact(item, at) for item in row] for row in node.arguments[0].rows])
    if node.function not in _EXACT:
        return None
    numbers = []
    for item in node.arguments:
        value = exact(item, at)
        if value is None:
            return None
        numbers.append(value)
    return _EXACT[node.function](numbers)


def _determinant(rows: list[list[Fraction | None]]) -> Fraction | None:
    size = len(rows)
    if size > 8 or any(len(row) != size for row in rows) or any(None in row for row in rows):
        return None
    matrix = [[value for value in row if value is not None] for row in rows]
    result = Fraction(1)
    # Gaussian elimination in fractions; a row swap turns the sign.
    for column in range(size):
        pivot = next((r for r in range(column, size) if matrix[r][column]), None)
        if pivot is None:
            return Fraction(0)
        if pivot != column:
            matrix[column], matrix[pivot] = matrix[pivot], matrix[column]
            result = -result
        result *= matrix[column][column]
        for row in range(column + 1, size):
            scale = matrix[row][column] / matrix[column][column]
            matrix[row] = [a - scale * b for a, b in zip(matrix[row], matrix[column], strict=True)]
    return result


def _counts(numbers: list[Fraction]) -> list[int] | None:
    """Return arguments that count something as integers; None where one cannot."""
    # 4000! has 12,674 digits; larger ones stay unevaluated.
    if any(value.denominator != 1 or not 0 <= value <= 4000 for value in numbers):
        return None
    return [int(value) for value in numbers]


def _factorial(numbers: list[Fraction]) -> Fraction | None:
    held = _counts(numbers)
    return None if held is None else Fraction(math.factorial(held[0]))


def _binomial(numbers: list[Fraction]) -> Fraction | None:
    held = _counts(numbers)
    return None if held is None or len(held) != 2 else Fraction(math.comb(*held))


def _whole_function(function: Callable[..., int]) -> Callable[[list[Fraction]], Fraction | None]:
    def apply(numbers: list[Fraction]) -> Fraction | None:
        if any(value.denominator != 1 for value in numbers):
            return None
        return Fraction(function(*(int(value) for value in numbers)))

    return apply


def _modulo(numbers: list[Fraction]) -> Fraction | None:
    # Rationals too, as in Python: the sign is that of the modulus.
    if len(numbers) != 2 or not numbers[1]:
        raise Undefined("modulo 0")
    return numbers[0] % numbers[1]


_EXACT: dict[str, Callable[[list[Fraction]], Fraction | None]] = {
    "abs": lambda numbers: abs(numbers[0]),
    "floor": lambda numbers: Fraction(math.floor(numbers[0])),
    "ceil": lambda numbers: Fraction(math.ceil(numbers[0])),
    "sgn": lambda numbers: Fraction((numbers[0] > 0) - (numbers[0] < 0)),
    "min": min,
    "max": max,
    "gcd": _whole_function(math.gcd),
    "lcm": _whole_function(math.lcm),
    "mod": _modulo,
    "factorial": _factorial,
    "binom": _binomial,
}


def is_plain(node: Node) -> bool:
    """Return whether a node is a name with plain indices, which its text identifies."""
    match node:
        case Name() | Words():
            return True
        case Num(value):
            return value.denominator == 1
        case Indexed(base, index):
            return is_plain(base) and is_plain(index)
    return False


def plain_label(node: Node) -> str:
    """Return the text that identifies a plain node."""
    match node:
        case Name(name):
            return name
        case Words(text):
            return f"text {text}"
        case Num(value):
            return str(value)
        case Indexed(base, index):
            return f"{plain_label(base)} _ {plain_label(index)}"
    raise TypeError(f"{node} is not plain")
