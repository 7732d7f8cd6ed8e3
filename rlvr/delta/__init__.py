"""Sparse checkpoints: the entries that a tuned checkpoint changed in its base, exact both ways."""

from rlvr.delta.exact import Packed, apply, pack, revert
from rlvr.delta.verb import add_arguments, run

__all__ = ["Packed", "add_arguments", "apply", "pack", "revert", "run"]
