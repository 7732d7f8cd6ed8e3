"""Update sparsity of the target matrices while a run trains, from the base and step to step.

What it costs: two bf16 copies of the target matrices in CPU memory (the base's, and those of the
measurement before), and one pass over them every ``geometry.every`` steps. Spectra, angles and
overlaps are for checkpoints: ``rlvr geometry RUN``.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlvr import runtime
from rlvr.adapters import policy_weights
from rlvr.engines import whole


class GeometryCallback(TrainerCallback):
    """Adds ``geometry/sparsity_from_base`` and ``…_from_previous`` to every ``every``-th log.

    Both count the entries with an unchanged bf16 value (arXiv 2511.08567, Def. 2.2). The previous
    measurement is ``every`` steps before; the first, and the first after a resume, compares with
    the weights that training started from. Register it before ``MetricsCallback``.
    """

    def __init__(self, policy: nn.Module, targets: Iterable[str], every: int) -> None:
        """Copy the base weights of ``targets`` from ``policy``, before an adapter wraps it."""
        self.every = every
        parameters = dict(policy.named_parameters())
        self.base = {name: _bits(parameters[name]) for name in targets}
        self.previous = self.base
        self.metrics: dict[str, float] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step:
            # The checkpoint is loaded by now; __init__ saw the base.
            self.previous = self._read(kwargs["model"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step % self.every:
            return
        now = self._read(kwargs["model"])
        if runtime.is_main():
            self.metrics = {
                "geometry/sparsity_from_base": _unchanged(self.base, now),
                "geometry/sparsity_from_previous": _unchanged(self.previous, now),
            }
        self.previous = now

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict | None = None,
        **kwargs: object,
    ) -> None:
        if logs is not None and "grad_norm" in logs:
            # In place: the callbacks after this one get the same dict.
            logs.update(self.metrics)
            self.metrics = {}

    def _read(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the target matrices in bf16; every rank must ask, only the main one keeps them."""
        matrices = {}
        for name, weight in _weights(model, self.base):
            if runtime.is_main():
                matrices[name] = _bits(weight)
        return matrices


def _weights(model: Any, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield the named matrices of the policy, with its adapter merged into a copy if it has one."""
    # DDP wraps the policy in `.module`, which would prefix every name.
    model = model.module if isinstance(getattr(model, "module", None), nn.Module) else model
    wanted = set(names)
    if hasattr(model, "peft_config"):
        yield from ((name, weight) for name, weight in policy_weights(model) if name in wanted)
        return
    for name, parameter in model.named_parameters():
        if name in wanted:
            # A collective under FSDP2: every rank enters, in the same order of names.
            with whole(parameter) as weight:
                yield name, weight


def _bits(weight: Tensor) -> Tensor:
    return weight.detach().to("cpu", torch.bfloat16, copy=True)


def _unchanged(before: dict[str, Tensor], after: dict[str, Tensor]) -> float:
    moved = sum(int((before[name] != after[name]).count_nonzero()) for name in before)
    return 1 - moved / sum(weight.numel() for weight in before.values())
