"""The end of a run: evaluate the exported checkpoint, compare it with the base, say it on a screen.

Everything is read back from the run directory, so the numbers are those of the files that a user
gets, not of a trainer that is gone.
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlvr import runtime
from rlvr.checkpoint import (
    checkpoints,
    read_jsonl,
    read_weight,
    read_weights,
    step_of,
)
from rlvr.config import EvalSection, ModelSection
from rlvr.data import load_prepared, parse_dataset, with_prefill
from rlvr.delta import discard_applied
from rlvr.eval import EvalResult, EvalSettings, evaluate, token_kl
from rlvr.files import write_sealed
from rlvr.geometry import update_sparsity
from rlvr.masks import Mask
from rlvr.policy import checkpoint_folder, load_policy, load_tokenizer
from rlvr.rewards import check_columns, parse_reward
from rlvr.run_dir import policy_of, trained_policy
from rlvr.training.plan import Plan


def finish(plan: Plan, run_dir: Path) -> dict[str, Any]:
    """Write ``summary.json`` of a finished run, print it, and return it."""
    runtime.free_memory()
    folder, step = trained_policy(run_dir)
    summary: dict[str, Any] = {"step": step, **compare_weights(plan, run_dir, folder)}
    summary["seconds_per_step"] = seconds_per_step(run_dir)
    if plan.recipe.eval is not None:
        summary |= evaluate_run(plan.recipe.model, plan.recipe.eval, run_dir, folder)
    discard_applied(run_dir)
    write_sealed(run_dir / "summary.json", summary)
    runtime.say(one_screen(run_dir, summary))
    return summary


def seconds_per_step(run_dir: Path) -> float | None:
    """Return the median step time; the first step warms up and is left out."""
    times = [row["step_time"] for row in read_jsonl(run_dir / "metrics.jsonl")[1:]]
    return float(torch.tensor(times).median()) if times else None


def count_leaks(base: Tensor, tuned: Tensor, frozen: Tensor) -> int:
    """Count the entries where ``frozen`` is true and the stored bits differ."""
    return int((frozen & (base.to(tuned.dtype) != tuned)).sum())


def compare_weights(plan: Plan, run_dir: Path, folder: Path) -> dict[str, Any]:
    """Compare an exported checkpoint with its base weights, tensor by tensor.

    Returns ``sparsity_bf16`` over the target matrices (arXiv 2511.08567, Def. 2.2), ``mask_leak``
    as a count of entries over all tensors (``None`` without a mask), and the mask's density.
    """
    base_folder = checkpoint_folder(plan.recipe.model)
    mask_file = run_dir / "mask.safetensors"
    mask = Mask.load(mask_file) if mask_file.is_file() else None
    unchanged, entries, leak = 0.0, 0, 0
    for name, base in read_weights(base_folder):
        tuned = read_weight(folder, name)
        if name in plan.targets:
            unchanged += update_sparsity(base, tuned) * tuned.numel()
            entries += tuned.numel()
        if mask is not None:
            frozen = (
                ~mask[name] if name in mask.shapes else torch.ones_like(tuned, dtype=torch.bool)
            )
            leak += count_leaks(base, tuned, frozen)
    return {
        "sparsity_bf16": unchanged / entries,
        "mask_leak": None if mask is None else leak,
        "density": None if mask is None else mask.density(),
    }


def evaluate_run(
    section: ModelSection, settings: EvalSection, run_dir: Path, folder: Path
) -> dict[str, Any]:
    """Evaluate base and trained policy on the same problems, and the KL between them."""
    data = parse_dataset(settings.data, "eval.data")
    tokenizer = with_prefill(load_tokenizer(section), data.shared["prefill"], "eval.data")
    rows = load_prepared(data, "eval.data", tokenizer=tokenizer).rows
    call = parse_reward(settings.verifier, "eval.verifier")
    device = runtime.default_device()

    check_columns([call], rows[0])
    copies = settings.samples
    columns = {name: [row[name] for row in rows for _ in range(copies)] for name in rows[0]}

    def judge(completions: list[str], answers: list[str]) -> list[float | None]:
        return call(completions, columns)

    sampling = EvalSettings(
        **{f.name: getattr(settings, f.name) for f in dataclasses.fields(EvalSettings)}
    )

    def load(path: Path) -> Any:
        return load_policy(dataclasses.replace(section, path=str(path)), device)

    def score(policy: Any, name: str) -> EvalResult:
        result = evaluate(
            policy, tokenizer, rows, render=data.render, verifier=judge, settings=sampling
        )
        result.write(run_dir / "eval", name)
        return result

    policies = {"base": load_policy(section, device), "final": load(folder)}
    results = {name: score(policy, name) for name, policy in policies.items()}
    on_the_way = {}
    if settings.checkpoints == "every":
        for checkpoint in checkpoints(run_dir)[:-1]:
            result = score(load(policy_of(checkpoint)), checkpoint.name)
            on_the_way[step_of(checkpoint)] = dataclasses.asdict(result.accuracy)
    kl = token_kl(
        policies["final"],
        policies["base"],
        tokenizer,
        [data.render(row["problem"]) for row in rows],
        results["final"].completions,
        batch_size=settings.batch_size,
    )
    return {
        "accuracy_before": dataclasses.asdict(results["base"].accuracy),
        "accuracy_after": dataclasses.asdict(results["final"].accuracy),
        "accuracy_on_the_way": on_the_way,
        "kl_to_base": dataclasses.asdict(kl),
        "truncated": results["final"].truncated,
    }


def one_screen(run_dir: Path, summary: dict[str, Any]) -> str:
    """Return the summary as a person reads it."""
    lines = ["", f"finished step {summary['step']} of {run_dir}"]
    if "accuracy_after" in summary:
        for label, key in (("before", "accuracy_before"), ("after", "accuracy_after")):
            estimate = summary[key]
            lines.append(
                f"  accuracy {label:<7} {estimate['mean']:.1%}  "
                f"[{estimate['low']:.1%}, {estimate['high']:.1%}] (95 %, n = {estimate['n']})"
            )
        lines.append(f"  KL to base       {summary['kl_to_base']['mean']:.4f} nats per token")
    lines.append(f"  update sparsity  {summary['sparsity_bf16']:.1%} (bf16-aware, targets)")
    if summary["mask_leak"] is not None:
        lines.append(f"  mask leak        {summary['mask_leak']} entries")
        lines.append(f"  mask density     {summary['density']:.2%}")
    if summary["seconds_per_step"] is not None:
        lines.append(f"  time             {summary['seconds_per_step']:.2f} s a step (median)")
    return "\n".join(lines)
