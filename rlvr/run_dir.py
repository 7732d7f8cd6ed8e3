"""The run directory (contract C4): the only interface between train, evaluate and geometry."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rlvr.checkpoints.runs import newest_checkpoint
from rlvr.config import Recipe, resolve_recipe
from rlvr.files import write_json
from rlvr.schema import RecipeError, RunError

LOCK = ".lock"

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


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process; the kernel lets go of it when the process dies.

    A folder that holds nothing else afterwards is deleted again.

    Raises:
        RunError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = (folder / LOCK).read_text(encoding="utf-8").strip()
            raise RunError(
                f"{folder} is being written by another process ({holder}); wait for it or stop it"
            ) from None
        file.truncate(0)
        file.write(f"pid {os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            if [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
                folder.rmdir()


def is_locked(folder: Path) -> bool:
    """Whether a living process holds ``folder``."""
    if not (folder / LOCK).is_file():
        return False
    with open(folder / LOCK, encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _flat(content: dict[str, Any], prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    flat = {}
    for key, value in content.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, (*prefix, str(key))))
        else:
            flat[(*prefix, str(key))] = value
    return flat


def differences(run_dir: Path, recipe: Recipe) -> list[str]:
    """Return the dotted keys in which a run's recipe differs from ``recipe``.

    A key that is newer than the run had its default.
    """
    recorded = json.loads((run_dir / "recipe.json").read_text(encoding="utf-8"))
    with suppress(RecipeError):  # of a key that no longer exists: it is one of the differences
        recorded = resolve_recipe(recorded, "").to_dict()
    first, second = _flat(recorded), _flat(recipe.to_dict())
    keys = sorted(set(first) | set(second))
    return [".".join(k) for k in keys if k not in EXTENSIBLE and first.get(k) != second.get(k)]


def open_run(recipe: Recipe, *, resume: bool) -> tuple[Path, Path | None]:
    """Check the run directory and return it with the checkpoint to resume from, if any.

    Raises:
        RecipeError: it holds another recipe's run, or this one's and ``resume`` is false.
    """
    run_dir = Path(str(recipe.run.dir))
    recorded = run_dir / "recipe.json"
    if not recorded.is_file():
        if run_dir.exists() and any(path.name != LOCK for path in run_dir.iterdir()):
            raise RecipeError(f"run.dir: {run_dir} is not empty and holds no run; choose another")
        if resume:
            raise RecipeError(f"--resume: {run_dir} holds no run; start it without --resume")
        return run_dir, None
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
    return run_dir, newest_checkpoint(run_dir)


def claim_run(run_dir: Path, recipe: Recipe) -> None:
    """Write the resolved recipe, which makes the directory this recipe's."""
    write_json(run_dir / "recipe.json", recipe.to_dict())


def read_summary(run_dir: Path) -> dict[str, Any] | None:
    """Return the summary of a finished run, or ``None`` while it is not."""
    path = run_dir / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
