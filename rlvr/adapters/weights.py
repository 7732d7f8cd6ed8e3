"""The dense weights of a policy with an adapter, computed in copies: nothing is merged in place.

Merging into a bf16 base and subtracting again rounds it twice each time, which erodes it. Here each
matrix is W0 + dW in float32 from the untouched W0, cast once: to the dtype of W0 for the sampler,
not at all for the exported policy, in which an update far below the rounding of W0 must survive.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from rlvr.adapters.start import factor_names, subtracts_start
from rlvr.engines import whole

WRAPPED = ".base_layer"


def tuner_layers(model: nn.Module) -> dict[str, BaseTunerLayer]:
    """Return the adapted modules of ``model`` by the name that they have in the base policy."""
    base = model.get_base_model()  # pyright: ignore[reportCallIssue]
    return {n: m for n, m in base.named_modules() if isinstance(m, BaseTunerLayer)}


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Run the body with the base policy's function: every adapter is skipped, on any engine.

    PEFT's own ``disable_adapter`` turns ``requires_grad`` off and, of all active adapters, on
    again: it would make the frozen start trainable.
    """
    layers = list(tuner_layers(model).values())
    for layer in layers:
        # PEFT has no public switch that leaves requires_grad as it is.
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def base_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the base policy's parameters under their own names; every rank must ask for all."""
    layers = tuner_layers(model)
    for name, parameter in model.get_base_model().named_parameters():  # pyright: ignore[reportCallIssue]
        module, separator, leaf = name.partition(WRAPPED)
        if separator or not _is_inside(name, layers):
            with whole(parameter) as weight:
                yield module + leaf, weight.detach()


@torch.no_grad()
def policy_weights(
    model: nn.Module, *, stored: torch.dtype | None = None, computed: torch.dtype = torch.float32
) -> Iterator[tuple[str, Tensor]]:
    """Yield the dense weights of the trained policy.

    A tensor is only good until the next one is asked for; every rank must ask for all. Memory: a
    few float32 copies of one matrix at a time.

    Args:
        model: with its adapter.
        stored: the dtype of what is yielded; by default of each weight in the base policy.
        computed: the dtype of the factors in the matrix products of the run, to which they are
            rounded first. Under bfloat16 autocast a factor may have moved by less than that.
    """
    layers = tuner_layers(model)
    merged: dict[str, dict[str, Tensor]] = {}
    for name, parameter in model.get_base_model().named_parameters():  # pyright: ignore[reportCallIssue]
        module, separator, leaf = name.partition(WRAPPED)
        if separator:
            # One module at a time: weight and bias of a module follow each other.
            if module not in merged:
                merged = {module: merged_layer(layers[module], computed)}
            weight = merged[module][leaf.removeprefix(".")]
            yield module + leaf, weight.to(stored or parameter.dtype)
        elif not _is_inside(name, layers):
            with whole(parameter) as weight:
                yield name, weight.detach().to(stored or parameter.dtype)


def _is_inside(name: str, layers: dict[str, BaseTunerLayer]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:end]) in layers for end in range(1, len(parts)))


@torch.no_grad()
def merged_layer(layer: Any, computed: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return weight and bias of one adapted module in float32; the module is left as it is.

    The factors of a LoRA are rounded to ``computed`` before their product.
    """
    twin = _float_twin(layer)
    base = twin.get_base_layer()
    if isinstance(layer, LoraLayer):
        for factor in (twin.lora_A, twin.lora_B):
            for module in factor.values():
                # float32 -> computed -> float32: the values that the run multiplied, in a wide
                # dtype.
                module.weight.copy_(module.weight.to(computed))
    if is_plain_lora(layer):
        names = [] if layer.disable_adapters else factor_names(layer)
        # Added up before W0: at the start B A - B0 A0 is exactly 0, and W0 + 0 exactly W0.
        delta = sum(twin.get_delta_weight(name) for name in names)
        return {**dict(base.named_parameters()), "weight": (base.weight + delta).detach()}
    # PEFT's own merge, on a copy: DoRA and other methods have formulas of their own.
    twin.merge(adapter_names=[n for n in layer.active_adapters if not layer.disable_adapters])
    return {name: parameter.detach() for name, parameter in base.named_parameters()}


def is_plain_lora(layer: object) -> bool:
    """Tell whether a module computes W0 + dW with dW a product of its factors."""
    return (
        isinstance(layer, LoraLayer)
        and (subtracts_start(layer) or not layer.lora_variant)
        and not any(layer.lora_bias.values())
    )


def _float_twin(module: nn.Module) -> Any:
    """Return a copy of ``module`` with whole float32 parameters of its own and without hooks.

    A deep copy would follow the hooks of DeepSpeed into the whole engine.
    """
    twin: Any = copy.copy(module)
    for key, value in list(vars(twin).items()):
        # copy.copy shares containers with the original; the twin must not write into them.
        if isinstance(value, dict | list):
            hooks = key.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called"))
            twin.__dict__[key] = OrderedDict() if hooks else copy.copy(value)
    twin.__dict__["_parameters"] = {
        name: None if parameter is None else _float_copy(parameter)
        for name, parameter in module._parameters.items()
    }
    twin.__dict__["_modules"] = {
        name: None if child is None else _float_twin(child)
        for name, child in module._modules.items()
    }
    return twin


def _float_copy(parameter: Tensor) -> nn.Parameter:
    with whole(parameter) as weight:
        return nn.Parameter(weight.detach().float().clone(), requires_grad=False)
