"""A folder that one process at a time writes to."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rlvr.schema import RunError

try:
    import fcntl
except ImportError:  # this system has no file locks
    fcntl = None

LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process; the kernel lets go of it when the process dies.

    On a filesystem without locks two processes are not kept apart. A folder that holds nothing
    else afterwards is deleted again.

    Raises:
        RunError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a", encoding="utf-8") as file:
        # Opened with "a": the name of the holder must survive a failed attempt.
        if not _take(file, shared=False):
            raise RunError(
                f"{folder} is being written by another process ({_holder(folder)}); wait for it or "
                "stop it"
            )
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        try:
            yield
        finally:
            # A start that was refused leaves no empty folder behind.
            if [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
                folder.rmdir()


def is_locked(folder: Path) -> bool:
    """Whether a living process holds ``folder``."""
    if not (folder / LOCK).is_file():
        return False
    with open(folder / LOCK, encoding="utf-8") as file:
        return not _take(file, shared=True)


def _take(file: IO[str], *, shared: bool) -> bool:
    """Lock ``file`` until it is closed; false where another process holds it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # network filesystems may have no locks
    return True


def _holder(folder: Path) -> str:
    """Return who wrote the lock, and where that process is gone, who may hold it still."""
    holder = (folder / LOCK).read_text(encoding="utf-8").strip()
    words = holder.split()
    if len(words) == 4 and words[3] == socket.gethostname() and not _lives(int(words[1])):
        return f"{holder}, which has ended; a process that it started goes on"
    return holder


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it lives and is another user's
    return True
