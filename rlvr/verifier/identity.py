"""Whether two expressions are equal: exactly where rational, else by their sampled values.

Two expressions are equal when they agree at every sampled point where both have a value, to a
precision beyond the range of magnitudes that their evaluation met, so that ``2^{-99}`` is not
``2^{-98}`` and ``x^{2005} + 1`` is not ``x^{2005}`` (identity testing by sampling: Schwartz, Zippel
1979; a false agreement of different answers has a chance of about ``2^{-100}``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TypedDict, Unpack

from rlvr.verifier.exact import Undefined, exact
from rlvr.verifier.numeric import COMPLEX_NAMES, value
from rlvr.verifier.point import MAX_SPAN, USUAL_SPAN, Point, Value
from rlvr.verifier.sample import Sample
from rlvr.verifier.sampling import samples
from rlvr.verifier.tree import Apply, Call, Const, Indexed, Name, Node, Root, Words, names_of, walk

ENOUGH = 2  # points at which both sides have a value


@dataclass(frozen=True, slots=True)
class Pair:
    """The values of two trees at one point; ``at`` is None where both are exact."""

    left: Value
    right: Value
    at: Point | None

    def agree(self) -> bool:
        if self.at is None:
            return self.left == self.right
        return agree(self.left, self.right, self.at)

    def is_zero(self, side: Value) -> bool:
        return not side if self.at is None else agree(side, 0, self.at)


class Branch(TypedDict, total=False):
    """How trees are evaluated: the options of ``Point``."""

    real: bool
    decimal: bool
    limit: int
    plane: bool


def values(
    nodes: list[Node], sample: Sample, **branch: Unpack[Branch]
) -> tuple[list[Value], Point]:
    """Return the values of several trees at one point, at a precision that separates them.

    The precision is raised until it holds twice the range of magnitudes met, so that a small
    term next to a large one still counts.
    """
    bits = 200
    while True:
        at = Point(sample, bits, **branch)
        numbers = [value(node, at) for node in nodes]
        if bits >= 2 * at.span + 150:
            return numbers, at
        # The span was measured at too low a precision; at this one it is measured again.
        bits = 2 * at.span + 200


def agree(first: Value, second: Value, at: Point) -> bool:
    """Return whether two numbers evaluated at ``at`` are equal but for rounding."""
    gap = abs(first - second)
    if not gap:
        return True
    largest = max(0, int(at.context.mag(abs(first) + abs(second))), at.span)
    # mag is log2 rounded up; 60 bits are allowed for rounding.
    return at.context.mag(gap) < largest - at.context.prec + 60


def pair_at(first: Node, second: Node, sample: Sample, **branch: Unpack[Branch]) -> Pair:
    """Return the values of two trees at a point.

    Raises:
        Undefined: one has none.
    """
    left, right = exact(first, sample), exact(second, sample)
    if left is not None and right is not None:
        return Pair(left, right, None)
    (left, right), at = values([first, second], sample, **branch)
    return Pair(left, right, at)


def pairs(first: Node, second: Node, **branch: Unpack[Branch]) -> Iterator[Pair]:
    """Yield the values of two trees at each sampled point where both have one."""
    for sample in samples(first, second):
        try:
            yield pair_at(first, second, sample, **branch)
        except (Undefined, ValueError, OverflowError, ZeroDivisionError):
            continue


def is_constant(node: Node) -> bool:
    """Return whether nothing in a tree has to be sampled."""
    return not any(isinstance(part, Name | Indexed | Call | Words) for part in walk(node))


def equal(first: Node, second: Node) -> bool:
    """Return whether two expressions have the same value wherever both have one.

    A logarithm without a base is natural, or decimal where only that makes the sides equal.
    """
    if _equal(first, second, decimal=False):
        return True
    return any(_plain_log(node) for node in (first, second)) and _equal(first, second, decimal=True)


def _plain_log(node: Node) -> bool:
    return any(
        isinstance(p, Apply) and p.function == "log" and len(p.arguments) == 1 for p in walk(node)
    )


def _equal(first: Node, second: Node, *, decimal: bool) -> bool:
    if is_constant(first) and is_constant(second):
        return _same_constants(first, second, decimal)
    imaginary = any(part == Const("i") for node in (first, second) for part in walk(node))
    # The next way only where the one before finds no values: larger numbers, and what is nowhere
    # real, such as \sqrt{-1 - x^2}.
    for real, limit in ((not imaginary, USUAL_SPAN), (not imaginary, MAX_SPAN), (False, MAX_SPAN)):
        met = 0
        for pair in pairs(first, second, real=real, decimal=decimal, limit=limit):
            if not pair.agree():
                return False
            met += 1
        if met >= ENOUGH:
            return _agree_in_the_plane(first, second)
    return False


def _agree_in_the_plane(first: Node, second: Node) -> bool:
    """Return whether trees with absolute values of z or w agree where these are complex.

    ``|z|^2`` is not ``z^2``.
    """
    free = names_of(first) | names_of(second)
    nodes = [part for tree in (first, second) for part in walk(tree)]
    moduli = any(isinstance(part, Apply) and part.function == "abs" for part in nodes)
    # A root or a maximum speaks of real numbers.
    if any(isinstance(p, Root) or (isinstance(p, Apply) and p.function != "abs") for p in nodes):
        return True
    if not moduli or not free <= COMPLEX_NAMES:
        return True
    for seed in range(ENOUGH):
        try:
            (left, right), at = values([first, second], Sample(seed), real=False, plane=True)
        except Undefined:
            continue
        if not agree(left, right, at):
            return False
    return True


def _same_constants(first: Node, second: Node, decimal: bool) -> bool:
    sample = Sample(0)
    left, right = exact(first), exact(second)
    if left is not None and right is not None:
        return left == right
    imaginary = any(part == Const("i") for node in (first, second) for part in walk(node))
    for real in (False,) if imaginary else (True, False):
        try:
            (one, other), at = values([first, second], sample, real=real, decimal=decimal)
        except Undefined:
            continue
        return agree(one, other, at)
    return False


def proportional(first: Node, second: Node) -> int:
    """Return the sign of the constant that ``second`` is of ``first``; 0 where there is none.

    Both sides of a relation are brought to one; one relation is the other where their differences
    have a constant ratio.
    """
    ratios: list[tuple[Value, Point | None]] = []
    for pair in pairs(first, second, real=True, limit=USUAL_SPAN):
        zeros = pair.is_zero(pair.left), pair.is_zero(pair.right)
        # A point that solves both gives 0 / 0; one that solves only one of them decides.
        if all(zeros):
            continue
        if any(zeros):
            return 0
        ratios.append((pair.right / pair.left, pair.at))
        if not _alike(ratios[0], ratios[-1]):
            return 0
    if len(ratios) < ENOUGH:
        return 0
    ratio = ratios[0][0]
    return 1 if ratio > 0 else -1


def _alike(first: tuple[Value, Point | None], second: tuple[Value, Point | None]) -> bool:
    (ratio, start), (other, at) = first, second
    if isinstance(ratio, Fraction) and isinstance(other, Fraction):
        return ratio == other
    point = at or start
    assert point is not None
    ratio, other = (
        point.number(item) if isinstance(item, Fraction) else item for item in (ratio, other)
    )
    gap = abs(ratio - other)
    # 80 bits of slack below the precision that is left after the range of magnitudes.
    held = [one.context.prec - one.span for one in (at, start) if one is not None]
    return not gap or point.context.mag(gap) <= point.context.mag(abs(ratio)) - (min(held) - 80)
