"""Intervals of rates and means: Student's t over problems in Wilson's form, and the bootstrap.

A unit is what was drawn independently: a problem or a prompt. ``rlvr/eval/README.md`` has how often
each interval of a rate covers the truth. The bootstrap is for ratios over many units; over a
handful of seeds it is far too narrow (``rlvr.studies.statistics``). Equal values show no spread;
shares then get a bound that depends on n, so that 0 of n is never certain.
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
    return _wilson(successes / n, n, normal_quantile(level), n)


def _wilson(share: float, outcomes: float, z: float, n: int) -> Estimate:
    """Return Wilson's interval of a share of ``outcomes`` independent outcomes, of ``n`` units."""
    centre = (share + z**2 / (2 * outcomes)) / (1 + z**2 / outcomes)
    variance = share * (1 - share) / outcomes + z**2 / (4 * outcomes**2)
    half = z * variance**0.5 / (1 + z**2 / outcomes)
    # Rounding may leave the mean a hair outside the ends at 0 and at n.
    low, high = min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))
    return Estimate(share, low, high, n)


def problem_interval(per_problem: ArrayLike, *, level: float = 0.95) -> Estimate:
    r"""Return the mean of shares in [0, 1] with its interval over problems.

    Wilson's interval of a share :math:`\bar x` of :math:`n_e = \bar x(1 - \bar x) P / s^2`
    independent outcomes, with the quantile of Student's t with P - 1 degrees of freedom in place of
    z. s is the standard deviation over the P problems, so :math:`n_e` is how many single outcomes
    would have the same standard error. Unlike :math:`\bar x \pm t s/\sqrt P` it leans towards 1/2,
    as the true mean does where a few problems carry a low or a high rate.
    """
    values = _vector(per_problem)
    if values.min() < 0 or values.max() > 1:
        raise ValueError(f"shares must be in [0, 1], got {values.min()} .. {values.max()}")
    mean, count = float(values.mean()), values.size
    if values.min() == values.max():
        return wilson_interval(mean * count, count, level=level)
    effective = mean * (1 - mean) * count / float(values.var(ddof=1))
    return _wilson(mean, effective, student_quantile(count - 1, level), count)


def paired_difference(a: ArrayLike, b: ArrayLike, *, level: float = 0.95) -> Estimate:
    r"""Return the mean of ``b - a`` over the same problems with Student's t-interval.

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
    mean, error = float(differences.mean()), float(differences.std(ddof=1)) / first.size**0.5
    half = student_quantile(first.size - 1, level) * error
    return Estimate(mean, mean - half, mean + half, first.size)


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


def normal_quantile(level: float) -> float:
    """Return the half width of a normal interval, in standard errors."""
    return NormalDist().inv_cdf((1 + _checked_level(level)) / 2)


def student_quantile(freedom: float, level: float = 0.95) -> float:
    """Return the half width of a t-interval, in standard errors."""
    from scipy.special import stdtrit  # a third of a second, which --help need not wait for

    return float(stdtrit(freedom, (1 + _checked_level(level)) / 2))
