"""Which points two expressions are compared at.

Without steps a few points would do (Schwartz, Zippel 1979). With absolute values, roots, floors or
cases the points run through all magnitudes and signs, and through each region between the places
where a step changes, as well as those places themselves.
"""

import math
from collections.abc import Iterator
from fractions import Fraction

from rlvr.verifier.exact import Undefined, exact
from rlvr.verifier.sample import BANDS, INTEGERS, POSITIVE, Sample
from rlvr.verifier.tree import (
    Apply,
    Big,
    Cases,
    Neg,
    Node,
    Num,
    Power,
    Relation,
    Root,
    Sum,
    names_of,
    walk,
)

_STEPS = set(
    "abs floor ceil mod gcd lcm max min sgn arcsin arccos arctan arccot asin acos atan".split()
)
_COUNTED = {"factorial", "factorial2", "binom", "gcd", "lcm", "mod"}
_INTEGER_LETTERS = set("ijklmnNMK")
_FEW = 4  # wide points for an expression without steps
_MOST_TURNS = 12  # places where steps change


def integers_of(node: Node) -> set[str]:
    """Return the names that only make sense as integers: in (-1)^n, n!, bounds of a sum."""
    found: set[str] = set()
    for part in walk(node):
        match part:
            case Power(base, exponent) if _is_negative(base) and not isinstance(exponent, Num):
                found |= names_of(exponent)
            case Apply(function, _) if function in _COUNTED:
                found |= names_of(part)
            case Apply("floor" | "ceil", _):
                found |= names_of(part) & _INTEGER_LETTERS
            case Big(_, _, low, high, _):
                found |= names_of(low) | names_of(high)
    return found


def _is_negative(node: Node) -> bool:
    return isinstance(node, Neg) or (isinstance(node, Num) and node.value < 0)


def has_step(node: Node) -> bool:
    """Return whether a tree has branches, so that agreement in one region says little of others."""
    for part in walk(node):
        match part:
            case Cases() | Root() | Big():
                return True
            case Apply(function, _) if function in _STEPS:
                return True
            case Power(_, exponent) if not isinstance(exponent, Num) or exponent.value % 1:
                return True
    return False


def samples(*trees: Node) -> Iterator[Sample]:
    """Yield the points at which trees are compared: the same ones for all of them."""
    integers = frozenset(set().union(*map(integers_of, trees)))
    if integers:
        yield from (Sample(seed, integers) for seed in range(len(INTEGERS)))
        return
    wide = any(map(has_step, trees))
    yield from (Sample(seed) for seed in range(POSITIVE + (len(BANDS) if wide else _FEW)))
    if wide:
        yield from _between_turns(trees)
    if any(map(_jumps_at_integers, trees)):
        names = frozenset(set().union(*map(names_of, trees)))
        yield from (Sample(seed, names) for seed in range(4))


def _jumps_at_integers(node: Node) -> bool:
    return any(isinstance(p, Apply) and p.function in ("floor", "ceil") for p in walk(node))


def _between_turns(trees: tuple[Node, ...]) -> Iterator[Sample]:
    """Yield the places where steps of one name change, and a point in each region between them."""
    turns: dict[str, set[Fraction]] = {}
    for tree in trees:
        for part in walk(tree):
            for inner in _turning(part):
                free = names_of(inner)
                if len(free) == 1:
                    name = free.pop()
                    turns.setdefault(name, set()).update(_zeros(inner, name))
    for name, places in turns.items():
        held = sorted(places)[:_MOST_TURNS]
        middles = [(a + b) / 2 for a, b in zip(held, held[1:], strict=False)]
        ends = [held[0] - 1, held[-1] + 1] if held else []
        for place in (*held, *middles, *ends):
            yield Sample(POSITIVE, fixed={name: place})


def _turning(node: Node) -> Iterator[Node]:
    """Yield the expressions of which the sign decides between the branches of a node."""
    match node:
        case Apply("abs" | "sgn", (inner,)):
            yield inner
        case Apply("max" | "min", (first, *others)):
            yield from (Sum((first, Neg(other))) for other in others)
        case Root(inner, _) | Power(inner, Num()):
            yield inner
        case Cases(rows):
            for _, condition in rows:
                held = [part for part in walk(condition) if isinstance(part, Relation)]
                for relation in held:
                    first, *others = relation.sides
                    yield from (Sum((first, Neg(other))) for other in others)
                    # The middle of a chain stands on both of its sides.
                    yield from (Sum((other, Neg(relation.sides[-1]))) for other in others[:-1])


def _zeros(node: Node, name: str) -> list[Fraction]:
    """Return where a polynomial of degree 2 at most is 0, from its values at 0, 1, 2 and 3."""
    try:
        held = [exact(node, Sample(0, fixed={name: Fraction(x)})) for x in range(4)]
    except Undefined:
        return []
    known = [value for value in held if value is not None]
    if len(known) < 4:
        return []
    # Differences of the values: the third is 0 for degree 2.
    constant, first = known[0], known[1] - known[0]
    second = known[2] - 2 * known[1] + known[0]
    if known[3] - 3 * known[2] + 3 * known[1] - known[0]:
        return []
    square, linear = second / 2, first - second / 2
    if not square:
        return [-constant / linear] if linear else []
    inside = linear**2 - 4 * square * constant
    if inside < 0:
        return []
    # A root that is not rational is near enough to tell the regions apart.
    root = Fraction(math.isqrt(int(inside * 10**24))) / 10**12
    return [(-linear - root) / (2 * square), (-linear + root) / (2 * square)]
