"""The runs of a study as processes: several at once, none of which outlives the study."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from rlvr import runtime
from rlvr.files import write_bytes
from rlvr.locks import is_locked
from rlvr.schema import RecipeError
from rlvr.studies.launch_file import launch_environment
from rlvr.studies.progress import geometry_is_due, state_of
from rlvr.studies.spec import Run, Study

_POLL_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1  # of prctl(2): the signal that a process gets when its parent dies
_TAIL_LINES = 12


@dataclass
class Job:
    """A run in progress: its commands run one after the other in one slot."""

    run: Run
    slot: dict[str, str]
    commands: list[list[str]]
    process: subprocess.Popen
    began: float


def processes_per_run(study: Study) -> int:
    return int(launch_environment(study.launch)["WORLD_SIZE"])


def slots(study: Study, jobs: int | None) -> list[dict[str, str]]:
    """Return one environment for each run that may run at once: its GPUs, or its CPU threads.

    Raises:
        RecipeError: one run needs more GPUs than there are.
    """
    processes = processes_per_run(study)
    if not torch.cuda.is_available():
        cores = runtime.cores()
        count = jobs or max(1, cores // processes)
        # Without this every process takes all cores for its threads, and they slow each other.
        threads = max(1, cores // (count * processes))
        return [{"OMP_NUM_THREADS": str(threads)} for _ in range(count)]
    # Devices are counted among the visible ones, but a child needs the machine's own names.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(i) for i in range(torch.cuda.device_count())]
    names = visible.split(",") if visible else names
    if processes > len(names):
        raise RecipeError(
            f"launch: {study.launch} starts {processes} processes and {len(names)} GPUs are "
            "visible; lower num_processes"
        )
    # Each run gets GPUs of its own: two runs on one would change each other's step times.
    count = min(jobs or len(names), len(names) // processes)
    groups = (names[i * processes : (i + 1) * processes] for i in range(count))
    return [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for group in groups]


def log_path(study: Study, run: Run) -> Path:
    return study.folder / "logs" / f"{run.name}.log"


def write_recipe(study: Study, run: Run) -> Path:
    path = study.folder / "recipes" / f"{run.name}.yaml"
    write_bytes(path, yaml.safe_dump(run.recipe, sort_keys=False).encode())
    return path


def _is_done(study: Study, run: Run) -> bool:
    if state_of(run) != "finished":
        return False
    return study.geometry is None or not geometry_is_due(run, study.geometry)


def _commands(study: Study, run: Run) -> list[list[str]]:
    """Return what is left to do for a run: training, then its geometry."""
    commands = []
    if state_of(run) != "finished":
        start = [sys.executable, "-m", "rlvr.train"]
        if study.launch is not None:
            start = [sys.executable, "-m", "accelerate.commands.launch"]
            start += ["--config_file", str(study.launch), "--main_process_port", str(_free_port())]
            start += ["-m", "rlvr.train"]
        # A folder without a recipe was claimed by no run yet: --resume would be refused.
        resume = ["--resume"] if (run.folder / "recipe.json").is_file() else []
        # The recipe as it was resolved: the study's file may change while the runs go on.
        commands.append([*start, str(write_recipe(study, run)), *resume])
    if study.geometry is not None and (commands or geometry_is_due(run, study.geometry)):
        wanted = study.geometry
        options = [f"--{wanted.mode}", "--rank", str(wanted.rank), "--density", str(wanted.density)]
        targets = run.recipe.get("model", {}).get("targets", ["linear"])
        options += ["--targets", *map(str, targets)]
        commands.append([sys.executable, "-m", "rlvr.cli", "geometry", str(run.folder), *options])
    return commands


def _free_port() -> int:
    # Two launchers on one machine would meet at accelerate's default port.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the study dies, even by SIGKILL: save and end."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _start(
    study: Study, run: Run, slot: dict[str, str], command: list[str]
) -> subprocess.Popen[bytes]:
    log = log_path(study, run)
    log.parent.mkdir(parents=True, exist_ok=True)
    # Appended: a resumed run's log goes on where the interrupted one ended.
    with open(log, "a", encoding="utf-8") as output:
        return subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **slot},
            # A session of its own: Ctrl-C reaches only the study, which passes it on once.
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )


def run_study(study: Study, jobs: int | None) -> list[str]:
    """Do what is left of each run, several at once; return the names of those that failed.

    Raises:
        KeyboardInterrupt: the user stopped the study, and each run has saved a checkpoint; the same
            command goes on from there.
    """
    free = slots(study, jobs)
    # In the study's order, seed by seed: an interrupted study has whole seeds to compare.
    waiting = [run for run in study.runs if not _is_done(study, run)]
    done = len(study.runs) - len(waiting)
    if done:
        runtime.say(f"{done} of {len(study.runs)} runs are finished; kept")
    active: list[Job] = []
    failed: list[str] = []
    with _interruptible(active):
        while waiting or active:
            _fill(study, free, waiting, active)
            # Polling and not waiting: wait() knows one process, and there are several.
            time.sleep(_POLL_SECONDS)
            for job in [job for job in active if job.process.poll() is not None]:
                if _goes_on(study, job):
                    continue
                active.remove(job)
                free.append(job.slot)
                done += 1
                # A failed run stops no other; the study tells of it at once and again at the end.
                if job.process.returncode:
                    failed.append(job.run.name)
                _tell(study, job, done)
    return failed


def _fill(study: Study, free: list[dict[str, str]], waiting: list[Run], active: list[Job]) -> None:
    """Start waiting runs in free slots, except those that a killed study's process still holds."""
    for run in list(waiting):
        if not free:
            return
        if is_locked(run.folder):
            continue  # it is saving its checkpoint; the next round asks again
        waiting.remove(run)
        commands = _commands(study, run)
        if commands:
            slot = free.pop(0)
            process = _start(study, run, slot, commands[0])
            active.append(Job(run, slot, commands[1:], process, time.monotonic()))


def _goes_on(study: Study, job: Job) -> bool:
    """Start a job's next command, if its process succeeded and there is one; return whether."""
    if job.process.returncode or not job.commands:
        return False
    job.process = _start(study, job.run, job.slot, job.commands.pop(0))
    return True


def _tell(study: Study, job: Job, done: int) -> None:
    place = f"[{done}/{len(study.runs)}] {job.run.name}"
    if not job.process.returncode:
        runtime.say(f"{place}: {time.monotonic() - job.began:.0f} s")
        return
    log = log_path(study, job.run)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
    print(
        f"{place}: failed (exit code {job.process.returncode}); the end of {log}:",
        *(f"    {line}" for line in lines),
        sep="\n",
        file=sys.stderr,
    )


@contextmanager
def _interruptible(active: list[Job]) -> Iterator[None]:
    """Hand Ctrl-C and SIGTERM to the runs, wait until each has saved, and stop the study."""

    def stop(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {name: signal.signal(name, stop) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        runtime.say("\nstopping: each run saves a checkpoint; Ctrl-C again stops them at once")
        _signal(active, signal.SIGTERM)
        while any(job.process.poll() is None for job in active):
            try:
                time.sleep(_POLL_SECONDS)
            except KeyboardInterrupt:  # the second Ctrl-C: the last checkpoints have to do
                _signal(active, signal.SIGKILL)
        runtime.say("interrupted; run the same command again to go on from here")
        raise
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _signal(active: list[Job], signum: int) -> None:
    # SIGTERM and not SIGINT: a job in a shell's background starts with SIGINT ignored. To the whole
    # group: a launcher's workers are processes of their own.
    for job in active:
        if job.process.poll() is None:
            os.killpg(job.process.pid, signum)
