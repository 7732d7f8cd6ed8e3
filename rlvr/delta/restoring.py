"""Apply and revert: the XOR is its own inverse, so one file goes both ways.

A run directory stands for its newest masters. Its checkpoints may hold them as a delta against the
run's base (``run.checkpoint: delta``); ``policy_folder`` makes a folder of whole weights from it.
"""

import shutil
from pathlib import Path

from rlvr.checkpoints.companions import restore_companions
from rlvr.checkpoints.delta import base_of
from rlvr.checkpoints.delta_file import FILES, Delta, read_delta
from rlvr.checkpoints.folders import ADAPTER, DELTA, EXPORT, INDEX, is_run
from rlvr.checkpoints.layout import (
    fingerprint_bits,
    fingerprint_folder,
    read_layout,
    safetensors_files,
)
from rlvr.checkpoints.runs import require_newest
from rlvr.delta.publish import published, require_absent
from rlvr.delta.turning import turn_file, turned_layout, write_index
from rlvr.schema import RecipeError, RunError

APPLIED = ".applied"  # in a run: a delta made whole for a reader; it can always be deleted


def apply(base: Path, delta: Path, out: Path) -> None:
    """Write the checkpoint folder ``out``: the tuned checkpoint, from its base and the delta.

    Raises:
        RecipeError: the delta is damaged or of another base, or ``out`` exists.
        RunError: the result is not the tuned checkpoint bit for bit; nothing is left.
    """
    _turn(base, delta, out, "base", "tuned")


def revert(tuned: Path, delta: Path, out: Path) -> None:
    """Write the checkpoint folder ``out``: the base, from the tuned checkpoint and the delta.

    Raises:
        RecipeError: the delta is damaged or of another checkpoint, or ``out`` exists.
        RunError: the result is not the base bit for bit; nothing is left.
    """
    _turn(tuned, delta, out, "tuned", "base")


def _turn(source: Path, delta_path: Path, out: Path, given: str, wanted: str) -> None:
    require_absent(out)  # before the minutes that reading takes
    to_tuned = wanted == "tuned"
    delta = read_delta(delta_file(delta_path))
    folder = checkpoint_folder(source)
    layout = read_layout(folder)
    # All bytes of the source are hashed first: XOR with another base gives plausible noise.
    _require_source(delta, folder, fingerprint_folder(layout), given, wanted)
    with published(out) as temporary:
        temporary.mkdir()
        digests = {}
        for file in safetensors_files(folder):
            digests |= turn_file(file, delta, temporary / file.name, to_tuned=to_tuned)
        turned = turned_layout(layout, delta, to_tuned=to_tuned)
        # Inside `published`: on an error the temporary folder goes, and OUT never appears.
        if fingerprint_bits(turned, digests) != delta.header[wanted]:
            raise RunError(
                f"{out}: the result is not the {wanted} checkpoint of {delta.path} bit for bit; "
                "nothing was kept. Was a file changed meanwhile? Run it again"
            )
        if (folder / INDEX).is_file():
            write_index(folder, temporary, turned)
        rows = delta.header["files"]
        restore_companions(folder, temporary, rows, delta.read(FILES), to_tuned)


def _require_source(delta: Delta, folder: Path, held: str, given: str, wanted: str) -> None:
    if held == delta.header[given]:
        return
    if held == delta.header[wanted]:
        verb = "revert" if wanted == "tuned" else "apply"
        raise RecipeError(
            f"{folder}: already the {wanted} checkpoint of {delta.path}; "
            f"`rlvr delta {verb}` goes the other way"
        )
    raise RecipeError(
        f"{folder}: not the {given} checkpoint of {delta.path} (weights {held[:12]}, expected "
        f"{delta.header[given][:12]}); it was packed from {delta.header['provenance'][given]}"
    )


def delta_file(path: Path) -> Path:
    """Return ``path``, or the delta in it where it is a run directory or one of its checkpoints.

    The delta of a finished run is that of its exported policy.
    """
    if (path / DELTA).is_file():
        return path / DELTA
    # A run that has not ended has no delta of its own yet; its newest checkpoint may.
    checkpoint = require_newest(path) if is_run(path) else path
    return checkpoint / DELTA if (checkpoint / DELTA).is_file() else path


def checkpoint_folder(path: Path) -> Path:
    """Return ``path``, or where it is a run directory its newest masters as a folder of weights.

    A run with an adapter is read from its exported policy.
    """
    if not is_run(path):
        return path
    newest = require_newest(path)
    return exported_policy(path) if (newest / ADAPTER).is_dir() else policy_folder(newest)


def exported_policy(run_dir: Path) -> Path:
    """Return the folder of the policy that a run exported at its end; a delta is applied.

    Raises:
        RecipeError: the run has not ended, or the base of its delta is not here.
    """
    if (run_dir / EXPORT).is_dir():
        return run_dir / EXPORT
    if (run_dir / DELTA).is_file():
        return _applied(run_dir / DELTA, run_dir / APPLIED / EXPORT)
    raise RecipeError(
        f"{run_dir}: has no {EXPORT}, which a run writes at its end; go on with it by --resume"
    )


def policy_folder(checkpoint: Path) -> Path:
    """Return a folder with the whole weights of a run's checkpoint that has no adapter.

    A delta is applied to the run's base, and the result stands in the run directory until another
    takes its place or ``discard_applied`` deletes it.

    Raises:
        RecipeError: the base is not here, or is not the one that the run started from.
    """
    if not (checkpoint / DELTA).is_file():
        return checkpoint
    return _applied(checkpoint / DELTA, checkpoint.parent.parent / APPLIED / checkpoint.name)


def _applied(file: Path, out: Path) -> Path:
    delta = read_delta(file)
    if not _is_applied(out, delta):
        # At most one whole copy a run: the weights of a large model fill a disk.
        discard_applied(out.parent.parent)
        apply(base_of(delta), delta.path, out)
    return out


def discard_applied(run_dir: Path) -> None:
    """Delete the whole weights that ``policy_folder`` made; the checkpoints have them as deltas."""
    if (run_dir / APPLIED).is_dir():
        shutil.rmtree(run_dir / APPLIED)


def _is_applied(folder: Path, delta: Delta) -> bool:
    if not folder.is_dir():
        return False
    try:
        return fingerprint_folder(read_layout(folder)) == delta.header["tuned"]
    except RecipeError:
        return False
