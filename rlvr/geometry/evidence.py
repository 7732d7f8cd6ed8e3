r"""Is an overlap more than chance? Errors that respect rows and columns, and the verdict.

An update comes in rows and columns (heads, low rank), and so do principal weights. Entries are
not independent draws, and a binomial error is too small. The error here is clustered both ways
(Cameron, Gelbach and Miller, J. Bus. Econ. Stat. 29, 2011): with :math:`\varphi_{ij}` the part of
entry (i, j) in the excess,

.. math:: V = \sum_g (\sum_{i \in g} \varphi)^2 + \sum_h (\sum_{j \in h} \varphi)^2
          - \sum_{ij} \varphi_{ij}^2

over up to 64 groups g of neighbouring rows and h of neighbouring columns. All sums come from tables
of counts, so that the matrix is passed twice.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import stdtr, stdtrit
from torch import Tensor

from rlvr.geometry.nulls import CLASSES, Floats, size_class

LEVEL = 0.05
GROUPS = 64
LEAST_GROUPS = 8  # fewer rows or columns tell nothing about their spread
LEAST_MOVED = 30
EVERYTHING = 0.99  # share of moved entries from which on an overlap can only be the mask's density
_BITS = 3  # principal, low, moved


@dataclass(frozen=True)
class Counts:
    """Entries of a matrix by group, size class, and (principal, low, moved), each 0 or 1."""

    rows: Floats
    columns: Floats

    @property
    def total(self) -> Floats:
        return self.rows.sum(0)


def count(base: Tensor, masks: Sequence[Tensor], moved: Tensor, top: int) -> Counts:
    """Count the entries of a matrix; ``masks`` are the principal and the low-magnitude one."""
    key = size_class(base, top)
    for mask in (*masks, moved):
        key.mul_(2).add_(mask)
    cells = CLASSES << _BITS
    shape = (-1, CLASSES, 2, 2, 2)
    groups = [min(GROUPS, size) for size in key.shape]
    # Neighbours stay in one group: the rows of one head move together.
    rows = [torch.bincount(part.reshape(-1), minlength=cells) for part in _split(key, groups[0])]
    place = torch.arange(key.shape[1], device=key.device) * groups[1] // key.shape[1]
    key += place * cells
    columns = torch.bincount(key.reshape(-1), minlength=cells * groups[1])
    tables = (torch.stack(rows), columns)
    return Counts(*(table.double().cpu().numpy().reshape(shape) for table in tables))


def _split(key: Tensor, groups: int) -> Sequence[Tensor]:
    return key.tensor_split(groups, dim=0)


@dataclass(frozen=True)
class Excess:
    """An overlap and its error, and its excess over entries of the same size with its own."""

    overlap: float
    error: float
    excess: float
    excess_error: float
    freedom: int

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the overlap."""
        return interval(self.overlap, self.error, self.freedom)

    @property
    def chance(self) -> float:
        """The two-sided p value of the excess."""
        return p_value(self.excess, self.excess_error, self.freedom)


def interval(value: float, error: float, freedom: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, within 0 and 1."""
    if not freedom or math.isnan(error) or math.isnan(value):
        return math.nan, math.nan
    half = error * float(stdtrit(freedom, 1 - LEVEL / 2))
    return max(0.0, value - half), min(1.0, value + half)


def p_value(value: float, error: float, freedom: int) -> float:
    """Return the two-sided p value of ``value`` being 0, by Student's t; 1 where it is unknown."""
    if not freedom or not error > 0:
        return 1.0
    return 2 * float(stdtr(freedom, -abs(value) / error))


_SELECT = {
    # Axes of a table: class, principal, low, moved.
    "principal": np.array([[0, 0], [1, 1]]),
    "low": np.array([[0, 1], [0, 1]]),
    "principal_not_low": np.array([[0, 0], [1, 0]]),
}


def excess(counts: Counts, mask: str) -> Excess:
    """Return how far the overlap with ``mask`` exceeds that of other entries of the same size."""
    total = counts.total
    inside = _SELECT[mask][None, :, :, None].astype(np.float64)
    moved = np.array([0.0, 1.0])[None, None, None, :]
    size = total.sum((1, 2, 3), keepdims=True).clip(min=1)
    count_moved = float((total * moved).sum())
    if not count_moved:
        return Excess(math.nan, math.nan, math.nan, math.nan, 0)
    overlap = float((total * moved * inside).sum()) / count_moved
    share = (total * moved).sum((1, 2, 3), keepdims=True) / size
    expected = (total * inside).sum((1, 2, 3), keepdims=True) / size
    # What an entry adds to the overlap, and to the excess, once the size of its class is known.
    to_overlap = (inside - overlap) * (moved - share) / count_moved
    to_excess = (inside - expected) * (moved - share) / count_moved
    freedom = min(len(counts.rows), len(counts.columns)) - 1
    if freedom + 1 < LEAST_GROUPS or count_moved < LEAST_MOVED:
        freedom = 0
    return Excess(
        overlap,
        _clustered(counts, to_overlap),
        float((total * to_excess).sum()),
        _clustered(counts, to_excess),
        freedom,
    )


def _clustered(counts: Counts, part: Floats) -> float:
    """Return the standard error of the sum of ``part`` over all entries."""
    rows, columns = ((table * part).sum((1, 2, 3, 4)) for table in (counts.rows, counts.columns))
    return _two_way(rows, columns, float((counts.total * part**2).sum()))


def clustered_error(part: Tensor) -> float:
    """Return the standard error of the sum of a matrix of parts, clustered by rows and columns."""
    rows, columns = (
        np.array([float(group.sum()) for group in part.tensor_split(min(GROUPS, size), dim=axis)])
        for axis, size in enumerate(part.shape)
    )
    return _two_way(rows, columns, float(part.square().sum()))


def _two_way(rows: Floats, columns: Floats, entries: float) -> float:
    both = [float((s**2).sum()) * len(s) / max(1, len(s) - 1) for s in (rows, columns)]
    # For independent entries the three are equal; the error is never below that of one way.
    return math.sqrt(max(*both, sum(both) - entries))


def holm(values: Sequence[float]) -> list[float]:
    """Return Holm's corrected p values: the chance of even one false finding among all."""
    order = sorted(range(len(values)), key=values.__getitem__)
    corrected, largest = [1.0] * len(values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - place) * values[index]))
        corrected[index] = largest
    return corrected
