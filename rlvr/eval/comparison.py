"""Two models on the same problems: the paired difference, and what would settle its sign."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlvr.intervals import Estimate, paired_difference, student_quantile

_MOST = 10**6  # samples or problems; beyond it the answer is "none"


@dataclass(frozen=True)
class Outcome:
    """One problem's samples: how many, and how many are correct."""

    samples: int
    correct: int

    @property
    def share(self) -> float:
        return self.correct / self.samples

    @property
    def variance(self) -> float:
        """Variance of the share by sampling; with one sample p(1 - p) at p = 1/2 at most."""
        p = self.share
        return p * (1 - p) / (self.samples - 1) if self.samples > 1 else 0.25


@dataclass(frozen=True)
class Comparison:
    """B minus A over the problems that both have.

    Attributes:
        difference: with its 95 % t-interval over problems.
        only_a, only_b: ids of problems that the other lacks; they are left out.
        samples_needed: samples of each problem, for each model, at which an interval around the
            same difference would leave 0 out; ``None`` where these problems differ too much from
            each other for any number.
        problems_needed: the same for problems of this kind, with the samples of now.
    """

    difference: Estimate
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    samples_needed: int | None
    problems_needed: int | None

    @property
    def is_settled(self) -> bool:
        return not self.difference.low <= 0 <= self.difference.high


def compare(a: Mapping[str, Outcome], b: Mapping[str, Outcome]) -> Comparison:
    """Compare two models problem by problem.

    Raises:
        ValueError: they share fewer than two problems.
    """
    shared = sorted(a.keys() & b.keys())
    if len(shared) < 2:
        raise ValueError(f"the two share {len(shared)} problems; a comparison needs at least 2")
    first, second = [a[key] for key in shared], [b[key] for key in shared]
    difference = paired_difference([x.share for x in first], [x.share for x in second])
    return Comparison(
        difference,
        tuple(sorted(a.keys() - b.keys())),
        tuple(sorted(b.keys() - a.keys())),
        samples_needed(first, second),
        problems_needed(first, second),
    )


def samples_needed(a: Sequence[Outcome], b: Sequence[Outcome]) -> int | None:
    r"""Return the samples of each problem at which :math:`t \sqrt{(\beta^2 + w/n)/P} < |d|`.

    :math:`\beta^2` is the variance of the true differences between problems: that of the observed
    ones minus the part w/n which sampling adds to it. It stays, however many samples are drawn.
    """
    differences = np.array([y.share - x.share for x, y in zip(a, b, strict=True)])
    d, count = abs(float(differences.mean())), len(differences)
    # w: the sampling variance of one sample of each model.
    once = [x.variance * x.samples + y.variance * y.samples for x, y in zip(a, b, strict=True)]
    now = [x.variance + y.variance for x, y in zip(a, b, strict=True)]
    between = max(0.0, float(differences.var(ddof=1)) - float(np.mean(now)))
    room = count * (d / student_quantile(count - 1)) ** 2 - between
    needed = math.inf if room <= 0 else max(1.0, float(np.mean(once)) / room)
    return math.ceil(needed) if needed <= _MOST else None


def problems_needed(a: Sequence[Outcome], b: Sequence[Outcome]) -> int | None:
    r"""Return the number of such problems at which :math:`t s/\sqrt P < |d|`."""
    differences = np.array([y.share - x.share for x, y in zip(a, b, strict=True)])
    d, spread = abs(float(differences.mean())), float(differences.std(ddof=1))
    if d == 0 or (spread / d) ** 2 * 4 > _MOST:
        return None
    count = 2
    # t falls with P, so a few rounds end at the smallest P that is enough.
    while count < (needed := math.ceil((student_quantile(count - 1) * spread / d) ** 2)):
        count = max(count + 1, min(needed, 2 * count))
    return count
