"""What a handful of seeds can say: means with intervals, paired differences, seeds needed.

Every interval over seeds is Student's t. A bootstrap over 2, 3 or 5 seeds, called 95 %, covers the
true mean in 50, 74 and 84 % of studies. All of it holds for the problems that were evaluated: other
problems are another source of chance, which seeds do not show.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from rlvr.intervals import Estimate, student_quantile

LEVEL = 0.95
POWER = 0.8
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Difference:
    """An arm minus the control.

    ``paired``: by seed, where both have the same seeds; else Welch's test of two samples.
    ``low`` and ``high``: 95 % Student t-interval. ``p``: two-sided; ``p_holm``: corrected for the
    number of comparisons, which is arms times metrics. ``spread``: standard deviation over seeds.
    """

    mean: float
    low: float
    high: float
    p: float
    n: int
    paired: bool
    spread: float
    p_holm: float = math.nan

    @property
    def is_seen(self) -> bool:
        return self.p_holm <= 1 - LEVEL

    @property
    def seeds_needed(self) -> int | None:
        """Seeds of each arm that see such a difference, before correction; see `seeds_to_see`."""
        return seeds_to_see(self.mean, self.spread)


def mean_over_seeds(values: Sequence[float], resolution: float = 0.0) -> Estimate:
    r"""Return the mean of one value per seed with its Student t-interval; nan for one seed.

    .. math:: \bar x \pm t_{n-1} \, \max(s, \mathrm{resolution}) / \sqrt n

    ``resolution`` is the step between two possible values. Without it, seeds that happen to agree
    to the last counted problem would have an interval of no width.
    """
    center, n = float(np.mean(values)), len(values)
    if n < 2:
        return Estimate(center, math.nan, math.nan, n)
    spread = max(float(np.std(values, ddof=1)), resolution)
    half = student_quantile(n - 1, LEVEL) * spread / math.sqrt(n)
    return Estimate(center, center - half, center + half, n)


def difference(
    arm: Mapping[int | None, float], control: Mapping[int | None, float], resolution: float = 0.0
) -> Difference | None:
    """Compare two arms, each a value per seed; ``None`` where there are too few seeds.

    Two seeds in common: paired, d_s = arm_s - control_s and t = mean(d) sqrt(n) / sd(d) with n - 1
    degrees of freedom; seeds that only one arm has are left out. No seed in common: Welch's t.
    """
    shared = [seed for seed in arm if seed in control]
    # Pairing takes out what a seed does to every arm: order of the data, sampled completions.
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
        # Welch-Satterthwaite; without any spread it is 0 / 0, and the pooled number stands in.
        freedom = sum(parts) ** 2 / sum(weights) if sum(weights) else len(first) + len(second) - 2.0
        n = min(len(first), len(second))
        spread = error * math.sqrt(n)
        center, paired = float(first.mean() - second.mean()), False
    else:
        return None
    half = student_quantile(freedom, LEVEL) * error
    p = 0.0 if center else 1.0  # all differences are equal, so t is infinite or 0 / 0
    if error > 0:
        p = float(2 * stats.t.sf(abs(center) / error, freedom))
    return Difference(center, center - half, center + half, p, n, paired, spread)


def seeds_to_see(effect: float, spread: float) -> int | None:
    r"""Return the fewest pairs at which a paired t-test sees ``effect`` with 80 % power.

    ``None`` where the effect is 0 or takes more than ``MOST_SEEDS``. The test statistic is
    noncentral t with :math:`\delta = \sqrt{n}\, |effect| / spread`.
    """
    if effect == 0:
        return None
    if spread == 0:
        return 2

    def power(n: int) -> float:
        # The chance to pass the edge on the side of the effect; the other side is negligible.
        edge = student_quantile(n - 1, LEVEL)
        shift = math.sqrt(n) * abs(effect) / spread
        return float(stats.nct.sf(edge, n - 1, shift))

    if power(MOST_SEEDS) < POWER:
        return None
    low, high = 2, MOST_SEEDS  # power grows with n, so bisection finds the first that is enough
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle + 1, high)
    return low


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values: p_(i) (m - i + 1), made monotone, at most 1."""
    # The smallest of m is multiplied by m, the next by m - 1, ...; none ends below the one before.
    order = np.argsort(p_values, kind="stable")
    adjusted, floor = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        floor = max(floor, min(1.0, p_values[index] * (len(p_values) - place)))
        adjusted[index] = floor
    return adjusted
