"""The base weights as the reference, and the guard that nothing else moved."""

from pathlib import Path

import pytest
import torch

from rlvr.adapters import adapters_off, attach_adapter, policy_weights
from rlvr.base_weights import BaseWeights
from rlvr.checkpoints.fingerprints import checksum
from rlvr.config import ModelSection
from rlvr.masks import build_mask, parse_spec
from rlvr.policy import choose_trainable, load_policy
from rlvr.schema import RunError
from rlvr.targets import linear_weights
from rlvr.training.guard import Guard

POLICY = Path(__file__).parent.parent / "recipes" / "pocket" / "policy"
TOKENS = torch.arange(5, 21).view(2, 8)


@pytest.fixture
def policy():
    return load_policy(ModelSection(str(POLICY))).eval()


@pytest.fixture
def mask(policy):
    parameters = dict(policy.named_parameters())
    targets = linear_weights(policy)
    choose_trainable(policy, list(targets))
    spec = parse_spec({"builder": "random", "density": 0.3})
    return build_mask(spec, ((name, parameters[name]) for name in targets), {})


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(input_ids=TOKENS).logits


@torch.no_grad()
def disturb(model, mask=None) -> None:
    """Move everything that may move."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            noise = 0.1 * torch.randn_like(parameter)
            parameter.add_(noise if mask is None else noise * mask[name])


def test_swapping_the_base_in_gives_its_function_and_back_bit_for_bit(policy, mask):
    before = logits(policy)
    base = BaseWeights(policy, mask)
    disturb(policy, mask)
    after = logits(policy)
    assert not torch.allclose(before, after)
    with base.swapped_in():
        assert torch.equal(logits(policy), before)
    assert torch.equal(logits(policy), after)


def test_the_trained_weights_return_when_the_reference_forward_fails(policy, mask):
    base = BaseWeights(policy, mask)
    disturb(policy, mask)
    after = logits(policy)
    with pytest.raises(ZeroDivisionError), base.swapped_in():
        raise ZeroDivisionError
    assert torch.equal(logits(policy), after)


def test_base_weights_hold_only_what_may_move(policy, mask):
    assert BaseWeights(policy, mask).count() == sum(mask.count(name) for name in mask)


@pytest.mark.parametrize("builder", ["lora", "pissa"])
def test_the_reference_of_an_adapter_is_the_base_policy(policy, builder):
    before = logits(policy)
    adapter = attach_adapter(policy, {"builder": builder, "rank": 8}, list(linear_weights(policy)))
    wrapped = adapter.model
    disturb(wrapped)
    assert adapter.start["logit_gap"] < 1e-5
    assert not torch.allclose(logits(wrapped), before, atol=1e-2)
    with adapters_off(wrapped):
        assert torch.equal(logits(wrapped), before)


@pytest.mark.parametrize("builder", ["lora", "pissa"])
def test_merging_is_the_wrapped_function_and_leaves_the_wrapped_weights(policy, builder):
    wrapped = attach_adapter(
        policy, {"builder": builder, "rank": 8}, list(linear_weights(policy))
    ).model
    disturb(wrapped)
    expected = logits(wrapped)
    plain = load_policy(ModelSection(str(POLICY))).eval()
    state = {name: weight.clone() for name, weight in policy_weights(wrapped)}
    missing, unexpected = plain.load_state_dict(state, strict=False)
    assert missing in ([], ["lm_head.weight"]) and not unexpected
    torch.testing.assert_close(logits(plain), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(logits(wrapped), expected)


def test_the_guard_names_the_tensor_that_leaks(policy, mask):
    guard = Guard(policy, mask, BaseWeights(policy, mask))
    disturb(policy, mask)
    guard.check(1)
    assert guard.metrics["moved"] == 1.0
    name = "model.layers.2.mlp.up_proj.weight"
    row, column = (~mask[name]).nonzero()[0]
    with torch.no_grad():
        policy.get_parameter(name)[row, column] += 1e-6
    with pytest.raises(RunError, match=rf"step 2.*{name}"):
        guard.check(2)


def test_the_guard_watches_what_is_not_a_target(policy, mask):
    guard = Guard(policy, mask, BaseWeights(policy, mask))
    with torch.no_grad():
        policy.model.norm.weight[3].mul_(1.01)
    with pytest.raises(RunError, match="model.norm.weight"):
        guard.check(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.float16])
def test_a_checksum_sees_every_single_bit_and_only_where_it_should(dtype):
    torch.manual_seed(0)
    weights = torch.randn(37, 11).to(dtype)
    keep = torch.rand(37, 11) < 0.5
    reference = checksum(weights, keep)
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[weights.element_size()]
    for row in range(37):
        for bit in (0, 7, 8 * weights.element_size() - 2):
            changed = weights.clone()
            changed.view(integers)[row, 5] ^= 1 << bit
            assert (checksum(changed, keep) != reference) == bool(keep[row, 5])


def test_a_checksum_sees_minus_zero_nan_payloads_and_swaps():
    weights = torch.tensor([0.0, 1.0, 2.0, float("nan")])
    others = [
        torch.tensor([-0.0, 1.0, 2.0, float("nan")]),
        torch.tensor([0.0, 2.0, 1.0, float("nan")]),
    ]
    payload = weights.clone()
    payload.view(torch.int32)[3] ^= 1
    assert len({checksum(tensor) for tensor in (weights, *others, payload)}) == 4
