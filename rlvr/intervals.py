"""Intervals of rates and means: the percentile bootstrap over units, and Wilson's.

A unit is what was drawn independently: a problem or a prompt. The bootstrap is for many of them;
over a handful of seeds it is far too narrow (``rlvr.studies.statistics``). Over equal values it has
no width; shares then get a bound that depends on n, so that 0 of n is never certain.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_DRAWS_AT_ONCE = 1 << 22  # resampled entries in memory at a time


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval over ``n`` problems, prompts or seeds."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        mean, low, high = (100 * value for value in (self.mean, self.low, self.high))
        return f"{mean:.1f} % [{low:.1f}, {high:.1f}] (n = {self.n})"


def wilson_interval(successes: float, n: int, *, level: float = 0.95) -> Estimate:
    r"""Return the share ``successes / n`` with the Wilson score interval.

    .. math:: \frac{\hat p + z^2/2n \pm z\sqrt{\hat p(1-\hat p)/n + z^2/4n^2}}{1 + z^2/n}

    ``successes`` may be fractional: a sum of shares in 0 .. n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"successes must be in 0 .. n and n at least 1, got {successes} of {n}")
    z = _z(level)
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    # Rounding may leave the mean a hair outside the ends at 0 and at n.
    low, high = min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))
    return Estimate(share, float(low), float(high), n)


def bootstrap_interval(
    per_problem: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Return the mean of shares in [0, 1] with the percentile bootstrap interval over problems.

    Where all values are equal the bootstrap has no width: the Wilson interval of ``n * value``
    successes of n stands in for it.
    """
    values = _vector(per_problem)
    if values.min() < 0 or values.max() > 1:
        raise ValueError(f"shares must be in [0, 1], got {values.min()} .. {values.max()}")
    if values.min() == values.max():
        return wilson_interval(float(values[0]) * values.size, values.size, level=level)
    return bootstrap_ratio(
        values, np.ones_like(values), level=level, resamples=resamples, seed=seed
    )


def paired_bootstrap_difference(
    a: ArrayLike, b: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    r"""Return the mean of ``b - a`` over the same problems with its paired bootstrap interval.

    Where all differences equal one d, the share of problems with another difference is at most
    the Wilson bound of none of n, :math:`u = z^2/(n + z^2)`, so that the interval is
    :math:`[d - u(1 + d), d + u(1 - d)]`.
    """
    first, second = _vector(a), _vector(b)
    if first.shape != second.shape:
        raise ValueError(f"a and b must be of the same problems, got {first.size}, {second.size}")
    if min(first.min(), second.min()) < 0 or max(first.max(), second.max()) > 1:
        raise ValueError("a and b must be shares in [0, 1]")
    differences = second - first
    if differences.min() == differences.max():
        # Some of n could differ without one showing: Wilson's bound of 0 of n.
        value, bound = float(differences[0]), wilson_interval(0, first.size, level=level).high
        return Estimate(value, value - bound * (1 + value), value + bound * (1 - value), first.size)
    weights = np.ones_like(differences)
    return bootstrap_ratio(differences, weights, level=level, resamples=resamples, seed=seed)


def bootstrap_ratio(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    r"""Return :math:`\sum_i x_i / \sum_i w_i` with the percentile bootstrap interval over i.

    For means over units of unequal size, such as tokens within completions: whole units are drawn
    again, because tokens of one completion are not independent. Weights must be positive.
    """
    x, w = _vector(numerators), _vector(denominators)
    if x.shape != w.shape or w.min() <= 0:
        raise ValueError(f"needs one positive denominator per numerator, got {x.size}, {w.size}")
    # Its own generator: the same interval in every run, and no draw taken from the sampler's.
    generator = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    # Resampled in blocks: all draws of a large benchmark at once would take gigabytes.
    rows = max(1, _DRAWS_AT_ONCE // x.size)
    for start in range(0, resamples, rows):
        block = ratios[start : start + rows]
        index = generator.integers(x.size, size=(block.size, x.size))
        block[:] = x[index].sum(axis=1) / w[index].sum(axis=1)
    tail = (1 - _checked_level(level)) / 2
    # The percentile interval: no normality is assumed.
    low, high = np.quantile(ratios, (tail, 1 - tail))
    return Estimate(float(x.sum() / w.sum()), float(low), float(high), x.size)


def _vector(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"expected a vector with one value per problem, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("values must be finite")
    return array


def _checked_level(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}; 0.95 is usual")
    return level


def _z(level: float) -> float:
    return NormalDist().inv_cdf((1 + _checked_level(level)) / 2)
