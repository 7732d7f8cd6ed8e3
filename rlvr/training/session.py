"""One training session: from a checked plan to a trained run directory."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments, set_seed

from rlvr import __version__, runtime
from rlvr.adapters import Adapter, attach_adapter, base_weights, describe
from rlvr.checkpoints.fingerprints import fingerprint_values
from rlvr.checkpoints.runs import step_of
from rlvr.data import (
    DataSpec,
    Loaded,
    Row,
    demonstrations,
    load_prepared,
    parse_dataset,
    plain_columns,
    prompt_tokenizer,
)
from rlvr.engines import engine_name, forget_engine, loading_whole, require_exact_base
from rlvr.logs import restore_logs
from rlvr.masks import Mask, build_mask, check_built_from
from rlvr.policy import choose_trainable, load_policy, load_tokenizer
from rlvr.precision import Precision, precision_of
from rlvr.provenance import (
    Start,
    add_to_provenance,
    plugin_digests,
    read_provenance,
    rows_digest,
    tokenizer_digest,
)
from rlvr.rewards import check_columns
from rlvr.rewards.gold import unparsable_golds
from rlvr.run_dir import claim_run
from rlvr.schema import RecipeError, RunError
from rlvr.training.batch_sizes import require_rows
from rlvr.training.callbacks import (
    Interrupt,
    MergeUnmerge,
    MetricsCallback,
    ProgressCallback,
    SaveAtEnd,
)
from rlvr.training.geometry_callback import GeometryCallback
from rlvr.training.inputs import join_processes
from rlvr.training.plan import Plan
from rlvr.training.resume import check_checkpoint
from rlvr.training.seam import Seam, Setup
from rlvr.training.summary import load_problems
from rlvr.training.supervised import SupervisedTrainer
from rlvr.training.trainer import RLVRTrainer

# What TRL hands to a reward beside the columns of the dataset.
TRAINER_COLUMNS = {"completion_ids": []}


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
        _compare_base(trainer.adapter, run_dir)
    runtime.leave_group()  # only the main process goes on
    forget_engine(trainer.args)
    return not interrupt.requested


def build_trainer(
    plan: Plan, run_dir: Path, args: Any = None, checkpoint: Path | None = None
) -> Seam:
    """Return the trainer of a checked plan, ready for its first step; claim ``run_dir`` for it."""
    recipe = plan.recipe
    args = join_processes(recipe, run_dir) if args is None else args
    if runtime.is_main():
        run_dir.mkdir(parents=True, exist_ok=True)
    start = Start(recipe, run_dir, None if checkpoint is None else step_of(checkpoint))
    start.require(
        processes=args.world_size,
        engine=engine_name(args),
        precision=_precision(plan, args).to_dict(),
        plugins=plugin_digests(recipe.plugins),
    )
    set_seed(args.seed)
    data = parse_dataset(recipe.data, "data")
    tokenizer = prompt_tokenizer(
        load_tokenizer(recipe.model), data.shared["prefill"], recipe.template_kwargs, "data"
    )
    loaded, own = _load_rows(plan, data, tokenizer, args)
    if recipe.eval is not None:
        # Read now as well: what is wrong with these rows must not come out after training.
        load_problems(recipe, recipe.eval)
    rows = own.get("rows") or own["examples"]
    start.require(tokenizer=tokenizer_digest(tokenizer), rows_sha256=rows_digest(rows))
    with loading_whole(args) as device:
        policy = load_policy(recipe.model, device)
    require_exact_base(args, policy.named_parameters())
    check_checkpoint(recipe, policy)
    # Under FSDP2 the other ranks may hold no values yet.
    base_hash = runtime.from_main(lambda: fingerprint_values(policy.named_parameters()))
    start.require(base_weights=base_hash)
    mask = _make_mask(plan, policy, base_hash, run_dir, args.device)
    start.require(mask=None if mask is None else mask.fingerprint())
    every = recipe.geometry.every
    watched = [GeometryCallback(policy, plan.targets, every)] if every > 0 else []
    adapter = _make_trainable(plan, policy, base_hash, run_dir, args)
    start.require(initial_adapter=None if adapter is None else adapter.start["initial"])
    if recipe.run.deterministic:
        # Only now: finding a mask's threshold has no deterministic CUDA kernel, and needs none.
        runtime.make_deterministic(args.seed)
    if runtime.is_main():
        dropped = {reason: len(ids) for reason, ids in loaded.dropped.items()}
        start.record(
            _provenance(args, adapter),
            weights=_weights(plan),
            rows={"trained on": len(loaded.rows), "dropped": dropped},
            lost=restore_logs(run_dir, checkpoint),
        )
        claim_run(run_dir, recipe)
    callbacks: list[Any] = [*watched, MetricsCallback(run_dir), ProgressCallback(), SaveAtEnd()]
    if adapter is not None and adapter.is_control and not args.use_vllm:
        callbacks.append(MergeUnmerge())
    kind = SupervisedTrainer if recipe.supervised else RLVRTrainer
    return kind(
        Setup(recipe.model, recipe.run, recipe.optimizer, run_dir, mask, adapter),
        model=policy if adapter is None else adapter.model,
        args=args,
        tokenizer=tokenizer,
        callbacks=callbacks,
        **own,
    )


def _load_rows(
    plan: Plan, data: DataSpec, tokenizer: PreTrainedTokenizerBase, args: Any
) -> tuple[Loaded, dict[str, Any]]:
    """Return the rows, and what the trainer of the plan's algorithm takes of them."""
    loaded = load_prepared(
        data, "data", tokenizer=tokenizer, unparsable=partial(unparsable_golds, plan.verifiers)
    )
    own: dict[str, Any]
    if plan.recipe.supervised:
        own = {"examples": demonstrations(loaded, data, tokenizer, args.max_length, "data")}
    else:
        rows = _with_prompts(plan, data, loaded)
        own = {"rows": rows, "rewards": plan.rewards, "algorithm": plan.recipe.algorithm}
    for reason, ids in loaded.dropped.items():
        runtime.say(f"data     dropped {len(ids)} rows, {reason}: {', '.join(ids[:5])}")
    dropped = sum(map(len, loaded.dropped.values()))
    require_rows(len(loaded.rows), args, supervised=plan.recipe.supervised, dropped=dropped)
    return loaded, own


def _with_prompts(plan: Plan, data: DataSpec, loaded: Loaded) -> list[Row]:
    """Return the rows with their prompts and the columns that the rewards read."""
    columns = {column for call in plan.rewards for column in call.reads}
    rows = plain_columns(loaded.rows, columns)
    check_columns(plan.rewards, {**rows[0], **TRAINER_COLUMNS})
    return [Row(**{**row, "prompt": data.render(row["problem"])}) for row in rows]


def _make_mask(
    plan: Plan, policy: PreTrainedModel, base_hash: str, run_dir: Path, device: torch.device
) -> Mask | None:
    if plan.mask is None:
        return None
    spec, path = plan.mask, run_dir / "mask.safetensors"
    parameters = dict(policy.named_parameters())
    check_built_from(spec, base_hash)

    def build() -> Mask:
        provenance = {"spec": spec.to_dict(), "base_weights": base_hash}
        if path.is_file():
            # A resumed run keeps its mask: another machine's SVD may round a few entries away.
            try:
                kept = Mask.load(path)
            except RecipeError as error:
                runtime.say(str(error))
            else:
                if provenance.items() <= kept.provenance.items():
                    return kept
        runtime.say(f"building the {spec.builder} mask of {len(plan.targets)} matrices")
        weights = ((name, parameters[name].to(device)) for name in plan.targets)
        mask = build_mask(spec, weights, provenance)
        mask = mask.with_dense({name: parameters[name].shape for name in plan.also_train})
        mask.save(path)
        return mask

    mask = runtime.from_main(build)
    runtime.say(f"mask density {mask.density():.2%}, fingerprint {mask.fingerprint()[:12]}")
    return mask


def _make_trainable(
    plan: Plan, policy: PreTrainedModel, base_hash: str, run_dir: Path, args: TrainingArguments
) -> Adapter | None:
    """Let what the recipe asks for receive gradients; return the adapter, if that is one."""
    recipe = plan.recipe
    if recipe.adapter is None:
        choose_trainable(policy, [*plan.targets, *plan.also_train])
        return None
    adapter = attach_adapter(
        policy,
        recipe.adapter,
        list(plan.targets),
        seed=args.seed,
        base_hash=base_hash,
        run_dir=run_dir,
        precision=_precision(plan, args),
    )
    runtime.say(f"adapter at the start, initial factors {adapter.start['initial'][:12]}")
    runtime.say(describe(adapter.start["matrices"]))
    return adapter


def _compare_base(adapter: Adapter, run_dir: Path) -> None:
    """Write the hash of the base weights after the run beside the one before.

    Raises:
        RunError: they differ, so the adapter no longer belongs to the base policy.
    """
    after = fingerprint_values(base_weights(adapter.model))
    if not runtime.is_main():
        return
    add_to_provenance(run_dir, {"base_weights_after": after})
    if after != read_provenance(run_dir)["base_weights"] and not adapter.is_control:
        raise RunError("the base weights changed during the run; its adapter cannot be used")


def _precision(plan: Plan, args: TrainingArguments) -> Precision:
    return precision_of(args, getattr(torch, plan.recipe.model.dtype))


def _weights(plan: Plan) -> str:
    """Return the dtype of the weights and, of a masked bf16 run, how they take an update."""
    dtype = plan.recipe.model.dtype
    if plan.mask is None or dtype == "float32":
        return dtype
    updates = {"master": "float32 masters", "stochastic": "stochastic rounding"}
    return f"{dtype}, {updates[plan.recipe.optimizer.bf16_update]}"


def _provenance(args: TrainingArguments, adapter: Adapter | None) -> dict[str, Any]:
    return {
        "rlvr": __version__,
        "git_commit": runtime.git_commit(),
        "versions": runtime.versions(),
        "machine": runtime.machine(),
        "seed": args.seed,
        "start_logit_gap": 0.0 if adapter is None else adapter.start["logit_gap"],
        "adapter": None if adapter is None else adapter.start,
    }
