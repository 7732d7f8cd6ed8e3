"""Update masks: which entries of the policy may move. Importing this registers the builders."""

from rlvr.masks.calibrate import Calibration, calibrate
from rlvr.masks.mask import Mask, build_mask, check_built_from, check_files, load_mask
from rlvr.masks.spec import MaskSpec, check_spec, density_bounds, parse_spec

__all__ = [
    "Calibration",
    "Mask",
    "MaskSpec",
    "build_mask",
    "calibrate",
    "check_built_from",
    "check_files",
    "check_spec",
    "density_bounds",
    "load_mask",
    "parse_spec",
]
