"""Sparse checkpoints: the entries that a tuned checkpoint changed in its base, exact both ways."""

from rlvr.checkpoints.delta_file import DELTA
from rlvr.delta.exact import Packed, check_base, pack, store_delta
from rlvr.delta.restoring import apply, discard_applied, policy_folder, revert

__all__ = [
    "DELTA",
    "Packed",
    "apply",
    "check_base",
    "discard_applied",
    "pack",
    "policy_folder",
    "revert",
    "store_delta",
]
