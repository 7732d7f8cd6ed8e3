"""Rates over problems: avg@k, the unbiased pass@k, maj@k, and the Bayesian avg@N."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlvr.intervals import Estimate, normal_quantile

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


def maj_at_k(answers: Sequence[str | None], correct: Sequence[bool]) -> float:
    """Return maj@k of one problem: the chance that a vote of its k samples elects a correct answer.

    Correct samples vote for one answer, however they write it; the others vote for the text they
    gave. A sample without an answer does not vote. A tie is drawn by lot: two of three tied answers
    are wrong, so the chance is 1/3. Without any vote it is 0.
    """
    # `True` stands for the gold answer: no answer is of that type.
    votes: Counter[str | bool | None] = Counter(
        True if right else answer
        for answer, right in zip(answers, correct, strict=True)
        if right or answer is not None
    )
    most = max(votes.values(), default=0)
    winners = [answer for answer, count in votes.items() if count == most]
    return 1 / len(winners) if True in winners else 0.0


def bayes_avg(n: int, c: ArrayLike, *, level: float = 0.95) -> Estimate:
    r"""Return the Bayesian avg@N with its interval; the problems are fixed.

    Each problem has a uniform prior, so its posterior is Beta(1 + c, 1 + n - c), with

    .. math:: \mu = \frac{1}{P}\sum_p \frac{c_p + 1}{n + 2}, \qquad
        \sigma^2 = \frac{1}{P^2}\sum_p \frac{(c_p + 1)(n - c_p + 1)}{(n + 2)^2 (n + 3)}

    (arXiv 2510.04265). The interval is :math:`\mu \pm z\sigma` within [0, 1]. It holds for these
    problems only, so it is narrower than one over problems; it has a width at n = 1 and where all
    samples agree. The mean is drawn towards 1/2, by (1 - 2 avg) / (n + 2).
    """
    counts = np.atleast_1d(np.asarray(c, dtype=np.float64))
    if not counts.size or n < 1 or counts.min() < 0 or counts.max() > n:
        raise ValueError(f"c must be counts in 0 .. n = {n}, got {counts}")
    mean = float(((counts + 1) / (n + 2)).mean())
    variance = float(((counts + 1) * (n - counts + 1)).sum()) / ((n + 2) ** 2 * (n + 3))
    half = normal_quantile(level) * variance**0.5 / counts.size
    return Estimate(mean, max(0.0, mean - half), min(1.0, mean + half), counts.size)
