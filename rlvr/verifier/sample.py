"""Where expressions are compared: points wide in range, of both signs, or integers.

A name has one value at a point, in whatever order names are met: it comes from a hash of the name.
Over all points each name runs through every band of magnitudes, in an order of its own, so that
two names meet in most combinations of signs and sizes.
"""

import hashlib
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache

from rlvr.verifier.tree import (
    Apply,
    Big,
    Cases,
    Name,
    Neg,
    Node,
    Num,
    Power,
    Relation,
    Root,
    names_of,
    walk,
)

# The first two points are positive: roots and logarithms have values there.
_BANDS = (
    (0.3, 3), (-3, -0.3), (3, 11), (-11, -3), (11, 60), (-60, -11), (60, 400), (-400, -60),
    (0.02, 0.3), (-0.3, -0.02), (0.3, 3), (3, 17), (-17, -3),
)  # fmt: skip
_INTEGERS = (2, 3, 1, 4, 5, 6, 7, 8, 9, 10, 12, 13, 0, -1, -2, -5, 11)
_STEPS = set(
    "abs floor ceil mod gcd lcm max min sgn arcsin arccos arctan arccot asin acos atan".split()
)
_COUNTED = {"factorial", "factorial2", "binom", "gcd", "lcm", "mod"}
_INTEGER_LETTERS = set("ijklmnNMK")
_POSITIVE = 2
_FEW = 4  # wide points for an expression without steps: one would do (Schwartz, Zippel 1979)


@lru_cache(maxsize=20_000)
def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


class Sample:
    """One point: a rational value for every name.

    ``integers`` holds the names that are integers; ``fixed`` the values of bound names and of
    names at the boundary of a condition.
    """

    def __init__(
        self,
        seed: int,
        integers: frozenset[str] = frozenset(),
        fixed: dict[str, Fraction] | None = None,
        *,
        positive: bool = False,
    ) -> None:
        self.seed, self.integers, self.fixed = seed, integers, fixed or {}
        self.positive = positive or seed < _POSITIVE

    def bound(self, name: str, value: Fraction) -> "Sample":
        """Return this point with one more name fixed."""
        fixed = {**self.fixed, name: value}
        return Sample(self.seed, self.integers, fixed, positive=self.positive)

    def draw(self, key: str) -> Fraction:
        """Return the value that belongs to ``key`` at this point."""
        if key in self.fixed:
            return self.fixed[key]
        own = _hash(key)
        if key in self.integers:
            count = len(_INTEGERS)
            # A stride prime to the count: each name meets all of the integers.
            return Fraction(_INTEGERS[(self.seed * (1 + own % (count - 1)) + own // 97) % count])
        low, high = _BANDS[0]
        if not self.positive:
            count = len(_BANDS)
            low, high = _BANDS[(self.seed * (1 + own % (count - 1)) + own // 97) % count]
        share = Fraction(1 + _hash(f"{self.seed} {key}") % 1009, 1010)
        return Fraction(low).limit_denominator(100) + share * Fraction(high - low)


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
        yield from (Sample(seed, integers) for seed in range(len(_INTEGERS)))
        return
    wide = any(map(has_step, trees))
    count = len(_BANDS) if wide else _FEW
    yield from (Sample(seed) for seed in range(_POSITIVE + count))
    for name, value in _boundaries(trees):
        yield Sample(0, fixed={name: value})


def _boundaries(trees: tuple[Node, ...]) -> set[tuple[str, Fraction]]:
    """Return the places where a condition of a piecewise definition changes."""
    found = set()
    for tree in trees:
        for part in walk(tree):
            if isinstance(part, Cases):
                held = [p for _, c in part.rows for p in walk(c) if isinstance(p, Relation)]
                for relation in held:
                    sides = [_constant(side) for side in relation.sides]
                    names = set().union(*map(names_of, relation.sides))
                    found |= {(n, v) for n in names for v in sides if v is not None}
    return found


def _constant(node: Node) -> Fraction | None:
    match node:
        case Num(value):
            return value
        case Neg(Num(value)):
            return -value
    return None


def is_free(node: Node) -> bool:
    """Return whether a name occurs in the tree."""
    return any(isinstance(part, Name) for part in walk(node))
