r"""Attaching an adapter so that the policy starts as the base policy (contract C2).

The base weights are never written to. A method with factors that do not start at 0 gets two stock
PEFT adapters: the trained one, A and B, and a frozen one, A0 and -B0, so that

.. math:: W = W_0 + s (B A - B_0 A_0).

The gradients with respect to A and B are those of the published method, which keeps
:math:`W_0 - s B_0 A_0` in the base instead. The base policy, and so the reference, is the policy
with its adapters switched off, whatever the method. ``start.py`` computes the difference so that
it is 0 at the start in bfloat16 too.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlvr import runtime
from rlvr.adapters.initial import initial_tensors, maker
from rlvr.adapters.methods import Method
from rlvr.adapters.report import summarise
from rlvr.adapters.spec import build_method, is_trained, module_names
from rlvr.adapters.start import START, TRAINED, subtract_start
from rlvr.adapters.weights import adapters_off, merged_layer, tuner_layers
from rlvr.checkpoints.fingerprints import fingerprint_values
from rlvr.precision import Precision
from rlvr.schema import RecipeError, RunError

# The largest relative difference in logits at the start. Every builder of ours stays at 1e-6 and
# below; methods of PEFT's that rotate the weights round them once more.
MAX_START_GAP = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 5e-3}


@dataclass(frozen=True)
class Adapter:
    """A policy with its adapter. ``start`` is what a run's provenance says of it."""

    model: PeftModel
    method: Method
    start: dict[str, Any]

    @property
    def is_control(self) -> bool:
        """Tell whether the base weights are merged into and unmerged, as a control."""
        return self.method.sync == "merge_unmerge"


def attach_adapter(
    model: PreTrainedModel,
    spec: dict[str, Any],
    targets: Sequence[str],
    *,
    seed: int = 0,
    base_hash: str = "",
    run_dir: Path | None = None,
    precision: Precision | None = None,
) -> Adapter:
    """Wrap ``model`` in the adapter that ``spec`` describes; its own parameters must be frozen.

    The factors are computed by the main process, sent to the others, and stored in ``run_dir``; a
    resumed run starts from the stored ones. Whether the policy starts at the base policy is checked
    in the ``precision`` of the run, by default the one of the weights.

    Raises:
        RecipeError: the policy would not start at the base policy or would train nothing.
        RunError: the stored factors are damaged or belong to other base weights.
    """
    name = spec["builder"]
    method = build_method(spec)
    config: Any = method.config
    # Full names: PEFT matches suffixes, and a short one could adapt a vision tower as well.
    config.target_modules = module_names(targets)
    model.eval()
    precision = precision or Precision(next(model.parameters()).dtype)
    # Before PEFT wraps the model: this is the function that the start must equal.
    before = _probe(model, precision)
    weights = {target: model.get_parameter(target) for target in targets}
    wrapped: Any = get_peft_model(model, config)
    wrapped.eval()
    make = maker(method, weights, wrapped, seed)
    provenance = {"adapter": spec, "seed": seed, "base_weights": base_hash}
    # Computed once: two SVDs on two ranks may differ in signs, which would train two policies.
    tensors, rows = runtime.from_main(lambda: initial_tensors(make, provenance, run_dir))
    _fill(wrapped, method, tensors)
    for key, parameter in wrapped.named_parameters():
        # PEFT trains both factors of every LoRA.
        if not is_trained(method, key):
            parameter.requires_grad_(False)
    # Under FSDP2 only rank 0 has loaded the weights; the other ranks have none to compare yet.
    gap = runtime.from_main(lambda: _relative(_probe(wrapped, precision), before))
    start = {"builder": name, "initial": fingerprint_values(tensors.items()), "logit_gap": gap}
    start["matrices"] = summarise(rows, _trained(wrapped))
    adapter = Adapter(wrapped, method, start)
    if adapter.is_control:
        start["control"] = "merges into the base weights and unmerges, as TRL does; not for use"
    else:
        _require_base(adapter, before, name, precision)
    return adapter


@torch.no_grad()
def _probe(model: Any, precision: Precision) -> Tensor:
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.vocab_size, (2, 16), generator=generator).to(device)
    with precision.forward(device):
        return model(input_ids=tokens).logits.float()


def _relative(logits: Tensor, reference: Tensor) -> float:
    return float((logits - reference).abs().max() / reference.abs().max())


@torch.no_grad()
def _fill(wrapped: PeftModel, method: Method, tensors: dict[str, Tensor]) -> None:
    """Write the initial tensors into the adapter, and into the frozen start if it needs one."""
    if method.factors is None:
        parameters = dict(wrapped.named_parameters())
        for name, value in tensors.items():
            parameters[name].copy_(value)
        return
    if method.subtracts_start:
        # A deep copy of the configuration: PEFT writes to the one that it is given.
        wrapped.add_adapter(START, copy.deepcopy(method.config))
    for name, layer in tuner_layers(wrapped).items():
        first, second = tensors[f"{name}.A"], tensors[f"{name}.B"]
        _set(layer, TRAINED, first, second)
        if method.subtracts_start:
            # The minus sign makes the start a plain sum for stock PEFT: s B A + s (-B0) A0.
            _set(layer, START, first, -second)
            for factor in ("lora_A", "lora_B"):
                getattr(layer, factor)[START].requires_grad_(False)
            subtract_start(layer)  # pyright: ignore[reportArgumentType]
        if getattr(method.config, "use_dora", False):
            _set_magnitude(layer)


def _set(layer: Any, adapter: str, first: Tensor, second: Tensor) -> None:
    for module, value in ((layer.lora_A, first), (layer.lora_B, second)):
        weight = module[adapter].weight
        # Not copy_: PEFT may have made it in bfloat16, and the factors are float32.
        weight.data = value.to(weight.device, copy=True)


def _set_magnitude(layer: Any) -> None:
    # PEFT takes the norms in the dtype of the base weights, in which m / ||W0|| is not 1.
    magnitude = layer.lora_magnitude_vector[TRAINED]
    magnitude.weight.data = torch.linalg.norm(layer.get_base_layer().weight.float(), dim=1)


def _trained(wrapped: PeftModel) -> dict[str, int]:
    return {
        name: sum(p.numel() for p in layer.parameters() if p.requires_grad)
        for name, layer in tuner_layers(wrapped).items()
        if isinstance(layer, nn.Module)
    }


def _require_base(adapter: Adapter, before: Tensor, name: str, precision: Precision) -> None:
    """Raise unless the policy starts at the base policy and the base weights are all frozen."""
    model, gap = adapter.model, adapter.start["logit_gap"]
    prefix = str(model.base_model.prefix)
    trained = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    if not trained:
        raise RecipeError(f"adapter: {name!r} trains nothing, every parameter is frozen")
    outside = [key for key in trained if prefix not in key]
    if outside:
        raise RecipeError(
            f"adapter: {name!r} trains {outside[0]!r}, which is a base weight; the reference would "
            "move with it"
        )
    allowed = MAX_START_GAP[precision.computed]
    # `not <=` and not `>`: a NaN gap must be refused too.
    if not gap <= allowed:
        raise RecipeError(
            f"adapter: {name!r} starts {gap:.1e} (relative, in logits) away from the base policy, "
            f"above {allowed:.0e}; choose an initialisation that starts at the base, such as "
            "{builder: lora} or {builder: pissa}"
        )
    with adapters_off(model):
        # Bit for bit: with its adapters off nothing but the base weights computes.
        if not runtime.from_main(lambda: torch.equal(_probe(model, precision), before)):
            raise RecipeError(
                f"adapter: {name!r} writes to the base weights, so the base policy is lost as the "
                "reference; choose a builder such as {builder: pissa}, which never writes to them"
            )
    _require_dense(adapter, name)


def _require_dense(adapter: Adapter, name: str) -> None:
    """Raise where the policy's dense weights cannot be computed: samplers and exports need them."""
    # One layer tells: all are of one method.
    layer: Any = next(iter(tuner_layers(adapter.model).values()), None)
    if layer is None:
        raise RecipeError(f"adapter: {name!r} wraps no target matrix")
    try:
        merged_layer(layer)
    except Exception as error:  # noqa: BLE001  (whatever a method of PEFT's raises)
        raise RecipeError(
            f"adapter: {name!r} cannot be merged into dense weights: {error!r}"
        ) from error


def set_rates(adapter: Adapter, optimizer: torch.optim.Optimizer) -> None:
    """Let ``optimizer``, before its first step, train the factors B at the method's own rate.

    Raises:
        RunError: the optimizer trains nothing of the policy.
    """
    trained = {id(p): n for n, p in adapter.model.named_parameters() if p.requires_grad}
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    if not trained.keys() & set(held):
        raise RunError("the optimizer holds no parameter that is trained; the run would do nothing")
    if adapter.method.lr_ratio == 1.0:
        return
    # A copy of the list: the loop appends groups. They keep the weight decay of the old one.
    for group in list(optimizer.param_groups):
        fast = [p for p in group["params"] if ".lora_B." in trained[id(p)]]
        if fast:
            group["params"] = [p for p in group["params"] if ".lora_B." not in trained[id(p)]]
            rate = group["lr"] * adapter.method.lr_ratio
            optimizer.add_param_group({**group, "params": fast, "lr": rate})
