"""The held-out accuracy while a run trains: the code of the end, on the policy as it is."""

from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlvr.engines import FSDP2
from rlvr.eval import EvalSettings, evaluate
from rlvr.training.evaluation import Problems

SHARDED = (FSDP2, "DeepSpeed ZeRO-3")


class EvaluationCallback(TrainerCallback):
    """Adds ``eval/accuracy`` and what stands beside it to every ``every``-th log.

    Every process draws and judges its share of the problems. The policy computes in the precision
    of the run. Files: ``RUN/eval/during/step-NNNNNN.jsonl``. Register it before
    ``MetricsCallback``.
    """

    def __init__(
        self, problems: Problems, settings: EvalSettings, every: int, run_dir: Path, engine: str
    ) -> None:
        self.problems, self.settings, self.every = problems, settings, every
        self.folder, self.is_sharded = run_dir / "eval" / "during", engine in SHARDED
        self.metrics: dict[str, float] = {}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step % self.every:
            return
        policy = kwargs["model"]
        # DDP's wrapper sends buffers at each forward pass, and ranks have unequal shards.
        while not self.is_sharded and isinstance(getattr(policy, "module", None), nn.Module):
            policy = policy.module
        result = evaluate(
            policy,
            self.problems.tokenizer,
            self.problems.task,
            self.settings,
            self.folder / f"step-{state.global_step:06d}.jsonl",
            # A sharded policy computes only where all processes do.
            any_busy=_any_busy if self.is_sharded else None,
            keep={},  # a run that was started anew has other weights at this step
        )
        self.metrics = {
            "eval/accuracy": 100 * result.accuracy.mean,
            "eval/accuracy_low": 100 * result.accuracy.low,
            "eval/accuracy_high": 100 * result.accuracy.high,
            "eval/truncated": result.truncated,
            "eval/mean_length": result.mean_length,
        }

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is not None and "grad_norm" in logs:
            logs.update(self.metrics)
            self.metrics = {}


def _any_busy(busy: bool) -> bool:
    # Runs at every token, so a tensor and not the pickled objects of `runtime.any_rank`.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    flag = torch.tensor(int(busy), device=device)
    distributed.all_reduce(flag, distributed.ReduceOp.MAX)
    return bool(flag)
