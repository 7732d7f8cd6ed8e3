"""The run directory (contract C4): the only interface between train, evaluate and geometry."""

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlvr import runtime
from rlvr.checkpoints.runs import checkpoints, newest_checkpoint, recover_checkpoints
from rlvr.config import Recipe, resolve_recipe
from rlvr.files import damaged, read_json, read_sealed, write_json
from rlvr.locks import LOCK
from rlvr.provenance import read_provenance, recipe_digest
from rlvr.schema import RecipeError

# May differ when a run is resumed: how long it goes on, what it keeps and where it reports to.
EXTENSIBLE = {
    ("trainer", "max_steps"),
    ("trainer", "num_train_epochs"),
    ("trainer", "save_steps"),
    ("trainer", "save_total_limit"),
    ("trainer", "report_to"),
    ("geometry", "every"),
    ("run", "dir"),
    ("run", "checkpoint"),
    ("run", "max_unverified"),
}
# May differ too, where provenance.json holds the hash of what they name: a resume compares that.
BY_CONTENT = {
    ("model", "path"): "base_weights",
    ("model", "revision"): "base_weights",
    ("data", "path"): "rows_sha256",
}
# Schedules under which no step's learning rate depends on how many steps follow.
OPEN_ENDED = {"constant", "constant_with_warmup", "inverse_sqrt", "reduce_lr_on_plateau"}
# What a start writes before its first step: it may be cleared where no step was taken.
BEFORE_STEPS = {
    *("recipe.json", "provenance.json", "mask.safetensors", "initial_adapter.safetensors"),
    *("metrics.jsonl", "rollouts.jsonl", "tensorboard", "checkpoints", LOCK),
}
_TEMPORARY = re.compile(r"\..+\.\d+(\.partial)?")  # of a write that a kill cut short


def _flat(content: dict[str, Any], prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    flat = {}
    for key, value in content.items():
        # An empty mapping is a value of its own.
        if isinstance(value, dict) and value:
            flat.update(_flat(value, (*prefix, str(key))))
        else:
            flat[(*prefix, str(key))] = value
    return flat


def recorded_recipe(run_dir: Path) -> dict[str, Any]:
    """Return the resolved recipe of a run, from ``provenance.json`` if ``recipe.json`` is damaged.

    Raises:
        RecipeError: neither can be read.
    """
    copy = read_provenance(run_dir).get("recipe")
    try:
        return _read_recipe(run_dir)
    except RecipeError:
        if copy is None:
            raise
        return copy


def _read_recipe(run_dir: Path) -> dict[str, Any]:
    path, digests = run_dir / "recipe.json", read_provenance(run_dir).get("recipe_sha256", [])
    fix = "take it from a copy of the run, or choose another run.dir"
    recorded = read_json(path, fix)
    if not isinstance(recorded, dict) or (digests and recipe_digest(recorded) not in digests):
        raise damaged(path, "it is not as it was written", fix)
    return recorded


def _restore_recipe(run_dir: Path) -> None:
    """Write ``recipe.json`` again from its copy in ``provenance.json``, where it is damaged."""
    try:
        _read_recipe(run_dir)
    except RecipeError as error:
        write_json(run_dir / "recipe.json", recorded_recipe(run_dir))
        runtime.say(f"{error.args[0].split(';')[0]}; restored from the copy in provenance.json")


def _changed(run_dir: Path, recipe: Recipe) -> dict[tuple[str, ...], tuple[Any, Any]]:
    """Return each key in which a run's recipe differs from ``recipe``, with both values.

    A key that did not exist when the run started counts as its default.
    """
    recorded = recorded_recipe(run_dir)
    # Resolving fills in defaults of keys that are newer than the run.
    with suppress(RecipeError):  # of a key that no longer exists: it is one of the differences
        recorded = resolve_recipe(recorded, "").to_dict()
    first, second = _flat(recorded), _flat(recipe.to_dict())
    keys = sorted(set(first) | set(second))
    return {k: (first.get(k), second.get(k)) for k in keys if first.get(k) != second.get(k)}


def differences(run_dir: Path, recipe: Recipe) -> list[str]:
    """Return the dotted keys that forbid to resume a run with ``recipe``.

    The evaluation may change, and so may the place of what ``BY_CONTENT`` compares by its hash.
    """
    known = read_provenance(run_dir)
    compared = {key for key, fact in BY_CONTENT.items() if known.get(fact)}
    allowed = EXTENSIBLE | compared
    changed = _changed(run_dir, recipe)
    return [".".join(k) for k in changed if k not in allowed and k[0] != "eval"]


def is_summarised(run_dir: Path, recipe: Recipe) -> bool:
    """Tell whether the summary of a finished run is the one that ``recipe`` would write."""
    return not any(key[0] == "eval" or key in BY_CONTENT for key in _changed(run_dir, recipe))


def _require_schedule(run_dir: Path, recipe: Recipe) -> None:
    """Refuse another end where the learning rates of the steps taken depend on it."""
    changed = _changed(run_dir, recipe)
    schedule = recipe.trainer.get("lr_scheduler_type", "linear")
    by_share = 0 < recipe.trainer.get("warmup_steps", 0) < 1
    # A warmup as a share of all steps moves with their number.
    by_share = by_share or bool(recipe.trainer.get("warmup_ratio"))
    if schedule in OPEN_ENDED and not (schedule == "constant_with_warmup" and by_share):
        return
    by_steps = recipe.trainer.get("max_steps", -1) > 0
    for name in ("max_steps",) if by_steps else ("max_steps", "num_train_epochs"):
        if ("trainer", name) in changed:
            before, now = changed["trainer", name]
            raise RecipeError(
                f"trainer.{name}: {before} was changed to {now}, and under lr_scheduler_type "
                f"{schedule} the steps already taken would have had other learning rates; set it "
                f"back to {before}, or start another run (one with lr_scheduler_type constant can "
                "be extended)"
            )


def has_steps(run_dir: Path) -> bool:
    """Tell whether a run took steps that a new start would lose."""
    metrics = run_dir / "metrics.jsonl"
    return bool(checkpoints(run_dir)) or (metrics.is_file() and metrics.stat().st_size > 0)


def check_run(recipe: Recipe, *, resume: bool) -> None:
    """Refuse a run directory that this start may not write to; nothing is changed.

    Raises:
        RecipeError: it holds another recipe's run, or files that are no run, or this recipe's run
            while ``resume`` is false.
    """
    run_dir = Path(str(recipe.run.dir))
    if not has_steps(run_dir):
        names = {path.name for path in run_dir.iterdir() if not _TEMPORARY.fullmatch(path.name)}
        if names - BEFORE_STEPS:
            raise RecipeError(
                f"run.dir: {run_dir} is not empty and holds no run ({min(names - BEFORE_STEPS)}); "
                "choose another"
            )
        return
    changed = differences(run_dir, recipe)
    if changed:
        raise RecipeError(
            f"run.dir: {run_dir} already holds another recipe's run (they differ in "
            f"{', '.join(changed)}); choose another run.dir"
        )
    if not resume:
        raise RecipeError(
            f"run.dir: {run_dir} already holds a run of this recipe; add --resume to go on with "
            "it, or choose another run.dir"
        )
    _require_schedule(run_dir, recipe)


def open_run(recipe: Recipe, *, resume: bool) -> Path | None:
    """Tidy the run directory that this process holds; return the checkpoint to resume from, if any.

    A folder in which a killed start took no step is begun anew, with or without ``resume``.

    Raises:
        RecipeError: as ``check_run``.
    """
    run_dir = Path(str(recipe.run.dir))
    clear_leftovers(run_dir)
    check_run(recipe, resume=resume)
    if has_steps(run_dir):
        _restore_recipe(run_dir)
        return newest_checkpoint(run_dir)
    if {path.name for path in run_dir.iterdir()} - {LOCK}:
        runtime.say(f"{run_dir}: the start before took no step; the run begins anew")
    # Not the mask: it is checked against the base and may be kept.
    for name in ("recipe.json", "provenance.json", "initial_adapter.safetensors"):
        (run_dir / name).unlink(missing_ok=True)
    return None


def clear_leftovers(run_dir: Path) -> None:
    """Delete what killed processes left half written; publish a checkpoint that was whole."""
    recover_checkpoints(run_dir)
    for folder in (run_dir, run_dir / "eval"):
        if folder.is_dir():
            for path in folder.iterdir():
                if _TEMPORARY.fullmatch(path.name) and path.name != LOCK:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def require_writable(run_dir: Path, *, resume: bool) -> None:
    """Make the run directory and write a byte into it.

    Raises:
        RecipeError: it is no folder, cannot be written, or is to be resumed and is not there.
    """
    if resume and not run_dir.exists():
        raise RecipeError(f"--resume: {run_dir} holds no run; start it without --resume")
    fix = "choose another run.dir, or make this one writable"
    if run_dir.exists() and not run_dir.is_dir():
        raise RecipeError(f"run.dir: {run_dir} is a file; {fix}")
    # os.access lies on network filesystems and for root; a byte does not.
    probe = run_dir / f".probe.{os.getpid()}"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b".")
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise RecipeError(
            f"run.dir: {run_dir} cannot be written ({error.strerror}); {fix}"
        ) from error


def claim_run(run_dir: Path, recipe: Recipe) -> None:
    """Write the resolved recipe, which makes the directory this recipe's."""
    if (run_dir / "recipe.json").is_file() and has_steps(run_dir):
        # Deleted before the recipe changes: a summary must never belong to another recipe.
        if not is_summarised(run_dir, recipe):
            (run_dir / "summary.json").unlink(missing_ok=True)
    write_json(run_dir / "recipe.json", recipe.to_dict())


def read_summary(run_dir: Path) -> dict[str, Any] | None:
    """Return the summary of a finished run, or ``None`` while it is not, or where it is damaged."""
    path = run_dir / "summary.json"
    if not path.is_file():
        return None
    try:
        summary = read_sealed(path, "resume the run with --resume, which writes it again")
    except RecipeError as error:
        runtime.say(str(error))
        return None
    return summary if "step" in summary else None
