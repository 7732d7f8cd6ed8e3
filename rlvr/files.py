"""Files that are complete under their name or absent, whenever the process ends; no torch."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write a file at, which then takes the name ``path``.

    ``path`` holds either the old or the new file, never half; on an error what was written is
    deleted.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` whole or not at all; folders on the way are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: object) -> None:
    """Write ``content`` as text whole or not at all; folders on the way are made."""
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def amend_json(path: Path, **changes: object) -> None:
    """Set keys of a JSON object on disk; a missing file counts as an empty object."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_json(path, content | changes)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the complete rows of ``path``; a last line cut short by a kill is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
