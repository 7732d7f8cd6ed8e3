r"""How far one optimizer step moved the policy, and how far ratio clipping lets it (Gate I).

Every ``run.kl_every`` steps the log-probabilities of the step's own completions are computed before
its first gradient and after the optimizer; with the ratio :math:`r_t` of after to before,

.. math:: \mathrm{KL}(\pi_{new} \| \pi_{old}) = \mathbb{E}_{y \sim \pi_{old}} [r \log r - r + 1]

at each position, every term at least 0. Its sum over a completion, averaged, is the batch KL that
arXiv 2511.08567, Lemma F.9 bounds, where every ratio stays inside the clipping range:

.. math:: \mathbb{E}[T] \max(-\log(1 - \epsilon), \log(1 + \epsilon_{high}))

1. The positions are those of the sampled completions, so that it is the KL of the next tokens on
   the contexts of the policy before the step. Where several steps share one generation, the
   completions of the later ones are of a policy a few steps older.
2. Clipping takes away the gradient of a ratio outside its range; it does not keep the ratio inside.
   ``kl_step_outside`` counts those that left it: only where it is 0 does the bound hold by proof.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Float64, Num
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState

CLIPPED_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")


def clip_bound(mean_length: float, low: float, high: float) -> float:
    r"""Return :math:`E[T] \max(-\log(1-\epsilon), \log(1+\epsilon_{high}))`, nats per completion.

    Infinite where ``low`` is 1 or more: such clipping lets a probability vanish.
    """
    down = -math.log1p(-low) if low < 1 else math.inf
    return mean_length * max(down, math.log1p(high))


def step_sums(
    before: Float[Tensor, "B T"],
    after: Float[Tensor, "B T"],
    kept: Num[Tensor, "B T"],
    low: float,
    high: float,
) -> Float64[Tensor, " 4"]:
    """Return KL in nats, tokens, completions and tokens outside the clipping range, summed.

    Args:
        before, after: B x T log-probabilities of the sampled tokens.
        kept: B x T, 1 at the tokens of a completion, 0 at padding.
        low, high: the clipping range is 1 - low .. 1 + high.
    """
    kept = kept.bool()
    # where, not a product with `kept`: padding may hold infinities, and 0 * inf is NaN.
    change = torch.where(kept, after.double() - before.double(), 0.0)
    # expm1 keeps what r - 1 would round away: a step changes most ratios by less than 1e-3.
    excess = change.expm1()
    kl = (excess + 1) * change - excess
    outside = kept & ((excess < -low) | (excess > high))
    counts = (kept.sum(), kept.any(1).sum(), outside.sum())
    # Each term is at least 0 by convexity; float64 rounding may leave it at -1e-17.
    return torch.stack([kl.clamp_min(0).sum(), *(count.double() for count in counts)])


class StepKL(TrainerCallback):
    """Logs ``kl_step`` (nats per token), ``kl_step_completion`` and ``kl_step_bound`` (nats).

    Register it before what reads the trainer's metrics. It costs two forward passes on the step's
    completions, and changes no bit of the run.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.seen: list[tuple[dict[str, Any], Tensor]] = []

    def before(self, inputs: dict[str, Any]) -> None:
        """Remember the log-probabilities of a batch that is about to be learned from."""
        trainer = self.trainer
        every = trainer.run.kl_every
        if trainer.model.training and every and trainer.state.global_step % every == 0:
            # One entry a micro-batch: with gradient accumulation a step has several.
            self.seen.append((inputs, self._logps(inputs)))

    def _logps(self, inputs: dict[str, Any]) -> Tensor:
        return self.trainer._completion_logps(inputs, reference=False)

    def on_step_end(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        if not self.seen:
            return
        low = args.epsilon
        high = low if args.epsilon_high is None else args.epsilon_high
        parts = [
            step_sums(old, self._logps(inputs), inputs["completion_mask"], low, high)
            for inputs, old in self.seen
        ]
        self.seen = []
        totals: Any = self.trainer.accelerator.reduce(torch.stack(parts).sum(0), "sum")
        kl, tokens, completions, outside = totals.tolist()
        metrics = {
            "kl_step": kl / max(tokens, 1),
            "kl_step_completion": kl / max(completions, 1),
        }
        # Other losses do not clip the ratio at 1 - low .. 1 + high, so the bound is not theirs.
        if args.loss_type in CLIPPED_LOSSES:
            metrics["kl_step_bound"] = clip_bound(tokens / max(completions, 1), low, high)
            metrics["kl_step_outside"] = outside / max(tokens, 1)
        for name, value in metrics.items():
            self.trainer._metrics["train"][name].append(value)
