"""The checkpoints of a run: published whole or not at all, checked for damage, listed by step.

A checkpoint is written under a temporary name and renamed when it is complete, so whatever stands
under ``checkpoints/step-NNNNNN`` can be loaded, at whatever moment the process was killed.
"""

import json
import os
import shutil
from pathlib import Path

from rlvr import runtime
from rlvr.checkpoints.folders import ADAPTER, DELTA, EXPORT, LORA, weight_files
from rlvr.files import file_digest, read_sealed, sync_folder, write_json
from rlvr.schema import RecipeError

MANIFEST = "manifest.json"  # in each checkpoint: the SHA-256 of every file
_DELETED = ".deleted"  # the name of a checkpoint while its files are deleted


def step_folder(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step-{step:06d}"


def checkpoints(run_dir: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first."""
    return sorted((run_dir / "checkpoints").glob("step-[0-9]*"))


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def publish_checkpoint(temporary: Path, final: Path, keep: int | None) -> None:
    """Make a written checkpoint durable and visible; delete all but the newest ``keep``."""
    files = sorted(file for file in temporary.rglob("*") if file.is_file())
    manifest = {str(file.relative_to(temporary)): file_digest(file) for file in files}
    for file in files:
        with open(file, "rb") as handle:
            # Bytes before names: after a power cut the manifest must not vouch for holes.
            os.fsync(handle.fileno())
    write_json(temporary / MANIFEST, manifest)
    # os.replace cannot replace a folder that is not empty.
    hidden = [_hide(final)] if final.exists() else []
    os.replace(temporary, final)
    sync_folder(final.parent)
    # Deleted after the new one has its name: there is always one that can be loaded.
    for folder in hidden:
        shutil.rmtree(folder)
    if keep is not None:
        for old in checkpoints(final.parent.parent)[:-keep]:
            shutil.rmtree(_hide(old))


def _hide(folder: Path) -> Path:
    """Take a checkpoint's name from ``folder``, at once: nothing half deleted may keep it."""
    hidden = folder.with_name(_DELETED)
    if hidden.exists():
        shutil.rmtree(hidden)
    os.replace(folder, hidden)
    return hidden


def recover_checkpoints(run_dir: Path) -> None:
    """Finish what a killed process was doing to the checkpoints of a run.

    A checkpoint that lacks its final name only is published; one that was being written or deleted
    is deleted.
    """
    for temporary in (run_dir / "checkpoints").glob("checkpoint-[0-9]*"):
        step = temporary.name.removeprefix("checkpoint-")
        final = step_folder(run_dir, int(step)) if step.isdigit() else None
        # The manifest is written last, so an undamaged one is complete.
        if final is not None and not final.exists() and damage(temporary) is None:
            os.replace(temporary, final)
        else:
            shutil.rmtree(temporary)
    if (run_dir / "checkpoints" / _DELETED).is_dir():
        shutil.rmtree(run_dir / "checkpoints" / _DELETED)


def damage(folder: Path) -> str | None:
    """Return what is wrong with a published checkpoint, or ``None`` where every byte is there."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"{MANIFEST} is missing or unreadable"
    for name, digest in manifest.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if file_digest(folder / name) != digest:
            return f"{name} is not as it was written"
    return None


def newest_checkpoint(run_dir: Path) -> Path | None:
    """Return the newest undamaged checkpoint, or ``None`` where there are no checkpoints yet.

    Raises:
        RecipeError: there are checkpoints and every one is damaged.
    """
    folders = checkpoints(run_dir)
    for folder in reversed(folders):
        wrong = damage(folder)
        if wrong is None:
            return folder
        runtime.say(f"{folder} is damaged ({wrong}); trying the one before")
    if folders:
        raise RecipeError(
            f"{run_dir}: every checkpoint is damaged; remove checkpoints/ to start from the base"
        )
    return None


def require_newest(run_dir: Path) -> Path:
    """Return the newest undamaged checkpoint of a run.

    Raises:
        RecipeError: there is none.
    """
    newest = newest_checkpoint(run_dir)
    if newest is None:
        raise RecipeError(f"{run_dir}: holds no complete checkpoint; train it first")
    return newest


def exported_step(run_dir: Path) -> int | None:
    """Return the step of the policy in ``RUN/policy``; ``None`` where there is none."""
    summary = run_dir / "summary.json"
    if not (run_dir / EXPORT).is_dir() or not summary.is_file():
        return None
    return read_sealed(summary, "resume the run, which writes it again").get("step")


def checkpoint_bytes(checkpoint: Path) -> int:
    """Return the bytes of the files that make the base policy the trained one.

    That is a delta, else an adapter, else the whole weights.
    """
    if (checkpoint / DELTA).is_file():
        files = [checkpoint / DELTA]
    else:
        folder = next((checkpoint / f for f in (LORA, ADAPTER) if (checkpoint / f).is_dir()), None)
        files = weight_files(checkpoint) if folder is None else list(folder.rglob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{checkpoint}: holds neither a delta, an adapter nor weights")
    return sum(file.stat().st_size for file in files)
