"""Rates over problems: avg@k and the unbiased pass@k."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def avg_at_k(correct: ArrayLike) -> float:
    r"""Return avg@k :math:`= \frac{1}{P}\sum_p c_p / n` of a bool array, problems x samples."""
    values = np.asarray(correct, dtype=bool)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"correct must be problems x samples and not empty, got {values.shape}")
    return float(values.mean())


def pass_at_k(n: int, c: ArrayLike, k: int) -> Floats:
    r"""Return the unbiased pass@k of each problem, shape ``[P]``; its mean is the benchmark's.

    .. math:: 1 - \binom{n-c}{k} \Big/ \binom{n}{k} = 1 - \prod_{i=n-c+1}^{n} (1 - k/i)

    the chance that k of the n samples, drawn without replacement, hold a correct one
    (arXiv 2107.03374, eq. 1). The product needs no large binomials and is 1 where n - c < k.

    Args:
        n: samples of every problem.
        c: correct samples of each problem, 0 .. n; a number or shape ``[P]``.
        k: 1 .. n.
    """
    counts = np.atleast_1d(np.asarray(c))
    if not 1 <= k <= n:
        raise ValueError(f"k must be in 1 .. n = {n}, got {k}; draw more samples or lower k")
    if counts.size and (counts.min() < 0 or counts.max() > n):
        raise ValueError(f"c must be in 0 .. n = {n}, got {counts.min()} .. {counts.max()}")
    i = np.arange(1, n + 1)
    factors = np.maximum(0.0, 1 - k / i)  # negative for i < k, where the product is 0
    # Row c of this table is the product over i = n-c+1 .. n.
    products = np.concatenate(([1.0], np.cumprod(factors[::-1])))
    return 1 - products[counts.astype(np.int64)]
