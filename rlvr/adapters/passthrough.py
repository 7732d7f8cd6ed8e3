"""PEFT's own methods by the name of their configuration class, checked strictly."""

import dataclasses
from typing import Any, get_type_hints

import peft

from rlvr.schema import RecipeError, check_value, unknown_key

# What the recipe says elsewhere, or what would train base weights that no adapter switches off.
RESERVED = {
    **dict.fromkeys(
        (
            "target_modules",
            "target_parameters",
            "exclude_modules",
            "layers_to_transform",
            "layers_pattern",
        ),
        "model.targets",
    ),
    **dict.fromkeys(
        ("task_type", "peft_type", "inference_mode", "auto_mapping", "peft_version"),
        "nothing: the run sets it",
    ),
    **dict.fromkeys(("base_model_name_or_path", "revision"), "the model section"),
    **dict.fromkeys(
        ("modules_to_save", "trainable_token_indices", "layer_replication"),
        "nothing: an adapter changes the target matrices and never the base weights",
    ),
}
# These train right only where the training loop calls them in each step.
NEEDS_CALLS = {"AdaLoraConfig": "its budget is reallocated by calls of the training loop"}


def method_names() -> list[str]:
    """Return the configuration classes that adapt target matrices."""
    configurations = []
    for name in dir(peft):
        value = getattr(peft, name)
        if isinstance(value, type) and issubclass(value, peft.PeftConfig):
            if "target_modules" in {field.name for field in dataclasses.fields(value)}:
                configurations.append(name)
    return configurations


def passthrough_config(method: str, options: dict[str, Any]) -> peft.PeftConfig:
    """Return ``peft.<method>(**options)``; each option is checked against the class's annotations.

    Raises:
        RecipeError: no such class, an unknown or reserved option, a wrong type or value.
    """
    names = method_names()
    if method in NEEDS_CALLS:
        raise RecipeError(f"adapter.method: {method} is not supported: {NEEDS_CALLS[method]}")
    if method not in names:
        raise unknown_key(method, names, "adapter.method")
    kind: Any = getattr(peft, method)
    hints = get_type_hints(kind)
    fields = {field.name for field in dataclasses.fields(kind)}
    for key, value in options.items():
        where = f"adapter.options.{key}"
        if key in RESERVED:
            raise RecipeError(f"{where}: not yours to set; use {RESERVED[key]}")
        if key not in fields:
            raise unknown_key(key, fields - RESERVED.keys(), "adapter.options")
        # Biases belong to the base: trained ones stay changed when the adapter is switched off.
        if key == "bias" and value != "none":
            raise RecipeError(f"{where}: {value!r} trains the base policy's biases; use 'none'")
        # PEFT documents "pissa_niter_16" for a literal that its annotation cannot spell.
        if not (key == "init_lora_weights" and isinstance(value, str)):
            check_value(value, hints[key], where)
    try:
        return kind(**options, task_type="CAUSAL_LM")
    except (TypeError, ValueError) as error:
        raise RecipeError(f"adapter.options: {method} refuses them: {error}") from error
