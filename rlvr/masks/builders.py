r"""Update masks: which entries of a target matrix may move.

Every builder is a pure function of one matrix of base weights, from arXiv 2511.08567, section 4.2
and appendix C (the principal mask after LIFT, arXiv 2506.00772). What the paper leaves open is
fixed here, and is the same for each:

1. Masks are computed per matrix, from the base weights in float32.
2. A density :math:`\alpha` selects :math:`\mathrm{round}(\alpha n)` of n entries, halves up.
3. Among equal values the entry with the lower flat index is selected first, by "the smallest" as
   by "the largest"; ``off_principal`` is what ``principal`` leaves over.
4. Randomness comes from the option ``seed`` and the parameter's name, from nothing else.

A parameter annotated ``Tensor`` is another mask: the recipe writes its builder there.
"""

import hashlib
from fractions import Fraction
from math import floor

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlvr.linalg import Svd, low_rank
from rlvr.registry import mask_builder
from rlvr.schema import RecipeError

Matrix = Float[Tensor, "m n"]
Entries = Bool[Tensor, "m n"]


def exact_density(density: float) -> Fraction:
    """Return the decimal fraction that the user wrote: 0.1 is a tenth, not its nearest double."""
    # A double is within 1e-16 of what was written; the simplest fraction nearby is that number.
    return Fraction(density).limit_denominator(10**9)


def count_of(density: Fraction, entries: int) -> int:
    """Return how many of ``entries`` a density selects: the nearest integer, halves up."""
    return floor(density * entries + Fraction(1, 2))


def generator_for(name: str, seed: int) -> torch.Generator:
    """Return the random generator of one matrix; unlike ``hash``, the same in every process."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    # 63 bits: manual_seed takes a signed 64-bit integer.
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def largest(values: Float[Tensor, "*shape"], count: int) -> Bool[Tensor, "*shape"]:
    """Return a mask of the ``count`` largest of ``values``, ties by lower flat index."""
    flat = values.reshape(-1)
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    # A threshold and its ties take linear time, where a sort would take n log n.
    threshold = _kth_smallest(flat, flat.numel() - count)
    mask = flat > threshold
    # What is still missing comes from the entries equal to the threshold, lowest index first.
    ties = (flat == threshold).nonzero().squeeze(1)
    mask[ties[: count - int(mask.count_nonzero())]] = True
    return mask.view(values.shape)


def _kth_smallest(flat: Tensor, index: int) -> Tensor:
    """Return the value at ``index`` of the sorted ``flat``."""
    if flat.device.type != "cpu" or flat.dtype != torch.float32:
        return flat.kthvalue(index + 1).values
    # More than twice as fast as kthvalue, which carries an int64 index with every value.
    return torch.tensor(np.partition(flat.detach().numpy(), index)[index])


def smallest(values: Float[Tensor, "*shape"], count: int) -> Bool[Tensor, "*shape"]:
    """Return a mask of the ``count`` smallest of ``values``, ties by lower flat index."""
    return largest(-values, count)


def principal_magnitude(weight: Matrix, name: str, rank: int, svd: Svd) -> Matrix:
    r"""Return :math:`|W^{(k)}|`, the entrywise magnitude of the rank-k reconstruction."""
    # Seed 0 always: the sketch of the randomised SVD is no part of a mask's own randomness.
    return low_rank(weight.float(), rank, svd=svd, generator=generator_for(name, 0)).abs()


@mask_builder
def principal(
    weight: Matrix, name: str, *, rank: int, density: float, svd: Svd = "gram"
) -> Entries:
    r"""Principal weights: :math:`M_\mathrm{princ}^{(k)} = \mathrm{Top}_\alpha(|W_0^{(k)}|)`."""
    magnitude = principal_magnitude(weight, name, rank, svd)
    return largest(magnitude, count_of(exact_density(density), weight.numel()))


@mask_builder
def off_principal(
    weight: Matrix, name: str, *, rank: int, density: float, svd: Svd = "gram"
) -> Entries:
    r"""Off-principal weights: :math:`\mathrm{Bottom}_\alpha(|W_0^{(k)}|)`.

    At density 1 - alpha this is the complement of ``principal`` at alpha, entry for entry, so a
    count that falls on a half is rounded down here.
    """
    magnitude = principal_magnitude(weight, name, rank, svd)
    # Not ``smallest``: its ties would differ from those of ``principal``.
    return ~largest(magnitude, count_of(1 - exact_density(density), weight.numel()))


@mask_builder
def low_magnitude(weight: Matrix, name: str, *, density: float) -> Entries:
    r"""Low-magnitude weights: :math:`M_\mathrm{low} = \mathrm{Bottom}_\alpha(|W_0|)`."""
    return smallest(weight.float().abs(), count_of(exact_density(density), weight.numel()))


@mask_builder
def safe(
    weight: Matrix,
    name: str,
    *,
    rank: int,
    principal_density: float,
    low_density: float,
    svd: Svd = "gram",
) -> Entries:
    r"""The paper's safe mask :math:`M_\mathrm{low} \cup M_\mathrm{princ}^c`.

    Only entries that are principal and not low-magnitude are frozen. Its density depends on the
    weights: the paper reports 74.02 % on DeepSeek-R1-Distill-Qwen-1.5B.
    """
    low = low_magnitude(weight, name, density=low_density)
    return low | ~principal(weight, name, rank=rank, density=principal_density, svd=svd)


@mask_builder
def random(
    weight: Matrix,
    name: str,
    *,
    density: float | None = None,
    like: Tensor | None = None,
    seed: int = 0,
) -> Entries:
    """A uniform mask of ``density``, or with as many entries in each matrix as ``like`` has."""
    if density is not None and like is None:
        count = count_of(exact_density(density), weight.numel())
    elif like is not None and density is None:
        count = int(like.sum())
    else:
        raise RecipeError("random: give exactly one of density and like")
    # On the CPU, so that every device draws the same mask.
    order = torch.randperm(weight.numel(), generator=generator_for(name, seed))
    mask = torch.zeros(weight.numel(), dtype=torch.bool)
    mask[order[:count]] = True
    return mask.view(weight.shape).to(weight.device)


@mask_builder
def dense(weight: Matrix, name: str) -> Entries:
    """Every entry: the control for the machinery itself, bit for bit training without a mask."""
    return torch.ones_like(weight, dtype=torch.bool)


@mask_builder
def union(weight: Matrix, name: str, *, of: list[Tensor]) -> Entries:
    """Entries in any of the masks ``of``."""
    return torch.stack(of).any(dim=0)


@mask_builder
def intersection(weight: Matrix, name: str, *, of: list[Tensor]) -> Entries:
    """Entries in all of the masks ``of``."""
    return torch.stack(of).all(dim=0)


@mask_builder
def complement(weight: Matrix, name: str, *, of: Tensor) -> Entries:
    """Entries outside the mask ``of``."""
    return ~of
