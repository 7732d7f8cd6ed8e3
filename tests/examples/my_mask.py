"""A mask of one's own: which entries of a matrix may move.

plugins: [my_mask]
mask: {builder: every_other_row, start: 1}
"""

import torch
from torch import Tensor

from rlvr.registry import mask_builder


@mask_builder
def every_other_row(weight: Tensor, name: str, *, start: int = 0) -> Tensor:
    """Only every second output of each matrix may move."""
    mask = torch.zeros_like(weight, dtype=torch.bool)
    mask[start::2] = True
    return mask
