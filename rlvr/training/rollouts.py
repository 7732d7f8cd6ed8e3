"""The sampler of a run: our decoder without vLLM, and whether sampler and policy are one.

TRL's ``generate`` computes every row until the longest has ended, and gives no log-probs.
``decode`` computes the rows that go on, and gives those of every token. They are compared with the
policy's own at the first generation and every ``run.kl_every`` steps (``sampler_gap``): a sampler
that still holds older weights, or computes another precision, would train unseen otherwise.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from trl import GRPOTrainer
from trl.extras.profiling import profiling_context
from trl.models.utils import unwrap_model_for_generation

from rlvr.decoding import Drawing, decode, stream_seed, supports
from rlvr.engines import FSDP2
from rlvr.eval.gap import ROUNDING, logprob_gap
from rlvr.eval.sampling import evaluation_mode
from rlvr.precision import dtype_name
from rlvr.schema import RunError

STALE = 4.0  # times the first gap: rounding grows with a policy's certainty, but not so much
SAMPLED = "sampling_per_token_logps"  # TRL's name for the log-probs of the sampler


class Rollouts(GRPOTrainer):
    """GRPOTrainer that decodes without work for finished rows, and measures its sampler.

    A mixin before GRPOTrainer.
    """

    args: Any
    model: Any
    model_wrapped: Any
    engine: str
    computed: torch.dtype  # in which the policy computes
    first_gap: float | None = None  # between sampler and policy, of this process
    is_due: Callable[[], bool]  # of the seam

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, *args: Any, **kwargs: Any
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        with evaluation_mode(self.model):
            batched = self.use_vllm or self.use_transformers_continuous_batching
            limit = self.max_completion_length
            if batched or limit is None or images is not None or not supports(self.model):
                return super()._generate_single_turn(prompt_ids, images, *args, **kwargs)
            return self._decode(prompt_ids, limit)

    def _decode(
        self, prompts: list[list[int]], limit: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        # From the random state of this process, which a checkpoint keeps.
        seed = int(torch.randint(2**62, ()))
        gathers = self.is_deepspeed_enabled and self.args.ds3_gather_for_generation
        sharded = self.engine == FSDP2 or (self.engine == "DeepSpeed ZeRO-3" and not gathers)
        with (
            profiling_context(self, "decode"),
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as model,
        ):
            drawn = decode(
                cast(nn.Module, model),
                prompts,
                drawing=Drawing(float(self.temperature)),
                max_new_tokens=limit,
                ends=self.eos_token_ids,
                seeds=[stream_seed(seed, row) for row in range(len(prompts))],
                slots=len(prompts),
                any_busy=self._any_busy if sharded else bool,
            )
        return [one.token_ids for one in drawn], [one.logps for one in drawn]

    def _any_busy(self, busy: bool) -> bool:
        # Runs at every token, so a tensor and not the pickled objects of `runtime.any_rank`.
        flag = torch.tensor(int(busy), device=self.accelerator.device)
        distributed.all_reduce(flag, distributed.ReduceOp.MAX)
        return bool(flag)

    def measures_gap(self, output: dict[str, Any]) -> bool:
        """Tell whether the sampler is compared now; one that gives no log-probs never is."""
        return output.get(SAMPLED) is not None and (self.first_gap is None or self.is_due())

    def log_sampler_gap(self, output: dict[str, Any], logps: Tensor) -> None:
        """Log how far the sampler's log-probs are from ``logps``, the policy's own, in nats.

        Raises:
            RunError: the sampler is another policy. At the first generation of this process that
                is a gap which rounding does not explain, later one that is also ``STALE`` times
                the first.
        """
        kept = output["completion_mask"].bool()
        # The sampler drew the tokens, so its log-probs come first.
        gap = logprob_gap(output[SAMPLED][kept], logps[kept])
        sums = torch.tensor([gap.mean * gap.tokens, gap.kl * gap.tokens, gap.tokens])
        totals: Any = self.accelerator.reduce(sums.to(logps.device), "sum")
        mean, kl = (totals[:2] / totals[2].clamp(min=1)).tolist()
        largest: Any = self.accelerator.gather(torch.tensor([gap.max], device=logps.device))
        metrics = self._metrics["train"]
        metrics["sampler_gap"].append(mean)
        metrics["sampler_gap_max"].append(float(largest.max()))
        metrics["sampler_kl"].append(kl)
        self._require_policy(mean)

    def _require_policy(self, gap: float) -> None:
        rounding = ROUNDING[self.computed]
        first = self.first_gap
        self.first_gap = gap if first is None else first
        # Written so that NaN is refused.
        if gap <= rounding or (first is not None and gap <= STALE * first):
            return
        held = "what it was loaded from: model.revision, its dtype, the model of a vLLM server"
        if first is not None:
            held = (
                "whether the weights of this step reached it: it is the policy of an earlier step"
            )
        raise RunError(
            f"step {self.state.global_step + 1}: the sampler is not the policy. Their log-probs "
            f"differ by {gap:.2g} nats per token on average, where rounding in "
            f"{dtype_name(self.computed)} explains {rounding:g} (first generation: "
            f"{gap if first is None else first:.1g}). Look at {held}"
        )
