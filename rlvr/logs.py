"""``metrics.jsonl`` and ``rollouts.jsonl`` of a run: what a checkpoint knows of them.

Each checkpoint records how many bytes of them belong to its steps, and their hash. A resumed run
cuts them there, so that steps which are taken again have one row, and sees rows that were lost.
"""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from rlvr.checkpoints.runs import checkpoints, step_of
from rlvr.files import (
    damaged,
    json_object,
    read_json,
    read_jsonl,
    replacing,
    write_bytes,
    write_json,
)

LOGS = ("metrics.jsonl", "rollouts.jsonl")
RECORD = "logs.json"  # in a checkpoint: bytes, rows and SHA-256 of each log at its step


def record_logs(run_dir: Path, checkpoint: Path) -> None:
    """Write into a checkpoint which part of the logs belongs to it; the logs reach the disk."""
    record = {}
    for path in (run_dir / name for name in LOGS):
        if path.is_file():
            with open(path, "rb") as file:
                # The log must reach the disk before the record that counts its rows.
                os.fsync(file.fileno())
            content = path.read_bytes()
            record[path.name] = _describe(content)
    write_json(checkpoint / RECORD, record)


def _describe(content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    return {"bytes": len(content), "rows": content.count(b"\n"), "sha256": digest}


def _is_whole(content: bytes, expected: dict[str, Any]) -> bool:
    size = expected["bytes"]
    return len(content) >= size and _describe(content[:size]) == expected


def restore_logs(run_dir: Path, checkpoint: Path | None) -> list[str]:
    """Cut the logs to the steps of ``checkpoint``; return a line for each that lost rows.

    Rows that can still be read are kept, and the damaged file is kept as ``NAME.damaged``. Without
    a checkpoint the run begins anew, and so do its logs.
    """
    record = _recorded(checkpoint)
    lost = []
    for path in (run_dir / name for name in LOGS):
        content = path.read_bytes() if path.is_file() else b""
        expected = _describe(b"") if checkpoint is None else record.get(path.name)
        if expected is not None and _is_whole(content, expected):
            if len(content) > expected["bytes"]:
                # Rows after the checkpoint belong to steps that are taken again.
                os.truncate(path, expected["bytes"])
        elif content or (expected is not None and expected["rows"]):
            assert checkpoint is not None  # no bytes at all are always there
            kept = _readable(content, path.name, step_of(checkpoint))
            if expected is not None:
                lost.append(_keep_damaged(path, len(kept), expected["rows"]))
            write_bytes(path, b"".join(kept))
    return lost


def _recorded(checkpoint: Path | None) -> dict[str, dict[str, Any]]:
    if checkpoint is None or not (checkpoint / RECORD).is_file():
        return {}  # checkpoints of earlier versions hold none
    return read_json(checkpoint / RECORD, "resume from the checkpoint before: delete this one")


def _readable(content: bytes, name: str, step: int) -> list[bytes]:
    """Return the lines that are rows of steps up to ``step``."""
    lines = content.split(b"\n")[:-1]  # a kill cuts the last line short
    return [line + b"\n" for line in lines if _is_before(json_object(line), name, step)]


def _is_before(row: dict[str, Any] | None, name: str, step: int) -> bool:
    at = None if row is None else row.get("step")
    if not isinstance(at, int):
        return False
    # A metric is logged when its step has ended, a rollout when its step begins.
    return at <= step if name == "metrics.jsonl" else at < step


def _keep_damaged(path: Path, kept: int, rows: int) -> str:
    copy = path.with_name(f"{path.name}.damaged")
    if path.is_file():
        with replacing(copy) as temporary:
            shutil.copyfile(path, temporary)
    return (
        f"{path}: damaged; {kept} of {rows} rows can be read and are kept, though a value in them "
        f"may have changed (the file as it was: {copy.name}). Training loses nothing by it; put "
        "a copy of the file in its place if you have one"
    )


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Return the rows of ``metrics.jsonl``, none of which is missing.

    Raises:
        RecipeError: rows that the newest checkpoint recorded are gone or changed.
    """
    path = run_dir / "metrics.jsonl"
    newest = checkpoints(run_dir)[-1:]
    expected = _recorded(newest[0]).get(path.name) if newest else None
    told = path.with_name(f"{path.name}.damaged").is_file()
    if expected is not None and not told:
        content = path.read_bytes() if path.is_file() else b""
        if not _is_whole(content, expected):
            raise damaged(
                path,
                f"{newest[0].name} recorded {expected['rows']} rows, and they are not these",
                "take it from a copy, or --resume its run, which keeps the rows that can be read",
            )
    return read_jsonl(path)
