"""What the masked optimizer refuses: options out of range, parameters that fit no mask."""

from typing import Any

import torch
from torch import Tensor

from rlvr.engines import local
from rlvr.masks import Mask


def check_options(group: dict[str, Any]) -> None:
    """Raise ``ValueError`` where an option of AdamW is out of range."""
    for key in ("lr", "eps", "weight_decay"):
        if not group[key] >= 0:
            raise ValueError(f"{key}: {group[key]} must be 0 or above")
    for beta in group["betas"]:
        if not 0 <= beta < 1:
            raise ValueError(f"betas: {beta} is outside [0, 1)")


def check_parameter(name: str, parameter: Tensor, mask: Mask) -> None:
    """Raise ``ValueError`` where a parameter has no mask or does not fit it."""
    if name not in mask:
        raise ValueError(f"parameter {name!r} is not in the mask; freeze it or add it there")
    if parameter.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(
            f"parameter {name!r} is {parameter.dtype}; masked training needs float32 or bfloat16 "
            "weights (gradients in float16 vanish below 6e-8)"
        )
    if tuple(parameter.shape) != mask.shapes[name] or not local(parameter).is_contiguous():
        raise ValueError(
            f"parameter {name!r} must be contiguous, of the mask's shape "
            f"{mask.shapes[name]}; it has {tuple(parameter.shape)}"
        )
