"""Whether two expressions are equal: exactly where rational, else by their sampled values.

Two expressions are equal when they agree at several sampled points to a precision beyond the
range of magnitudes that their evaluation met, so that ``2^{-99}`` is not ``2^{-98}`` and
``x^{2005} + 1`` is not ``x^{2005}`` (identity testing by sampling: Schwartz, Zippel 1979; a false
agreement of different answers has a chance of about ``2^{-100}``).
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from rlvr.rewards.math.cursor import Node
from rlvr.rewards.math.exact import Undefined, exact
from rlvr.rewards.math.numeric import Point, value


def values(nodes: list[Node], seed: int, kind: str) -> tuple[list[Any], Point]:
    """Return the values of several trees at one point, at a precision that separates them.

    The precision is raised until it holds twice the range of magnitudes met, so that a small
    term next to a large one still counts.
    """
    bits = 200
    while True:
        at = Point(seed, kind, bits)
        numbers = [value(node, at) for node in nodes]
        if bits >= 2 * at.span + 150:
            return numbers, at
        # The span was measured at too low a precision; at this one it is measured again.
        bits = 2 * at.span + 200


def agree(first: Any, second: Any, at: Point) -> bool:
    """Return whether two numbers evaluated at ``at`` are equal but for rounding."""
    gap = abs(first - second)
    if not gap:
        return True
    largest = max(0, int(at.context.mag(abs(first) + abs(second))), at.span)
    # mag is log2 rounded up; 60 bits are allowed for rounding.
    return at.context.mag(gap) < largest - at.context.prec + 60


def equal(first: Node, second: Node) -> bool:
    """Return whether two expressions have the same value wherever both have one.

    Decided exactly for rational constants; else at points where every name is positive, and, where
    both are real there, at points of either sign. Expressions that are defined only on
    integers are compared on integers.
    """
    try:
        left, right = exact(first), exact(second)
    except Undefined:
        return False
    if left is not None and right is not None:
        return left == right
    positive = _agree_at(first, second, "positive", 3)
    # Positive points first: roots and logarithms have values there.
    if positive is None or (
        not positive and (_holds(first, _means_integers) or _holds(second, _means_integers))
    ):
        return _agree_at(first, second, "integer", 3) is True
    if positive and (_holds(first, _is_step) or _holds(second, _is_step)):
        return _agree_at(first, second, "large", 12) is True
    return positive and _agree_at(first, second, "real", 3) is not False


def _holds(node: Node, test: Callable[[Node], bool]) -> bool:
    """Return whether ``test`` is true of the tree or of any part of it."""
    parts = [part for part in node[1:] if isinstance(part, tuple | list)]
    flat = [item for part in parts for item in ([part] if isinstance(part, tuple) else part)]
    return test(node) or any(_holds(item, test) for item in flat if isinstance(item, tuple))


def _is_step(node: Node) -> bool:
    return node[0] == "fn" and node[1] in (
        "floor",
        "ceil",
        "mod",
        "gcd",
        "lcm",
        "max",
        "min",
        "sgn",
    )


def _means_integers(node: Node) -> bool:
    """Return whether a node is (-1)^n, a factorial, a sum or a step, which mean integers."""
    if node[0] == "pow" and node[1] == ("neg", ("num", Fraction(1))) and node[2][0] != "num":
        return True
    counts = node[0] == "fn" and node[1] in ("factorial", "binom", "floor", "ceil")
    return counts or node[0] == "big"


def _agree_at(first: Node, second: Node, kind: str, count: int) -> bool | None:
    """Return whether two trees agree at sampled points; None where neither has a value."""
    judged = None
    for seed in range(count):
        try:
            (left, right), at = values([first, second], seed, kind)
        except Undefined:
            # A value at one point and none at the next: a pole or branch, not an identity.
            if kind == "positive" and judged:
                return False
            continue
        real = at.context.im(left) == 0 and at.context.im(right) == 0
        if kind == "real" and not real:
            continue
        if not agree(left, right, at):
            return False
        judged = True
    return judged
