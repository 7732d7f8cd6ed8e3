"""Optimizers that keep an update mask."""

from rlvr.optim.masked_adamw import Bf16Update, MaskedAdamW

__all__ = ["Bf16Update", "MaskedAdamW"]
