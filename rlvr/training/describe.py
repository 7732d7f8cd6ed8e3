"""What ``--check`` prints: a plan in words, and what it costs in memory."""

import json
import math
from collections.abc import Sequence

from rlvr import runtime
from rlvr.algorithms import describe_algorithm
from rlvr.generation import put_aside
from rlvr.masks import density_bounds
from rlvr.training.batch_sizes import describe_rows, describe_sizes
from rlvr.training.plan import Plan


def _megabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:,.1f} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:,.2f} GB"


def _percent(bounds: Sequence[float]) -> str:
    low, high = bounds
    return f"{low:.2%}" if high - low < 5e-5 else f"{low:.2%} to {high:.2%}"


def memory_lines(plan: Plan) -> list[str]:
    """Return the memory plan: weights, gradients and optimizer state, without activations."""
    recipe = plan.recipe
    # Bytes per entry.
    width = 4 if recipe.model.dtype == "float32" else 2
    extra = sum(math.prod(shape) for shape in plan.also_train.values())
    entries = sum(rows * columns for rows, columns in plan.targets.values())
    if recipe.adapter is not None:
        entries = plan.adapter_entries
    moving = extra + entries * (density_bounds(plan.mask)[1] if plan.mask else 1.0)
    gradients = f"{_megabytes(width * (entries + extra))}"
    if recipe.optimizer.free_gradients:
        gradients = f"{_megabytes(4 * moving)} (at most, and one whole gradient at a time)"
    return [
        f"weights          {_megabytes(width * plan.num_parameters)} ({recipe.model.dtype})",
        f"gradients        {gradients}",
        f"optimizer state  {_optimizer_line(plan, moving, entries + extra)}",
        f"base values      {_megabytes(width * moving)} (reference policy and guard, at most)",
    ]


def _optimizer_line(plan: Plan, moving: float, entries: int) -> str:
    zero = runtime.launched_zero_stage()
    if zero:
        # Two float32 moments; DeepSpeed knows no mask, so of every trained entry.
        share = 8 * entries / runtime.world_size()
        return f"{_megabytes(share)} (dense, ZeRO-{zero}'s share of one process)"
    if plan.mask is None:
        # Torch keeps the moments in the dtype of the weights.
        width = 8 if plan.recipe.model.dtype == "float32" else 4
        return f"{_megabytes(width * moving)}"
    bf16 = plan.recipe.model.dtype == "bfloat16"
    if bf16 and plan.recipe.optimizer.bf16_update == "master":
        # 12 = two moments and a master in float32; entries / 8 = one mask bit each.
        return f"{_megabytes(12 * moving + entries / 8)} (moments, fp32 masters, mask; at most)"
    return f"{_megabytes(8 * moving + entries / 8)} (moments and mask, at most)"


def _lengths_line(plan: Plan) -> str:
    longest = plan.longest
    bound = "any length" if longest is None else f"at most {longest:,} tokens"
    line = f"lengths  completions of {bound}"
    if plan.positions is None:
        return line
    line += f"; the model's configuration has {plan.positions:,} positions"
    if longest is not None and longest < plan.positions:
        return line
    return f"{line}, which are too few: beyond them it extrapolates, and vLLM refuses to"


def _sampler_lines(plan: Plan) -> list[str]:
    """Return what the base's generation_config.json sets and the run does not follow."""
    settings = put_aside(plan.recipe.model)
    if not settings:
        return []
    texts = [f"{key} {_short(value)}" for key, value in settings.items()]
    return [
        "sampler  put aside from the base's generation_config.json, for rollouts and evaluation: "
        f"{', '.join(texts)}"
    ]


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:20]} ..."


def describe(plan: Plan) -> str:
    """Return the plan as the text that ``--check`` prints."""
    recipe = plan.recipe
    kinds: dict[str, list[tuple[int, int]]] = {}
    for name, shape in plan.targets.items():
        kinds.setdefault(name.removesuffix(".weight").rsplit(".", 1)[-1], []).append(shape)
    lines = [f"policy   {recipe.model.path}, {plan.num_parameters:,} parameters"]
    entries = sum(rows * columns for rows, columns in plan.targets.values())
    lines.append(f"targets  {len(plan.targets)} matrices, {entries:,} entries")
    for kind, shapes in kinds.items():
        sizes = ", ".join(sorted({f"{rows} x {columns}" for rows, columns in shapes}))
        lines.append(f"         {kind:<12} {len(shapes):>3} of {sizes}")
    if plan.experts:
        lines.append(
            f"frozen   {plan.experts} weights of three dimensions, such as stacked experts, which "
            "are no matrices; model.also_train takes them whole"
        )
    if plan.also_train:
        lines.append(f"also     {', '.join(plan.also_train)}")
    if plan.mask is not None:
        lines.append(f"mask     {plan.mask.builder}, density {_percent(density_bounds(plan.mask))}")
    elif recipe.adapter is not None:
        lines.append(f"adapter  {recipe.adapter}, {plan.adapter_entries:,} parameters")
    else:
        lines.append("mask     none: every entry of the targets may move")
    if plan.rewards:
        rewards = ", ".join(f"{call.name} x {call.weight:g}" for call in plan.rewards)
        lines.append(f"rewards  {rewards}")
    if recipe.algorithm is not None:
        lines.append(describe_algorithm(recipe.algorithm, recipe.trainer))
    if plan.batch is None:
        lines.append(describe_rows(recipe.trainer, runtime.world_size()))
    else:
        lines.append(describe_sizes(plan.batch, runtime.world_size()))
        lines.append(_lengths_line(plan))
        lines += _sampler_lines(plan)
    lines.append(f"run      {recipe.run.dir}")
    return "\n".join([*lines, "memory", *(f"  {line}" for line in memory_lines(plan))])
