"""How many completions one generation, one optimizer step and one forward pass hold.

TRL's arithmetic, with P processes: a forward pass has ``per_device_train_batch_size`` b of them on
each, an optimizer step b P ``gradient_accumulation_steps``, and a generation
``generation_batch_size``, or b P ``steps_per_generation``. So one generation serves
``generation / step`` optimizer steps, which is what others call its mini-batches.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlvr.schema import RecipeError


@dataclass(frozen=True)
class BatchSizes:
    """Counts of completions, on all processes together; ``group`` is those of one prompt."""

    group: int
    forward: int
    step: int
    generation: int

    @property
    def prompts(self) -> int:
        return self.generation // self.group

    @property
    def updates(self) -> float:
        """Optimizer steps that use one generation."""
        return self.generation / self.step


def resolve_sizes(values: Mapping[str, Any], processes: int) -> BatchSizes:
    """Return the batch that TRL's settings ``values`` give on ``processes`` processes.

    Raises:
        RecipeError: TRL would refuse them, when the policy is loaded already.
    """
    group = values["num_generations"]
    if group is None or group < 2:
        raise RecipeError(f"trainer.num_generations: a group needs at least 2, got {group}")
    forward = values["per_device_train_batch_size"] * processes
    accumulated = values["gradient_accumulation_steps"]
    generation, slices = values["generation_batch_size"], values["steps_per_generation"]
    if generation is None:
        # TRL: steps_per_generation is gradient_accumulation_steps if it is not set.
        generation = forward * (slices or accumulated)
    elif slices is not None:
        raise RecipeError(
            "trainer.steps_per_generation: generation_batch_size says the same; remove one of them"
        )
    elif generation < forward or generation % forward:
        raise RecipeError(
            f"trainer.generation_batch_size: {generation} completions are no multiple of the "
            f"{forward} of one forward pass (per_device_train_batch_size x {processes} processes); "
            "change one of them"
        )
    if generation % group:
        raise RecipeError(
            f"trainer.num_generations: {group} does not divide the {generation} completions of one "
            "generation (per_device_train_batch_size x processes x steps per generation); "
            "change one of them"
        )
    return BatchSizes(group, forward, forward * accumulated, generation)


def describe_sizes(batch: BatchSizes, processes: int) -> str:
    """Return the batch of an RLVR run as one line of the plan."""
    steps = "step" if batch.updates == 1 else "steps"
    return (
        f"batch    {batch.prompts:,} prompts x {batch.group} completions a generation, for "
        f"{batch.updates:g} optimizer {steps} of {batch.step:,} on {_counted(processes)}"
    )


def require_rows(count: int, args: Any, *, supervised: bool, dropped: int) -> None:
    """Refuse data that does not fill one generation, or one optimizer step of a supervised run.

    TRL drops what does not fill a generation, so that the run would take no step at all; and
    accelerate would fill a supervised step with copies of its rows.

    Args:
        count: rows to train on.
        args: TRL's configuration of the run.
        supervised: whether that is an SFTConfig.
        dropped: rows that the filters left out.

    Raises:
        RecipeError: the message names both counts and the keys that change them.
    """
    if supervised:
        needed = args.per_device_train_batch_size * args.gradient_accumulation_steps
        needed *= args.world_size
        what, fix = "one optimizer step takes", "trainer.gradient_accumulation_steps"
    else:
        needed = args.generation_batch_size // args.num_generations
        what, fix = "one generation needs", "raise trainer.num_generations"
        fix = "trainer.steps_per_generation, or " + fix
    if count < needed:
        gone = f" ({dropped} more were dropped)" if dropped else ""
        raise RecipeError(
            f"data: has {_rows(count)} to train on{gone}, and {what} {needed}; add rows, lower "
            f"trainer.per_device_train_batch_size or {fix}"
        )


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def describe_rows(trainer: Mapping[str, Any], processes: int) -> str:
    """Return the batch of a supervised run as one line of the plan."""
    rows = trainer.get("per_device_train_batch_size", 8) * processes
    rows *= trainer.get("gradient_accumulation_steps", 1)
    return f"batch    {rows:,} rows an optimizer step on {_counted(processes)}"


def _counted(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"
