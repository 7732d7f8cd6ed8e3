"""The exact value of a tree that rational arithmetic decides, within limits on the numbers."""

import math
from fractions import Fraction

from rlvr.rewards.math.cursor import Node

MAX_BITS = 60_000  # of a number met on the way
_HALF = Fraction(1, 2)


class Undefined(ArithmeticError):
    """The tree has no finite value here, or none within the limits."""


class TooLarge(Undefined):
    """The value exists, beyond the limits."""


def _small(value: Fraction) -> Fraction:
    if value.numerator.bit_length() + value.denominator.bit_length() > 4 * MAX_BITS:
        raise TooLarge("too large")
    return value


def exact(node: Node, point: dict[str, Fraction] | None = None) -> Fraction | None:
    """Return the rational value of ``node``; None where rational arithmetic cannot decide it.

    Raises:
        Undefined: a division by zero, or numbers beyond the limits.
    """
    kind = node[0]
    if kind == "num":
        return node[1]
    if kind == "sym":
        return point.get(node[1]) if point else None
    if kind in ("paren", "unit"):
        return exact(node[1], point)
    if kind == "neg":
        inner = exact(node[1], point)
        return None if inner is None else -inner
    if kind in ("add", "mul"):
        # 0 for a sum, 1 for a product.
        total = Fraction(kind == "mul")
        for item in node[1]:
            value = exact(item, point)
            if value is None:
                return None
            total = _small(total + value if kind == "add" else total * value)
        return total
    if kind == "div" or (kind == "ratio" and len(node[1]) == 2):
        top, bottom = node[1:] if kind == "div" else node[1]
        top, bottom = exact(top, point), exact(bottom, point)
        if top is None or bottom is None:
            return None
        if bottom == 0:
            raise Undefined("division by zero")
        return top / bottom
    if kind == "pct":
        inner = exact(node[1], point)
        return None if inner is None else inner / 100
    if kind == "pow":
        return _exact_power(exact(node[1], point), exact(node[2], point))
    if kind == "fn" and node[1] in ("factorial", "binom", "floor", "ceil", "abs"):
        return _exact_function(node[1], [exact(item, point) for item in node[2]])
    return None


def _exact_power(base: Fraction | None, power: Fraction | None) -> Fraction | None:
    if base is None or power is None:
        return None
    if power.denominator != 1:
        # Roots of perfect squares are rational; any other root is left to sampling.
        if power == _HALF and base >= 0:
            top, bottom = math.isqrt(base.numerator), math.isqrt(base.denominator)
            if top * top == base.numerator and bottom * bottom == base.denominator:
                return Fraction(top, bottom)
        return None
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


def _exact_function(name: str, values: list[Fraction | None]) -> Fraction | None:
    if any(value is None for value in values):
        return None
    numbers = [value for value in values if value is not None]
    if name == "abs":
        return abs(numbers[0])
    if name in ("floor", "ceil"):
        return Fraction(math.floor(numbers[0]) if name == "floor" else math.ceil(numbers[0]))
    if any(value.denominator != 1 or value < 0 for value in numbers) or numbers[0] > 4000:
        return None
    if name == "factorial":
        return Fraction(math.factorial(int(numbers[0])))
    return Fraction(math.comb(int(numbers[0]), int(numbers[1])))
