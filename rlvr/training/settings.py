"""The ``trainer`` section of a recipe, checked against the trainer of TRL's that reads it."""

import dataclasses
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, get_type_hints

from trl import GRPOConfig, SFTConfig

from rlvr import runtime
from rlvr.config import Recipe
from rlvr.schema import RecipeError, check_value, unknown_key
from rlvr.training.batch_sizes import BatchSizes, resolve_sizes
from rlvr.training.distribution import check_sampling

# Set by the run itself: a recipe that sets one of them would contradict the run directory.
_RESERVED = {
    "output_dir": "run.dir",
    "resume_from_checkpoint": "the --resume flag",
    "model_init_kwargs": "the model section",
    "full_determinism": "run.deterministic",
    "use_cpu": "nothing: a GPU is used where there is one",
    "disable_tqdm": "nothing: the run shows one progress bar",
    "logging_nan_inf_filter": "nothing: a loss that is NaN or infinite stops the run",
}
GRPO_RESERVED = _RESERVED | {
    "remove_unused_columns": "nothing: rewards need the columns",
    "reward_weights": "the weight of each entry of rewards",
    "sync_ref_model": "nothing: the reference is the base policy",
}
# The run renders, tokenises and joins the rows, so that prompts are those of RLVR.
_WHOLE = "nothing: each row is trained on whole, by itself"
_RENDERED = "the data section: prompts are rendered as under RLVR"
SFT_RESERVED = _RESERVED | {
    "remove_unused_columns": "nothing: the rows hold token ids alone",
    "completion_only_loss": "nothing: the loss is on the completion",
    "assistant_only_loss": "nothing: the loss is on the completion",
    "packing": _WHOLE,
    "packing_strategy": _WHOLE,
    "eval_packing": _WHOLE,
    "padding_free": _WHOLE,
    "truncation_mode": "nothing: a row longer than max_length is dropped",
    "shuffle_dataset": "data.shuffle",
    "eval_strategy": "the eval section",
    "chat_template_path": _RENDERED,
    "dataset_text_field": _RENDERED,
    "dataset_kwargs": _RENDERED,
    "dataset_num_proc": _RENDERED,
    "eos_token": "nothing: a completion ends in the tokenizer's end token",
    "pad_token": "nothing: it is the tokenizer's",
}
# What an epoch's order is drawn from otherwise, a resumed run does not have.
SAMPLING = ("random", "sequential")
SFT_LOSSES = ("nll", "dft")
MASKED_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused")


def check_trainer(recipe: Recipe) -> BatchSizes | None:
    """Return the batch of an RLVR run; ``None`` of a supervised one.

    Raises:
        RecipeError: a setting is unknown, of a wrong type, not the user's, or contradicts others.
    """
    settings = recipe.trainer
    config: Any = SFTConfig if recipe.supervised else GRPOConfig
    reserved = SFT_RESERVED if recipe.supervised else GRPO_RESERVED
    hints = get_type_hints(config)
    fields = {field.name: field.default for field in dataclasses.fields(config)}
    for key, value in settings.items():
        if key in reserved:
            raise RecipeError(f"trainer.{key}: not yours to set; use {reserved[key]}")
        if key not in fields:
            _refuse_unknown(key, fields, recipe.supervised)
        check_value(value, hints[key], f"trainer.{key}")
    values = {**fields, **settings}
    batch = None
    if recipe.supervised:
        _check_supervised(recipe, values)
    else:
        check_sampling(values)
        batch = resolve_sizes(values, runtime.world_size())
    _check_reporters(values["report_to"])
    if recipe.algorithm is not None and recipe.algorithm.dynamic_sampling and values["fp16"]:
        raise RecipeError(
            "algorithm.dynamic_sampling: the loss scaler of trainer.fp16 cannot skip the step of a "
            "batch without useful groups; use trainer.bf16, or set it to false"
        )
    if recipe.mask is not None:
        _check_masked(recipe, values)
    if runtime.launched_fsdp():
        _check_fsdp(recipe)
    return batch


def _refuse_unknown(key: str, fields: Mapping[str, Any], supervised: bool) -> None:
    if supervised and key in {field.name for field in dataclasses.fields(GRPOConfig)}:
        raise RecipeError(
            f"trainer.{key}: a setting of GRPO, and algorithm sft takes those of TRL's SFTConfig; "
            "remove it, or give this recipe another base"
        )
    raise unknown_key(key, fields, "trainer")


def _check_supervised(recipe: Recipe, values: Mapping[str, Any]) -> None:
    for key, allowed in (("train_sampling_strategy", SAMPLING), ("loss_type", SFT_LOSSES)):
        if str(values[key]) not in allowed:
            raise RecipeError(
                f"trainer.{key}: {values[key]} is not possible under sft; use "
                f"{' or '.join(allowed)}"
            )
    if values["max_length"] is not None and values["max_length"] < 2:
        raise RecipeError(f"trainer.max_length: must be at least 2, got {values['max_length']}")
    if recipe.adapter is not None and recipe.adapter.get("sync") == "merge_unmerge":
        raise RecipeError(
            "adapter.sync: merge_unmerge is what a push to the sampler does, and algorithm sft "
            "samples nothing; remove it"
        )


def _check_reporters(report_to: str | list[str] | None) -> None:
    for name in [report_to] if isinstance(report_to, str) else report_to or []:
        if name in ("none", "all"):
            continue
        if find_spec(name) is None:
            raise RecipeError(
                f"trainer.report_to: {name!r} is not installed; run `pip install {name}` or leave "
                "it out"
            )


def _check_masked(recipe: Recipe, values: Mapping[str, Any]) -> None:
    if str(values["optim"]) not in MASKED_OPTIMIZERS:
        raise RecipeError(
            f"trainer.optim: {values['optim']} cannot keep entries outside the mask still; "
            f"with a mask use {MASKED_OPTIMIZERS[0]}"
        )
    if runtime.launched_zero_stage():
        _check_masked_zero(recipe, values)
    if recipe.optimizer.free_gradients and values["fp16"]:
        raise RecipeError(
            "optimizer.free_gradients: the loss scaler of trainer.fp16 would find no gradient to "
            "unscale; use trainer.bf16"
        )


def _check_masked_zero(recipe: Recipe, values: Mapping[str, Any]) -> None:
    if values["weight_decay"]:
        raise RecipeError(
            f"trainer.weight_decay: {values['weight_decay']} moves frozen entries under DeepSpeed, "
            "whose optimizer knows no masks; set it to 0 or launch with DDP"
        )
    if recipe.model.dtype != "float32":
        raise RecipeError(
            f"model.dtype: DeepSpeed keeps the masters of {recipe.model.dtype} weights itself; set "
            "it to float32, and mixed_precision: bf16 in the launch file"
        )


def _check_fsdp(recipe: Recipe) -> None:
    """Refuse the settings of a launch file that train or save something else than the recipe."""
    required = {"FSDP_VERSION": "2", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}
    for name, value in required.items():
        if runtime.launcher_setting(name) != value:
            raise RecipeError(
                f"launch file: {name.lower()} is {runtime.launcher_setting(name)!r} and must be "
                f"{value}: rows of a matrix stay together in version 2 alone, and a checkpoint "
                "holds whole weights; start from launch/fsdp2.yaml"
            )
    precision = runtime.launcher_setting("ACCELERATE_MIXED_PRECISION")
    if recipe.model.dtype != "float32" and precision != "no":
        raise RecipeError(
            f"model.dtype: with mixed_precision {precision} accelerate widens {recipe.model.dtype} "
            "weights to float32 under FSDP2; set model.dtype to float32, or mixed_precision in the "
            "launch file to 'no'"
        )
