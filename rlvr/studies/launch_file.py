"""A launch file of accelerate's, and what a run that it starts will see in its environment."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlvr.recipe_file import read_yaml
from rlvr.schema import RecipeError

# What a run's checks read; accelerate's launcher sets them, from its own defaults where need be.
_SEEN = (
    "WORLD_SIZE",
    "ACCELERATE_MIXED_PRECISION",
    "ACCELERATE_DYNAMO_BACKEND",
    "ACCELERATE_USE_FSDP",
    "FSDP_VERSION",
    "FSDP_STATE_DICT_TYPE",
    "FSDP_ACTIVATION_CHECKPOINTING",
    "ACCELERATE_USE_DEEPSPEED",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE",
    "ACCELERATE_DEEPSPEED_CONFIG_FILE",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
    "ACCELERATE_GRADIENT_CLIPPING",
)


def launch_environment(file: Path | None) -> dict[str, str]:
    """Return what accelerate's launcher sets in a process that it starts by ``file``.

    Raises:
        RecipeError: the file is no launch file.
    """
    launch: dict[str, Any] = {} if file is None else read_yaml(file)
    environment = {
        "WORLD_SIZE": str(_processes(launch, file)),
        "ACCELERATE_MIXED_PRECISION": str(launch.get("mixed_precision") or "no").lower(),
    }
    if launch.get("distributed_type") != "DEEPSPEED":  # with DeepSpeed the launcher says nothing
        compiler = launch.get("dynamo_backend") or "no"
        environment["ACCELERATE_DYNAMO_BACKEND"] = str(compiler).upper()
    if launch.get("distributed_type") == "FSDP":
        settings = _settings(launch, "fsdp_config", file)
        environment["ACCELERATE_USE_FSDP"] = "true"
        # accelerate's own defaults, where the file says nothing.
        environment["FSDP_VERSION"] = str(settings.get("fsdp_version", 1))
        environment["FSDP_STATE_DICT_TYPE"] = str(settings.get("fsdp_state_dict_type", "no"))
        twice = settings.get("fsdp_activation_checkpointing", False)
        environment["FSDP_ACTIVATION_CHECKPOINTING"] = str(twice).lower()
    elif launch.get("distributed_type") == "DEEPSPEED":
        settings = _settings(launch, "deepspeed_config", file)
        environment["ACCELERATE_USE_DEEPSPEED"] = "true"
        if (stage := settings.get("zero_stage")) is not None:
            environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] = str(stage)
        for key in ("gradient_accumulation_steps", "gradient_clipping"):
            if (value := settings.get(key)) is not None:
                environment[f"ACCELERATE_{key.upper()}"] = str(value)
        if (named := settings.get("deepspeed_config_file")) is not None:
            environment["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = str(named)
    return environment


@contextmanager
def as_launched(file: Path | None) -> Iterator[None]:
    """Run the body in the environment of a run that ``file`` starts, as its checks see it."""
    # Popped, since the study itself may run under a launcher.
    before = {name: os.environ.pop(name) for name in _SEEN if name in os.environ}
    try:
        os.environ.update(launch_environment(file))
        yield
    finally:
        for name in _SEEN:
            os.environ.pop(name, None)
        os.environ.update(before)


def _processes(launch: dict[str, Any], file: Path | None) -> int:
    count = launch.get("num_processes", 1)
    # YAML true is an int in Python.
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise RecipeError(f"launch: {file}: num_processes must be at least 1, got {count!r}")
    return count


def _settings(launch: dict[str, Any], key: str, file: Path | None) -> dict[str, Any]:
    settings = launch.get(key) or {}
    if not isinstance(settings, dict):
        raise RecipeError(f"launch: {file}: {key} must be a mapping, got {settings!r}")
    return settings
