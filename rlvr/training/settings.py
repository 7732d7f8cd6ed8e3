"""The ``trainer`` section of a recipe, checked against the trainer of TRL's that reads it."""

import dataclasses
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, get_type_hints

import torch
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from trl import GRPOConfig, SFTConfig

from rlvr import runtime
from rlvr.config import Recipe
from rlvr.schema import RecipeError, check_value, unknown_key
from rlvr.training.batch_sizes import BatchSizes, resolve_sizes
from rlvr.training.distribution import check_sampling
from rlvr.training.launched import check_launched
from rlvr.training.limits import check_limits
from rlvr.training.reserved import GRPO_RESERVED, SFT_RESERVED

# Other strategies draw the order of an epoch from state that no checkpoint saves.
SAMPLING = ("random", "sequential")
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
            raise unknown_key(key, fields, "trainer")
        check_value(value, hints[key], f"trainer.{key}")
    # Defaults included: a default may contradict what the recipe sets.
    values = {**fields, **settings}
    check_limits(values, supervised=recipe.supervised)
    _check_precision(values)
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
    check_launched(recipe, values)
    return batch


def _check_supervised(recipe: Recipe, values: Mapping[str, Any]) -> None:
    strategy = str(values["train_sampling_strategy"])
    if strategy not in SAMPLING:
        raise RecipeError(
            f"trainer.train_sampling_strategy: {strategy} is not possible under sft; use "
            f"{' or '.join(SAMPLING)}"
        )
    if recipe.adapter is not None and recipe.adapter.get("sync") == "merge_unmerge":
        raise RecipeError(
            "adapter.sync: merge_unmerge is what a push to the sampler does, and algorithm sft "
            "samples nothing; remove it"
        )


def _check_reporters(report_to: str | list[str] | None) -> None:
    for name in [report_to] if isinstance(report_to, str) else report_to or []:
        if name in ("none", "all"):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            raise RecipeError(
                f"trainer.report_to: {name!r} is none of none, all, "
                f"{', '.join(INTEGRATION_TO_CALLBACK)}"
            )
        if find_spec(name) is None:
            raise RecipeError(
                f"trainer.report_to: {name!r} is not installed; run `pip install {name}` or leave "
                "it out"
            )


def _check_precision(values: Mapping[str, Any]) -> None:
    if values["fp16"] and values["bf16"]:
        raise RecipeError("trainer.fp16: bf16 is true too; set one of them to false")
    if values["fp16"] and not torch.cuda.is_available():
        raise RecipeError("trainer.fp16: needs a GPU, and there is none; use trainer.bf16")


def _check_masked(recipe: Recipe, values: Mapping[str, Any]) -> None:
    if str(values["optim"]) not in MASKED_OPTIMIZERS:
        raise RecipeError(
            f"trainer.optim: {values['optim']} cannot keep entries outside the mask still; "
            f"with a mask use {MASKED_OPTIMIZERS[0]}"
        )
    if values["optim_args"]:
        raise RecipeError(
            "trainer.optim_args: the optimizer of a masked run takes none; remove them"
        )
    if recipe.optimizer.free_gradients and values["fp16"]:
        raise RecipeError(
            "optimizer.free_gradients: the loss scaler of trainer.fp16 would find no gradient to "
            "unscale; use trainer.bf16"
        )
