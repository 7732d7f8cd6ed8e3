"""Sparse checkpoints: the entries that a tuned checkpoint changed in its base, exact both ways."""

from rlvr.delta.container import DELTA
from rlvr.delta.exact import Packed, check_base, pack, store_delta
from rlvr.delta.restoring import apply, discard_applied, policy_folder, revert
from rlvr.delta.verb import add_arguments, run

__all__ = [
    "DELTA",
    "Packed",
    "add_arguments",
    "apply",
    "check_base",
    "discard_applied",
    "pack",
    "policy_folder",
    "revert",
    "run",
    "store_delta",
]
