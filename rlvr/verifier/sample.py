"""A point at which expressions are compared: of either sign and any size, or integers.

A name has one value at a point, in whatever order names are met: it comes from a hash of the name.
Over all points each name runs through every band of magnitudes, in an order of its own, so that
two names meet in most combinations of signs and sizes.
"""

import hashlib
import math
from fractions import Fraction
from functools import lru_cache

# The first two points are positive: roots and logarithms have values there.
BANDS = (
    (0.3, 3), (-3, -0.3), (3, 11), (-11, -3), (11, 60), (-60, -11), (60, 400), (-400, -60),
    (0.02, 0.3), (-0.3, -0.02), (0.3, 3), (3, 17), (-17, -3),
)  # fmt: skip
_BOTTOMS = (97, 89, 53, 31, 37, 41, 43, 47, 59, 61, 67, 71, 73)
POSITIVE = 2  # the first points
INTEGERS = (2, 3, 1, 4, 5, 6, 7, 8, 9, 10, 12, 13, 0, -1, -2, -5, 11)


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
        self.positive = positive or seed < POSITIVE

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
            count = len(INTEGERS)
            # A stride prime to the count: each name meets all of the integers.
            return Fraction(INTEGERS[(self.seed * (1 + own % (count - 1)) + own // 97) % count])
        low, high = BANDS[0]
        if not self.positive:
            count = len(BANDS)
            low, high = BANDS[(self.seed * (1 + own % (count - 1)) + own // 97) % count]
        # A small prime below, of its own for each point: sums of high powers stay cheap.
        bottom = _BOTTOMS[self.seed % len(_BOTTOMS)]
        first, last = math.ceil(low * bottom), math.floor(high * bottom)
        top = first + _hash(f"{self.seed} {key}") % (last - first + 1)
        return Fraction(top or 1, bottom)
