"""One training session: from a checked plan to a trained run directory."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments, set_seed

from rlvr import __version__, runtime
from rlvr.adapters import Adapter
from rlvr.checkpoints.fingerprints import fingerprint_values
from rlvr.checkpoints.runs import step_of
from rlvr.config import Recipe
from rlvr.data import Loaded, parse_dataset, prompt_tokenizer
from rlvr.engines import engine_name, forget_engine, loading_whole, require_exact_base
from rlvr.logs import restore_logs
from rlvr.policy import load_policy, load_tokenizer
from rlvr.precision import precision_of
from rlvr.provenance import Start, plugin_digests, rows_digest, tokenizer_digest
from rlvr.run_dir import claim_run
from rlvr.training.callbacks import (
    Interrupt,
    MergeUnmerge,
    MetricsCallback,
    ProgressCallback,
    SaveAtEnd,
)
from rlvr.training.evaluation import load_problems
from rlvr.training.geometry_callback import GeometryCallback
from rlvr.training.inputs import join_processes
from rlvr.training.plan import Plan
from rlvr.training.resume import check_checkpoint
from rlvr.training.rows import training_rows
from rlvr.training.seam import Seam, Setup
from rlvr.training.supervised import SupervisedTrainer
from rlvr.training.trainable import make_mask, make_trainable, require_same_base
from rlvr.training.trainer import RLVRTrainer


def train(plan: Plan, args: TrainingArguments, run_dir: Path, checkpoint: Path | None) -> bool:
    """Train to the end and return true, or false where the user interrupted.

    ``checkpoint`` is what a resumed run goes on from.

    Raises:
        RecipeError: a resumed run would not go on with what it was started on.
        RunError: an entry outside the mask moved, or nothing moved at all.
    """
    trainer = build_trainer(plan, run_dir, args, checkpoint)
    interrupt = Interrupt()
    trainer.add_callback(interrupt)
    if checkpoint is None or not trainer.ends_by(step_of(checkpoint)):
        try:
            with interrupt.caught():
                trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        finally:
            for callback in trainer.callback_handler.callbacks:
                if isinstance(callback, ProgressCallback):
                    callback.close()
    if trainer.adapter is not None:
        require_same_base(trainer.adapter, run_dir)
    trainer.close()
    runtime.leave_group()  # only the main process goes on
    forget_engine(trainer.args)
    return not interrupt.requested


def build_trainer(
    plan: Plan, run_dir: Path, args: Any = None, checkpoint: Path | None = None
) -> Seam:
    """Return the trainer of a checked plan, ready for its first step; claim ``run_dir`` for it.

    Every fact that decides the bits of the run is compared with its first start as it appears.
    """
    recipe = plan.recipe
    args = join_processes(recipe, run_dir) if args is None else args
    if runtime.is_main():
        run_dir.mkdir(parents=True, exist_ok=True)
    precision = precision_of(args, getattr(torch, recipe.model.dtype))
    start = Start(recipe, run_dir, None if checkpoint is None else step_of(checkpoint))
    start.require(
        processes=args.world_size,
        engine=engine_name(args),
        precision=precision.to_dict(),
        plugins=plugin_digests(recipe.plugins),
    )
    set_seed(args.seed)
    data = parse_dataset(recipe.data, "data")
    tokenizer = prompt_tokenizer(
        load_tokenizer(recipe.model), data.shared["prefill"], recipe.template_kwargs, "data"
    )
    loaded, own = training_rows(plan, data, tokenizer, args)
    if recipe.eval is not None:
        # Read now as well: what is wrong with these rows must not come out after training.
        load_problems(recipe, recipe.eval)
    rows = own.get("rows") or own["examples"]
    start.require(tokenizer=tokenizer_digest(tokenizer), rows_sha256=rows_digest(rows))
    policy, base_hash = _load_base(recipe, args)
    start.require(base_weights=base_hash)
    mask = make_mask(plan, policy, base_hash, run_dir, args.device)
    start.require(mask=None if mask is None else mask.fingerprint())
    # Before an adapter wraps the policy: it reads the base's own matrices.
    every = recipe.geometry.every
    watched = [GeometryCallback(policy, plan.targets, every)] if every > 0 else []
    adapter = make_trainable(plan, policy, base_hash, run_dir, args.seed, precision)
    start.require(initial_adapter=None if adapter is None else adapter.start["initial"])
    if recipe.run.deterministic:
        # Only now: finding a mask's threshold has no deterministic CUDA kernel, and needs none.
        runtime.make_deterministic(args.seed)
    if runtime.is_main():
        start.record(
            _about(plan, args.seed, loaded, adapter), lost=restore_logs(run_dir, checkpoint)
        )
        claim_run(run_dir, recipe)
    merges = adapter is not None and adapter.is_control and not args.use_vllm
    control = [MergeUnmerge()] if merges else []
    kind = SupervisedTrainer if recipe.supervised else RLVRTrainer
    return kind(
        Setup(recipe.model, recipe.run, recipe.optimizer, run_dir, mask, adapter),
        model=policy if adapter is None else adapter.model,
        args=args,
        tokenizer=tokenizer,
        callbacks=[*watched, MetricsCallback(run_dir), ProgressCallback(), SaveAtEnd(), *control],
        **own,
    )


def _load_base(recipe: Recipe, args: TrainingArguments) -> tuple[PreTrainedModel, str]:
    """Return the base policy and the fingerprint of its weights."""
    with loading_whole(args) as device:
        policy = load_policy(recipe.model, device)
    require_exact_base(args, policy.named_parameters())
    check_checkpoint(recipe, policy)
    # Under FSDP2 the other ranks may hold no values yet.
    return policy, runtime.from_main(lambda: fingerprint_values(policy.named_parameters()))


def _about(plan: Plan, seed: int, loaded: Loaded, adapter: Adapter | None) -> dict[str, Any]:
    """Return what describes a start and is not compared by a resume."""
    dropped = {reason: len(ids) for reason, ids in loaded.dropped.items()}
    return {
        "rlvr": __version__,
        "git_commit": runtime.git_commit(),
        "versions": runtime.versions(),
        "machine": runtime.machine(),
        "seed": seed,
        "start_logit_gap": 0.0 if adapter is None else adapter.start["logit_gap"],
        "adapter": None if adapter is None else adapter.start,
        "weights": plan.weights,
        "rows": {"trained on": len(loaded.rows), "dropped": dropped},
    }
