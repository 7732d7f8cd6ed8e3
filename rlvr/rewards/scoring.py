"""Score with a library that may hang or crash: in worker processes that are killed at a deadline.

A worker is ``python -c "from rlvr.rewards.scoring import serve; serve()"``: a JSON request a line
in, a JSON reply a line out. It can read files, but neither write one nor start or signal a program
nor reach the network, since some libraries evaluate what they are given. The kernel's timer ends a
worker that overruns, even where the library holds the interpreter's lock, and even where the parent
is gone.
"""

import atexit
import json
import os
import queue
import resource
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from typing import Any

from rlvr.rewards import pool as killable
from rlvr.rewards.jail.privileges import confine
from rlvr.rewards.sandbox import cores

START_SECONDS = 120.0  # a worker imports the library that it scores with
MEGABYTES = 4096  # of address space in each worker
_COMMAND = "from rlvr.rewards.scoring import serve; serve()"


class Overrun(Exception):
    """The deadline passed."""


class Crash(Exception):
    """The worker ended, or said something that is no reply."""


class Worker:
    """One process that answers one request at a time."""

    def __init__(self, scorer: str) -> None:
        paths = os.pathsep.join(path for path in sys.path if path)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, scorer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self.read(START_SECONDS)

    def ask(self, request: dict[str, Any], seconds: float) -> Any:
        """Return the reply; Overrun or Crash, after which the worker is gone."""
        assert self.process.stdin is not None
        try:
            line = json.dumps({"seconds": seconds, "request": request})
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            self.kill()
            raise Crash(f"the worker is gone ({error})") from error
        # The worker's own timer ends it first; the second is for its start and reply.
        return self.read(seconds + 1.0)

    def read(self, seconds: float) -> Any:
        stream, deadline, line = self.process.stdout, time.monotonic() + seconds, b""
        assert stream is not None
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(deadline - time.monotonic(), 0)):
                    self.kill()
                    raise Overrun
                chunk = os.read(stream.fileno(), 1 << 16)
                if not chunk:
                    code = self.kill()
                    # SIGALRM is the timer that the worker set for itself.
                    raise Overrun if code == -signal.SIGALRM else Crash(f"exit code {code}")
                line += chunk
        return json.loads(line)

    def kill(self) -> int:
        """End the process and all that it started; return its exit code."""
        # Before the kill: the code that the process ended with by itself.
        code = self.process.poll()
        with suppress(ProcessLookupError):  # it is gone, which is what was wanted
            os.killpg(self.process.pid, signal.SIGKILL)
        last = self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                # A pipe to a dead worker may still hold a request that can no longer be written.
                with suppress(OSError):
                    stream.close()
        return last if code is None else code


class Pool:
    """Workers of one scorer, at most one for each core, started when they are needed."""

    def __init__(self, scorer: str) -> None:
        self.scorer, self.owner, self.restarts = scorer, os.getpid(), 0
        self._counting = threading.Lock()
        # Last in, first out: a few busy workers rather than one on every core. None is a free
        # place.
        self.places: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        for _ in range(cores()):
            self.places.put(None)
        atexit.register(self.close)

    def ask(self, request: dict[str, Any], seconds: float) -> Any:
        worker = self.places.get()
        try:
            if worker is None:
                worker = Worker(self.scorer)
            return worker.ask(request, seconds)
        except (Overrun, Crash):
            with self._counting:
                self.restarts += 1
            raise
        finally:
            alive = worker is not None and worker.process.returncode is None
            self.places.put(worker if alive else None)

    def ask_all(self, requests: list[dict[str, Any]], seconds: float) -> list[Any]:
        """Return the replies in order; in place of one that failed, its exception."""

        def ask(request: dict[str, Any]) -> Any:
            try:
                return self.ask(request, seconds)
            except (Overrun, Crash) as error:
                return error

        with ThreadPoolExecutor(cores(), "rlvr-scoring") as threads:
            return list(threads.map(ask, requests))

    def close(self) -> None:
        if os.getpid() != self.owner:
            return  # a forked copy: the workers belong to its parent
        idle = []
        while not self.places.empty():
            idle.append(self.places.get())
        for worker in idle:
            if worker is not None:
                worker.kill()
            # The place stays: a pool that is asked again starts new workers.
            self.places.put(None)


_pools: dict[str, Pool] = {}
_pools_lock = threading.Lock()


def pool(scorer: str) -> Pool:
    """Return this process's pool of ``scorer``, a ``module:function`` from request to reply."""
    with _pools_lock:
        # A forked process inherits the dictionary, and must not use its parent's workers.
        workers = _pools.get(scorer)
        if workers is None or workers.owner != os.getpid():
            workers = _pools[scorer] = Pool(scorer)
        return workers


def restarts() -> int:
    """Return how many workers of this process had to be replaced so far, of every kind of pool."""
    with _pools_lock:
        own = [pool.restarts for pool in _pools.values() if pool.owner == os.getpid()]
    return sum(own) + killable.restarts()


def serve() -> None:
    """Be a worker: import the scorer, say so, answer until the input ends."""
    module, _, name = sys.argv[1].partition(":")
    # Whatever the library prints must not look like a reply.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    limit = MEGABYTES << 20
    # Before the import, so that a library cannot allocate past it.
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # No handler: the default ends the process even inside a C extension.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # Before `confine`: imports read files and may write caches.
    score: Callable[[Any], Any] = getattr(import_module(module), name)
    confine()
    replies.write(b"true\n")
    replies.flush()
    for line in sys.stdin.buffer:
        job = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, job["seconds"])
        reply = json.dumps(score(job["request"]))
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(reply.encode() + b"\n")
        replies.flush()
