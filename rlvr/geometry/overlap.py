r"""Where an update landed: in which masks of the base weights, and in which of other runs.

The masks are those that training uses (``rlvr.masks.builders``): counts and ties are defined there.
Chance is the density of a mask. It does not know that *any* update moves small weights first, since
a bf16 number near zero has closer neighbours; ``rlvr.geometry.nulls`` does.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from rlvr.geometry.evidence import clustered_error
from rlvr.geometry.nulls import BINADES, EIGHTHS, size_class, top_binade
from rlvr.geometry.sparsity import grid_of, half_ulp_bf16

_OFFSETS, _PER_OCTAVE = 48, 4  # classes of the distance to the next rounding point


def overlap(mask: Bool[Tensor, "*shape"], moved: Bool[Tensor, "*shape"]) -> float:
    r"""Return :math:`|M \cap \mathrm{moved}| / |\mathrm{moved}|`, NaN where nothing moved.

    Its expectation for moved entries drawn at random is the density of ``mask`` (arXiv 2511.08567,
    section 4.2).
    """
    count = _count(moved)
    return _count(mask & moved) / count if count else math.nan


def _count(mask: Tensor) -> int:
    return int(mask.count_nonzero())


def density(mask: Bool[Tensor, "..."]) -> float:
    return _count(mask) / mask.numel()


def random_update(update: Float[Tensor, "m n"], generator: torch.Generator) -> Float[Tensor, "m n"]:
    r"""Return :math:`P D \, \Delta W \, D' P'`, random permutations P and signs D.

    An orthogonal transform from both sides. Singular values and the set of magnitudes stay; rows,
    columns and signs no longer match those of the base weights.
    """
    rows, columns = update.shape
    row_order = torch.randperm(rows, generator=generator).to(update.device)
    column_order = torch.randperm(columns, generator=generator).to(update.device)
    row_signs = torch.randint(2, (rows, 1), generator=generator) * 2 - 1
    column_signs = torch.randint(2, (columns,), generator=generator) * 2 - 1
    # Two gathers and two products, never a dense P or D of the size of the matrix.
    shuffled = update[row_order][:, column_order]
    shuffled *= row_signs.to(update)
    shuffled *= column_signs.to(update)
    return shuffled


def jaccard(first: Bool[Tensor, "*shape"], second: Bool[Tensor, "*shape"]) -> float:
    """Return |A and B| / |A or B| of two bool tensors; NaN where both are empty."""
    union = _count(first | second)
    return _count(first & second) / union if union else math.nan


def jaccard_random(first: float, second: float) -> float:
    r"""Return the Jaccard index of independent masks of densities p and q.

    .. math:: p q / (p + q - p q)

    NaN where both are 0 (arXiv 2511.08567, App. B).
    """
    union = first + second - first * second
    return first * second / union if union else math.nan


def pairwise_jaccard(masks: Sequence[Tensor]) -> tuple[float, float]:
    """Return the mean Jaccard index over pairs of runs, and that of independent masks.

    Pairs in which neither run moved anything are left out; NaN where none is left.
    """
    pairs = _pairs(masks)
    if not pairs:
        return math.nan, math.nan
    densities = [density(mask) for mask in masks]
    mean = sum(jaccard(masks[i], masks[j]) for i, j in pairs) / len(pairs)
    chance = sum(jaccard_random(densities[i], densities[j]) for i, j in pairs) / len(pairs)
    return mean, chance


def rounding_class(base: Float[Tensor, "m n"]) -> Int64[Tensor, "m n"]:
    """Return classes of entries that bf16 treats alike: by size, and by their place in the cell.

    The values of a base that is stored more finely than bf16 lie at some distance from the points
    where rounding changes. Near such a point the smallest update moves an entry, in every run.
    """
    top = top_binade(base)
    classes = size_class(base, top)
    if grid_of(base) == "bfloat16":
        return classes
    half = half_ulp_bf16(base)
    offset = (base.double() - base.to(torch.bfloat16).double()).abs_()
    distance = (1 - offset / half).clamp_(min=2.0 ** (-_OFFSETS / _PER_OCTAVE))
    # Logarithmic: a move of 1 % of a cell moves only entries within 1 % of its edge.
    place = (-_PER_OCTAVE * distance.log2_()).long().clamp_(0, _OFFSETS - 1)
    # float16 numbers halfway between two of bf16 go to the even one.
    odd = base.to(torch.bfloat16).contiguous().view(torch.int16) & 1
    return (classes // EIGHTHS * _OFFSETS + place) * 2 + odd


def chance_by_class(
    classes: Int64[Tensor, "m n"], moved: Bool[Tensor, "m n"]
) -> Float64[Tensor, "m n"]:
    """Return the share of moved entries among those in the class of each entry, float64."""
    size = BINADES * max(2 * _OFFSETS, EIGHTHS)
    counts = torch.bincount(classes.flatten(), minlength=size)
    share = torch.bincount(classes[moved], minlength=size).double() / counts.clamp(min=1)
    return share[classes]


def jaccard_expected(first: Float[Tensor, "m n"], second: Float[Tensor, "m n"]) -> float:
    r"""Return :math:`\sum p q / \sum (p + q - p q)` of the chances of entries to move in two runs.

    With ``chance_by_class`` of each run this is the Jaccard index of runs that agree on nothing but
    what bf16 makes of the weights. Small weights have close neighbours in bf16, so independent runs
    both move them more often.
    """
    both = first * second
    union = float((first + second - both).sum())
    return float(both.sum()) / union if union else math.nan


def pairwise_jaccard_rounding(base: Tensor, masks: Sequence[Tensor]) -> tuple[float, float]:
    r"""Return the mean ``jaccard_expected`` by class over pairs, and the error of the excess.

    The excess of one pair is, to first order, :math:`S / (S - I)^2 \sum (x - p)(y - q)` with
    I = |A and B| and S = |A| + |B|; its error is clustered by rows and columns. NaN where no run
    moved anything.
    """
    pairs = _pairs(masks)
    if not pairs:
        return math.nan, math.nan
    classes = rounding_class(base)
    chances = [chance_by_class(classes, mask) for mask in masks]
    expected = [jaccard_expected(chances[i], chances[j]) for i, j in pairs]
    rest = [mask.double() - chance for mask, chance in zip(masks, chances, strict=True)]
    part = torch.zeros_like(rest[0])
    for i, j in pairs:
        both, total = _count(masks[i] & masks[j]), _count(masks[i]) + _count(masks[j])
        if total > both:
            part.addcmul_(rest[i], rest[j], value=total / (total - both) ** 2 / len(pairs))
    return sum(expected) / len(expected), clustered_error(part)


def _pairs(masks: Sequence[Tensor]) -> list[tuple[int, int]]:
    if len(masks) < 2:
        raise ValueError("consistency is between runs; give at least two")
    moved = [bool(mask.any()) for mask in masks]
    # Each pair once; two runs that moved nothing have an index of 0 / 0.
    return [(i, j) for j in range(len(masks)) for i in range(j) if moved[i] or moved[j]]


def consensus(masks: Sequence[Bool[Tensor, "m n"]]) -> Float64[Tensor, "m n"]:
    r"""Return the consensus ratio :math:`C_{ij} = \frac1R \sum_r M_{ij}^{(r)}`, float64."""
    counts = masks[0].to(torch.int32)  # a stack of all masks would take R times the memory
    for mask in masks[1:]:
        counts = counts + mask
    return counts.double() / len(masks)
