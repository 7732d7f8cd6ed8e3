"""Supervised fine-tuning under the seam: the baseline that RLVR is compared with.

What ``SupervisedTrainer`` changes in TRL 1.16's SFTTrainer, further to ``seam.py``:

1. Rows come as token ids with labels (``data/solutions.py``); TRL renders, cuts and packs nothing.
2. The KL of the policy from its base is measured every ``run.kl_every`` steps, as
   ``kl_to_base_on_data``: exact over the vocabulary, in nats per token, before the step's update,
   at the completion tokens that the step trains on. The policy did not draw them, so it is not
   the ``kl_to_base`` of an RLVR run; the evaluation at the end measures that one for both.
3. The time of a step, its forwards and backwards, is a metric, as in GRPOTrainer.
"""

import time
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from trl import SFTTrainer

from rlvr.eval.divergence import kl_per_position
from rlvr.eval.gap import ScoredTokens, token_logps
from rlvr.eval.sampling import undisturbed
from rlvr.training.seam import Seam, Setup

_LOGITS_AT_ONCE = 1 << 29  # of one forward pass: 1 GiB in bf16
SCORED_ROWS = 8  # of the last step: the export must give their log-probs again


class SupervisedTrainer(Seam, SFTTrainer):
    """SFTTrainer for a policy that may only move where its mask or adapter lets it."""

    idle = (
        "no step had both a gradient other than 0 and a learning rate above 0; look at "
        "trainer.learning_rate and at the solutions of data"
    )

    def __init__(
        self,
        setup: Setup,
        *,
        model: nn.Module,
        args: Any,
        examples: list[Any],
        tokenizer: PreTrainedTokenizerBase,
        callbacks: list[Any],
    ) -> None:
        self.step_seconds = 0.0
        self._latest: dict[str, Tensor] | None = None
        self.kl_sum, self.kl_tokens = 0.0, 0.0  # measured and not logged yet
        super().__init__(
            setup,
            model=model,
            args=args,
            train_dataset=Dataset.from_list(examples),
            processing_class=tokenizer,
            callbacks=callbacks,
        )

    def held_state(self) -> dict[str, Any]:
        held = {"tokens": self._total_train_tokens, "kl": [self.kl_sum, self.kl_tokens]}
        return {**super().held_state(), **held}

    def restore_state(self, state: dict[str, Any]) -> None:
        super().restore_state(state)
        self._total_train_tokens = state["tokens"]
        self.kl_sum, self.kl_tokens = state["kl"]

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        start = time.perf_counter()
        inputs = self._prepare_inputs(inputs)
        self._latest = inputs
        if self.measures_kl():
            self._add_kl(inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.step_seconds += time.perf_counter() - start
        # The last micro-batch of an optimizer step.
        if self.accelerator.sync_gradients:
            self._metrics["train"]["step_time"].append(self.step_seconds)
            self.step_seconds = 0.0
        return loss

    @torch.no_grad()
    def trained_logps(self) -> ScoredTokens | None:
        if self._latest is None:
            return None
        names = ("input_ids", "attention_mask", "labels")
        ids, attention, labels = (self._latest[name][:SCORED_ROWS] for name in names)
        kept = labels != -100
        logits = self.model(input_ids=ids, attention_mask=attention, use_cache=False).logits
        logps = [
            # mask[1:]: the first token has no prediction.
            token_logps(scores, row)[mask[1:]]
            for scores, row, mask in zip(logits, ids, kept, strict=True)
        ]
        return ScoredTokens(ids, attention, kept, torch.cat(logps))

    @torch.no_grad()
    def _add_kl(self, ids: Tensor, attention: Tensor, labels: Tensor) -> None:
        """Add KL(policy || base) at every token of ``ids`` that has a loss, on all processes."""
        # Equally many forwards on all processes: under FSDP2 each forward is a collective.
        widths: Any = self.accelerator.gather(torch.tensor([ids.shape[1]], device=ids.device))
        size = max(1, _LOGITS_AT_ONCE // (int(widths.max()) * self.model.config.vocab_size))
        sums = torch.zeros(2, dtype=torch.float64, device=ids.device)

        def logits(rows: slice) -> Tensor:
            output = self.model(
                input_ids=ids[rows], attention_mask=attention[rows], use_cache=False
            )
            # The logits at a position predict the token after it.
            return output.logits[:, :-1][labels[rows, 1:] != -100]

        with undisturbed(self.model):
            for start in range(0, len(ids), size):
                rows = slice(start, start + size)
                ours = logits(rows)
                # Inside the loop: one slice of logits of each policy is in memory at a time.
                with self.base_policy():
                    theirs = logits(rows)
                kl = kl_per_position(ours, theirs)
                sums += torch.stack([kl.sum(), kl.new_tensor(len(kl))])
        totals: Any = self.accelerator.reduce(sums, "sum")
        self.kl_sum += totals[0].item()
        self.kl_tokens += totals[1].item()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.kl_tokens:
            logs = {**logs, "kl_to_base_on_data": self.kl_sum / self.kl_tokens}
            self.kl_sum, self.kl_tokens = 0.0, 0.0
        super().log(logs, start_time)
