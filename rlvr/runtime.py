"""The process and its surroundings: rank, device, seeds, versions, environment variables."""

import gc
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

INTERRUPTED = 130  # the shell's exit code for a program that Ctrl-C ended
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "datasets", "vllm")


def prepare_environment(run_dir: Path | None = None) -> None:
    """Set what the libraries read at import or start, before they are imported.

    Tokenizer threads would deadlock after a fork; TensorBoard's folder has no Trainer argument.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    if not torch.cuda.is_available():
        # DeepSpeed would search for an accelerator and warn that it found none.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if run_dir is not None:
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(run_dir / "tensorboard")


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def launched_fsdp() -> bool:
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def launcher_setting(name: str) -> str:
    """Return what accelerate's launcher set in the environment of this process."""
    return os.environ.get(name, "no")


def launched_zero_stage() -> int:
    """Return the ZeRO stage that accelerate's launcher asks for; 0 without DeepSpeed."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() != "true":
        return 0
    return int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))


def is_main() -> bool:
    return rank() == 0


def say(text: str = "") -> None:
    """Print one line of the run's story, on the main process."""
    if is_main():
        print(text, flush=True)


def any_rank(flag: bool) -> bool:
    """Tell every rank whether ``flag`` is set on any, so that all stop at the same step."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return flag
    flags: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(flags, flag)
    return any(flags)


def from_main(make: Callable[[], Any]) -> Any:
    """Return ``make()`` of the main process on every rank; only the main process calls it."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return make()
    box = [make() if is_main() else None]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def leave_group() -> None:
    """End the group of processes, together: one that exits while others use it may abort."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def cores() -> int:
    """Return the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def free_memory() -> None:
    """Give the memory of what is no longer referenced back, before something large is loaded."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def make_deterministic(seed: int) -> None:
    """Choose deterministic kernels, so that one recipe ends in one set of bits on one machine."""
    from transformers import set_seed

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    set_seed(seed)


def versions() -> dict[str, str]:
    """Return the version of everything that can change a number."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Return the commit of this code, with ``+dirty`` where the tree differs from it."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+dirty"]
    try:
        result = subprocess.run(
            [*command, "--abbrev=40", "--exclude=*"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def machine() -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "platform": platform.platform(),
        "gpu": gpu,
        "threads": torch.get_num_threads(),
        "command": " ".join(sys.argv),
    }
