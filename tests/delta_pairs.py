"""Pairs of checkpoints from integers only, so that they are the same bits everywhere."""

import numpy as np
import torch
from torch import Tensor


def bf16(bits: np.ndarray) -> Tensor:
    return torch.from_numpy(bits.view(np.int16).copy()).view(torch.bfloat16)


def small_pair() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the pair of ``data/version_1.delta``: sparse, dense, widened and unchanged tensors."""
    random = np.random.RandomState(0)  # its streams are frozen, unlike those of default_rng
    bits = random.randint(0x3C00, 0x3E00, 3000).astype(np.uint16)
    sparse, dense = bits.copy(), bits ^ 1
    sparse[::37] += 2
    wide = bf16(dense).float()
    base = {"a": bf16(bits), "b": bf16(bits), "c": bf16(bits), "d": bf16(bits)}
    return base, {"a": bf16(sparse), "b": bf16(dense), "c": wide, "d": bf16(bits)}
