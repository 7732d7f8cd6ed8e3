"""Run untrusted programs: each in a process tree of its own, of which nothing is left.

A program gets read-only libraries of Python's standard library, one temporary directory in memory,
no network, no privilege, no view of other processes, an empty environment, and limits on processor
time, memory, file size, open files and processes. It is killed with all that it started at the
deadline, and its output is cut while it is read. ``jail`` builds this; what the kernel refuses
is named by ``missing_protections``.

Memory is bounded by ``megabytes`` for each process and for the temporary directory, so in all by
``megabytes * (processes + 1)``.
"""

import functools
import itertools
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from rlvr import runtime
from rlvr.schema import RecipeError

Mode = Literal["required", "best_effort"]
Item = TypeVar("Item")
Result = TypeVar("Result")

GRACE = 2.0  # seconds beyond the deadline in which the sandbox itself has to start and to end
_JAIL = Path(__file__).parent / "jail"
_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Limits:
    """What one program may use; ``seconds`` of wall clock, memory of each of its processes."""

    seconds: float = 5.0
    megabytes: int = 512
    processes: int = 16
    output_bytes: int = 1 << 20


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    ``end``: ``exit`` (by itself), ``timeout``, ``output`` (more than it may write), ``killed`` (by
    the parent), or ``failed`` (the sandbox did not come to run it, for the reason in ``errors``).
    ``code`` is the exit code, negative for a signal.
    """

    end: Literal["exit", "timeout", "output", "killed", "failed"]
    code: int | None
    output: bytes
    errors: str


class Running:
    """A started sandbox: its process, and the pipes that the parent reads."""

    def __init__(
        self,
        program: dict[str, Any],
        limits: Limits,
        mode: Mode,
        stdin: bytes = b"",
        keep: Iterable[int] = (),
    ) -> None:
        self.limits, self.keep = limits, tuple(keep)
        self.required = mode == "required"
        job = {
            "program": program,
            "limits": asdict(limits),
            "required": self.required,
            # Distinct among the sandboxes of this machine that run at the same time.
            "number": (os.getpid() * 1009 + next(_NUMBERS)) % 0x0FFFFFFF,
            "keep": self.keep,
        }
        read_end, write_end = os.pipe()
        with _memory_file(json.dumps(job).encode()) as file, _memory_file(stdin) as input_file:
            # Isolated: no site-packages, no PYTHON* variables, no .pyc files written.
            command = [sys.executable, "-I", "-S", "-B", str(_JAIL)]
            try:
                self.process = subprocess.Popen(
                    [*command, str(file), str(write_end)],
                    stdin=input_file,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=(file, write_end, *self.keep),
                    env={},
                    # A group of its own, which `kill` can end as a whole.
                    start_new_session=True,
                )
            except BaseException:
                os.close(read_end)
                raise
            finally:
                # Only the child may hold it: the read end must see the end of the file.
                os.close(write_end)
        self.control = read_end
        self.deadline = time.monotonic() + limits.seconds + GRACE

    def kill(self) -> None:
        """Kill the sandbox; the kernel takes its process namespace, and so the program, along."""
        with suppress(ProcessLookupError):  # it is gone, which is what was wanted
            os.killpg(self.process.pid, signal.SIGKILL)

    def finish(self) -> Outcome:
        """Wait for the end, at most until the deadline and its grace."""
        process = self.process
        assert process.stdout is not None and process.stderr is not None
        streams = {process.stdout.fileno(): b"", process.stderr.fileno(): b"", self.control: b""}
        # Bytes kept of output, errors and reports; the rest is read and dropped.
        caps = dict(zip(streams, (self.limits.output_bytes, 1 << 14, 1 << 16), strict=True))
        too_much = late = False
        try:
            with selectors.DefaultSelector() as selector:
                for descriptor in streams:
                    selector.register(descriptor, selectors.EVENT_READ)
                while selector.get_map() and not (too_much or late):
                    left = self.deadline - time.monotonic()
                    late = left <= 0
                    for key, _ in selector.select(max(left, 0)):
                        chunk = os.read(key.fd, 1 << 16)
                        if not chunk:
                            selector.unregister(key.fd)
                        room = caps[key.fd] - len(streams[key.fd])
                        streams[key.fd] += chunk[: max(room, 0)]
                        # Only standard output: a long traceback is cut, not punished.
                        too_much |= key.fd == process.stdout.fileno() and len(chunk) > room
        finally:
            self.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()
            os.close(self.control)
        output, errors, control = streams.values()
        reports: dict[str, Any] = {}
        for line in control.splitlines():
            reports.update(json.loads(line))
        text = errors.decode("utf-8", "replace")
        # `missing` is reported just before the program starts: without it nothing ran.
        if "failed" in reports or "missing" not in reports:
            return Outcome("failed", None, b"", str(reports.get("failed", text or "no start")))
        if self.required and reports["missing"]:
            return Outcome("failed", None, b"", f"it lacks {', '.join(reports['missing'])}")
        if too_much:
            return Outcome("output", None, output, text)
        if late or reports.get("exit") == "timeout":
            return Outcome("timeout", None, output, text)
        if "exit" not in reports:
            return Outcome("killed", None, output, text)
        return Outcome("exit", reports["exit"], output, text)


@contextmanager
def _memory_file(content: bytes) -> Iterator[int]:
    """Yield a descriptor of ``content``, at its start: no pipe that somebody has to feed."""
    # Arguments would show in `ps`, and a pipe blocks beyond 64 KiB.
    descriptor = os.memfd_create("rlvr")
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def run_script(source: str, stdin: str, limits: Limits, mode: Mode) -> Outcome:
    """Run ``source`` as a script on ``stdin``."""
    program = {"role": "script", "source": source}
    return Running(program, limits, mode, stdin.encode("utf-8", "surrogatepass")).finish()


def run_tests(source: str, tests: list[str], limits: Limits, mode: Mode) -> tuple[Outcome, Outcome]:
    """Run ``tests`` (Python code with assertions) against what ``source`` defines.

    Returns the outcomes of the tests and of the program. They run in two sandboxes: the one of the
    tests prints ``{"passed": …, "of": …, "failure": …}``; the program sees only calls.
    """
    asked, answer_requests = os.pipe()
    answers, answer_replies = os.pipe()
    started: list[Running] = []
    try:
        serve = {"role": "serve", "source": source, "requests": asked, "replies": answer_replies}
        started.append(Running(serve, limits, mode, keep=(asked, answer_replies)))
        test = {"role": "test", "tests": tests, "requests": answer_requests, "replies": answers}
        started.append(Running(test, limits, mode, keep=(answer_requests, answers)))
    except BaseException:
        for running in started:
            running.kill()
            running.finish()
        raise
    finally:
        # The sandboxes hold their own ends; ours would keep the pipes open.
        for descriptor in (asked, answer_requests, answers, answer_replies):
            os.close(descriptor)
    program, tester = started
    outcomes: list[Outcome] = []
    # Both must be read at once, or a full pipe of one stops the other.
    thread = threading.Thread(target=lambda: outcomes.append(program.finish()))
    thread.start()
    try:
        outcome = tester.finish()
    finally:
        program.kill()
        thread.join()
    return outcome, outcomes[0]


def cores() -> int:
    """Number of processor cores that this process may use."""
    return runtime.cores()


def in_parallel(work: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    """Return ``work`` of each item in order, one at a time on each core."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(cores(), len(items)), "rlvr-sandbox") as pool:
        return list(pool.map(work, items))


@functools.cache
def missing_protections() -> tuple[str, ...]:
    """Return what this machine's kernel does not give a sandbox, with its reason; run once."""
    if not sys.platform.startswith("linux"):
        return (f"everything (the sandbox needs Linux, this is {sys.platform})",)
    outcome = run_script("", "", Limits(), "required")
    if outcome.end == "failed":
        return (outcome.errors,)
    return ()


def require(mode: Mode, where: str) -> None:
    """Raise where a protection is off and the recipe does not accept it, or nothing runs at all."""
    missing = missing_protections()
    if missing and mode == "required":
        raise RecipeError(
            f"{where}: this machine cannot confine programs: {', '.join(missing)}. Allow "
            "unprivileged user namespaces (sysctl user.max_user_namespaces; in a container, "
            "--security-opt seccomp=unconfined), or accept the risk with sandbox: best_effort"
        )
    if missing and (outcome := run_script("", "", Limits(), mode)).end != "exit":
        raise RecipeError(f"{where}: no sandbox runs on this machine: {outcome.errors}")
