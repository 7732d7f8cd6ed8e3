"""The end of a run: export its policy, evaluate it, compare it with the base, say it on a screen.

Everything is read back from the run directory, so the numbers are those of the files that a user
gets, not of a trainer that is gone. Accuracy and KL are of the exported policy and of the base,
both in the dtype of the export; sparsity and leaks are of the masters.
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlvr import runtime
from rlvr.checkpoints.folders import EXPORT, model_folder, policy_bytes
from rlvr.checkpoints.reader import open_checkpoint, select
from rlvr.checkpoints.runs import newest_checkpoint, step_of
from rlvr.delta import discard_applied
from rlvr.eval.gap import ROUNDING
from rlvr.files import read_jsonl, write_sealed
from rlvr.geometry.sparsity import update_sparsity
from rlvr.masks import Mask
from rlvr.precision import dtype_name
from rlvr.provenance import read_provenance
from rlvr.training.evaluation import evaluate_run
from rlvr.training.export import (
    export_dtype,
    export_gap,
    export_policy,
    run_precision,
    store_as_delta,
)
from rlvr.training.plan import Plan


def finish(plan: Plan, run_dir: Path) -> dict[str, Any]:
    """Export the policy of a finished run, write ``summary.json``, print it, and return it."""
    runtime.free_memory()
    checkpoint = newest_checkpoint(run_dir)
    assert checkpoint is not None  # the run has just written it
    summary: dict[str, Any] = {"step": step_of(checkpoint)}
    policy = export_policy(plan.recipe, run_dir, checkpoint)
    summary["policy"] = describe_export(plan, run_dir, policy, checkpoint)
    # A checkpoint with an adapter holds factors; only its export has dense weights to compare.
    masters = checkpoint if plan.recipe.adapter is None else policy
    # Before discard_applied, which deletes the weights that a delta was applied to.
    summary |= compare_weights(plan, run_dir, masters)
    discard_applied(run_dir)
    summary["seconds_per_step"] = seconds_per_step(run_dir)
    summary["optimizer_state_bytes"] = read_provenance(run_dir).get("optimizer_state_bytes")
    summary["checkpoint_bytes"] = policy_bytes(checkpoint)
    if plan.recipe.eval is not None:
        summary |= evaluate_run(plan.recipe, plan.recipe.eval, run_dir, policy)
    if plan.recipe.run.checkpoint == "delta" and store_as_delta(plan.recipe, run_dir):
        summary["policy"]["folder"] = None
    write_sealed(run_dir / "summary.json", summary)
    runtime.say(one_screen(run_dir, summary))
    return summary


def describe_export(plan: Plan, run_dir: Path, policy: Path, checkpoint: Path) -> dict[str, Any]:
    """Return how the export is stored, and how far it is from the trained policy.

    ``explained`` tells whether rounding in the precision of the run explains the gap.
    """
    precision = run_precision(run_dir)
    gap = export_gap(policy, checkpoint)
    return {
        "folder": policy.name,
        "dtype": dtype_name(export_dtype(plan.recipe, precision)),
        "trained": str(precision),
        "gap": None if gap is None else dataclasses.asdict(gap),
        "explained": None if gap is None else gap.mean <= ROUNDING[precision.computed],
    }


def seconds_per_step(run_dir: Path) -> float | None:
    """Return the median step time; the first step warms up and is left out."""
    times = [row["step_time"] for row in read_jsonl(run_dir / "metrics.jsonl")[1:]]
    return float(torch.tensor(times).median()) if times else None


def count_leaks(base: Tensor, tuned: Tensor, frozen: Tensor) -> int:
    """Count the entries where ``frozen`` is true and the stored bits differ."""
    # The base may be stored in another dtype than the masters were loaded in.
    return int((frozen & (base.to(tuned.dtype) != tuned)).sum())


def compare_weights(plan: Plan, run_dir: Path, folder: Path) -> dict[str, Any]:
    """Compare an exported checkpoint with its base weights, tensor by tensor.

    Returns ``sparsity_bf16`` over the target matrices (arXiv 2511.08567, Def. 2.2), ``mask_leak``
    as a count of entries over all tensors (``None`` without a mask), and the mask's density.
    """
    model = plan.recipe.model
    base_folder = model_folder(model.path, model.revision)
    mask_file = run_dir / "mask.safetensors"
    mask = Mask.load(mask_file) if mask_file.is_file() else None
    unchanged, entries, leak = 0.0, 0, 0
    now = open_checkpoint(folder)
    before = select(open_checkpoint(base_folder), now, base_folder)
    for name, stored in now.items():
        base, tuned = before[name].load(), stored.load()
        if name in plan.targets:
            # Weighted by entries: matrices differ in size, and the mean is over entries.
            unchanged += update_sparsity(base, tuned) * tuned.numel()
            entries += tuned.numel()
        if mask is not None:
            frozen = (
                ~mask[name] if name in mask.shapes else torch.ones_like(tuned, dtype=torch.bool)
            )
            leak += count_leaks(base, tuned, frozen)
    return {
        "compared": "masters" if plan.recipe.adapter is None else "exported policy",
        "sparsity_bf16": unchanged / entries,
        "mask_leak": None if mask is None else leak,
        "density": None if mask is None else mask.density(),
    }


def one_screen(run_dir: Path, summary: dict[str, Any]) -> str:
    """Return the summary as a person reads it."""
    lines = ["", f"finished step {summary['step']} of {run_dir}"]
    lines += _policy_lines(run_dir, summary["policy"])
    if "accuracy_after" in summary:
        for label, key in (("before", "accuracy_before"), ("after", "accuracy_after")):
            estimate = summary[key]
            lines.append(
                f"  accuracy {label:<7} {estimate['mean']:.1%}  "
                f"[{estimate['low']:.1%}, {estimate['high']:.1%}] (95 %, n = {estimate['n']})"
            )
        kl = summary["kl_to_base"]["mean"]
        lines.append(
            f"  KL to base       {kl:.4f} nats per token (both in {summary['evaluated_in']})"
        )
    lines.append(
        f"  update sparsity  {summary['sparsity_bf16']:.1%} (bf16-aware, of the "
        f"{summary['compared']})"
    )
    if summary["mask_leak"] is not None:
        lines.append(f"  mask leak        {summary['mask_leak']} entries")
        lines.append(f"  mask density     {summary['density']:.2%}")
    state, size = summary["optimizer_state_bytes"], summary["checkpoint_bytes"]
    if state is not None:
        lines.append(f"  optimizer state  {state / 1e6:,.2f} MB on one process")
    lines.append(f"  trained weights  {size / 1e6:,.2f} MB in the checkpoint")
    if summary["seconds_per_step"] is not None:
        lines.append(f"  time             {summary['seconds_per_step']:.2f} s a step (median)")
    return "\n".join(lines)


def _policy_lines(run_dir: Path, export: dict[str, Any]) -> list[str]:
    """Return where the exported policy is and how far it is from the trained one."""
    where = f"{run_dir / EXPORT}"
    if export["folder"] is None:
        where = f"`rlvr delta apply BASE {run_dir} OUT` writes it"
    lines = [f"  policy           {where}; {export['dtype']} (trained: {export['trained']})"]
    gap = export["gap"]
    if gap is None:
        return lines
    lines.append(
        f"  export gap       {gap['mean']:.1e} nats a token (mean), {gap['max']:.1e} (max), over "
        f"{gap['tokens']} tokens"
    )
    if not export["explained"]:
        lines.append(
            "  The export computes another policy than the trained one: KL "
            f"{gap['kl']:.1e} nats per token. Rounding does not explain it."
        )
    return lines
