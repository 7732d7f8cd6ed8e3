r"""Where an update landed: against masks of the base weights, chance, and other runs.

The masks are those that training uses (``rlvr.masks.builders``): counts and ties are defined there.
A bf16 number near zero has closer neighbours, so *any* update moves small weights first. The random
baseline (the density of the mask) does not know that; two nulls do.

- ``random_update`` has the same singular values and the same entries, in random places. It needs
  the update itself.
- ``expected_moves`` is for checkpoints stored in bf16. They hold only what rounding has left of the
  update, and to round that again would let large weights move even less.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor

from rlvr.geometry.sparsity import HALF_ULP, binade_bf16

_FINER = 5  # binades: a change is then known to 1/32 of the ULP that it is compared with
_LEAST = 256  # entries that a share is estimated from
_LEVELS = 2 * (256 + HALF_ULP - 127)  # sizes of change: thresholds, and the intervals between them
_FLOAT_FRACTION = 23  # bits of a float32
_CHUNK = 1 << 18  # entries that stay in a core's cache


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


def expected_moves(
    base: Float[Tensor, "m n"], tuned: Float[Tensor, "m n"]
) -> Float32[Tensor, "m n"]:
    r"""Return the chance of each entry to move, had the update not known the weights; float32.

    In a bf16 checkpoint an entry moves where the update exceeds half its ULP :math:`h`. How often
    does it? The changes of small weights are stored more finely. If the size of the update does not
    depend on the size of the weight, they tell:

    .. math:: p(b) = P(|\Delta_j| > h_b \mid j \text{ in binade } b - 5 \text{ or finer})

    for all entries of binade :math:`b`. A change of exactly :math:`h_b` counts half: rounding made
    it from smaller and from larger ones. Where fewer than 256 entries are so fine, p is the share
    of the binade's own entries that moved. Both tensors are cast to bf16 first.
    """
    # Counted in chunks that stay in the cache; only the 256 x _LEVELS table is kept.
    parts = [x.flatten().split(_CHUNK) for x in (base, tuned)]
    cells = torch.zeros(256, _LEVELS, dtype=torch.int64, device=base.device)
    for pair in zip(*parts, strict=True):
        cells += _changes(*pair)
    counts = cells.double().cpu()
    finer = counts.cumsum(0)  # row b: the changes of binade b and all finer ones
    # The fallback: the share of a binade's own entries that moved (level 0 did not).
    chance = 1 - counts[:, 0] / counts.sum(1).clamp(min=1)
    for b in range(_FINER + 1, 256):
        known = finer[b - _FINER]
        total = known.sum()
        if total >= _LEAST:
            # Level 2 b is a change of exactly h_b; later levels are larger (see ``_changes``).
            above = known[2 * b + 1 :].sum() + known[2 * b : 2 * b + 1].sum() / 2
            chance[b] = above / total
    chance = chance.float().to(base.device)
    return torch.cat([chance[binade_bf16(part)] for part in parts[0]]).view_as(base)


def _changes(base: Tensor, tuned: Tensor) -> Tensor:
    """Count the entries of each binade (rows) and size of change (columns)."""
    change = tuned.to(torch.bfloat16).float() - base.to(torch.bfloat16).float()
    bits = change.abs_().view(torch.int32)
    # Level 2 b: |change| is the threshold 2^(b - HALF_ULP) of binade b. Level 2 b + 1: it lies
    # between the thresholds of b and b + 1. Level 0: the entry did not move. Exponent and fraction
    # are read off the float32 bits.
    level = (bits >> _FLOAT_FRACTION).add_(HALF_ULP - 127).mul_(2)
    level += (bits & ((1 << _FLOAT_FRACTION) - 1)) > 0  # a fraction: above the power of two
    level *= bits > 0
    cells = torch.bincount(level.add_(binade_bf16(base) * _LEVELS), minlength=256 * _LEVELS)
    return cells.view(256, _LEVELS)


def expected_overlap(mask: Bool[Tensor, "m n"], chance: Float[Tensor, "m n"]) -> float:
    """Return the expected overlap of entries that move with ``chance``; NaN where none can."""
    total = float(chance.sum())
    return float((chance * mask).sum()) / total if total else math.nan


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


def chance_by_size(
    base: Float[Tensor, "m n"], moved: Bool[Tensor, "m n"]
) -> Float32[Tensor, "m n"]:
    """Return the share of moved entries among those in the bf16 binade of each entry, float32."""
    binade = binade_bf16(base)
    counts = torch.bincount(binade.flatten(), minlength=256)
    share = torch.bincount(binade[moved], minlength=256) / counts.clamp(min=1)
    return share[binade]


def jaccard_expected(first: Float[Tensor, "m n"], second: Float[Tensor, "m n"]) -> float:
    r"""Return :math:`\sum p q / \sum (p + q - p q)` of the chances of entries to move in two runs.

    With ``chance_by_size`` of each run this is the Jaccard index of runs that agree on nothing but
    the size of the weights. Small weights have close neighbours in bf16, so independent runs both
    move them more often.
    """
    both = first * second
    union = float((first + second - both).sum())
    return float(both.sum()) / union if union else math.nan


def pairwise_jaccard_rounding(base: Tensor, masks: Sequence[Tensor]) -> float:
    """Return the mean ``jaccard_expected`` by size over the pairs of ``pairwise_jaccard``."""
    chances = [chance_by_size(base, mask) for mask in masks]
    expected = [jaccard_expected(chances[i], chances[j]) for i, j in _pairs(masks)]
    return sum(expected) / len(expected) if expected else math.nan


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
