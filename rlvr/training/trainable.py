"""What a run trains: its mask, or its adapter, made once and kept in the run directory."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from rlvr import runtime
from rlvr.adapters import Adapter, attach_adapter, base_weights, describe
from rlvr.checkpoints.fingerprints import fingerprint_values
from rlvr.masks import Mask, build_mask, check_built_from
from rlvr.policy import choose_trainable
from rlvr.precision import Precision
from rlvr.provenance import add_to_provenance, read_provenance
from rlvr.schema import RecipeError, RunError
from rlvr.training.plan import Plan


def make_mask(
    plan: Plan, policy: PreTrainedModel, base_hash: str, run_dir: Path, device: torch.device
) -> Mask | None:
    """Build the recipe's mask, or read that of the run; the main process does it for all.

    Raises:
        RecipeError: the recipe's mask file was built from other base weights.
    """
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


def make_trainable(
    plan: Plan,
    policy: PreTrainedModel,
    base_hash: str,
    run_dir: Path,
    seed: int,
    precision: Precision,
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
        seed=seed,
        base_hash=base_hash,
        run_dir=run_dir,
        precision=precision,
    )
    runtime.say(f"adapter at the start, initial factors {adapter.start['initial'][:12]}")
    runtime.say(describe(adapter.start["matrices"]))
    return adapter


def require_same_base(adapter: Adapter, run_dir: Path) -> None:
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
