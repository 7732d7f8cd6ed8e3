"""Files that are complete under their name or absent, whenever the process ends; no torch."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rlvr.failures import explained_writes
from rlvr.schema import RecipeError

SEAL = "sha256"  # the key under which a sealed file holds the hash of its other keys


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write a file at, which then takes the name ``path``.

    ``path`` holds either the old or the new file, never half; on an error what was written is
    deleted.

    Raises:
        DiskError: the disk refused the file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with explained_writes(path):
        try:
            yield temporary
            with open(temporary, "rb") as file:
                # Bytes before the name: after a power cut the new name must not stand for an empty
                # file.
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with suppress(OSError):  # where the folder cannot be written there is nothing either
                temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` whole or not at all; folders on the way are made."""
    with explained_writes(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, explained_writes(path, lambda: len(content)):
        temporary.write_bytes(content)


def write_json(path: Path, content: object) -> None:
    """Write ``content`` as text whole or not at all; folders on the way are made."""
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` with its own SHA-256, by which ``read_sealed`` knows a changed file."""
    plain = json.loads(json.dumps(content))  # as it will be read: with text as keys
    write_json(path, {**plain, SEAL: _seal(plain)})


def read_sealed(path: Path, fix: str) -> dict[str, Any]:
    """Return what ``write_sealed`` wrote; a file of earlier versions, without a seal, as it is.

    Raises:
        RecipeError: the file is cut short or changed; the message ends in ``fix``.
    """
    content = read_json(path, fix)
    if not isinstance(content, dict):
        raise damaged(path, "it holds no mapping", fix)
    seal = content.pop(SEAL, None)
    if seal is not None and seal != _seal(content):
        raise damaged(path, "it is not as it was written", fix)
    return content


def read_json(path: Path, fix: str) -> Any:
    """Return the JSON of ``path``.

    Raises:
        RecipeError: it cannot be read, or is no JSON; the message ends in ``fix``.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise damaged(path, str(error), fix) from error


def damaged(path: Path, reason: str, fix: str) -> RecipeError:
    return RecipeError(f"{path}: damaged ({reason}); {fix}")


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the complete rows of ``path``; a last line cut short by a kill is left out.

    Raises:
        RecipeError: a line is no JSON object.
    """
    if not path.is_file():
        return []
    rows = []
    # Without the last part: empty after a newline, or cut short by a kill.
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        if not line:
            continue
        row = json_object(line)
        if row is None:
            raise damaged(
                path,
                f"line {number} is no JSON object",
                "take it from a copy, or --resume its run, which keeps the rows that can be read",
            )
        rows.append(row)
    return rows


def json_object(line: bytes) -> dict[str, Any] | None:
    """Return the object of one line, or ``None`` where it holds something else."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` survive a power cut, as ``fsync`` does the bytes of a file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
