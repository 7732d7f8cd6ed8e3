"""What ``--check --gpus N --gpu-memory GB`` prints: the run on those GPUs, engine by engine.

It reads the model's ``config.json`` and the recipe, no weights and no GPU.
"""

from dataclasses import replace
from typing import Any

from trl import GRPOConfig

from rlvr.costs.fit import (
    CONTEXT_SOURCE,
    Deployment,
    cheapest_change,
    largest_completion,
    largest_rows,
)
from rlvr.costs.hardware import VERDICT_SOURCE
from rlvr.costs.memory import Setting
from rlvr.costs.sampler import VLLM_SOURCE, Sampler, cache_bytes, cache_rows
from rlvr.costs.shapes import Trained
from rlvr.costs.time import Batch
from rlvr.masks import density_bounds
from rlvr.schema import RecipeError
from rlvr.training.machine import VLLM, vllm_version
from rlvr.training.plan import Plan

ASSUMED_PROMPT = 512  # tokens, where neither data nor vLLM bounds a prompt
GB = 1e9
PARTS = ("weights", "gradients", "states", "masks", "base", "activations", "logits", "buffers")


def cost_lines(plan: Plan, processes: int, gpu_memory: float) -> list[str]:
    """Return the plan of an RLVR run on ``processes`` GPUs of ``gpu_memory`` GB.

    Raises:
        RecipeError: the run is supervised, or its blocks are of a kind without a formula.
    """
    if plan.batch is None:
        raise RecipeError("--gpus: the plan is of RLVR runs, and algorithm sft samples nothing")
    if plan.shape is None:
        raise RecipeError(
            "--gpus: there is a plan for decoders of equal blocks with one gated MLP each, and "
            f"{plan.recipe.model.path} has others (experts, recurrent layers); leave it out"
        )
    run = deployment(plan, processes, gpu_memory * GB)
    setting = run.setting
    engines = engines_of(processes)
    lines = [
        f"costs    {processes} GPU{'s' * (processes > 1)} of {gpu_memory:g} GB; a forward pass of "
        f"{setting.rows} x {setting.length:,} tokens ({setting.length - setting.completion:,} of "
        "the prompt) on each; GB on each GPU",
        "  " + _row("engine", [*PARTS, "peak", "fits"]),
    ]
    for engine in engines:
        lines.append("  " + _memory_row(plan, replace(run, engine=engine)))
    usable = [engine for engine in engines if refusal(plan, engine) is None]
    lines += _fit_lines(run, usable)
    lines += _sampler_lines(plan, run)
    return lines + _sources(run)


def engines_of(processes: int) -> tuple[str, ...]:
    """Return the engines that a run of so many processes can have."""
    if processes == 1:
        return ("one process", "ZeRO-3 offload")
    return ("DDP", "FSDP2", "ZeRO-1", "ZeRO-2", "ZeRO-3", "ZeRO-3 offload")


def refusal(plan: Plan, engine: str) -> str | None:
    """Return why the check of a recipe would refuse it under ``engine``."""
    recipe = plan.recipe
    if engine.startswith("ZeRO"):
        if plan.mask is not None and recipe.model.dtype != "float32":
            return "refuses masks of bfloat16 weights"
        if plan.mask is not None and recipe.trainer.get("weight_decay"):
            return "refuses masks with trainer.weight_decay"
        if recipe.run.checkpoint == "delta":
            return "refuses run.checkpoint: delta"
    if (
        engine == "FSDP2"
        and recipe.model.dtype != "float32"
        and recipe.trainer.get("bf16") is not False
    ):
        return "refuses bfloat16 weights with trainer.bf16"
    return None


def deployment(plan: Plan, processes: int, device_bytes: float) -> Deployment:
    """Return the run of ``plan`` on its GPUs, under the first engine there is."""
    assert plan.batch is not None
    batch = Batch(plan.batch.step, plan.batch.generation)
    return Deployment(
        setting_of(plan),
        engines_of(processes)[0],
        processes,
        sampler_of(plan, plan.batch.generation // processes),
        batch,
        device_bytes,
    )


def setting_of(plan: Plan) -> Setting:
    """Return what a recipe's memory depends on."""
    recipe, trainer = plan.recipe, plan.recipe.trainer
    assert plan.shape is not None
    # TRL computes in bf16 where a recipe does not say.
    bf16 = trainer.get("bf16")
    bf16 = not trainer.get("fp16") if bf16 is None else bf16
    prompt, completion = _prompt(plan), plan.longest or ASSUMED_PROMPT
    optimizer = str(trainer.get("optim", GRPOConfig.optim))
    return Setting(
        plan.shape,
        _trained(plan),
        width=4 if recipe.model.dtype == "float32" else 2,
        rows=trainer.get("per_device_train_batch_size", 8),
        length=prompt + completion,
        completion=completion,
        bf16=bool(bf16) or bool(trainer.get("fp16")),
        checkpointing=trainer.get("gradient_checkpointing", GRPOConfig.gradient_checkpointing),
        accumulates=trainer.get("gradient_accumulation_steps", 1) > 1,
        masters=recipe.optimizer.bf16_update == "master",
        free_gradients=recipe.optimizer.free_gradients,
        padded=not str(recipe.model.attn_implementation).startswith("flash"),
        at_once=optimizer == "adamw_torch",  # torch updates all parameters together on a GPU
    )


def _trained(plan: Plan) -> Trained:
    assert plan.shape is not None
    shapes = {**plan.targets, **plan.also_train}
    sizes = [_entries(shape) for shape in shapes.values()]
    if plan.recipe.adapter is not None:
        rank = max(1, round(plan.adapter_entries / plan.shape.adapter(1)))
        largest = rank * plan.shape.intermediate
        return Trained("adapter", plan.adapter_entries, plan.adapter_entries, largest, rank)
    entries = sum(sizes)
    if plan.mask is None:
        return Trained("dense", entries, entries, max(sizes))
    extra = sum(_entries(shape) for shape in plan.also_train.values())
    moving = extra + round((entries - extra) * density_bounds(plan.mask)[1])
    return Trained("mask", entries, moving, max(sizes))


def _entries(shape: tuple[int, ...]) -> int:
    entries = 1
    for size in shape:
        entries *= size
    return entries


def _prompt(plan: Plan) -> int:
    """Return the longest prompt: what the data or vLLM bounds it to."""
    trainer = plan.recipe.trainer
    bound = plan.recipe.data.get("max_prompt_tokens")
    longest = trainer.get("vllm_max_model_length")
    if bound is None and longest is not None and plan.longest is not None:
        bound = longest - plan.longest
    return bound if isinstance(bound, int) and bound > 0 else ASSUMED_PROMPT


def sampler_of(plan: Plan, rows: int) -> Sampler:
    """Return the sampler of a run; without vLLM the policy draws ``rows`` at a time."""
    trainer = plan.recipe.trainer
    if not trainer.get("use_vllm"):
        return Sampler("none", slots=rows)
    return Sampler(
        trainer.get("vllm_mode", GRPOConfig.vllm_mode),
        trainer.get("vllm_gpu_memory_utilization", GRPOConfig.vllm_gpu_memory_utilization),
        trainer.get("vllm_enable_sleep_mode", GRPOConfig.vllm_enable_sleep_mode),
        trainer.get("vllm_tensor_parallel_size", GRPOConfig.vllm_tensor_parallel_size),
    )


def _row(name: str, cells: list[Any]) -> str:
    return f"{name:<15}" + "".join(f"{cell:>12}" for cell in cells)


def _memory_row(plan: Plan, run: Deployment) -> str:
    why = refusal(plan, run.engine)
    if why is not None:
        return f"{run.engine:<15}  {why}"
    held = run.memory
    cells = [f"{getattr(held, part) / GB:.2f}" for part in PARTS]
    row = _row(run.engine, [*cells, f"{run.peak / GB:.2f}", "yes" if run.fits else "no"])
    return row + (f"  and {held.host / GB:.0f} GB of the host's memory" if held.host else "")


def _fit_lines(run: Deployment, engines: list[str]) -> list[str]:
    """Return the fastest engine that fits, its step, and the largest run; or a change that does."""
    fitting = [replace(run, engine=engine) for engine in engines]
    fitting = [found for found in fitting if found.fits]
    if not fitting:
        change = cheapest_change(run, tuple(engines)) if engines else None
        if change is None:
            return [
                "  does not fit, and no other engine, batch or sampler does; take more or larger "
                "GPUs, or a lower trainer.max_completion_length"
            ]
        words, found = change
        return [
            f"  does not fit; the cheapest change that does: {words} (peak "
            f"{found.peak / GB:.1f} GB)",
            f"  step      {_step(found)}",
        ]
    best = min(fitting, key=lambda found: found.seconds.total)
    return [
        f"  step      {best.engine}: {_step(best)}",
        f"  largest   {best.engine}: {largest_rows(best):,} rows of this length, or completions of "
        f"{largest_completion(best):,} tokens at {best.setting.rows} rows",
    ]


def _step(run: Deployment) -> str:
    parts = run.seconds
    names = ("rollout", "verification", "passes", "optimizer", "sync")
    words = {"passes": "forward and backward"}
    split = ", ".join(
        f"{words.get(name, name)} {getattr(parts, name) / parts.total:.0%}" for name in names
    )
    return f"{parts.total:,.1f} s on {run.hardware.name}: {split}"


def _sampler_lines(plan: Plan, run: Deployment) -> list[str]:
    sampler, shape, setting = run.sampler, run.setting.shape, run.setting
    per_token = cache_bytes(shape, setting.compute)
    if sampler.mode == "none":
        cache = sampler.slots * setting.length * per_token / GB
        return [
            f"  sampler   the policy itself: {sampler.slots:,} rows at a time, a cache of "
            f"{cache:.2f} GB beside it ({per_token / 1e3:.0f} kB a token)"
        ]
    version = vllm_version()
    known = (
        f"vLLM {version}"
        if version
        else f"vLLM, which is not installed here ({VLLM[0]} to {VLLM[1]})"
    )
    dtype = "bfloat16" if setting.compute == 2 else "float32"
    lines = [f"  sampler   {known}, {sampler.mode}, {dtype}"]
    if sampler.mode == "colocate":
        rows = cache_rows(shape, sampler, setting.length, run.device_bytes)
        asleep = "asleep" if sampler.sleeps else "kept"
        lines[0] += (
            f", {sampler.share:.0%} of a GPU = {sampler.share * run.device_bytes / GB:.1f} GB, "
            f"{asleep} while the policy trains; its cache holds {rows:,.0f} sequences of "
            f"{setting.length:,} tokens"
        )
        if rows < 1:
            lines.append("            too little: raise trainer.vllm_gpu_memory_utilization")
    longest = plan.recipe.trainer.get("vllm_max_model_length") or plan.positions
    if longest is not None:
        room = longest - setting.length
        verdict = f"{room:,} to spare" if room >= 0 else f"{-room:,} too few: raise it"
        lines.append(
            f"  longest   prompt and completion {setting.length:,} tokens, "
            f"trainer.vllm_max_model_length {longest:,}: {verdict}"
        )
    return lines


def _sources(run: Deployment) -> list[str]:
    sources = [*run.hardware.sources, VERDICT_SOURCE, CONTEXT_SOURCE]
    if run.sampler.mode == "colocate":
        sources.append(VLLM_SOURCE)
    sources.append("assumed: completions are half of their longest on average")
    return ["  numbers  " + sources[0], *("           " + source for source in sources[1:])]
