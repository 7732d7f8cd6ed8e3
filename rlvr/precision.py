"""The precision of a run: the one its forward passes compute in, and that of the masters.

A run has three sets of numbers: the masters, which the optimizer moves; the weights it computes
with, which are the masters rounded by autocast, by an engine or by their own storage; and what is
stored. A policy is the weights in the precision of its run: masters in float32 that train under
bfloat16 are another policy when a reader computes with them in float32.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from transformers import TrainingArguments


@dataclass(frozen=True)
class Precision:
    """``weights``: the dtype a forward pass starts from; ``autocast``: what it rounds them to."""

    weights: torch.dtype
    autocast: torch.dtype | None = None

    @property
    def computed(self) -> torch.dtype:
        """The dtype of the weights in a matrix product."""
        return self.autocast or self.weights

    def forward(self, device: torch.device) -> AbstractContextManager:
        """Return the context in which a forward pass computes as the run's do."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(device.type, dtype=self.autocast)

    def to_dict(self) -> dict[str, str | None]:
        """Return it as a run's provenance holds it."""
        autocast = None if self.autocast is None else dtype_name(self.autocast)
        return {"weights": dtype_name(self.weights), "autocast": autocast}

    @classmethod
    def from_dict(cls, content: dict[str, str | None]) -> "Precision":
        """Read what ``to_dict`` returned."""
        weights, autocast = (content[key] for key in ("weights", "autocast"))
        assert weights is not None
        return cls(getattr(torch, weights), None if autocast is None else getattr(torch, autocast))

    def __str__(self) -> str:
        stored = f"{dtype_name(self.weights)} weights"
        return (
            stored if self.autocast is None else f"{stored}, {dtype_name(self.autocast)} autocast"
        )


def dtype_name(dtype: torch.dtype) -> str:
    """Return torch's word for ``dtype``, such as ``bfloat16``."""
    return str(dtype).removeprefix("torch.")


def precision_of(args: TrainingArguments, weights: torch.dtype) -> Precision:
    """Return the precision of a run that loaded its weights as ``weights``.

    DeepSpeed keeps the weights of a mixed run in its 16-bit dtype, and its optimizer the masters;
    the other engines round float32 weights in each forward pass.
    """
    mixed = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    if mixed is None or mixed == weights:
        return Precision(weights)
    if args.deepspeed_plugin is not None:
        return Precision(mixed)
    return Precision(weights, mixed)
