"""A sampled point, and the precision that it takes to see what happens there."""

from fractions import Fraction
from functools import lru_cache
from typing import Any

import mpmath

from rlvr.verifier.exact import Undefined
from rlvr.verifier.sample import Sample

MAX_SPAN = 12_000  # bits of the largest and the smallest number met
USUAL_SPAN = 1_500  # at a sampled point: others are near, and cheaper
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
