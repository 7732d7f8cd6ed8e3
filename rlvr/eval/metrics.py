"""Accuracy, pass@k and their intervals."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054  # the 97.5 % quantile of the standard normal


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` items with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        low, high = 100 * self.low, 100 * self.high
        return f"{100 * self.mean:.1f} % [{low:.1f}, {high:.1f}] (n = {self.n})"


def pass_at_k(n: int, c: int, k: int) -> float:
    r"""Return the unbiased estimate of pass@k from ``n`` samples of which ``c`` are correct.

    :math:`1 - \binom{n-c}{k} / \binom{n}{k} = 1 - \prod_{i=n-c+1}^{n} (1 - k / i)`
    (Chen et al., arXiv 2107.03374, eq. 1): the chance that k of the n samples, drawn without
    replacement, hold a correct one.
    """
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs 1 <= k <= n, and n is {n}")
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion; never empty at 0 or n successes."""
    p, z2 = successes / n, Z_95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    margin = Z_95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, centre - margin), min(1.0, centre + margin)


def bootstrap_estimate(
    values: NDArray[np.floating], *, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Return the mean of ``values`` with a percentile bootstrap interval over its items.

    For accuracies the items are problems: the interval speaks of problems like these, which is
    wider than the sampling error on just these. Where all values are alike a bootstrap would claim
    certainty; all-0 and all-1 values get the Wilson interval instead.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"expected a vector with at least one value, got shape {values.shape}")
    n, mean = values.size, float(values.mean())
    if np.all(values == values[0]) and values[0] in (0.0, 1.0):
        low, high = wilson_interval(int(values.sum()), n)
        return Estimate(mean, low, high, n)
    rng = np.random.default_rng(seed)
    means = np.array([values[rng.integers(0, n, n)].mean() for _ in range(resamples)])
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(mean, float(low), float(high), n)
