"""Adapters on the pocket policy: the start, what samplers get, the base weights, the factors."""

import inspect
from pathlib import Path

import peft
import pytest
import torch
from rounding import assert_within, sum_bound, unit
from torch import Tensor
from trl.generation.vllm_generation import VLLMGeneration

from rlvr.adapters import Adapter, adapters_off, attach_adapter, base_weights, policy_weights
from rlvr.adapters.factors import Matrix, geometry_factors, minor_factors, principal_factors
from rlvr.adapters.spec import build_method
from rlvr.adapters.start import factor_names
from rlvr.checkpoints.fingerprints import fingerprint_values
from rlvr.config import ModelSection
from rlvr.masks import build_mask, parse_spec
from rlvr.policy import load_policy
from rlvr.registry import adapter as registry
from rlvr.targets import linear_weights

POLICY = Path(__file__).parent.parent / "recipes" / "pocket" / "policy"
TOKENS = torch.arange(5, 21).view(2, 8)
LOW_RANK = [name for name in registry.functions if name != "peft"]
PASSED = {
    "VeraConfig": {"r": 4},
    "IA3Config": {"feedforward_modules": []},
    "OFTConfig": {"r": 2, "oft_block_size": 0},
    "LoHaConfig": {"r": 4},
}


def load(dtype: str = "float32"):
    return load_policy(ModelSection(str(POLICY), dtype=dtype)).eval()  # type: ignore[arg-type]


def attach(spec: dict, dtype: str = "float32", layer: str = "", **options) -> Adapter:
    policy = load(dtype)
    targets = [name for name in linear_weights(policy) if layer in name]
    return attach_adapter(policy, spec, targets, **options)


@torch.no_grad()
def logits(model) -> Tensor:
    return model(input_ids=TOKENS).logits.float()


def relative(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max() / second.abs().max())


@torch.no_grad()
def disturb(model, size: float = 0.02) -> None:
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(size * torch.randn_like(parameter))


@pytest.fixture(scope="module")
def rerounding() -> float:
    """The gap of PEFT's PiSSA on a bf16 base: each target matrix is rounded once more."""
    policy = load("bfloat16")
    before, modules = logits(policy), [n.removesuffix(".weight") for n in linear_weights(policy)]
    config = peft.LoraConfig(r=8, lora_alpha=8, init_lora_weights="pissa", target_modules=modules)
    return relative(logits(peft.get_peft_model(policy, config)), before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("builder", LOW_RANK)
def test_the_policy_starts_at_the_base_and_is_the_base_when_switched_off(
    builder, dtype, rerounding
):
    before = logits(load(dtype))
    adapter = attach({"builder": builder, "rank": 8, "alpha": 16.0}, dtype)
    allowed = 1e-5 if dtype == "float32" else rerounding
    assert relative(logits(adapter.model), before) <= allowed
    disturb(adapter.model)
    assert relative(logits(adapter.model), before) > 1e-3
    with adapters_off(adapter.model):
        assert torch.equal(logits(adapter.model), before)
    trained = {name for name, p in adapter.model.named_parameters() if p.requires_grad}
    kinds = {".lora_A.default."} if builder == "mica" else {".lora_A.default.", ".lora_B.default."}
    kinds |= {".lora_magnitude_vector.default."} if builder == "dora" else set()
    assert all(any(kind in name for kind in kinds) for name in trained)
    assert len(trained) == 28 * len(kinds)


@pytest.mark.parametrize("builder", LOW_RANK)
def test_many_pushes_leave_a_bf16_base_bit_for_bit(builder):
    adapter = attach({"builder": builder, "rank": 32, "alpha": 64.0}, "bfloat16", "layers.1.")
    base = {name: weight.clone() for name, weight in base_weights(adapter.model)}
    assert fingerprint_values(base.items()) == fingerprint_values(
        load("bfloat16").named_parameters()
    )
    disturb(adapter.model)
    before = logits(adapter.model)
    first = {name: weight.clone() for name, weight in policy_weights(adapter.model)}
    for _ in range(19):
        for _ in policy_weights(adapter.model):
            pass
    last = dict(policy_weights(adapter.model))
    assert fingerprint_values(base_weights(adapter.model)) == fingerprint_values(base.items())
    assert first.keys() == last.keys() == base.keys()
    assert all(torch.equal(first[name], last[name]) for name in first)
    assert all(first[name].dtype == torch.bfloat16 for name in first)
    assert torch.equal(logits(adapter.model), before)


@pytest.mark.parametrize("builder", LOW_RANK)
def test_what_is_pushed_is_the_update_in_float32_rounded_once(builder):
    adapter = attach({"builder": builder, "rank": 8, "alpha": 16.0}, "bfloat16", "layers.0.")
    pushed = {name: weight.clone() for name, weight in policy_weights(adapter.model)}
    for name, weight in base_weights(adapter.model):
        assert torch.equal(pushed[name], weight), name
    disturb(adapter.model)
    name = "model.layers.0.mlp.up_proj"
    layer = adapter.model.get_base_model().get_submodule(name)
    pushed = {name: weight.clone() for name, weight in policy_weights(adapter.model)}
    wanted = layer.get_base_layer().weight.detach().double()
    magnitudes, terms = wanted.abs(), 1
    for key in factor_names(layer):
        first, second = layer.lora_A[key].weight.double(), layer.lora_B[key].weight.double()
        wanted = wanted + layer.scaling[key] * (second @ first).detach()
        magnitudes = magnitudes + layer.scaling[key] * (second.abs() @ first.abs()).detach()
        terms += len(first) + 2  # the products, the scaling, the sum with the others
    # What float32 leaves of an entry whose terms cancel, and the one rounding to bfloat16.
    bound = sum_bound(magnitudes, terms)
    if builder == "dora":
        norms = wanted.norm(dim=1, keepdim=True)
        ratio = layer.lora_magnitude_vector["default"].weight.detach().double()[:, None] / norms
        # The norm is over a row of entries with that error, and a sum of its own.
        row = bound.norm(dim=1, keepdim=True) / norms + sum_bound(norms, wanted.shape[1]) / norms
        wanted, bound = ratio * wanted, ratio * (bound + row * wanted.abs())
    bound = bound + unit(torch.bfloat16) * (wanted.abs() + bound)
    assert_within(pushed[f"{name}.weight"], wanted, bound)


def test_merging_in_place_is_what_erodes_a_bf16_base():
    spec = {"builder": "peft", "method": "LoraConfig", "sync": "merge_unmerge"}
    options = {"r": 32, "lora_alpha": 64, "init_lora_weights": "pissa"}
    adapter = attach({**spec, "options": options}, "bfloat16", "layers.1.")
    assert adapter.is_control and "not for use" in adapter.start["control"]
    assert adapter.start["logit_gap"] > 1e-3
    base = {name: weight.clone() for name, weight in base_weights(adapter.model)}
    adapter.model.merge_adapter()
    adapter.model.unmerge_adapter()
    now = dict(base_weights(adapter.model))
    name = "model.layers.1.mlp.up_proj.weight"
    assert float((now[name] - base[name]).norm() / base[name].norm()) > 1e-4


def test_trl_pushes_what_the_instance_iterates():
    """A canary: our sampler replaces this method of TRL's."""
    assert not inspect.signature(VLLMGeneration._iter_named_params).parameters.keys() - {"self"}
    assert "self._iter_named_params()" in inspect.getsource(VLLMGeneration.sync_weights)
    assert VLLMGeneration._fix_param_name_to_vllm(None, "a.b") == "a.b"  # type: ignore[arg-type]


def test_factors_are_what_the_papers_define():
    torch.manual_seed(0)
    matrix = Matrix(torch.randn(96, 40), "w")
    left, values, right_t = torch.linalg.svd(matrix.weight, full_matrices=False)
    triplets = left[:, :, None] * values[None, :, None] * right_t[None]
    first, second = principal_factors(matrix, rank=5, scaling=2.0, svd="exact")
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(2.0 * second @ first, triplets[:, :5].sum(1), **close)
    torch.testing.assert_close(second.norm(dim=0), first.norm(dim=1), **close)
    first, second = minor_factors(matrix, rank=5, scaling=2.0)
    torch.testing.assert_close(2.0 * second @ first, triplets[:, -5:].sum(1), **close)
    weight = {"w": matrix.weight}
    masks = [
        build_mask(parse_spec(spec), weight.items(), {})["w"]
        for spec in (
            {"builder": "off_principal", "rank": 5, "density": 0.2},
            {"builder": "low_magnitude", "density": 0.2},
        )
    ]
    inside = torch.linalg.svd(matrix.weight * (masks[0] | masks[1]), full_matrices=False)
    wanted = (inside.U[:, :5] * inside.S[:5]) @ inside.Vh[:5]
    first, second = geometry_factors(matrix, rank=5, density=0.2, svd="exact")
    torch.testing.assert_close(second @ first, wanted, **close)


@pytest.mark.parametrize("builder", ["pissa", "olora"])
def test_gradients_are_those_of_the_published_method(builder):
    """PEFT's own initialisation edits the base instead, in float32 without a visible rounding."""
    policy = load()
    modules = [name.removesuffix(".weight") for name in linear_weights(policy)]
    config = peft.LoraConfig(r=8, lora_alpha=8, init_lora_weights=builder, target_modules=modules)
    published = peft.get_peft_model(policy, config)
    options = {"svd": "exact"} if builder == "pissa" else {}
    ours = attach({"builder": builder, "rank": 8, **options}).model
    for model in (published, ours):
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()

    def over_ranks(name: str, gradient: Tensor) -> Tensor:
        # A pair of singular vectors has either sign, and those of nearly equal values are any basis
        # of their span: the product over the ranks knows neither.
        return gradient.T @ gradient if "lora_A" in name else gradient @ gradient.T

    theirs, checked = dict(published.named_parameters()), 0
    for name, parameter in ours.named_parameters():
        if ".start." in name:
            assert not parameter.requires_grad and parameter.grad is None
        elif parameter.requires_grad:
            gradient, wanted = (over_ranks(name, p.grad) for p in (parameter, theirs[name]))
            assert relative(gradient, wanted) < 1e-3, name
            checked += 1
    assert checked == 56


def test_mica_trains_a_alone_and_lora_plus_trains_b_faster():
    model = attach({"builder": "mica", "rank": 4}).model
    trained = {name.split(".")[-3] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"lora_A"}
    assert build_method({"builder": "lora_plus", "rank": 4}).lr_ratio == 16.0


@pytest.mark.parametrize("method", PASSED)
def test_any_method_of_peft_passes_through(method):
    adapter = attach({"builder": "peft", "method": method, "options": PASSED[method]})
    before = logits(adapter.model)
    disturb(adapter.model, 0.1)
    after = logits(adapter.model)
    plain = load()
    state = {name: weight.clone() for name, weight in policy_weights(adapter.model)}
    plain.load_state_dict(state, strict=False)
    assert relative(after, before) > 1e-3
    assert relative(logits(plain), after) < 1e-4
