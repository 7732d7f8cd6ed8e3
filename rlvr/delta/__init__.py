"""Sparse checkpoints: the entries that a tuned checkpoint changed in its base, exact both ways."""

from rlvr.checkpoints.folders import DELTA
from rlvr.delta.exact import Packed, check_delta_base, pack, store_delta
from rlvr.delta.restoring import apply, discard_applied, exported_policy, policy_folder, revert

__all__ = [
    "DELTA",
    "Packed",
    "apply",
    "check_delta_base",
    "discard_applied",
    "exported_policy",
    "pack",
    "policy_folder",
    "revert",
    "store_delta",
]
