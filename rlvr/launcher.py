"""The command that started this process, as a user would type it again."""

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

_PROGRAMS = ("accelerate", "torchrun", "deepspeed")
_MODULES = ("accelerate.commands.launch", "torch.distributed.run", "deepspeed.launcher")
_MAX_ANCESTORS = 6


def resume_command(recipe: str, overrides: Sequence[str]) -> str:
    """Return the command that goes on with a run, through the launcher that started it."""
    words = ["rlvr", "train", recipe, *overrides]
    if {"WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"} & os.environ.keys():
        words = _launch_words(recipe) or _by_environment(recipe, overrides)
    return shlex.join([word for word in words if word != "--resume"] + ["--resume"])


def _by_environment(recipe: str, overrides: Sequence[str]) -> list[str]:
    """Return a launch of as many processes; the name of its launch file is not known here."""
    count = ["--num_processes", os.environ.get("WORLD_SIZE", "1")]
    launch = ["accelerate", "launch", "--config_file", "LAUNCH_FILE", *count, "-m", "rlvr.train"]
    return [*launch, recipe, *overrides]


def _launch_words(recipe: str) -> list[str] | None:
    """Return the command line of the outermost launcher above this process."""
    launcher, pid = None, os.getppid()
    for _ in range(_MAX_ANCESTORS):
        words, parent = _command_line(pid), _parent(pid)
        if words and recipe in words and _is_launcher(words):
            # Keep going: accelerate starts torchrun, and the user typed the outermost.
            launcher = words
        if parent is None or parent <= 1:
            break
        pid = parent
    return None if launcher is None else _as_typed(launcher)


def _is_launcher(words: Sequence[str]) -> bool:
    programs = {Path(word).name for word in words[:2]}
    return bool(programs & set(_PROGRAMS)) or any(word.startswith(_MODULES) for word in words[1:4])


def _as_typed(words: list[str]) -> list[str]:
    """Return the words without the interpreter that runs a program's script."""
    if len(words) > 1 and Path(words[1]).name in _PROGRAMS:
        return [Path(words[1]).name, *words[2:]]
    return [Path(words[0]).name, *words[1:]]


def _command_line(pid: int) -> list[str]:
    try:
        # Arguments end in NUL bytes, so the last part is empty.
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")[:-1]
    except OSError:  # no /proc here; ps gives the words without their quotes
        return _ps(pid, "args").split()


def _parent(pid: int) -> int | None:
    try:
        # The name of the program, in brackets, may hold spaces.
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        text = stat.rpartition(")")[2].split()[1]
    except OSError:
        text = _ps(pid, "ppid")
    return int(text) if text.isdigit() else None


def _ps(pid: int, field: str) -> str:
    command = ["ps", "-ww", "-o", f"{field}=", "-p", str(pid)]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
