"""No step on NaN: a loss, gradient norm or weight that is not finite stops the run and is named.

The check costs one look at two numbers that a step computes anyway, just before the optimizer;
under DeepSpeed, which takes its step inside of the backward pass, just after. Parameters and
gradients are searched only once it fires.

Under ``fp16`` a gradient norm may be infinite: the loss scaler skips such a step and lowers its
scale. There only the loss is looked at, which the scale does not touch.
"""

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from rlvr import runtime
from rlvr.policy import non_finite
from rlvr.schema import RunError


class FiniteSteps(Trainer):
    """A Trainer that stops at the first step with a loss or gradient that is not finite.

    A mixin before one of TRL's trainers.
    """

    model: Any
    args: Any
    state: Any
    _losses: Tensor | None = None  # of the batches of this step, summed

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        loss = super().training_step(model, inputs, *args, **kwargs)
        self._losses = loss if self._losses is None else self._losses + loss
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        # Kept on the device until here: one synchronisation a step, not one a micro-batch.
        loss, self._losses = self._losses, None
        values = {} if loss is None else {"loss": float(loss)}
        if norm is not None and not self.args.fp16:
            values["gradient norm"] = float(norm)
        bad = [f"the {k} is {v}" for k, v in values.items() if not math.isfinite(v)]
        # All ranks stop: the others would wait for this one in their next reduction.
        if runtime.any_rank(bool(bad)):
            raise self.non_finite(" and ".join(bad) or "another process has a loss that is NaN")
        return norm

    def require_finite_weights(self) -> None:
        """Raise where a trained weight is not finite, on all ranks; called before a checkpoint."""
        bad = non_finite(self._trained())
        if runtime.any_rank(bad is not None):
            step = self.state.global_step  # which is complete here, and under way elsewhere
            raise self.non_finite("an update made weights NaN or infinite", step)

    def non_finite(self, symptom: str, step: int | None = None) -> RunError:
        """Return the error of this step, which names the first parameter or gradient at fault."""
        weights = non_finite(self.model.named_parameters())
        gradients = non_finite((n, p.grad) for n, p in self._trained() if p.grad is not None)
        cause = "all weights and gradients of this process are finite"
        if weights is not None:
            cause = f"among the weights, {weights}"
        elif gradients is not None:
            cause = f"the weights are finite; among their gradients, {gradients}"
        step = self.state.global_step + 1 if step is None else step
        return RunError(
            f"step {step}: {symptom}; {cause}. No checkpoint holds this step, and those before it "
            "are whole. Lower trainer.learning_rate or raise trainer.warmup_steps, and look at "
            "grad_norm in metrics.jsonl and at the rows of this step"
        )

    def _trained(self) -> Iterator[tuple[str, Any]]:
        return ((n, p) for n, p in self.model.named_parameters() if p.requires_grad)
