"""One training session: from a checked plan to a trained run directory."""

from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, set_seed

from rlvr import __version__, runtime
from rlvr.adapters import attach_adapter
from rlvr.callbacks import GuardCallback, Interrupt, MetricsCallback, ProgressCallback
from rlvr.checkpoint import fingerprint, write_json
from rlvr.data import load_rows
from rlvr.engines import engine_name, loading_whole
from rlvr.geometry_callback import GeometryCallback
from rlvr.guard import Guard
from rlvr.masks import Mask, build_mask, check_base
from rlvr.plan import Plan, batch_shape
from rlvr.policy import BaseWeights, choose_trainable, load_policy, load_tokenizer
from rlvr.rewards import check_columns
from rlvr.run_dir import claim_run
from rlvr.schema import RecipeError
from rlvr.trainer import RLVRTrainer, training_arguments


def train(plan: Plan, run_dir: Path, checkpoint: Path | None) -> bool:
    """Train to the end and return true, or false where the user interrupted.

    Raises:
        RunError: an entry outside the mask moved, or nothing moved at all.
    """
    trainer = build_trainer(plan, run_dir)
    interrupt = Interrupt(batch_shape(vars(trainer.args))[1])
    trainer.add_callback(interrupt)
    with interrupt.caught():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return not interrupt.requested


def build_trainer(plan: Plan, run_dir: Path) -> RLVRTrainer:
    """Return the trainer of a checked plan, ready for its first step; claim ``run_dir`` for it."""
    recipe = plan.recipe
    args = training_arguments(recipe, run_dir)
    _require_world(args)
    set_seed(args.seed)
    if runtime.is_main():
        claim_run(run_dir, recipe)
    rows = load_rows(recipe.data, "data")
    check_columns(plan.rewards, rows[0])
    tokenizer = load_tokenizer(recipe.model)
    with loading_whole(args) as device:
        policy = load_policy(recipe.model, device)
    base_weights = fingerprint(policy.named_parameters())
    mask = _make_mask(plan, policy, base_weights, run_dir)
    every = recipe.geometry.every
    watched = [GeometryCallback(policy, plan.targets, every)] if every > 0 else []
    model, start_gap = _make_trainable(plan, policy, mask)
    if recipe.run.deterministic:
        # Only now: finding a mask's threshold has no deterministic CUDA kernel, and needs none.
        runtime.make_deterministic(args.seed)
    base = BaseWeights(model, {} if mask is None else mask)
    guard = Guard(model, mask, base)
    if runtime.is_main():
        provenance = _provenance(args, base_weights, mask, start_gap)
        provenance["weights"] = _weights(plan)
        write_json(run_dir / "provenance.json", provenance)
    return RLVRTrainer(
        model=model,
        args=args,
        rows=rows,
        rewards=plan.rewards,
        tokenizer=tokenizer,
        run=recipe.run,
        optimizer=recipe.optimizer,
        run_dir=run_dir,
        mask=mask,
        base=base,
        guard=guard,
        callbacks=[GuardCallback(guard), *watched, MetricsCallback(run_dir), ProgressCallback()],
    )


def _require_world(args: Any) -> None:
    """Refuse the launcher that starts N processes which do not know of each other."""
    if args.world_size != runtime.world_size():
        raise RecipeError(
            f"the launcher started {runtime.world_size()} processes and accelerate sees "
            f"{args.world_size}; start with one of the files in launch/"
        )


def _make_mask(
    plan: Plan, policy: PreTrainedModel, base_weights: str, run_dir: Path
) -> Mask | None:
    if plan.mask is None:
        return None
    spec, path = plan.mask, run_dir / "mask.safetensors"
    parameters = dict(policy.named_parameters())
    check_base(spec, base_weights)

    def build() -> Mask:
        provenance = {"spec": spec.to_dict(), "base_weights": base_weights}
        if path.is_file():
            # A resumed run keeps its mask: another machine's SVD may round a few entries away.
            kept = Mask.load(path)
            if provenance.items() <= kept.provenance.items():
                return kept
        runtime.say(f"building the {spec.builder} mask of {len(plan.targets)} matrices")
        mask = build_mask(spec, ((name, parameters[name]) for name in plan.targets), provenance)
        mask = mask.with_dense({name: parameters[name].shape for name in plan.also_train})
        mask.save(path)
        return mask

    mask = runtime.from_main(build)
    runtime.say(f"mask density {mask.density():.2%}, fingerprint {mask.fingerprint()[:12]}")
    return mask


def _make_trainable(
    plan: Plan, policy: PreTrainedModel, mask: Mask | None
) -> tuple[PreTrainedModel | PeftModel, float]:
    """Return the model whose trainable parameters the recipe asks for, and its start gap."""
    if plan.recipe.adapter is not None:
        model, gap = attach_adapter(policy, plan.recipe.adapter, list(plan.targets))
        for name, parameter in policy.named_parameters():
            if any(name.endswith(extra) for extra in plan.also_train):
                parameter.requires_grad_(True)
        return model, gap
    choose_trainable(policy, [*plan.targets, *plan.also_train])
    return policy, 0.0


def _weights(plan: Plan) -> str:
    """Return the dtype of the weights and, of a masked bf16 run, how they take an update."""
    dtype = plan.recipe.model.dtype
    if plan.mask is None or dtype == "float32":
        return dtype
    updates = {"master": "float32 masters", "stochastic": "stochastic rounding"}
    return f"{dtype}, {updates[plan.recipe.optimizer.bf16_update]}"


def _provenance(
    args: Any, base_weights: str, mask: Mask | None, start_gap: float
) -> dict[str, Any]:
    return {
        "base_weights": base_weights,
        "rlvr": __version__,
        "git_commit": runtime.git_commit(),
        "versions": runtime.versions(),
        "machine": runtime.machine(),
        "mask": None if mask is None else mask.fingerprint(),
        "engine": engine_name(args),
        "processes": args.world_size,
        "precision": "bf16 autocast" if args.bf16 else "fp16 autocast" if args.fp16 else "fp32",
        "seed": args.seed,
        "start_logit_gap": start_gap,
    }
