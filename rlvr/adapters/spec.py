"""The adapter section of a recipe, checked before any weight is loaded."""

from collections.abc import Mapping, Sequence
from typing import Any

from peft import get_peft_model
from torch import nn
from transformers import PreTrainedModel

from rlvr.adapters.methods import Method
from rlvr.config import Recipe, pop_name
from rlvr.registry import adapter, place, shown
from rlvr.schema import RecipeError
from rlvr.targets import matches


def parse_adapter(spec: dict[str, Any], where: str = "adapter") -> tuple[str, dict[str, Any]]:
    """Return the builder's name and its checked options."""
    name, options = pop_name(spec, "builder", where)
    return name, adapter.check(name, options, where)


def build_method(spec: dict[str, Any]) -> Method:
    """Return the method that a recipe's mapping describes, without targets."""
    name, options = parse_adapter(spec)
    method = adapter.call(name, "", **options)
    if not isinstance(method, Method):
        raise RecipeError(
            f"adapter {name!r}: {place(adapter.functions[name])}: returned {shown(method)}; return "
            "a Method of rlvr.adapters.methods, such as Method(LoraConfig(r=8))"
        )
    return method


def check_section(recipe: Recipe) -> None:
    """Refuse what would make the base weights of a run with an adapter another policy's."""
    assert recipe.adapter is not None
    if recipe.model.also_train:
        raise RecipeError(
            "model.also_train: an adapter never writes to the base weights, which are its "
            "reference and what its checkpoint is loaded on; set it to [] or train with a mask"
        )
    if recipe.trainer.get("beta") and recipe.adapter.get("sync") == "merge_unmerge":
        raise RecipeError(
            "trainer.beta: adapter.sync=merge_unmerge erodes the base weights, so the reference "
            "cannot be exact; set beta to 0 or sync to exact"
        )


def refuse_head(model: nn.Module, patterns: Sequence[str]) -> None:
    """Raise where ``model.targets`` names the output head, for which there can be no adapter."""
    # By name too: a tied head is the embedding, and named_modules need not list it.
    heads = {"lm_head"}
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    heads |= {name for name, module in model.named_modules() if module is head}
    for pattern in patterns:
        if pattern not in ("*", "linear") and any(
            matches(f"{name}.weight", pattern) for name in heads
        ):
            raise RecipeError(
                f"model.targets: {pattern!r} is the output head, on which an adapter would never "
                "be trained (TRL reads log-probs from its weight only); leave it out"
            )


def check_adapter(
    spec: dict[str, Any], skeleton: nn.Module, shapes: Mapping[str, Sequence[int]]
) -> int:
    """Return how many parameters the adapter trains; raise where the recipe is impossible.

    Args:
        spec: the recipe's mapping.
        skeleton: the policy on the meta device; it is wrapped in the adapter.
        shapes: the target matrices.

    Raises:
        RecipeError: a rank, dropout or other option that the target matrices do not allow.
    """
    name, options = parse_adapter(spec)
    _check_ranges(options, shapes)
    _require_linear(skeleton, shapes)
    method = build_method(spec)
    if method.subtracts_start and options.get("dropout", 0.0):
        raise RecipeError(
            f"adapter.dropout: {name} starts with a part of W0 in its factors, and dropping it out "
            "would train and sample another policy than the base; remove it"
        )
    method.config.target_modules = module_names(shapes)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        # low_cpu_mem_usage keeps the new factors on the meta device.
        wrapped: Any = get_peft_model(skeleton, method.config, low_cpu_mem_usage=True)  # pyright: ignore[reportArgumentType]
    except Exception as error:  # noqa: BLE001  (whatever a method of PEFT's raises)
        raise RecipeError(f"adapter: {name!r} does not fit the target matrices: {error}") from error
    return sum(
        parameter.numel()
        for key, parameter in wrapped.named_parameters()
        if parameter.requires_grad and is_trained(method, key)
    )


def _require_linear(skeleton: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    """Refuse families that store their matrices transposed, such as GPT-2's Conv1D."""
    for name in module_names(shapes):
        module = skeleton.get_submodule(name)
        if not isinstance(module, nn.Linear):
            raise RecipeError(
                f"adapter: {name} is a {type(module).__name__} and no nn.Linear, and adapters are "
                "for those; train this family with a mask, or choose other model.targets"
            )


def is_trained(method: Method, key: str) -> bool:
    """Tell whether a parameter of the adapter is one that ``method`` trains."""
    return not any(
        f".{factor}." in key for factor in ("lora_A", "lora_B") if factor not in method.trains
    )


def module_names(targets: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Return the modules of the target matrices, as PEFT wants them."""
    return sorted(target.removesuffix(".weight") for target in targets)


def _check_ranges(options: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> None:
    # The builder peft carries the options of PEFT's class one level down.
    nested = options.get("options") or {}
    ranks = {"rank": options.get("rank"), "options.r": nested.get("r")}
    for key, rank in ranks.items():
        for name, shape in shapes.items():
            if isinstance(rank, int) and not 1 <= rank <= min(shape):
                raise RecipeError(
                    f"adapter.{key}: {rank} is outside 1..{min(shape)}, the smallest dimension of "
                    f"{name} of shape {tuple(shape)}"
                )
    if not 0.0 <= options.get("dropout", 0.0) < 1.0:
        raise RecipeError(f"adapter.dropout: {options['dropout']} is outside [0, 1)")
    if not 0.0 < options.get("density", 0.5) < 1.0:
        raise RecipeError(f"adapter.density: {options['density']} is outside (0, 1)")
    for key in ("alpha", "ratio"):
        value = options.get(key)
        if value is not None and not 0.0 < value < float("inf"):
            raise RecipeError(f"adapter.{key}: {value} is not a positive number")
