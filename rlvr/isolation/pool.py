"""Worker processes that are killed at a deadline: a job may hang, crash or eat memory.

``WorkerPool("module:function").call(...)`` runs the function in a worker and always returns within
the deadline. Workers are started by one thread that lives as long as the process (the kernel's
death signal follows the thread that started a child), one more than may be busy, so that a killed
worker is replaced without a wait.
"""

import atexit
import os
import queue
import select
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Literal, NamedTuple

from rlvr import runtime
from rlvr.isolation.worker import receive, send
from rlvr.schema import RunError

START_S = 120.0  # a worker that is not ready by then will not be: some import large libraries
MOST_WORKERS = 16  # of one pool in one process; a worker judges thousands of rows a second
MAX_KILLED = 20  # workers killed in a row while they start, before that is an error
_pools: "weakref.WeakSet[WorkerPool]" = weakref.WeakSet()
_shared: dict[str, "WorkerPool"] = {}
_lock = threading.Lock()
# Held while a process is started. A fork meanwhile would copy the pipe by which Popen learns that
# its child runs, and Popen would wait for the copy.
_spawning = threading.Lock()


class Outcome(NamedTuple):
    """What became of one job; ``value`` is the function's result, or says what went wrong."""

    status: Literal["done", "timeout", "crashed"]
    value: Any


class _Worker:
    """One process and its pipes."""

    def __init__(self, path: str, memory_mb: int, confined: bool) -> None:
        # Through -c: a spawned multiprocessing child would import the training script again.
        code = (
            f"import sys; sys.path[:] = {sys.path!r}\n"
            "from rlvr.isolation.worker import main\n"
            f"main({path!r}, {os.getpid()}, {memory_mb!r}, {confined!r})"
        )
        # Workers must not open the GPU: a context costs hundreds of megabytes.
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        with _spawning:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                bufsize=0,  # what is read must not run ahead of what is polled
            )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.stdin, self.stdout, self.stderr = (
            self.process.stdin,
            self.process.stdout,
            self.process.stderr,
        )

    def wait_ready(self) -> str | None:
        """Wait for the first message; return why there is none, if the worker cannot serve."""
        # First the import of the function, which may take seconds: its own deadline.
        if self._answered(START_S) and self._reply() == "ready":
            return None
        try:
            self.process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self.process.kill()
        message = self.stderr.read().decode(errors="replace").strip()
        return message or f"no answer (exit code {self.process.returncode})"

    def killed(self) -> bool:
        # Negative: ended by a signal, such as the out-of-memory killer's. That is worth a retry.
        return (self.process.returncode or 0) < 0

    def _answered(self, timeout_s: float) -> bool:
        # poll, not select: select fails on descriptors above 1024, which training has.
        poll = select.poll()
        poll.register(self.stdout, select.POLLIN | select.POLLHUP)
        return bool(poll.poll(max(0.0, timeout_s) * 1000))

    def _reply(self) -> Any:
        try:
            return receive(self.stdout)
        except (EOFError, OSError, ValueError, struct.error):
            return None

    def begin(self, arguments: Sequence[Any], deadline_s: float) -> bool:
        """Hand a job over; return whether the worker was there to take it."""
        try:
            send(self.stdin, [deadline_s, *arguments])
        except OSError:
            return False
        # A worker that takes the job says so at once; silence means that it is busy with it.
        return not self._answered(deadline_s) or self._reply() == "taken"

    def finish(self, deadline_s: float, end: float) -> tuple[Outcome, bool]:
        """Return the outcome of the job at hand, and whether this worker can take another."""
        if not self._answered(end - time.monotonic()):
            return Outcome("timeout", f"no verdict within {deadline_s:g} s"), False
        reply = self._reply()
        if reply is None:
            self.process.wait(timeout=5)
            return Outcome("crashed", f"the worker died ({self.process.returncode})"), False
        # `leaving`: the worker grew too large, or caught an error, and exits after this reply.
        status, value, leaving = reply
        return Outcome(status, value), not leaving

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.forget()

    def forget(self) -> None:
        """Close this process's ends of the pipes."""
        for stream in (self.stdin, self.stdout, self.stderr):
            # A pipe to a dead worker may still hold a request that can no longer be written.
            with suppress(OSError):
                stream.close()


class WorkerPool:
    """Workers that serve one function, from any thread.

    Args:
        path: ``module:function``; arguments and result are JSON values.
        size: jobs at once; by default this process's share of the machine's cores, at most 16.
        deadline_s: wall time of one job, after which its worker is killed.
        memory_mb: address space of one worker.
        confined: a worker gives up the network, writing, other programs and privileges, since its
            function leans on a library that may evaluate what it is given.
    """

    def __init__(
        self,
        path: str,
        *,
        size: int | None = None,
        deadline_s: float = 2.0,
        memory_mb: int = 1024,
        confined: bool = False,
    ) -> None:
        self.path, self.deadline_s, self.memory_mb = path, deadline_s, memory_mb
        self.confined = confined
        self.size = size or min(MOST_WORKERS, max(1, runtime.cores() // runtime.local_world_size()))
        self._reset()
        _pools.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        # Jobs at once. There is one worker more than permits, ready when one is killed.
        self._permits = threading.Semaphore(self.size)
        self._idle: queue.SimpleQueue[_Worker | RunError] = queue.SimpleQueue()
        self._wanted: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        self._workers: set[_Worker] = set()
        self._keeper: threading.Thread | None = None
        self._closed = False
        self.restarts = 0

    def _start(self) -> None:
        with self._lock:
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._keep, daemon=True, name="rlvr-keeper")
                self._keeper.start()

    def _spawn(self) -> _Worker:
        worker = _Worker(self.path, self.memory_mb, self.confined)
        with self._lock:
            self._workers.add(worker)
            closed = self._closed
        # close() ran while the process was being started, and did not see it.
        if closed:
            worker.process.kill()
        return worker

    def _keep(self) -> None:
        try:
            self._serve()
        except Exception as error:  # whoever waits for a worker must hear of it
            self._idle.put(RunError(f"the workers of {self.path} cannot be kept up: {error!r}"))

    def _serve(self) -> None:
        """Start the workers, then bury each spent one and start another in its place."""
        fresh = [self._spawn() for _ in range(self.size + 1)]
        killed = 0  # in a row, before they were ready
        while True:
            for worker in fresh:
                error = worker.wait_ready()
                if self._closed:
                    return
                if error is None:
                    self._idle.put(worker)
                    killed = 0
                elif worker.killed() and killed < MAX_KILLED:
                    killed += 1
                    self._replace(worker)
                else:
                    self._idle.put(RunError(f"a worker of {self.path} does not start: {error}"))
            spent = self._wanted.get()
            if spent is None or self._closed:
                return
            fresh = []
            # A worker of before a close() may still be in the queue.
            if spent in self._workers:
                spent.end()
                with self._lock:
                    self._workers.discard(spent)
                fresh = [self._spawn()]

    def _take(self) -> _Worker:
        worker = self._idle.get()
        if isinstance(worker, RunError):
            self._idle.put(worker)
            # Put back first, so that every waiting thread gets the error.
            raise worker
        return worker

    def _replace(self, worker: _Worker, *, lost: bool = True) -> None:
        with self._lock:
            self.restarts += lost
        self._wanted.put(worker)

    def call(self, *arguments: Any, deadline_s: float | None = None) -> Outcome:
        """Run one job and return what became of it, at the deadline at the latest.

        If a worker was killed while it was idle, another does the job; the pool starts a new one.
        """
        limit = self.deadline_s if deadline_s is None else deadline_s
        self._start()
        with self._permits:
            worker, usable, lost = self._take(), False, True
            try:
                end = time.monotonic() + limit
                # The clock starts anew with each worker: finding a dead one is not the job's time.
                while not worker.begin(arguments, limit):
                    self._replace(worker)
                    worker = self._take()
                    end = time.monotonic() + limit
                outcome, usable = worker.finish(limit, end)
                lost = outcome.status != "done"
                return outcome
            finally:
                if usable:
                    self._idle.put(worker)
                else:
                    worker.process.kill()
                    self._replace(worker, lost=lost)

    def map(
        self, jobs: Iterable[Sequence[Any]], *, deadline_s: float | None = None
    ) -> list[Outcome]:
        """Run many jobs on all workers; outcomes in the order of the jobs."""
        held = list(jobs)
        if len(held) < 2:
            return [self.call(*job, deadline_s=deadline_s) for job in held]
        with ThreadPoolExecutor(self.size) as threads:
            return list(threads.map(lambda job: self.call(*job, deadline_s=deadline_s), held))

    def close(self) -> None:
        """Kill every worker; the pool starts anew when it is called again."""
        with self._lock:
            self._closed = True
            workers, keeper = list(self._workers), self._keeper
        for worker in workers:
            worker.process.kill()
        # Wakes the keeper, which then sees _closed.
        self._wanted.put(None)
        if keeper is not None:
            keeper.join(timeout=START_S)
        for worker in list(self._workers):
            worker.end()
        self._reset()

    def _after_fork(self) -> None:
        workers = self._workers
        self._reset()
        for worker in workers:
            worker.forget()
            worker.process.returncode = 0  # the parent's child, not ours to wait for


def shared(path: str, **limits: Any) -> WorkerPool:
    """Return this process's pool of ``path``, made with ``limits`` when it is first asked for."""
    with _lock:
        if path not in _shared:
            _shared[path] = WorkerPool(path, **limits)
        return _shared[path]


def scorers(path: str) -> WorkerPool:
    """Return the confined workers that score with another library, of which few are enough."""
    size = min(4, max(1, runtime.cores() // runtime.local_world_size()))
    return shared(path, size=size, memory_mb=4096, confined=True)


def restarts() -> int:
    """Return how many workers of this process had to be replaced so far."""
    return sum(pool.restarts for pool in _pools)


@atexit.register
def _close_all() -> None:
    for pool in list(_pools):
        pool.close()


def _after_fork() -> None:
    # Another thread of the parent may have held the lock: in the child nobody would release it.
    global _lock
    _lock = threading.Lock()
    _spawning.release()
    for pool in list(_pools):
        pool._after_fork()


# DataLoader workers fork: a child must not read from, or kill, workers of its parent.
os.register_at_fork(
    before=_spawning.acquire, after_in_parent=_spawning.release, after_in_child=_after_fork
)
