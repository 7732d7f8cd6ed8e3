"""The one seam to TRL: GRPOTrainer with update masks, the true reference, and run files.

How it deviates from TRL 1.16:

1. ``create_optimizer`` returns a ``MaskedAdamW`` where the recipe has a mask.
2. The reference of the KL term is the base policy, had by swapping the base values in, or by
   switching off an adapter, which never writes to them. TRL would load a second model, or attach
   the adapter's initialisation once more.
3. The KL to the base is measured every ``run.kl_every`` steps even where beta is 0.
4. Gradients that the optimizer frees are clipped, and their norm logged, by the optimizer.
5. A checkpoint is checked for leaks, written under a temporary name, and then renamed; its weights
   may be replaced by their delta against the base.
6. A run goes on from a checkpoint of any step as if it had never stopped (``resume.py``).
7. Under FSDP2 the optimizer and the base policy are bound to the shards as soon as they exist, and
   generation keeps all ranks in step.
8. Groups whose rewards are all equal are replaced, where the algorithm says so (``sampling.py``).
9. The sampler gets an adapter's dense weights computed beside the policy; TRL merges and unmerges.
10. The KL of a step is measured where the KL to the base is (``step_kl.py``).
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback
from trl import GRPOConfig

from rlvr import runtime
from rlvr.adapters import Adapter, adapters_off, policy_weights, save_merged, set_rates
from rlvr.algorithms import AlgorithmSection
from rlvr.checkpoint import publish_checkpoint, step_folder
from rlvr.config import ModelSection, OptimizerSection, RunSection
from rlvr.data import Row
from rlvr.delta import store_delta
from rlvr.engines import FSDP2, engine_name, require_engine, restrict_gradients
from rlvr.masks import Mask
from rlvr.optim import MaskedAdamW
from rlvr.policy import BaseWeights, checkpoint_folder
from rlvr.rewards import RewardCall, UnverifiedLimit
from rlvr.training.callbacks import GuardCallback
from rlvr.training.empty_steps import is_scored
from rlvr.training.guard import Guard
from rlvr.training.inputs import reward_function, to_dataset
from rlvr.training.sampling import DynamicSampling
from rlvr.training.step_kl import StepKL


class RLVRTrainer(DynamicSampling):
    """GRPOTrainer for a policy that may only move where its mask or adapter lets it."""

    def __init__(
        self,
        *,
        model: Any,
        args: GRPOConfig,
        rows: list[Row],
        rewards: list[RewardCall],
        tokenizer: Any,
        source: ModelSection,
        run: RunSection,
        optimizer: OptimizerSection,
        run_dir: Path,
        mask: Mask | None,
        adapter: Adapter | None,
        algorithm: AlgorithmSection | None,
        callbacks: list[Any],
    ) -> None:
        self.run, self.run_dir, self.mask, self.adapter = run, run_dir, mask, adapter
        self.source, self.precision = source, optimizer
        self.masked: MaskedAdamW | None = None
        # TRL would build a reference of its own for beta > 0; the base swapped in is that policy
        # exactly, but where ZeRO-3 has scattered the weights there is nothing to swap.
        self.engine = engine_name(args)
        self.swaps = adapter is not None or self.engine != "DeepSpeed ZeRO-3"
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
        self.reference_beta = self.beta = args.beta = beta
        self.set_sampling(algorithm)
        self.step_kl = StepKL(self)
        self.add_callback(self.step_kl)
        # With the progress bar off, Trainer prints every log as a dict; the run has its own bar.
        self.remove_callback(PrinterCallback)
        if adapter is not None and args.use_vllm and not adapter.is_control:
            self._own_sampler(self.vllm_generation)
        require_engine(self.accelerator)
        if self.engine != FSDP2:
            self._keep_base()

    def _keep_base(self) -> None:
        """Remember the base policy, of the whole parameters or of this rank's shards of them."""
        self.base = BaseWeights(self.model, self.mask)
        control = self.adapter is not None and self.adapter.is_control
        exempt = [name for name, _ in self.model.named_parameters()] if control else ()
        self.guard = Guard(self.model, self.mask, self.base, exempt)
        self.add_callback(GuardCallback(self.guard))

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """Create it as ever; FSDP2 has just sharded the model, and no checkpoint is loaded yet."""
        if self.engine == FSDP2:
            if self.masked is not None:
                self.masked.rebind(self.model.named_parameters())
            # Without this, generate() lets a rank whose completions ended leave the others waiting.
            self.model._is_fsdp_managed_module = True
            self._keep_base()
        return super().create_scheduler(*args, **kwargs)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.mask is None or self.optimizer is not None:
            fresh, optimizer = self.optimizer is None, super().create_optimizer(model)
            if self.adapter is not None and fresh:
                set_rates(self.adapter, optimizer)
            return optimizer
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

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        inputs = super()._prepare_inputs(generation_batch)
        if not is_scored(generation_batch):
            self.step_kl.before(inputs)
        return inputs

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
        if self.adapter is not None and self.adapter.is_control:
            measure = False  # its base weights are no longer the base policy's
        if self.beta != 0.0:
            output["ref_per_token_logps"] = self._completion_logps(output, reference=True)
        if measure:
            self._measure_kl(self._first_drawn(output))
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
        with self.base.swapped_in() if self.adapter is None else adapters_off(self.model):
            return logps()

    def _own_sampler(self, sampler: Any) -> None:
        """Let TRL's ``VLLMGeneration`` push the dense weights without touching the policy."""

        def weights() -> Iterator[tuple[str, Tensor]]:
            for name, weight in policy_weights(self.model):
                yield sampler._fix_param_name_to_vllm(name), weight

        sampler._iter_named_params = weights

    def _measure_kl(self, output: dict[str, Any]) -> None:
        """Log KL(policy || base) in nats per token, as the mean log ratio of the sampled tokens.

        Unbiased, like r - 1 - log r, whose variance explodes once a few tokens are far from the
        base.
        """
        reference = output.get("ref_per_token_logps")
        if reference is None:
            reference = self._completion_logps(output, reference=True)
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
        step = self.state.global_step
        self.guard.check(step)
        temporary = Path(self.args.output_dir) / f"checkpoint-{step}"
        if runtime.is_main() and temporary.exists():
            shutil.rmtree(temporary)  # what a killed run left of this step
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        last = step >= self.state.max_steps
        if self.adapter is not None and (last or self.run.merged == "every"):
            save_merged(self.adapter, self._tokenizer, temporary)
        self.accelerator.wait_for_everyone()
        if runtime.is_main():
            if self.run.checkpoint == "delta":
                names = {"path": self.source.path, "revision": self.source.revision}
                store_delta(temporary, checkpoint_folder(self.source), names)
            final = step_folder(self.run_dir, step)
            publish_checkpoint(temporary, final, self.args.save_total_limit)
        self.accelerator.wait_for_everyone()


def _text(message: Any) -> str:
    return message if isinstance(message, str) else message[-1]["content"]
