"""Masked AdamW: the restricted problem, exactly, in values, in state and across a restart."""

import io

import pytest
import torch
from accelerate import Accelerator
from rounding import assert_within, sum_bound, unit
from torch import Tensor, nn

from rlvr.masks import Mask
from rlvr.optim import MaskedAdamW

STEPS = 20


def make_policy() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(17, 33), nn.Tanh(), nn.Linear(33, 5))


def make_mask(policy: nn.Module, density: float, seed: int = 0) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    return Mask.from_bools(
        {
            n: torch.rand(p.shape, generator=generator) < density
            for n, p in policy.named_parameters()
        }
    )


def batch(step: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    inputs = torch.randn(24, 17, generator=generator)
    return inputs.to(dtype), torch.randn(24, 5, generator=generator).to(dtype)


def backward(policy: nn.Module, step: int) -> None:
    inputs, wanted = batch(step, next(policy.parameters()).dtype)
    nn.functional.mse_loss(policy(inputs), wanted).backward()


def train(policy: nn.Module, optimizer: torch.optim.Optimizer, steps: range = range(STEPS)) -> None:
    """Take ``steps`` with a learning rate that changes at each."""
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 / (1 + step)
        backward(policy, step)
        optimizer.step()
        optimizer.zero_grad()


def state_of(policy: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in policy.state_dict().items()}


def test_a_mask_of_ones_is_adamw_bit_for_bit():
    masked, plain = make_policy(), make_policy()
    options = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1}
    optimizer = MaskedAdamW(masked.named_parameters(), make_mask(masked, 2.0), **options)
    reference = torch.optim.AdamW(plain.parameters(), foreach=False, fused=False, **options)
    train(masked, optimizer)
    train(plain, reference)
    for mine, its in zip(masked.parameters(), plain.parameters(), strict=True):
        assert mine.equal(its)
        assert optimizer.state[mine]["exp_avg"].equal(reference.state[its]["exp_avg"].view(-1))


def test_trainable_entries_follow_the_restricted_problem_in_float64():
    policy = make_policy()
    mask = make_mask(policy, 0.3)
    weights = {n: p.double() for n, p in state_of(policy).items()}
    base = {n: w.clone() for n, w in weights.items()}
    optimizer = MaskedAdamW(policy.named_parameters(), mask, lr=0.0, weight_decay=0.1)
    # AdamW by its textbook formula on whole tensors, with gradient and decay restricted by hand. It
    # is fed the float32 gradients: AdamW divides a gradient by its own size, so an entry that
    # cancels to nothing would step by the rate times what the order of a sum made of it.
    mean = {n: torch.zeros_like(w) for n, w in weights.items()}
    mean_sq = {n: torch.zeros_like(w) for n, w in weights.items()}
    for step in range(STEPS):
        rate = 1e-2 / (1 + step)
        optimizer.param_groups[0]["lr"] = rate
        backward(policy, step)
        for name, p in policy.named_parameters():
            w, gradient = weights[name], p.grad.double() * mask[name]
            mean[name] = 0.9 * mean[name] + 0.1 * gradient
            mean_sq[name] = 0.999 * mean_sq[name] + 0.001 * gradient**2
            unbiased = mean[name] / (1 - 0.9 ** (step + 1))
            scale = (mean_sq[name] / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
            w -= rate * mask[name] * (unbiased / scale + 0.1 * w)
        optimizer.step()
        optimizer.zero_grad()
    for name, p in policy.named_parameters():
        moved, got = ((w - base[name])[mask[name]] for w in (weights[name], p.detach().double()))
        # Each step rounds the weight twice: the decay and the update. The moments add 20 roundings
        # to updates of 1e-2 in all, a hundredth of that.
        bound = 2.1 * STEPS * unit() * float(weights[name].abs().max())
        assert_within(got, moved, bound)
        assert moved.abs().median() > 1000 * bound


def test_frozen_entries_never_move_and_the_others_do():
    policy = make_policy()
    mask = make_mask(policy, 0.4)
    base = state_of(policy)
    optimizer = MaskedAdamW(policy.named_parameters(), mask, lr=1e-2, weight_decay=0.1)
    for step in range(STEPS):
        for part in range(3):
            backward(policy, 3 * step + part)
        nn.utils.clip_grad_norm_(policy.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
    for name, value in policy.state_dict().items():
        moved = value != base[name]
        assert moved[mask[name]].all() and not moved[~mask[name]].any(), name


def test_the_gradient_norm_is_that_of_the_restricted_problem():
    policy, free = make_policy(), make_policy()
    mask = make_mask(policy, 0.2)
    MaskedAdamW(policy.named_parameters(), mask, lr=1e-2)
    for part in range(3):
        backward(policy, part)
        backward(free, part)
    restricted = [p.grad * mask[name] for name, p in free.named_parameters()]
    for p, expected in zip(policy.parameters(), restricted, strict=True):
        assert p.grad.equal(expected)
    norm = nn.utils.clip_grad_norm_(policy.parameters(), 1e9)
    squares = torch.cat([g.view(-1) for g in restricted]).double().square()
    # The root of a sum of positive terms has half the sum's relative error.
    expected = squares.sum().sqrt()
    assert_within(norm, expected, sum_bound(expected, len(squares)))


def test_a_frozen_entry_with_an_infinite_gradient_spoils_nothing():
    policy = nn.Linear(4, 3, bias=False)
    mask = Mask.from_bools({"weight": torch.tensor([[True, True, False, True]] * 3)})
    optimizer = MaskedAdamW(policy.named_parameters(), mask, lr=1e-2)
    policy(torch.tensor([1.0, 2.0, float("inf"), 3.0])).nan_to_num(1.0).sum().backward()
    policy.weight.grad.fill_(1.0)
    policy.zero_grad()
    (policy.weight * torch.tensor([1.0, 1.0, float("nan"), 1.0])).sum().backward()
    assert policy.weight.grad.isfinite().all()
    optimizer.step()
    assert policy.weight.isfinite().all()


def test_the_state_holds_two_vectors_of_the_moving_entries():
    policy = make_policy()
    mask = make_mask(policy, 0.1)
    optimizer = MaskedAdamW(policy.named_parameters(), mask, lr=1e-2)
    train(policy, optimizer, range(1))
    for name, p in policy.named_parameters():
        state = optimizer.state[p]
        assert set(state) == {"step", "exp_avg", "exp_avg_sq"}
        for key in ("exp_avg", "exp_avg_sq"):
            assert state[key].shape == (mask.count(name),) and state[key].dtype == torch.float32
    stored = io.BytesIO()
    torch.save(optimizer.state_dict(), stored)
    dense = sum(8 * p.numel() for p in policy.parameters())
    # Beside 8 bytes per moving entry, torch.save's own few kilobytes.
    assert stored.tell() < dense * mask.density() + 8192


def resume(density: float, saved_by: int, loaded_by: int) -> tuple[nn.Module, nn.Module]:
    """Return the policy of an unbroken run and of one stopped half-way."""
    whole = make_policy()
    mask = make_mask(whole, density, saved_by)
    train(whole, MaskedAdamW(whole.named_parameters(), mask, lr=1e-2, weight_decay=0.1))
    first, second = make_policy(), make_policy()
    optimizer = MaskedAdamW(first.named_parameters(), mask, lr=1e-2, weight_decay=0.1)
    train(first, optimizer, range(STEPS // 2))
    file = io.BytesIO()
    torch.save({"policy": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second.load_state_dict(saved["policy"])
    other = make_mask(second, density, loaded_by)
    resumed = MaskedAdamW(second.named_parameters(), other, lr=7.0, weight_decay=0.3)
    resumed.load_state_dict(saved["optimizer"])
    train(second, resumed, range(STEPS // 2, STEPS))
    return whole, second


@pytest.mark.parametrize("density", [0.3, 2.0])
def test_resuming_is_never_having_stopped(density):
    whole, resumed = resume(density, 0, 0)
    for mine, its in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert mine.equal(its)


def test_the_state_of_another_mask_is_refused():
    with pytest.raises(ValueError, match="optimizer state of mask .* this run's mask is"):
        resume(0.3, 0, 1)


def test_the_state_of_other_groups_is_refused():
    policy = make_policy()
    mask = make_mask(policy, 0.3)
    named = list(policy.named_parameters())
    first = MaskedAdamW(named, mask, lr=1e-2)
    second = MaskedAdamW(list(reversed(named)), mask, lr=1e-2)
    with pytest.raises(ValueError, match="other parameters or groups"):
        second.load_state_dict(first.state_dict())


def test_groups_have_their_own_decay_and_schedulers_set_the_rate():
    policy = make_policy()
    mask = make_mask(policy, 0.5)
    base = state_of(policy)
    named = list(policy.named_parameters())
    groups = [
        {"params": [(n, p) for n, p in named if p.ndim == 2], "weight_decay": 0.5},
        {"params": [(n, p) for n, p in named if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = MaskedAdamW(groups, mask, lr=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    for p in policy.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [5e-3, 5e-3]
    for name, value in policy.state_dict().items():
        expected = base[name] * (1 - 1e-2 * 0.5) if value.ndim == 2 else base[name]
        assert value.equal(torch.where(mask[name], expected, base[name]))


def test_accelerate_takes_it_as_any_optimizer():
    policy, alone = make_policy(), make_policy()
    mask = make_mask(policy, 0.3)
    train(alone, MaskedAdamW(alone.named_parameters(), mask, lr=1e-2))
    accelerator = Accelerator(cpu=True)
    optimizer = MaskedAdamW(policy.named_parameters(), mask, lr=1e-2)
    prepared, wrapped = accelerator.prepare(policy, optimizer)
    for step in range(STEPS):
        wrapped.param_groups[0]["lr"] = 1e-2 / (1 + step)
        inputs, wanted = batch(step)
        accelerator.backward(nn.functional.mse_loss(prepared(inputs), wanted))
        wrapped.step()
        wrapped.zero_grad()
    wrapped.load_state_dict(wrapped.state_dict())
    for mine, its in zip(policy.parameters(), alone.parameters(), strict=True):
        assert mine.equal(its)


def test_released_parameters_get_their_whole_gradient():
    policy = make_policy()
    optimizer = MaskedAdamW(policy.named_parameters(), make_mask(policy, 0.1), lr=1e-2)
    optimizer.release()
    backward(policy, 0)
    assert all(p.grad.ne(0).all() for p in policy.parameters())
