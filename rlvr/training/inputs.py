"""What TRL's trainers are given, in TRL's own forms: arguments, a dataset, reward functions."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from trl import GRPOConfig, SFTConfig

from rlvr import runtime
from rlvr.config import Recipe
from rlvr.data import Row, render
from rlvr.rewards import RewardCall, Status, UnverifiedLimit, restarts
from rlvr.schema import RecipeError

if TYPE_CHECKING:
    from datasets import Dataset


class _OneCPU:
    """One CPU instead of ``cpu:0``, which torch.load does not know."""

    @property
    def device(self) -> torch.device:
        device = super().device  # pyright: ignore[reportAttributeAccessIssue]
        return torch.device("cpu") if device.type == "cpu" else device


class Arguments(_OneCPU, GRPOConfig):
    """The settings of a GRPO run."""


class SupervisedArguments(_OneCPU, SFTConfig):
    """The settings of a supervised run."""


def trainer_settings(recipe: Recipe, run_dir: Path) -> dict[str, Any]:
    """Return what TRL's configuration is given: the recipe's settings and what the run owns."""
    defaults = {"logging_steps": 1, "run_name": run_dir.name, "project": "rlvr"}
    settings = {
        **{**defaults, **recipe.trainer},
        "output_dir": str(run_dir / "checkpoints"),
        "use_cpu": not torch.cuda.is_available(),
        "disable_tqdm": True,
        # Trainer would log the mean of the steps before in place of a loss that is NaN.
        "logging_nan_inf_filter": False,
    }
    if recipe.supervised:
        # The rows come as token ids; TRL would cut them.
        settings["dataset_kwargs"] = {"skip_prepare_dataset": True}
    return settings


def training_arguments(recipe: Recipe, run_dir: Path) -> Any:
    """Return TRL's configuration: the recipe's ``trainer`` section and what the run owns."""
    kind = SupervisedArguments if recipe.supervised else Arguments
    return kind(**trainer_settings(recipe, run_dir))


def join_processes(recipe: Recipe, run_dir: Path) -> Any:
    """Join the processes of this launch, and return TRL's configuration for each of them.

    Raises:
        RecipeError: the launcher started processes that do not know of each other.
    """
    args = training_arguments(recipe, run_dir)
    if args.world_size != runtime.world_size():
        raise RecipeError(
            f"the launcher started {runtime.world_size()} processes and accelerate sees "
            f"{args.world_size}; start with one of the files in launch/"
        )
    return args


def to_dataset(rows: list[Row]) -> "Dataset":
    """Return the rows as TRL wants them, each with its chat prompt."""
    from datasets import Dataset  # imports pandas, which a check need not wait for

    return Dataset.from_list([{"prompt": render(row["problem"]), **row} for row in rows])


def reward_function(call: RewardCall, limit: UnverifiedLimit, ends: set[int]) -> Any:
    """Return TRL's kind of reward function for ``call``; its time is a metric of the run.

    So are the shares of its verdicts by status, which ``limit`` records, and the share of the
    completions on which it failed, where such are counted. A completion was cut off if its last
    token is not in ``ends``. TRL awaits all such functions together, so that several
    rewards of a recipe take the time of the slowest.
    """

    said: list[str] = []  # the first failure of the run

    async def judge(
        completions: list[Any],
        log_metric: Callable,
        completion_ids: list[list[int]],
        **columns: Any,
    ) -> list[float | None]:
        texts = [item if isinstance(item, str) else item[-1]["content"] for item in completions]
        cut = [not ids or ids[-1] not in ends for ids in completion_ids]
        start = time.perf_counter()
        # TRL passes it by name; to the rewards it is one more column.
        columns["completion_ids"] = completion_ids
        # A thread, so that the event loop can start the other rewards meanwhile.
        judgement = await asyncio.to_thread(call.judge, texts, columns, cut)
        rewards = judgement.rewards
        log_metric(f"rewards/{call.name}/seconds", time.perf_counter() - start)
        log_metric(f"rewards/{call.name}/unjudged", sum(reward is None for reward in rewards))
        if call.on_error == "count":
            log_metric(f"rewards/{call.name}/failed", len(judgement.failures) / len(texts))
            if judgement.failures and not said:
                said.append(judgement.failures[0])
                runtime.say(f"not judged, as all rows like it: {said[0]}")
        if judgement.statuses:
            for status in get_args(Status):
                share = judgement.statuses[status] / len(texts)
                log_metric(f"rewards/{call.name}/{status}", share)
            log_metric("rewards/worker_restarts", restarts())
        limit.record(call.name, judgement)
        return rewards

    # TRL names its metrics after the function.
    judge.__name__ = call.name
    return judge
