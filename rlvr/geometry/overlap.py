r"""Where an update landed: against masks of the base weights, chance, and other runs.

The masks are those that training uses (``rlvr.masks.builders``): counts and ties are defined there.
A bf16 number near zero has closer neighbours, so *any* update moves small weights first. The random
baseline (the density of the mask) does not know that; ``random_update`` does: it is what an update
with the same singular values and the same entries, in random places, would have done.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def overlap(mask: Tensor, moved: Tensor) -> float:
    r"""Return :math:`|M \cap \mathrm{moved}| / |\mathrm{moved}|`, NaN where nothing moved.

    Its expectation for moved entries drawn at random is the density of ``mask`` (arXiv 2511.08567,
    section 4.2).
    """
    count = _count(moved)
    return _count(mask & moved) / count if count else math.nan


def _count(mask: Tensor) -> int:
    return int(mask.count_nonzero())


def density(mask: Tensor) -> float:
    return _count(mask) / mask.numel()


def random_update(update: Tensor, generator: torch.Generator) -> Tensor:
    r"""Return :math:`P D \, \Delta W \, D' P'`, random permutations P and signs D.

    An orthogonal transform from either side: the singular values of the update stay to the last
    bit, and so does the multiset of its magnitudes, but its rows, columns and signs no longer know
    those of the base weights.
    """
    rows, columns = update.shape
    row_order = torch.randperm(rows, generator=generator).to(update.device)
    column_order = torch.randperm(columns, generator=generator).to(update.device)
    row_signs = torch.randint(2, (rows, 1), generator=generator) * 2 - 1
    column_signs = torch.randint(2, (columns,), generator=generator) * 2 - 1
    shuffled = update[row_order][:, column_order]
    shuffled *= row_signs.to(update)
    shuffled *= column_signs.to(update)
    return shuffled


def jaccard(first: Tensor, second: Tensor) -> float:
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
    if len(masks) < 2:
        raise ValueError("consistency is between runs; give at least two")
    densities = [density(mask) for mask in masks]
    pairs = [(i, j) for j in range(len(masks)) for i in range(j) if densities[i] + densities[j]]
    if not pairs:
        return math.nan, math.nan
    found = sum(jaccard(masks[i], masks[j]) for i, j in pairs) / len(pairs)
    chance = sum(jaccard_random(densities[i], densities[j]) for i, j in pairs) / len(pairs)
    return found, chance


def consensus(masks: Sequence[Tensor]) -> Tensor:
    r"""Return the consensus ratio :math:`C_{ij} = \frac1R \sum_r M_{ij}^{(r)}`, float64."""
    counts = masks[0].to(torch.int32)
    for mask in masks[1:]:
        counts = counts + mask
    return counts.double() / len(masks)
