"""GRPO under the seam: the true reference, the KL to the base, and the rollouts of a run.

What ``RLVRTrainer`` changes in TRL 1.16's GRPOTrainer, further to ``seam.py``:

1. The reference of the KL term is the base policy. TRL would load a second model, or attach the
   adapter's initialisation once more.
2. The KL to the base is measured every ``run.kl_every`` steps even where beta is 0. Before the
   first step the two must be one policy (``start_gap``), or the run stops.
3. A checkpoint inside a generation holds its completions (``generations.py``).
4. Under FSDP2 generation keeps all ranks in step.
5. Groups of equal rewards are replaced, where the algorithm says so (``sampling.py``).
6. vLLM samples the policy: its precision, revision, dense weights and random stream (``vllm.py``).
7. The KL of a step is measured where the KL to the base is (``step_kl.py``).
8. Rollouts are drawn (``rollouts.py``), and every log-prob without a gradient is computed, without
   dropout: TRL draws another dropout for each. Only the forward pass of the loss has the dropout of
   the model or its adapter.
9. A completion ends in any end token of the base, and in no padding token: one that the policy
   wrote is a token like the others.
"""

import json
import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from trl import GRPOConfig

from rlvr import runtime
from rlvr.algorithms import AlgorithmSection
from rlvr.data import Row
from rlvr.engines import FSDP2
from rlvr.eval.gap import ROUNDING, ScoredTokens
from rlvr.eval.sampling import end_token_ids, undisturbed
from rlvr.failures import explained_writes
from rlvr.precision import dtype_name, precision_of
from rlvr.rewards import RewardCall, UnverifiedLimit
from rlvr.schema import RunError
from rlvr.training.empty_steps import is_scored
from rlvr.training.inputs import reward_function, to_dataset
from rlvr.training.sampling import DynamicSampling
from rlvr.training.seam import Seam, Setup
from rlvr.training.step_kl import StepKL
from rlvr.training.vllm import Source, sampling_from

SCORED_ROWS = 16  # completions of the last step: the export must give their log-probs again
# torch.multinomial's message, on CPUs; a GPU stops with an assertion instead.
_NO_PROBABILITIES = "probability tensor contains"


class RLVRTrainer(Seam, DynamicSampling):
    """GRPOTrainer for a policy that may only move where its mask or adapter lets it."""

    idle = (
        "no group had completions with different rewards, so every advantage was 0; "
        "use easier or harder problems, or a larger trainer.num_generations"
    )

    def __init__(
        self,
        setup: Setup,
        *,
        model: Any,
        args: GRPOConfig,
        rows: list[Row],
        rewards: list[RewardCall],
        tokenizer: PreTrainedTokenizerBase,
        algorithm: AlgorithmSection | None,
        callbacks: list[Any],
    ) -> None:
        # TRL would build a reference of its own for beta > 0; the base swapped in is that policy
        # exactly.
        beta = args.beta
        args.beta = 0.0 if setup.has_base(args) else beta
        args.reward_weights = [call.weight for call in rewards]
        self._latest: dict[str, Tensor] | None = None
        self.computed = precision_of(args, getattr(torch, setup.source.dtype)).computed
        limit = UnverifiedLimit(setup.run.max_unverified, [call.name for call in rewards])
        self.unverified = limit
        ends = end_token_ids(model, tokenizer)
        dense = setup.adapter is not None and not setup.adapter.is_control
        with sampling_from(Source(setup.source.revision, self.computed, ends, dense)):
            super().__init__(
                setup,
                model=model,
                args=args,
                train_dataset=to_dataset(rows),
                reward_funcs=[reward_function(call, limit, set(ends)) for call in rewards],
                processing_class=tokenizer,
                callbacks=callbacks,
            )
        self.reference_beta = self.beta = args.beta = beta
        self.set_sampling(algorithm)
        self.step_kl = StepKL(self)
        self.add_callback(self.step_kl)

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        if self.engine == FSDP2:
            # Else generate() lets a rank stop once its completions ended; the others would wait.
            self.model._is_fsdp_managed_module = True
        return super().create_scheduler(*args, **kwargs)

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        inputs = super()._prepare_inputs(generation_batch)
        if not is_scored(generation_batch):
            self.step_kl.before(inputs)
        if self.model.training:
            self._latest = inputs
        return inputs

    def trained_logps(self) -> ScoredTokens | None:
        if self._latest is None:
            return None
        keys = ("prompt_ids", "completion_ids", "prompt_mask", "completion_mask")
        # A few rows: they are stored in the checkpoint and scored once more on one device.
        rows = {key: self._latest[key][:SCORED_ROWS] for key in keys}
        logps = self._completion_logps(rows, reference=False)
        kept = rows["completion_mask"].bool()
        return ScoredTokens(
            ids=torch.cat([rows["prompt_ids"], rows["completion_ids"]], dim=1),
            attention=torch.cat([rows["prompt_mask"], rows["completion_mask"]], dim=1),
            kept=torch.cat([torch.zeros_like(rows["prompt_mask"]).bool(), kept], dim=1),
            logps=logps[kept],
            temperature=float(self.temperature),
        )

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super()._generate_single_turn(*args, **kwargs)
        except FloatingPointError as error:
            raise self.non_finite(str(error)) from error
        except RuntimeError as error:
            if _NO_PROBABILITIES not in str(error):
                raise
            raise self.non_finite("the policy's probabilities are NaN or infinite") from error

    def _get_per_token_logps_and_entropies(
        self, model: nn.Module, *args: Any, **kwargs: Any
    ) -> Any:
        if torch.is_grad_enabled():
            return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        with undisturbed(model):
            return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        # With beta 0 TRL computes no reference log-probs here; they are added below.
        self.beta = 0.0 if self.swaps else self.reference_beta
        output = super()._generate_and_score_completions(inputs)
        self.beta = self.reference_beta
        self._write_rollouts()
        # Every process sees the same sums, so that all of them stop where one has to.
        counts = torch.tensor(self.unverified.take(), device=self.accelerator.device)
        totals: Any = self.accelerator.reduce(counts, "sum")
        self.unverified.check(totals.tolist())
        if self.swaps and self.beta != 0.0:
            output["ref_per_token_logps"] = self._completion_logps(output, reference=True)
        gap, kl = self.measures_gap(output), self.measures_kl()
        if gap or kl:
            drawn = self._first_drawn(output)
            logps = self._completion_logps(drawn, reference=False)
            if gap:
                self.log_sampler_gap(drawn, logps)
            if kl:
                self._measure_kl(drawn, logps)
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
        with self.base_policy():
            return logps()

    def _measure_kl(self, output: dict[str, Any], logps: Tensor) -> None:
        """Log KL(policy || base) in nats per token, as the mean log ratio of the sampled tokens.

        ``logps`` are the policy's.

        Unbiased. The estimator r - 1 - log r is too, but its variance explodes once a few tokens
        are far from the base.
        """
        reference = output.get("ref_per_token_logps")
        if reference is None:
            reference = self._completion_logps(output, reference=True)
        gap = logps - reference
        kept = output["completion_mask"].bool()
        sums = [(gap * kept).sum(), gap[kept].abs().sum(), kept.sum()]
        totals: Any = self.accelerator.reduce(torch.stack(sums), "sum")
        kl, distance = (totals[:2] / totals[2].clamp(min=1)).tolist()
        self._metrics["train"]["kl_to_base"].append(kl)
        if self.state.global_step == 0:
            self._metrics["train"]["start_gap"].append(distance)
            self._require_start(distance)

    def _require_start(self, gap: float) -> None:
        """Raise where the policy is not the base policy before its first step, on all ranks."""
        rounding = ROUNDING[self.computed]
        if not gap <= rounding:  # NaN is no such gap either
            raise RunError(
                "before its first step the policy is not the base policy: their log-probs differ "
                f"by {gap:.2g} nats per token on average, and rounding in "
                f"{dtype_name(self.computed)} explains {rounding:g}. Look at what writes to the "
                "weights after they are loaded (a plugin), or run without adapter to see whether "
                "it starts elsewhere"
            )

    def _write_rollouts(self) -> None:
        """Append the first ``run.rollouts`` rollouts of this generation to ``rollouts.jsonl``.

        They are mostly of one prompt, because a generation lists the completions of each prompt
        together. A reward that is not a number (unjudged) is null.
        """
        if not (runtime.is_main() and self.run.rollouts):
            return
        names = list(self._logs["rewards"])
        count = len(self._logs["prompt"])
        path = self.run_dir / "rollouts.jsonl"
        with explained_writes(path), open(path, "a", encoding="utf-8") as file:
            for index in range(min(count, self.run.rollouts)):
                row = {
                    "step": self.state.global_step,
                    "prompt": _text(self._logs["prompt"][index]),
                    "completion": _text(self._logs["completion"][index]),
                    "rewards": {n: _finite(self._logs["rewards"][n][index]) for n in names},
                    "advantage": _finite(self._logs["advantages"][index]),
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _finite(value: float | None) -> float | None:
    """Return ``value``, or null where JSON has no number for it."""
    return float(value) if value is not None and math.isfinite(value) else None


def _text(message: Any) -> str:
    return message if isinstance(message, str) else message[-1]["content"]
