"""Which of the processes of a run are gone, where one of them is killed in the middle of a step.

The others learn it in two ways. Under gloo an exchange fails at once, with an error that names no
rank. Under NCCL an exchange waits, and the launcher ends the process in silence after half a
minute. So each process remembers the others of its machine, and a thread looks for them.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rlvr import runtime
from rlvr.failures import is_lost_peer
from rlvr.schema import RunError

PERIOD_S = 2.0
# How long a process that is still exchanging has to fail by itself before the thread ends it.
GRACE_S = 10.0


@contextmanager
def watched(advice: Callable[[], str]) -> Iterator[None]:
    """Run the body, and end it where a process of this machine is gone, with a line that names it.

    ``advice`` is what that line ends in: where to go on.

    Raises:
        RunError: the body failed because another process is gone.
    """
    ranks = _ranks_here()
    done = threading.Event()
    watch = threading.Thread(target=_watch, args=(ranks, done, advice), daemon=True)
    if len(ranks) > 1:
        watch.start()
    try:
        yield
    except Exception as error:
        if not is_lost_peer(error):
            raise
        raise RunError(_message(_wait_for_gone(ranks), advice)) from error
    finally:
        done.set()


def _ranks_here() -> dict[int, int]:
    """Return the process id of each rank on this machine; every rank must ask."""
    import torch

    mine = (runtime.rank(), socket.gethostname(), os.getpid())
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return {mine[0]: mine[2]}
    everyone: list[tuple[int, str, int]] = [mine] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, mine)
    return {rank: pid for rank, host, pid in everyone if host == mine[1]}


def gone(ranks: dict[int, int]) -> list[int]:
    """Return the ranks whose processes have ended."""
    return [rank for rank, pid in ranks.items() if not _lives(pid)]


def _lives(pid: int) -> bool:
    try:
        # The name of the program, in brackets, may hold spaces.
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        # No such process, or no /proc on this system: then nobody is taken for gone.
        return not Path("/proc/self/stat").exists()
    return state not in ("Z", "X")  # dead, and its launcher has not looked yet


def _wait_for_gone(ranks: dict[int, int]) -> list[int]:
    """Return who is gone; a killed process may close its connections before it is."""
    deadline = time.monotonic() + PERIOD_S
    while not (found := gone(ranks)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _message(ranks: list[int], advice: Callable[[], str]) -> str:
    names = ", ".join(f"rank {rank}" for rank in ranks) or "another process"
    return f"stopped, because {names} ended in the middle of a step; {advice()}"


def _watch(ranks: dict[int, int], done: threading.Event, advice: Callable[[], str]) -> None:
    while not done.wait(PERIOD_S):
        if not (found := gone(ranks)):
            continue
        if not done.wait(GRACE_S):
            # This process waits for a rank that will not come, and no exception can reach it.
            print(f"error: {_message(found, advice)}", file=sys.stderr, flush=True)
            os._exit(1)
