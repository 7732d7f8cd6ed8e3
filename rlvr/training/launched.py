"""Whether the launch file and the recipe ask for the same run.

Where both state a setting, one of the two would win without a word, or the libraries would refuse
in the middle of the start.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from rlvr import runtime
from rlvr.config import Recipe
from rlvr.schema import RecipeError

# DeepSpeed's settings that TRL's configuration has under another name.
_SHARED = {
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "gradient_clipping": "max_grad_norm",
    "train_micro_batch_size_per_gpu": "per_device_train_batch_size",
    "optimizer.params.lr": "learning_rate",
    "optimizer.params.eps": "adam_epsilon",
    "optimizer.params.weight_decay": "weight_decay",
    "scheduler.params.warmup_max_lr": "learning_rate",
}
# What accelerate's launcher can start and a run cannot be.
_OTHERS = {
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}


def check_launched(recipe: Recipe, values: Mapping[str, Any]) -> None:
    """Compare what the launcher asked for with the ``values`` of the ``trainer`` section.

    Raises:
        RecipeError: names the setting of the launch file, both values and the fix.
    """
    for name, engine in _OTHERS.items():
        if os.environ.get(name, "false").lower() == "true":
            raise RecipeError(
                f"launch file: asks for {engine}; the runs know DDP, FSDP2 and DeepSpeed: start "
                "from one of the files in launch/"
            )
    _check_precision(values)
    _check_compiler(values)
    if runtime.launched_fsdp():
        _check_fsdp(recipe, values)
    if runtime.launched_zero_stage():
        _check_deepspeed(values)
        if recipe.mask is not None:
            _check_masked_zero(recipe, values)


def _check_precision(values: Mapping[str, Any]) -> None:
    # TRL computes in bf16 where a recipe does not say.
    bf16 = not values["fp16"] if values["bf16"] is None else values["bf16"]
    ours = "fp16" if values["fp16"] else "bf16" if bf16 else "no"
    launched = runtime.launcher_setting("ACCELERATE_MIXED_PRECISION")
    if launched not in ("no", ours):
        raise RecipeError(
            f"launch file: mixed_precision is {launched!r} and the recipe computes in "
            f"{'fp32' if ours == 'no' else ours}; set mixed_precision to 'no' in the launch file, "
            "which leaves it to trainer.bf16"
        )
    for key in ("bf16", "fp16"):
        stated = _stated(runtime.launched_deepspeed(), f"{key}.enabled")
        if stated not in (None, "auto", ours == key):
            raise RecipeError(
                f"launch file: DeepSpeed's {key}.enabled is {stated} and the recipe computes in "
                f"{'fp32' if ours == 'no' else ours}; write auto there, which leaves it to "
                f"trainer.{key}"
            )


def _check_compiler(values: Mapping[str, Any]) -> None:
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "NO")
    if backend.upper() != "NO" and not values["torch_compile"]:
        raise RecipeError(
            f"launch file: dynamo_backend is {backend!r} and trainer.torch_compile is false; set "
            "dynamo_backend to 'no', which leaves it to the recipe"
        )


def _check_fsdp(recipe: Recipe, values: Mapping[str, Any]) -> None:
    """Refuse the settings of a launch file that train or save something else than the recipe."""
    required = {"FSDP_VERSION": "2", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}
    for name, value in required.items():
        if runtime.launcher_setting(name) != value:
            raise RecipeError(
                f"launch file: {name.lower()} is {runtime.launcher_setting(name)!r} and must be "
                f"{value}: only version 2 keeps the rows of a matrix together, and a checkpoint "
                "holds whole weights; start from launch/fsdp2.yaml"
            )
    if recipe.model.dtype != "float32" and recipe.trainer.get("bf16") is not False:
        raise RecipeError(
            f"model.dtype: with trainer.bf16 accelerate widens {recipe.model.dtype} weights to "
            "float32 under FSDP2; set model.dtype to float32, or trainer.bf16 to false"
        )
    twice = runtime.launcher_setting("FSDP_ACTIVATION_CHECKPOINTING") == "true"
    if twice and values["gradient_checkpointing"]:
        raise RecipeError(
            "launch file: fsdp_activation_checkpointing is true and so is "
            "trainer.gradient_checkpointing, which is the same; set fsdp_activation_checkpointing "
            "to false"
        )


def _check_deepspeed(values: Mapping[str, Any]) -> None:
    for key, ours, theirs in _disagreements(runtime.launched_deepspeed(), values):
        raise RecipeError(
            f"launch file: DeepSpeed's {key} is {theirs!r} and trainer.{ours} is "
            f"{values[ours]!r}; write auto in the launch file, which leaves it to the recipe"
        )


def _disagreements(
    settings: Mapping[str, Any], values: Mapping[str, Any]
) -> Iterator[tuple[str, str, object]]:
    """Yield (DeepSpeed's key, TRL's key, DeepSpeed's value) where the two are not equal."""
    for key, ours in _SHARED.items():
        stated = _stated(settings, key)
        # accelerate hands numbers on as text.
        if stated in (None, "auto", "none") or _number(stated) == _number(values[ours]):
            continue
        yield key, ours, stated


def _stated(settings: Mapping[str, Any], key: str) -> Any:
    """Return the value at a dotted ``key``; ``None`` where the file does not state it."""
    value: Any = settings
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _number(value: object) -> object:
    try:
        return float(str(value))
    except ValueError:
        return value


def _check_masked_zero(recipe: Recipe, values: Mapping[str, Any]) -> None:
    if values["weight_decay"]:
        raise RecipeError(
            f"trainer.weight_decay: {values['weight_decay']} moves frozen entries under DeepSpeed: "
            "its optimizer knows no masks; set it to 0 or launch with DDP"
        )
    if recipe.model.dtype != "float32":
        raise RecipeError(
            f"model.dtype: DeepSpeed keeps the masters of {recipe.model.dtype} weights itself; set "
            "it to float32, and trainer.bf16 to true"
        )
    own = _stated(runtime.launched_deepspeed(), "optimizer.type")
    if own is not None and str(own).lower() not in ("adam", "adamw"):
        raise RecipeError(
            f"launch file: DeepSpeed's optimizer is {own} and cannot keep entries outside the mask "
            "still; remove the section `optimizer`, which leaves it to trainer.optim"
        )
