"""Training steps over a batch that is not full, or empty: the loss of what is there, or no step.

``kept_share`` in TRL's output is the share of its completions that are in the loss; the others are
masked. A run without it trains as ever.
"""

import time
from typing import Any

import torch
from torch import Tensor, nn

from rlvr.training.generations import ResumesGenerations

# TRL divides these losses by a number of completions, masked ones included.
PER_COMPLETION = ("grpo", "dr_grpo", "sapo", "luspo")


def is_scored(inputs: object) -> bool:
    """Whether a batch has been generated and scored: a step prepares it once and passes it on."""
    return isinstance(inputs, dict) and "advantages" in inputs


class EmptySteps(ResumesGenerations):
    """GRPOTrainer that takes no step where nothing is in the loss."""

    accelerator: Any
    _has_gradient = False
    _is_skipped = False

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Train on one slice of a generation, or do nothing at all where its batch is empty.

        Without a backward pass no parameter has a gradient, and optimizers skip such parameters:
        zero gradients would still move weights, by momentum and weight decay. DeepSpeed takes its
        step inside of the backward pass.
        """
        model.train()
        start = time.perf_counter()
        inputs = self._prepare_inputs(inputs)
        self._current_train_step_time += time.perf_counter() - start
        # Once a gradient waits to be averaged over the processes, the last backward must come.
        if float(inputs.get("kept_share", 1.0)) > 0.0 or self._has_gradient:
            loss = super().training_step(model, inputs, num_items_in_batch)
            self._has_gradient = not self.accelerator.sync_gradients
            self._is_skipped = False
            return loss
        # TRL counts its micro-batches in `_step` in the forward that is skipped here.
        self._step += 1
        self._is_skipped = self.accelerator.sync_gradients
        if self._is_skipped:
            self._metrics["train"]["step_time"].append(self._current_train_step_time)
            self._current_train_step_time = 0.0
        return torch.zeros((), device=self.args.device)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> Any:
        return inputs if is_scored(inputs) else super()._prepare_inputs(inputs)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> Any:
        # DeepSpeed would return the norm of the step before.
        return 0.0 if self._is_skipped else super()._get_grad_norm(model, grad_norm)

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        loss = super()._compute_loss(model, inputs)
        share = inputs.get("kept_share")
        if share is None or self.loss_type not in PER_COMPLETION:
            return loss
        # TRL divided by all completions; the masked ones are not in the mean.
        return loss / share if share > 0 else loss
