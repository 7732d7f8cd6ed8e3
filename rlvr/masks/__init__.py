"""Update masks: which entries of the policy may move. Importing this registers the builders."""

from rlvr.masks.mask import Mask, build_mask, load_mask
from rlvr.masks.spec import MaskSpec, check_spec, density_bounds, parse_spec

__all__ = [
    "Mask",
    "MaskSpec",
    "build_mask",
    "check_spec",
    "density_bounds",
    "load_mask",
    "parse_spec",
]
