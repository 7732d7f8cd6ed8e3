"""The exported policy of a run, ``policy/``: a plain checkpoint that computes the trained policy.

A checkpoint of a run holds the masters, from which training goes on. They are the trained policy
only in the precision of the run, and ``from_pretrained`` computes in the precision that a file is
stored in. So the export is stored in the dtype which computes the trained policy:

* bfloat16 where the run computes in bfloat16, by autocast or with its weights;
* float32 where the run computes in float32;
* float32 for an adapter, whatever the run computes in: the product of two bfloat16 factors has
  updates far below the rounding of W0, which bfloat16 weights would lose. The factors are rounded
  as the run rounds them.

Configuration, tokenizer and generation settings are the base's own files. At its last checkpoint
the run stores the log-probabilities of some completions (``TRAINED_LOGPS``); the export must give
them again.
"""

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from rlvr.adapters import attach_adapter, load_adapter, policy_weights
from rlvr.checkpoints.folders import DELTA, EXPORT, model_folder
from rlvr.config import ModelSection, Recipe
from rlvr.delta import pack, policy_folder
from rlvr.delta.publish import published
from rlvr.eval.gap import LogProbGap, ScoredTokens
from rlvr.policy import load_policy
from rlvr.precision import Precision, dtype_name
from rlvr.provenance import read_provenance
from rlvr.schema import RecipeError
from rlvr.targets import resolve_targets
from rlvr.training.checkpoint_files import restore_files

TRAINED_LOGPS = "trained_logps.safetensors"


def export_dtype(recipe: Recipe, precision: Precision) -> torch.dtype:
    """Return the dtype in which the export of a run is stored."""
    return precision.computed if recipe.adapter is None else torch.float32


def run_precision(run_dir: Path) -> Precision:
    """Return the precision that a run recorded in its provenance."""
    provenance = read_provenance(run_dir)
    return Precision.from_dict(provenance["precision"])


def export_policy(recipe: Recipe, run_dir: Path, checkpoint: Path) -> Path:
    """Write the policy of a run's checkpoint to ``run_dir/policy`` and return that folder."""
    out = run_dir / EXPORT
    if out.exists():
        shutil.rmtree(out)  # of a run that has gone on since
    with published(out) as temporary:
        write_policy(recipe, run_dir, checkpoint, temporary)
    return out


def store_as_delta(recipe: Recipe, run_dir: Path) -> bool:
    """Replace ``policy/`` by its delta against the base, ``policy.delta``, where there is one.

    Return false, and keep the folder, where the base is stored wider than the export: no delta of
    the export gives such a base back.
    """
    file = run_dir / DELTA
    file.unlink(missing_ok=True)
    model: dict[str, Any] = {"path": recipe.model.path, "revision": recipe.model.revision}
    try:
        pack(model_folder(**model), run_dir / EXPORT, file, {"model": model})
    except RecipeError:
        return False
    shutil.rmtree(run_dir / EXPORT)
    return True


@contextmanager
def exported(recipe: Recipe, run_dir: Path, checkpoint: Path) -> Iterator[Path]:
    """Give the policy of a checkpoint on the way as a folder, which is deleted afterwards."""
    folder = run_dir / f".{EXPORT}-{checkpoint.name}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        write_policy(recipe, run_dir, checkpoint, folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def export_gap(folder: Path, checkpoint: Path) -> LogProbGap | None:
    """Return how far the export, loaded as a user loads it, is from the trained policy.

    ``None`` for a checkpoint that no run ended with.
    """
    file = checkpoint / TRAINED_LOGPS
    if not file.is_file():
        return None
    # The base's own settings beside it may be some that transformers refuses.
    policy = AutoModelForCausalLM.from_pretrained(folder, generation_config=GenerationConfig())
    policy = policy.eval()
    return ScoredTokens.load(file).gap_of(policy)


def write_policy(recipe: Recipe, run_dir: Path, checkpoint: Path, out: Path) -> None:
    """Write the policy of a run's checkpoint into the folder ``out``."""
    precision = run_precision(run_dir)
    dtype = export_dtype(recipe, precision)
    model, state = _trained(recipe, run_dir, checkpoint, precision, dtype)
    model.save_pretrained(out, state_dict=state)
    base = model_folder(recipe.model.path, recipe.model.revision)
    restore_files(base, out, dtype_name(dtype))


def _trained(
    recipe: Recipe, run_dir: Path, checkpoint: Path, precision: Precision, dtype: torch.dtype
) -> tuple[PreTrainedModel, dict[str, torch.Tensor] | None]:
    """Return a model that names the weights, and the weights where they are not its own."""
    section = recipe.model
    if recipe.adapter is None:
        folder = policy_folder(checkpoint)
        return load_policy(_section(section, folder, dtype)), None
    base = load_policy(section)
    provenance = read_provenance(run_dir)
    adapter = attach_adapter(
        base,
        recipe.adapter,
        list(resolve_targets(base, section.targets)),
        seed=int(provenance["seed"]),
        base_hash=provenance["base_weights"],
        run_dir=run_dir,
    )
    load_adapter(adapter, checkpoint)
    # Autocast rounds the factors in each product; the export rounds them the same way.
    computed = precision.autocast or torch.float32
    weights = policy_weights(adapter.model, stored=dtype, computed=computed)
    plain: Any = adapter.model.get_base_model()
    # Cloned: `policy_weights` reuses its buffers from one tensor to the next.
    return plain, {name: weight.cpu().clone() for name, weight in weights}


def _section(section: ModelSection, folder: Path, dtype: torch.dtype) -> ModelSection:
    word: Any = dtype_name(dtype)
    return dataclasses.replace(section, path=str(folder), revision=None, dtype=word)
