"""How much of a tensor a training run changed, and where in it: sparsity, ULPs, profiles.

Deviation from arXiv 2511.08567, Def. 2.1: the paper calls a bf16 entry unchanged where
|w' - w| <= 1e-3 max(|w|, |w'|). Neighbouring bf16 numbers are at least 2^-8 apart in relative
terms, so the test is equality of the stored bits (its Cor. E.4), and equality is what is computed.
Infinities and zeros, which the definition leaves out, are compared like other values.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Float64, Int32
from torch import Tensor

from rlvr.geometry.storage import Grid

ATOL = 1e-5  # the absolute tolerance of arXiv 2505.11711
_MAGNITUDE_BITS = 0x7FFF  # of a bf16: all but the sign
_EXPONENT_BITS, _FRACTION_LENGTH = 0xFF, 7  # of a bf16
HALF_ULP = 127 + _FRACTION_LENGTH + 1  # half a ULP of the numbers in binade b is 2^(b - HALF_ULP)
_CHUNK = 1 << 20  # entries per pass in float64, which bounds the memory


def _require_pair(base: Tensor, tuned: Tensor) -> None:
    if base.shape != tuned.shape:
        raise ValueError(
            f"base and tuned must have one shape, got {tuple(base.shape)} and "
            f"{tuple(tuned.shape)}; are they of the same model?"
        )
    for name, tensor in (("base", base), ("tuned", tuned)):
        if tensor.isnan().any():
            raise ValueError(f"{name} holds NaN; a broken checkpoint has no update sparsity")


def update_mask_bf16(
    base: Float[Tensor, "*shape"], tuned: Float[Tensor, "*other"]
) -> Bool[Tensor, "*shape"]:
    """Return where the bf16 values differ (Def. 2.1), bool of the given shape.

    Both are cast to bf16 first (round to nearest even): an fp32 change too small to reach another
    bf16 number is no change. The zeros of either sign are equal.

    Raises:
        ValueError: for unequal shapes, or where one holds NaN.
    """
    _require_pair(base, tuned)
    # Integers: a comparison of floats may flush subnormals to zero on some devices.
    first, second = _bf16_bits(base), _bf16_bits(tuned)
    both_zero = ((first | second) & _MAGNITUDE_BITS) == 0  # +0 and -0 differ in their bits only
    return (first != second) & ~both_zero


def _bf16_bits(values: Tensor) -> Tensor:
    return values.detach().to(torch.bfloat16).contiguous().view(torch.int16)


def update_sparsity(base: Tensor, tuned: Tensor) -> float:
    """Return the bf16-aware update sparsity 1 - changed / n (Def. 2.2): 1 means nothing moved."""
    return share_unchanged(update_mask_bf16(base, tuned))


def sparsity_exact(base: Tensor, tuned: Tensor) -> float:
    """Return the exact update sparsity of the stored values: 1 means nothing moved.

    Two dtypes are compared in the wider one, which loses nothing.
    """
    _require_pair(base, tuned)
    return share_unchanged(base.detach() != tuned.detach())


def same_bits(base: Tensor, tuned: Tensor) -> bool:
    """Whether both hold the same bits in the same dtype; +0 and -0 do not."""
    first, second = base.detach().contiguous(), tuned.detach().contiguous()
    return first.dtype == second.dtype and torch.equal(
        first.view(torch.uint8), second.view(torch.uint8)
    )


def sparsity_atol(base: Tensor, tuned: Tensor, atol: float = ATOL) -> float:
    r"""Return the share of entries with :math:`|w' - w| \le` ``atol``, differences in float64.

    The rule of arXiv 2505.11711, for comparison only: it calls 1e-6 and 2e-6 equal, which are 134
    bf16 numbers apart, and 1024.001 and 1024.002 different, which bf16 stores as one.
    """
    _require_pair(base, tuned)
    _require_entries(base)
    near = sum(_count(delta.abs() <= atol) for _, delta in _chunks(base, tuned))
    return near / base.numel()


def half_ulp_bf16(weight: Float[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    r"""Return half the spacing of bf16 numbers at each entry, float64 of the given shape.

    :math:`\tfrac12 \mathrm{ULP}(w) = 2^{e-8}` for :math:`|w| \in [2^e, 2^{e+1})`, after the cast to
    bf16; subnormals and zero are spaced like the smallest normals (arXiv 2511.08567, Cor. 3.6).
    """
    binades = torch.arange(_EXPONENT_BITS + 1, device=weight.device)
    table = torch.exp2(binades.double() - HALF_ULP)
    return table[binade_bf16(weight)]


def binade_bf16(weight: Float[Tensor, "*shape"]) -> Int32[Tensor, "*shape"]:
    r"""Return :math:`e + 127` where :math:`|w| \in [2^e, 2^{e+1})`, after the cast to bf16; int32.

    Subnormals and zero are spaced like the smallest normals and count with them, as 1.
    """
    # The shift of a negative int16 keeps its sign; the mask of 8 bits takes that away.
    exponent = (_bf16_bits(weight) >> _FRACTION_LENGTH).int() & _EXPONENT_BITS
    return exponent.clamp_(min=1)


def below_half_ulp(base: Tensor, tuned: Tensor) -> float:
    r"""Return the share of entries with :math:`|\Delta W_{ij}| < \tfrac12 \mathrm{ULP}(W_{ij})`.

    Gate III of arXiv 2511.08567: such an update does not reach another bf16 number, unless the
    weight lies between two of them. Entries that did not change count too.
    """
    _require_pair(base, tuned)
    _require_entries(base)
    below = sum(_count(d.abs() < half_ulp_bf16(w)) for w, d in _chunks(base, tuned))
    return below / base.numel()


def update_profiles(
    moved: Bool[Tensor, "m n"],
) -> tuple[Float64[Tensor, " m"], Float64[Tensor, " n"]]:
    r"""Return the share of moved entries of each row and each column of a bool matrix, float64.

    :math:`\rho_i = \frac1n \sum_j M_{ij}` and :math:`\kappa_j = \frac1m \sum_i M_{ij}` (arXiv
    2511.08567, section 3.3). Independent entries of density p have a standard deviation of
    :math:`\sqrt{p (1-p) / n}` over rows and :math:`\sqrt{p (1-p) / m}` over columns.
    """
    rows, columns = moved.shape
    return moved.count_nonzero(1).double() / columns, moved.count_nonzero(0).double() / rows


def share_unchanged(changed: Bool[Tensor, "..."]) -> float:
    _require_entries(changed)
    return 1 - _count(changed) / changed.numel()


def _count(mask: Tensor) -> int:
    return int(mask.count_nonzero())  # twenty times as fast as a sum of bools


def _require_entries(tensor: Tensor) -> None:
    if not tensor.numel():
        raise ValueError("an empty tensor has no update sparsity; leave it out")


def _chunks(base: Tensor, tuned: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield parts of the base weights with their updates in float64."""
    first, second = base.detach().reshape(-1), tuned.detach().reshape(-1)
    for start in range(0, first.numel(), _CHUNK):
        weight = first[start : start + _CHUNK]
        yield weight, second[start : start + _CHUNK].double() - weight.double()


def grid_of(values: Tensor) -> Grid:
    """Return the coarsest format that holds every value: a float32 file may hold bf16 numbers."""
    if values.dtype == torch.bfloat16 or bool((values == values.to(torch.bfloat16)).all()):
        return "bfloat16"
    if values.dtype == torch.float16 or bool((values == values.to(torch.float16)).all()):
        return "float16"
    return "float32"
