"""Files and folders that are complete under their name, or absent, whenever the process ends."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlvr.schema import RecipeError


def _sync(path: Path) -> None:
    # A folder can be synced only through a descriptor that was opened for reading.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_absent(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise RecipeError(f"{out}: exists already; delete it or choose another name")


def leftovers(out: Path) -> list[Path]:
    """Return what killed processes left under temporary names in the folder of ``out``."""
    return sorted(out.parent.glob(f".{out.name}.*.partial"))


@contextmanager
def published(out: Path) -> Iterator[Path]:
    """Give a temporary path to write a file or folder at; it becomes ``out`` when all went well.

    The bytes are on disk before the name is. On an error what was written is deleted.

    Raises:
        RecipeError: ``out`` exists.
    """
    require_absent(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder: a rename across file systems would copy.
    temporary = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        yield temporary
        for path in (*temporary.rglob("*"), temporary):
            _sync(path)
        require_absent(out)
        # Asked again just before: os.replace would overwrite a file that came meanwhile.
        os.replace(temporary, out)
        # The name itself is an entry of the folder.
        _sync(out.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)
