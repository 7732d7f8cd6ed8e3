"""How much of a tensor a training run changed: update sparsity, exact and bf16-aware.

Deviation from arXiv 2511.08567, Def. 2.1: the paper calls a bf16 entry unchanged where
|w' - w| <= 1e-3 max(|w|, |w'|). Neighbouring bf16 numbers are at least 2^-8 apart in relative
terms, so the test is equality of the stored bits (its Cor. E.4), and equality is what is computed.
Infinities and zeros, which the definition leaves out, are compared like other values.
"""

import torch
from torch import Tensor

_MAGNITUDE_BITS = 0x7FFF  # of a bf16: all but the sign


def _require_pair(base: Tensor, tuned: Tensor) -> None:
    if base.shape != tuned.shape:
        raise ValueError(
            f"base and tuned must have one shape, got {tuple(base.shape)} and "
            f"{tuple(tuned.shape)}; are they of the same model?"
        )
    for name, tensor in (("base", base), ("tuned", tuned)):
        if tensor.isnan().any():
            raise ValueError(f"{name} holds NaN; a broken checkpoint has no update sparsity")


def update_mask_bf16(base: Tensor, tuned: Tensor) -> Tensor:
    """Return where the bf16 values differ (Def. 2.1), bool of the given shape.

    Both are cast to bf16 first (round to nearest even): an fp32 change too small to reach another
    bf16 number is no change. The zeros of either sign are equal.

    Raises:
        ValueError: for unequal shapes, or where one holds NaN.
    """
    _require_pair(base, tuned)
    # Integers: a comparison of floats may flush subnormals to zero on some devices.
    first = base.detach().to(torch.bfloat16).contiguous().view(torch.int16)
    second = tuned.detach().to(torch.bfloat16).contiguous().view(torch.int16)
    both_zero = ((first | second) & _MAGNITUDE_BITS) == 0
    return (first != second) & ~both_zero


def update_sparsity(base: Tensor, tuned: Tensor) -> float:
    """Return the bf16-aware update sparsity 1 - changed / n (Def. 2.2): 1 means nothing moved."""
    return _share_unchanged(update_mask_bf16(base, tuned))


def sparsity_exact(base: Tensor, tuned: Tensor) -> float:
    """Return the exact update sparsity, of the values as they are stored: 1 means nothing moved.

    Of unequal dtypes both are compared in the wider one, which loses nothing.
    """
    _require_pair(base, tuned)
    return _share_unchanged(base.detach() != tuned.detach())


def _share_unchanged(changed: Tensor) -> float:
    if not changed.numel():
        raise ValueError("an empty tensor has no update sparsity; leave it out")
    return 1 - int(changed.sum()) / changed.numel()
