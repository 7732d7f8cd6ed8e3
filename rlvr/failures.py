"""How a process that cannot go on says why: one line, once, and to its launcher too."""

import errno
import io
import json
import os
import re
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rlvr.schema import RecipeError, RunError

# Where the launcher (torch.distributed.run) reads why a process failed, and prints it last.
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
SHARED = "on_every_rank"  # an attribute of an error that every process of the run raises

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_ACCESS = {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.ENXIO}
# torch.save and safetensors raise no OSError: torch loses the reason, safetensors keeps its number.
_TORCH_WRITER = re.compile(r"inline_container\.cc|PytorchStreamWriter|iostream error")
_OS_NUMBER = re.compile(r"\(os error (\d+)\)")
_LOST_PEER = re.compile(r"closed by peer|reset by peer|gloo|NCCL|TCPStore|ProcessGroup", re.I)


class DiskError(RunError):
    """A write that the disk refused; whatever was complete before is still there."""


def write_failure(error: Exception, place: Path) -> int | None:
    """Return the number of the system error that stopped a write; ``None`` for other errors.

    A refused access counts where it is at or below ``place``. torch does not tell the number; a
    write of its that fails is taken for a lack of space.
    """
    text = str(error)
    if isinstance(error, OSError):
        root = place if place.is_dir() else place.parent
        path = _path(error, place)
        # A refused access elsewhere, such as to a cache, is another error.
        known = _NO_SPACE | (_NO_ACCESS if root.absolute() in (path, *path.parents) else set())
        return error.errno if error.errno in known else None
    number = _OS_NUMBER.search(text)
    if type(error).__name__ == "SafetensorError" and number:
        return int(number[1])
    if isinstance(error, RuntimeError) and _TORCH_WRITER.search(text):
        return errno.ENOSPC
    return None


@contextmanager
def explained_writes(place: Path, needed: Callable[[], int] | None = None) -> Iterator[None]:
    """Turn an error of the disk in the body into one line: the path, the bytes needed and free.

    Args:
        place: the file that the body writes, or the folder that it writes into.
        needed: returns the bytes of what the body writes; called after an error only.

    Raises:
        DiskError: the disk is full, read-only, or refuses in another way.
    """
    try:
        yield
    except (RecipeError, RunError):
        raise
    except Exception as error:
        number = write_failure(error, place)
        if number is None:
            raise
        path = _path(error, place) if place.is_dir() else place
        raise DiskError(_explain(path, number, needed)) from error


def _path(error: Exception, place: Path) -> Path:
    """Return the path that ``error`` names, else ``place``."""
    return Path(os.fsdecode(getattr(error, "filename", None) or place)).absolute()


def _explain(path: Path, number: int, needed: Callable[[], int] | None) -> str:
    if number not in _NO_SPACE:
        return f"{path}: cannot be written ({os.strerror(number)}); make the place writable"
    size = f"it needs about {needed():,} bytes and " if needed is not None else ""
    return (
        f"{path}: could not be written whole ({os.strerror(number)}); {size}{_free(path):,} "
        "bytes are free there. Make room, or lift the limit on the size of files"
    )


def _free(path: Path) -> int:
    """Return the bytes that the disk of ``path`` has left."""
    # The folder may not exist yet; its nearest parent is on the same disk.
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def report(error: Exception, code: int) -> int:
    """Print why this process ends, tell its launcher, and return ``code``.

    Where every process has the error, the first one on this machine prints it.
    """
    message = f"error: {error}"
    told = _tell_launcher(message)
    everywhere = isinstance(error, RecipeError) or getattr(error, SHARED, False)
    if not (everywhere and told and os.environ.get("LOCAL_RANK", "0") != "0"):
        rank = os.environ.get("RANK", "0")
        print(message if rank == "0" else f"rank {rank}: {message}", file=sys.stderr, flush=True)
    return code


def _tell_launcher(message: str) -> bool:
    """Write the message where the launcher looks for it; false where nobody looks."""
    path = os.environ.get(ERROR_FILE)
    if not path:
        return False
    trace = {"py_callstack": message, "timestamp": str(int(time.time()))}
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"message": {"message": message, "extraInfo": trace}}, file)
    except OSError:
        return False
    return True


def is_lost_peer(error: Exception) -> bool:
    """Tell whether a process failed only because another one of its group did."""
    by_name = type(error).__name__.startswith("Dist")
    by_text = isinstance(error, RuntimeError) and _LOST_PEER.search(str(error)) is not None
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and (by_name or by_text)


def report_crash(error: Exception) -> int:
    """Tell the launcher of an error that nobody foresaw, and raise it again.

    A process that failed only because another one of its group did says so in a line instead.
    """
    if is_lost_peer(error):
        return report(RunError("stopped, because another process did; its message says why"), 1)
    _tell_launcher("".join(traceback.format_exception(error)))
    raise error


def steady_streams() -> None:
    """Let every text reach a terminal or pipe, whatever characters its encoding has."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
