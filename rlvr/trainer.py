"""The one seam to TRL: GRPOTrainer with update masks, the true reference, and run files.

How it deviates from TRL 1.16:

1. ``create_optimizer`` returns a ``MaskedAdamW`` where the recipe has a mask.
2. The reference of the KL term is the base policy, had by swapping the base values in. TRL would
   load a second model, or, for an adapter, disable it, which is another policy under PiSSA.
3. The KL to the base is measured every ``run.kl_every`` steps even where beta is 0.
4. Gradients that the optimizer frees are clipped, and their norm logged, by the optimizer.
5. A checkpoint is checked for leaks, written under a temporary name, and then renamed.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from rlvr import runtime
from rlvr.adapters import merged_state
from rlvr.checkpoint import publish_checkpoint, step_folder
from rlvr.config import OptimizerSection, Recipe, RunSection
from rlvr.data import Row, render
from rlvr.engines import engine_name, restrict_gradients
from rlvr.guard import Guard
from rlvr.masks import Mask
from rlvr.optim import MaskedAdamW
from rlvr.policy import BaseWeights
from rlvr.rewards import RewardCall, Status, UnverifiedLimit, restarts


class Arguments(GRPOConfig):
    """TRL's configuration, with one CPU instead of ``cpu:0``, which torch.load does not know."""

    @property
    def device(self) -> torch.device:
        device = super().device
        return torch.device("cpu") if device.type == "cpu" else device


def training_arguments(recipe: Recipe, run_dir: Path) -> Arguments:
    """Return TRL's configuration: the recipe's ``trainer`` section and what the run owns."""
    defaults = {"logging_steps": 1, "run_name": run_dir.name, "project": "rlvr"}
    return Arguments(
        **{**defaults, **recipe.trainer},
        output_dir=str(run_dir / "checkpoints"),
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
    )


def to_dataset(rows: list[Row]) -> Dataset:
    """Return the rows as TRL wants them, each with its chat prompt."""
    return Dataset.from_list([{"prompt": render(row["problem"]), **row} for row in rows])


def reward_function(
    call: RewardCall, limit: UnverifiedLimit, ends: set[int]
) -> Callable[..., list[float | None]]:
    """Return TRL's kind of reward function for ``call``; its time is a metric of the run.

    So are the shares of its verdicts by status, which ``limit`` records. A completion whose last
    token is none of ``ends`` was cut off.
    """

    def judge(
        completions: list[Any],
        log_metric: Callable,
        completion_ids: list[list[int]],
        **columns: Any,
    ) -> list[float | None]:
        texts = [item if isinstance(item, str) else item[-1]["content"] for item in completions]
        cut = [not ids or ids[-1] not in ends for ids in completion_ids]
        start = time.perf_counter()
        judgement = call.judge(texts, {**columns, "completion_ids": completion_ids}, cut)
        rewards = judgement.rewards
        log_metric(f"rewards/{call.name}/seconds", time.perf_counter() - start)
        log_metric(f"rewards/{call.name}/unjudged", sum(reward is None for reward in rewards))
        if judgement.statuses:
            for status in get_args(Status):
                share = judgement.statuses[status] / len(texts)
                log_metric(f"rewards/{call.name}/{status}", share)
            log_metric("rewards/worker_restarts", restarts())
        limit.record(call.name, judgement)
        return rewards

    judge.__name__ = call.name
    return judge


class RLVRTrainer(GRPOTrainer):
    """GRPOTrainer for a policy that may only move where its mask or adapter lets it."""

    model: Any
    args: Any

    def __init__(
        self,
        *,
        model: Any,
        args: GRPOConfig,
        rows: list[Row],
        rewards: list[RewardCall],
        tokenizer: Any,
        run: RunSection,
        optimizer: OptimizerSection,
        run_dir: Path,
        mask: Mask | None,
        base: BaseWeights,
        guard: Guard,
        callbacks: list[Any],
    ) -> None:
        self.run, self.run_dir, self.mask, self.base, self.guard = run, run_dir, mask, base, guard
        self.precision = optimizer
        self.masked: MaskedAdamW | None = None
        # TRL would build a reference of its own for beta > 0; the base swapped in is that policy
        # exactly, but where ZeRO-3 has scattered the weights there is nothing to swap.
        self.swaps = engine_name(args) != "DeepSpeed ZeRO-3"
        beta = args.beta
        args.beta = 0.0 if self.swaps else beta
        args.reward_weights = [call.weight for call in rewards]
        self.unverified = UnverifiedLimit(run.max_unverified, [call.name for call in rewards])
        ends = {tokenizer.eos_token_id, tokenizer.pad_token_id}
        super().__init__(
            model=model,
            args=args,
            train_dataset=to_dataset(rows),
            reward_funcs=[reward_function(call, self.unverified, ends) for call in rewards],
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        self.reference_beta = args.beta = beta
        # With the progress bar off, Trainer prints every log as a dict; the run has its own bar.
        self.remove_callback(PrinterCallback)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.mask is None or self.optimizer is not None:
            return super().create_optimizer(model)
        source = self.model if model is None else model
        if self.is_deepspeed_enabled:
            restrict_gradients(source, self.mask)
            return super().create_optimizer(model)
        decayed = set(self.get_decay_parameter_names(source))
        trained = [(name, p) for name, p in source.named_parameters() if p.requires_grad]
        groups = [
            {"params": [(n, p) for n, p in trained if n in decayed]},
            {"params": [(n, p) for n, p in trained if n not in decayed], "weight_decay": 0.0},
        ]
        self.optimizer = self.masked = MaskedAdamW(
            [group for group in groups if group["params"]],
            self.mask,
            lr=self.args.learning_rate,
            betas=(self.args.adam_beta1, self.args.adam_beta2),
            eps=self.args.adam_epsilon,
            weight_decay=self.args.weight_decay,
            bf16_update=self.precision.bf16_update,
            free_gradients=self.precision.free_gradients,
            seed=self.args.seed,
        )
        return self.optimizer

    def _clip_grad_norm(self, model: Any) -> Any:
        if self.masked is not None and self.precision.free_gradients:
            return self.masked.clip_grad_norm_(model.parameters(), self.args.max_grad_norm)
        return super()._clip_grad_norm(model)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        if grad_norm is None and self.masked is not None and self.precision.free_gradients:
            return self.masked.clip_grad_norm_(model.parameters(), float("inf"))
        return super()._get_grad_norm(model, grad_norm)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.beta = 0.0 if self.swaps else self.reference_beta
        output = super()._generate_and_score_completions(inputs)
        self.beta = self.reference_beta
        self._write_rollouts()
        # Every process sees the same sums, so that all of them stop where one has to.
        counts = torch.tensor(self.unverified.take(), device=self.accelerator.device)
        totals: Any = self.accelerator.reduce(counts, "sum")
        self.unverified.check(totals.tolist())
        if not self.swaps:
            return output
        every = self.run.kl_every
        measure = bool(every) and self.state.global_step % every == 0
        if self.beta != 0.0 or measure:
            reference = self._completion_logps(output, reference=True)
            if self.beta != 0.0:
                output["ref_per_token_logps"] = reference
            if measure:
                self._measure_kl(output, reference)
        return output

    def _completion_logps(self, output: dict[str, Any], *, reference: bool) -> Tensor:
        """Return per-token log-probs of the completions under the policy or the base policy."""
        tokens = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
        attention = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
        length = output["completion_ids"].size(1)
        batch = self.args.per_device_train_batch_size

        def logps() -> Tensor:
            with torch.no_grad():
                return self._get_per_token_logps_and_entropies(
                    self.model, tokens, attention, length, batch_size=batch
                )[0]

        if not reference:
            return logps()
        with self.base.swapped_in():
            return logps()

    def _measure_kl(self, output: dict[str, Any], reference: Tensor) -> None:
        """Log KL(policy || base) in nats per token, as the mean log ratio of the sampled tokens.

        Unbiased, like r - 1 - log r, whose variance explodes once a few tokens are far from the
        base.
        """
        kl = self._completion_logps(output, reference=False) - reference
        kept = output["completion_mask"]
        totals = self.accelerator.reduce(torch.stack([(kl * kept).sum(), kept.sum()]), "sum")
        self._metrics["train"]["kl_to_base"].append((totals[0] / totals[1].clamp(min=1)).item())

    def _write_rollouts(self) -> None:
        """Append the first rollouts of this generation to ``rollouts.jsonl``."""
        if not (runtime.is_main() and self.run.rollouts):
            return
        names = list(self._logs["rewards"])
        count = len(self._logs["prompt"])
        with open(self.run_dir / "rollouts.jsonl", "a", encoding="utf-8") as file:
            for index in range(min(count, self.run.rollouts)):
                row = {
                    "step": self.state.global_step,
                    "prompt": _text(self._logs["prompt"][index]),
                    "completion": _text(self._logs["completion"][index]),
                    "rewards": {name: self._logs["rewards"][name][index] for name in names},
                    "advantage": self._logs["advantages"][index],
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log({**logs, **self.guard.metrics} if self.model.training else logs, start_time)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Leave out TRL's card: ``recipe.json`` and ``provenance.json`` say it all."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.guard.check(self.state.global_step)
        super()._save_checkpoint(model, trial)
        step = self.state.global_step
        temporary = Path(self.args.output_dir) / f"checkpoint-{step}"
        if runtime.is_main() and hasattr(self.model, "peft_config"):
            state, plain = merged_state(self.model), self.model.get_base_model()
            plain.save_pretrained(temporary / "merged", state_dict=state)
            self._tokenizer.save_pretrained(temporary / "merged")
        self.accelerator.wait_for_everyone()
        if runtime.is_main():
            final = step_folder(self.run_dir, step)
            publish_checkpoint(temporary, final, self.args.save_total_limit)
        self.accelerator.wait_for_everyone()


def _text(message: Any) -> str:
    return message if isinstance(message, str) else message[-1]["content"]
