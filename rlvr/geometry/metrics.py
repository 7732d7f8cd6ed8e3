"""Where an update went: pure functions of base and tuned weights."""

import torch
from torch import Tensor


def update_mask_bf16(base: Tensor, tuned: Tensor) -> Tensor:
    r"""Return where the update is visible in bfloat16, as a bool tensor of the weights' shape.

    An entry counts as unchanged iff :math:`|\hat w - w| \le \eta \max(|w|, |\hat w|)` for the values
    as stored in bf16 with :math:`\eta = 10^{-3}`, which is bit equality after the cast, with -0
    equal to 0 (arXiv 2511.08567, Def. 2.1 and Cor. E.4).

    Raises:
        ValueError: a weight is NaN, or the shapes differ.
    """
    if base.shape != tuned.shape:
        raise ValueError(f"shapes differ: base {tuple(base.shape)}, tuned {tuple(tuned.shape)}")
    if base.isnan().any() or tuned.isnan().any():
        raise ValueError("the weights hold NaN, for which 'changed' has no meaning")
    return base.to(torch.bfloat16) != tuned.to(torch.bfloat16)


def update_sparsity(base: Tensor, tuned: Tensor) -> float:
    """Return the share of entries whose update is invisible in bf16 (ibid., Def. 2.2); 1: none moved.

    An empty tensor has sparsity 1.
    """
    moved = update_mask_bf16(base, tuned)
    return 1.0 - int(moved.sum()) / moved.numel() if moved.numel() else 1.0
