"""What a handful of seeds can say: means with intervals, paired differences, seeds needed.

The interval of a mean is a bootstrap over seeds, which is too narrow for few of them; whether two
arms differ is therefore decided by Student's t, with Holm's correction over the arms of a study.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from rlvr.intervals import Estimate, bootstrap_ratio

LEVEL = 0.95
POWER = 0.8
MOST_SEEDS = 1000
_DRAWS = 10_000


@dataclass(frozen=True)
class Difference:
    """An arm minus the control.

    ``paired``: by seed, where both have the same seeds; else Welch's test of two samples.
    ``low`` and ``high``: 95 % Student t-interval. ``p``: two-sided; ``p_holm``: corrected for the
    number of arms compared. ``seeds_needed``: seeds of each arm at which a difference of this size
    would be seen at the 5 % level with a chance of 80 %, before correction; ``None`` where it is 0
    or would take more than a thousand.
    """

    mean: float
    low: float
    high: float
    p: float
    n: int
    paired: bool
    seeds_needed: int | None
    p_holm: float = math.nan

    @property
    def is_seen(self) -> bool:
        return self.p_holm <= 1 - LEVEL


def mean_over_seeds(values: Sequence[float]) -> Estimate:
    """Return the mean of one value per seed with its bootstrap interval, nan for one seed."""
    if len(values) < 2:
        return Estimate(values[0], math.nan, math.nan, 1)
    return bootstrap_ratio(values, np.ones(len(values)), level=LEVEL, resamples=_DRAWS)


def difference(
    arm: Mapping[int | None, float], control: Mapping[int | None, float], resolution: float = 0.0
) -> Difference | None:
    """Compare two arms, each a value per seed; ``None`` where there are too few to say anything.

    With the same seeds, d_s = arm_s - control_s and t = mean(d) sqrt(n) / sd(d) with n - 1 degrees
    of freedom; with none in common, Welch's t. Seeds that only one of the arms has are left out
    where they share at least two.
    """
    shared = [seed for seed in arm if seed in control]
    if len(shared) >= 2:
        d = np.array([arm[seed] - control[seed] for seed in shared])
        spread, n, freedom = max(float(d.std(ddof=1)), resolution), len(d), len(d) - 1.0
        error = spread / math.sqrt(n)
        center, paired = float(d.mean()), True
    elif not shared and min(len(arm), len(control)) >= 2:
        first, second = np.array(list(arm.values())), np.array(list(control.values()))
        parts = [x.var(ddof=1) / len(x) for x in (first, second)]
        error = max(math.sqrt(sum(parts)), resolution / math.sqrt(min(len(first), len(second))))
        weights = [part**2 / (len(x) - 1) for part, x in zip(parts, (first, second), strict=True)]
        freedom = sum(parts) ** 2 / sum(weights) if sum(weights) else len(first) + len(second) - 2.0
        n = min(len(first), len(second))
        spread = error * math.sqrt(n)
        center, paired = float(first.mean() - second.mean()), False
    else:
        return None
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    p = 0.0 if center else 1.0  # of differences that are all the same
    if error > 0:
        p = float(2 * stats.t.sf(abs(center) / error, freedom))
    needed = seeds_to_see(center, spread)
    return Difference(center, center - half, center + half, p, n, paired, needed)


def seeds_to_see(effect: float, spread: float) -> int | None:
    r"""Return the fewest pairs at which a paired t-test sees ``effect`` with 80 % power.

    The test statistic is noncentral t with :math:`\delta = \sqrt{n}\, |effect| / spread`.
    """
    if effect == 0:
        return None
    if spread == 0:
        return 2

    def power(n: int) -> float:
        edge = stats.t.ppf((1 + LEVEL) / 2, n - 1)
        shift = math.sqrt(n) * abs(effect) / spread
        return float(stats.nct.sf(edge, n - 1, shift))

    if power(MOST_SEEDS) < POWER:
        return None
    low, high = 2, MOST_SEEDS
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle + 1, high)
    return low


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values: p_(i) (m - i + 1), made monotone, at most 1."""
    order = np.argsort(p_values, kind="stable")
    adjusted, floor = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        floor = max(floor, min(1.0, p_values[index] * (len(p_values) - place)))
        adjusted[index] = floor
    return adjusted
