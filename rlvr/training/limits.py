"""The values that settings of TRL's may have, where their types allow more than a run can use."""

import difflib
from collections.abc import Mapping
from typing import Any

from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from rlvr.schema import Bounds, RecipeError

_COUNT, _INDEX = Bounds(1), Bounds(0)
_POSITIVE, _ANY = Bounds(0, above=True), Bounds(0)
_SHARE, _MOMENT = Bounds(0, 1), Bounds(0, 1, below=True)
_SEED = Bounds(0, 2**32 - 1)  # NumPy's

BOUNDS: Mapping[str, Bounds] = {
    "learning_rate": _ANY,
    "weight_decay": _ANY,
    "adam_beta1": _MOMENT,
    "adam_beta2": _MOMENT,
    "adam_epsilon": _ANY,
    "max_grad_norm": _ANY,
    "warmup_steps": _ANY,
    "num_train_epochs": _POSITIVE,
    "per_device_train_batch_size": _COUNT,
    "gradient_accumulation_steps": _COUNT,
    "generation_batch_size": _COUNT,
    "steps_per_generation": _COUNT,
    "num_iterations": _COUNT,
    "num_generations": Bounds(2),
    "max_completion_length": _COUNT,
    "max_length": Bounds(2),
    "beta": _ANY,
    "epsilon": _ANY,
    "epsilon_high": _ANY,
    "delta": _POSITIVE,
    "top_entropy_quantile": _SHARE,
    "neftune_noise_alpha": _ANY,
    "logging_steps": _POSITIVE,
    "save_steps": _POSITIVE,
    # Trainer would read 0 and -1 as "delete every checkpoint".
    "save_total_limit": _COUNT,
    "seed": _SEED,
    "data_seed": _SEED,
    "dataloader_num_workers": _INDEX,
    "dataloader_prefetch_factor": _COUNT,
    "ddp_bucket_cap_mb": _COUNT,
    "ddp_timeout": _COUNT,
    "torch_empty_cache_steps": _COUNT,
    "num_completions_to_print": _COUNT,
    "vllm_gpu_memory_utilization": Bounds(0, 1, above=True),
    "vllm_max_model_length": _COUNT,
    "vllm_tensor_parallel_size": _COUNT,
    "vllm_server_port": Bounds(1, 65535),
    "vllm_group_port": Bounds(1, 65535),
    "vllm_server_timeout": _POSITIVE,
    "vllm_importance_sampling_clip_max": _POSITIVE,
    "vllm_importance_sampling_clip_min": _ANY,
    "sapo_temperature_neg": _POSITIVE,
    "sapo_temperature_pos": _POSITIVE,
    "entropy_coef": _ANY,
    "entropy_coef_min": _ANY,
    "entropy_coef_max": _ANY,
    "entropy_coef_delta": _ANY,
    "entropy_target": _ANY,
}
_LEVELS = ("debug", "info", "warning", "error", "critical", "passive")
CHOICES: Mapping[str, tuple[object, ...]] = {
    "optim": tuple(name.value for name in OptimizerNames),
    "lr_scheduler_type": tuple(name.value for name in SchedulerType),
    "scale_rewards": ("group", "batch", "none"),
    "importance_sampling_level": ("token", "sequence"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "vllm_mode": ("colocate", "server"),
    "vllm_model_impl": ("vllm", "transformers"),
    "vllm_importance_sampling_mode": (
        "token_truncate",
        "token_mask",
        "sequence_truncate",
        "sequence_mask",
    ),
    # "no" keeps no checkpoint, and "best" needs an evaluation inside the Trainer.
    "save_strategy": ("steps", "epoch"),
    "log_level": _LEVELS,
    "log_level_replica": _LEVELS,
    "include_num_input_tokens_seen": ("no", "all", "non_padding", True, False),
    "dataloader_multiprocessing_context": (None, "fork", "spawn", "forkserver"),
}
GRPO_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo")
SFT_LOSSES = ("nll", "dft")
# TRL reads text here as JSON, from a command line; a recipe has mappings.
MAPPINGS = (
    "lr_scheduler_kwargs",
    "gradient_checkpointing_kwargs",
    "generation_kwargs",
    "chat_template_kwargs",
    "liger_kernel_config",
    "transformers_continuous_batching_config",
)
_CHECKPOINTING = ("use_reentrant", "preserve_rng_state", "determinism_check", "early_stop", "debug")


def check_limits(values: Mapping[str, Any], *, supervised: bool) -> None:
    """Raise where a setting is out of its range or none of its choices.

    Raises:
        RecipeError: the message names the key, the value and what is allowed.
    """
    for key in MAPPINGS:
        if isinstance(values.get(key), str):
            raise RecipeError(f"trainer.{key}: expected a mapping, got {values[key]!r}")
    for key, bounds in BOUNDS.items():
        if values.get(key) is not None:
            bounds.check(values[key], f"trainer.{key}")
    losses = SFT_LOSSES if supervised else GRPO_LOSSES
    for key, allowed in {**CHOICES, "loss_type": losses}.items():
        if key in values and getattr(values[key], "value", values[key]) not in allowed:
            words = ["null" if word is None else str(word) for word in allowed]
            stated = str(values[key])
            near = [word for word in words if word.startswith(stated)]
            near = near[:3] or difflib.get_close_matches(stated, words, n=3)
            hint = f"choose one of {', '.join(words)}"
            if near and len(words) > 8:
                hint = f"did you mean {' or '.join(near)}?"
            raise RecipeError(f"trainer.{key}: {values[key]!r} is no choice; {hint}")
    if values["max_steps"] < 1 and values["max_steps"] != -1:
        raise RecipeError(
            f"trainer.max_steps: must be at least 1, or -1 to count epochs; got "
            f"{values['max_steps']}"
        )
    for key in ("logging_steps", "save_steps"):
        if values[key] > 1 and values[key] != int(values[key]):
            raise RecipeError(
                f"trainer.{key}: must be a whole number of steps, or a share of all steps below 1; "
                f"got {values[key]}"
            )
    if values["dataloader_persistent_workers"] and values["dataloader_num_workers"] == 0:
        raise RecipeError(
            "trainer.dataloader_persistent_workers: there are no workers to keep; set "
            "trainer.dataloader_num_workers"
        )
    for key in values.get("gradient_checkpointing_kwargs") or ():
        if key not in _CHECKPOINTING:
            raise RecipeError(
                f"trainer.gradient_checkpointing_kwargs: unknown {key!r}; allowed: "
                f"{', '.join(_CHECKPOINTING)}"
            )
