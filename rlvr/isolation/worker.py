"""The process that runs one function on jobs from a pipe, under limits, and dies with its owner.

Started from exec, so that it inherits no thread, no lock and no device of the training process.
A message is four bytes of length and JSON.
"""

import ctypes
import importlib
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from typing import IO, Any

_PR_SET_PDEATHSIG = 1
MEGABYTE = 1 << 20


def send(stream: IO[bytes], message: object) -> None:
    content = json.dumps(message).encode()
    stream.write(struct.pack("!I", len(content)) + content)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Return the next message; ``EOFError`` when the other end is gone."""
    return json.loads(_exactly(stream, struct.unpack("!I", _exactly(stream, 4))[0]))


def _exactly(stream: IO[bytes], count: int) -> bytes:
    content = b""
    while len(content) < count:
        part = stream.read(count - len(content))
        if not part:
            raise EOFError
        content += part
    return content


def _die_with(parent: int) -> None:
    """Let the kernel kill this process when the thread that started it ends."""
    if sys.platform == "linux":
        # The signal follows the thread that started us, not its process.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent died before prctl: no signal will come.
    if os.getppid() != parent:
        os._exit(0)


def _load(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _resident() -> int:
    """Return the bytes in memory now; ``ru_maxrss`` would start at the peak of the parent."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def main(path: str, parent: int, memory_mb: int, confined: bool) -> None:
    """Serve ``path`` ("module:function") until the pipe closes."""
    _die_with(parent)
    # Ctrl-C goes to the whole terminal group; the owner decides what ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # The jobs' own prints must not reach the pipe.
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    quiet = os.open(os.devnull, os.O_RDWR)
    os.dup2(quiet, 0)
    os.dup2(quiet, 1)
    # Before the limit: the import itself may map more than a job may use.
    function = _load(path)
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb * MEGABYTE, memory_mb * MEGABYTE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if confined:
        from rlvr.isolation.jail.privileges import confine

        # Only now: imports read files and may write caches.
        confine()
    send(replies, "ready")
    # Only now: until "ready" the owner reads standard error to learn why a start failed.
    os.dup2(quiet, 2)
    while True:
        try:
            deadline_s, *arguments = receive(requests)
        except EOFError:
            return
        send(replies, "taken")
        # Even where the owner cannot kill: an alarm without a handler ends the process.
        signal.setitimer(signal.ITIMER_REAL, 2 * deadline_s + 1)
        try:
            reply = ["done", function(*arguments)]
        except MemoryError:
            reply = ["crashed", f"out of memory ({memory_mb} MB)"]
        except Exception as error:
            reply = ["crashed", f"{type(error).__name__}: {error}"[:200]]
        signal.setitimer(signal.ITIMER_REAL, 0)
        # A worker that keeps half of its limit leaves before a job fails for lack of memory.
        grown = _resident() > memory_mb * MEGABYTE / 2
        send(replies, [*reply, grown or reply[0] == "crashed"])
        if grown or reply[0] == "crashed":
            return
