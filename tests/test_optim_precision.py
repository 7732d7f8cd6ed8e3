"""Masked AdamW on bf16 weights, and with freed gradients: the same restricted problem."""

import copy
import io
import math

import pytest
import torch
from rounding import assert_within, unit
from torch import Tensor, nn

from rlvr.masks import Mask
from rlvr.optim import MaskedAdamW
from rlvr.optim.rounding import round_stochastically

STEPS = 10
MODES = {
    "fp32": (torch.float32, "master"),
    "bf16 master": (torch.bfloat16, "master"),
    "bf16 stochastic": (torch.bfloat16, "stochastic"),
}


def make_policy(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    # The first matrix is longer than a block of the optimizer (262,144 entries) and ends in half a
    # byte of mask.
    return nn.Sequential(nn.Linear(515, 521), nn.Tanh(), nn.Linear(521, 5)).to(dtype)


def make_mask(policy: nn.Module, density: float = 0.3) -> Mask:
    generator = torch.Generator().manual_seed(0)
    return Mask.from_bools(
        {
            n: torch.rand(p.shape, generator=generator) < density
            for n, p in policy.named_parameters()
        }
    )


def backward(policy: nn.Module, part: int) -> None:
    generator = torch.Generator().manual_seed(100 + part)
    dtype = next(policy.parameters()).dtype
    inputs = torch.randn(16, 515, generator=generator).to(dtype)
    wanted = torch.randn(16, 5, generator=generator).to(dtype)
    nn.functional.mse_loss(policy(inputs), wanted).backward()


def train(
    policy: nn.Module,
    optimizer: MaskedAdamW,
    steps: range = range(STEPS),
    accumulation: int = 1,
    max_norm: float = math.inf,
) -> list[float]:
    """Take ``steps`` with a learning rate that changes at each; return the gradient norms."""
    norms = []
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 / (1 + step)
        for part in range(accumulation):
            backward(policy, accumulation * step + part)
        norms.append(float(optimizer.clip_grad_norm_(policy.parameters(), max_norm)))
        optimizer.step()
        policy.zero_grad()
    return norms


def state_of(policy: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in policy.state_dict().items()}


def test_a_mask_of_ones_is_adamw_bit_for_bit_across_blocks():
    masked, plain = make_policy(), make_policy()
    optimizer = MaskedAdamW(masked.named_parameters(), make_mask(masked, 2.0), lr=1e-2)
    reference = torch.optim.AdamW(
        plain.parameters(), lr=1e-2, weight_decay=0.0, foreach=False, fused=False
    )
    for step in range(STEPS):
        for policy, chosen in ((masked, optimizer), (plain, reference)):
            backward(policy, step)
            chosen.step()
            chosen.zero_grad()
    for mine, its in zip(masked.parameters(), plain.parameters(), strict=True):
        assert mine.equal(its)


@pytest.mark.parametrize("max_norm", [0.1, math.inf], ids=["clip", "no clip"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("mode", MODES)
def test_nothing_leaks_in_any_precision(mode, accumulation, decay, max_norm):
    dtype, bf16_update = MODES[mode]
    policy = make_policy(dtype)
    mask, base = make_mask(policy), state_of(policy)
    options = {"lr": 1e-2, "weight_decay": decay, "bf16_update": bf16_update}
    optimizer = MaskedAdamW(policy.named_parameters(), mask, **options)
    norms = train(policy, optimizer, accumulation=accumulation, max_norm=max_norm)
    assert min(norms) > 0.1  # so clipping did something
    for name, value in policy.state_dict().items():
        moved = value != base[name]
        assert value.dtype == dtype and not moved[~mask[name]].any(), name
        # A bf16 weight can be back at its first value.
        assert moved[mask[name]].float().mean() > 0.95, name


@pytest.mark.parametrize("max_norm", [0.1, math.inf], ids=["clip", "no clip"])
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("density", [0.3, 2.0])
def test_freed_gradients_give_the_same_bits(accumulation, max_norm, density):
    kept, freed = make_policy(), make_policy()
    mask = make_mask(kept, density)
    options = {"lr": 1e-2, "weight_decay": 0.1}
    keeping = MaskedAdamW(kept.named_parameters(), mask, **options)
    freeing = MaskedAdamW(freed.named_parameters(), mask, **options, free_gradients=True)
    first = train(kept, keeping, accumulation=accumulation, max_norm=max_norm)
    second = train(freed, freeing, accumulation=accumulation, max_norm=max_norm)
    assert first == second and min(first) > 0.1
    for mine, its in zip(freed.parameters(), kept.parameters(), strict=True):
        assert mine.equal(its)


def test_freed_gradients_are_compact_and_used_up_by_the_step():
    policy = make_policy()
    mask = make_mask(policy)
    optimizer = MaskedAdamW(policy.named_parameters(), mask, lr=1e-2, free_gradients=True)
    backward(policy, 0)
    assert all(p.grad is None for p in policy.parameters())
    assert [g.numel() for g in optimizer.gradients()] == [mask.count(n) for n in mask.names]
    optimizer.step()
    assert not list(optimizer.gradients())
    before = state_of(policy)
    optimizer.step()
    assert all(value.equal(before[name]) for name, value in policy.state_dict().items())
    backward(policy, 0)
    optimizer.zero_grad()
    assert not list(optimizer.gradients())


def test_masters_follow_the_restricted_problem_in_float64():
    policy = make_policy(torch.bfloat16)
    mask, base = make_mask(policy), state_of(policy)
    optimizer = MaskedAdamW(policy.named_parameters(), mask, lr=1e-4, weight_decay=0.1)
    names = dict(policy.named_parameters())
    # AdamW by its textbook formula on whole tensors, fed the very gradients of the bf16 policy.
    weights = {n: p.double() for n, p in base.items()}
    mean = {n: torch.zeros_like(w) for n, w in weights.items()}
    mean_sq = {n: torch.zeros_like(w) for n, w in weights.items()}
    for step in range(1, 11):
        backward(policy, step)
        for name, w in weights.items():
            gradient = names[name].grad.double() * mask[name]
            mean[name] = 0.9 * mean[name] + 0.1 * gradient
            mean_sq[name] = 0.999 * mean_sq[name] + 0.001 * gradient**2
            scale = (mean_sq[name] / (1 - 0.999**step)).sqrt() + 1e-8
            w -= 1e-4 * mask[name] * (mean[name] / (1 - 0.9**step) / scale + 0.1 * w)
        optimizer.step()
        optimizer.zero_grad()
    for name, p in names.items():
        expected, master = weights[name][mask[name]], optimizer.state[p]["master"]
        assert master.dtype == torch.float32
        # Ten steps of two roundings, of the decay and of the update, which is small beside them.
        assert_within(master, expected, 2.1 * 10 * unit() * float(expected.abs().max()))
        assert p[mask[name]].equal(master.bfloat16())
        assert p[~mask[name]].equal(base[name][~mask[name]])


def test_masters_keep_updates_that_bf16_would_round_away():
    policy = make_policy(torch.bfloat16)
    optimizer = MaskedAdamW(policy.named_parameters(), make_mask(policy), lr=1e-2)
    optimizer.param_groups[0]["lr"] = 1e-9
    base = state_of(policy)
    backward(policy, 0)
    optimizer.step()
    still = [value.equal(base[name]) for name, value in policy.state_dict().items()]
    assert any(still) and optimizer.has_hidden_updates()


@pytest.mark.parametrize("value", [1.0 + 2**-9, -3.1e-5, 1.1 * 2.0**-130, 1.7e-2])
def test_stochastic_rounding_is_unbiased(value):
    draws = 400_000
    values = torch.full((draws,), value)
    rounded = round_stochastically(values, torch.Generator().manual_seed(0)).double()
    exact = float(values[0])
    low, high = rounded.min().item(), rounded.max().item()
    # Only the two neighbours, and their mean within five standard errors of the exact value.
    assert set(rounded.unique().tolist()) == {low, high} and low < exact < high
    share = (exact - low) / (high - low)
    error = (high - low) * math.sqrt(share * (1 - share) / draws)
    assert abs(rounded.mean().item() - exact) < 5 * error


def test_stochastic_rounding_keeps_what_bf16_holds():
    held = torch.tensor([0.0, -0.0, 1.5, -(2.0**-133), 3.3895e38, math.inf, -math.inf]).bfloat16()
    many = held.float().repeat(1000)
    rounded = round_stochastically(many, torch.Generator().manual_seed(0))
    assert rounded.view(torch.int16).equal(held.repeat(1000).view(torch.int16))
    # NaNs whose bits a carry would turn into a number: all ones, and one in the lowest bit.
    nans = torch.tensor([0x7FFFFFFF, 0x7F800001, -1], dtype=torch.int32).view(torch.float32)
    assert round_stochastically(nans.repeat(1000), torch.Generator()).isnan().all()


def test_stochastic_updates_average_to_the_exact_one():
    # One weight copied 200,000 times, under a constant gradient: AdamW moves each by 1e-6 a step,
    # a thousandth of the distance between its bf16 neighbours.
    weight = nn.Parameter(torch.full((200_000,), 0.1).bfloat16())
    base = weight.detach().double().mean()
    mask = Mask.from_bools({"w": torch.ones(200_000, dtype=torch.bool)})
    optimizer = MaskedAdamW([("w", weight)], mask, lr=1e-6, bf16_update="stochastic")
    for _ in range(STEPS):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    moved = (base - weight.detach().double().mean()).item()
    # Standard error: gap 2^-11, share moved 0.02, so 2^-11 sqrt(0.02 / 200,000) = 1.6e-7.
    assert abs(moved - STEPS * 1e-6) < 5 * 1.6e-7


def test_stochastic_rounding_uses_no_global_random_state():
    policies = [make_policy(torch.bfloat16) for _ in range(3)]
    for number, policy in enumerate(policies):
        options = {"lr": 1e-2, "bf16_update": "stochastic", "seed": number // 2}
        torch.manual_seed(number)
        state = torch.get_rng_state()
        train(policy, MaskedAdamW(policy.named_parameters(), make_mask(policy), **options))
        assert torch.get_rng_state().equal(state)
    first, second, third = (state_of(policy) for policy in policies)
    assert all(first[name].equal(second[name]) for name in first)
    assert not all(first[name].equal(third[name]) for name in first)


@pytest.mark.parametrize("freed", [False, True], ids=["kept", "freed"])
@pytest.mark.parametrize("mode", MODES)
def test_resuming_is_never_having_stopped_in_every_precision(mode, freed):
    dtype, bf16_update = MODES[mode]
    options = {"lr": 1e-2, "bf16_update": bf16_update, "free_gradients": freed, "weight_decay": 0.1}
    whole, first, second = (make_policy(dtype) for _ in range(3))
    mask = make_mask(whole)
    train(whole, MaskedAdamW(whole.named_parameters(), mask, **options))
    optimizer = MaskedAdamW(first.named_parameters(), mask, **options)
    train(first, optimizer, range(STEPS // 2))
    file = io.BytesIO()
    torch.save({"policy": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second.load_state_dict(saved["policy"])
    # The seed is part of the state: another one here makes no difference.
    resumed = MaskedAdamW(second.named_parameters(), mask, **options, seed=5)
    resumed.load_state_dict(saved["optimizer"])
    for state in resumed.state.values():
        assert all(value.dtype == torch.float32 for value in state.values())
    train(second, resumed, range(STEPS // 2, STEPS))
    for mine, its in zip(whole.parameters(), second.parameters(), strict=True):
        assert mine.equal(its)


@pytest.mark.parametrize(("saved_by", "loaded_by"), [(1, 2), (2, 1), (0, 1), (1, 0)])
def test_the_state_of_another_precision_is_refused(saved_by, loaded_by):
    optimizers = []
    for dtype, bf16_update in (list(MODES.values())[index] for index in (saved_by, loaded_by)):
        policy = make_policy(dtype)
        named, mask = policy.named_parameters(), make_mask(policy)
        optimizers.append(MaskedAdamW(named, mask, lr=1e-2, bf16_update=bf16_update))
        train(policy, optimizers[-1], range(1))
    state = copy.deepcopy(optimizers[0].state_dict())
    with pytest.raises(ValueError, match=r"'0.weight' with(out)? float32 masters.*bf16_update"):
        optimizers[1].load_state_dict(state)
