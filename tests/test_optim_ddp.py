"""Masked AdamW in two gloo processes against one: the same restricted problem."""

import math
from itertools import product
from pathlib import Path

import pytest
import torch
from ranks import run_ranks
from rounding import assert_within, unit
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from rlvr.masks import Mask
from rlvr.optim import MaskedAdamW

STEPS, PARTS, MAX_NORM = 4, 2, 0.05
# An eps above every clipped gradient makes the update nearly linear in the gradient, lr / eps = 1.
# With the usual one AdamW divides by the size of the gradient, and an entry that cancels steps by
# the whole rate in the direction that the order of its sum gave it.
OPTIONS = {"lr": 1e-2, "weight_decay": 0.1, "eps": 1e-2}
PRECISIONS = {
    "fp32": (torch.float32, "master"),
    "bf16 master": (torch.bfloat16, "master"),
    "bf16 stochastic": (torch.bfloat16, "stochastic"),
}


def make_policy() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(17, 33), nn.Tanh(), nn.Linear(33, 5))


def make_mask(policy: nn.Module) -> Mask:
    generator = torch.Generator().manual_seed(1)
    return Mask.from_bools(
        {n: torch.rand(p.shape, generator=generator) < 0.3 for n, p in policy.named_parameters()}
    )


def train(policy: nn.Module, model: nn.Module, rank: int, world: int) -> list[float]:
    """Train on this rank's share of each batch; return the clipping norms."""
    mask = make_mask(policy)
    optimizer = MaskedAdamW(policy.named_parameters(), mask, **OPTIONS)
    norms = []
    for step in range(STEPS):
        for part in range(PARTS):
            generator = torch.Generator().manual_seed(PARTS * step + part)
            inputs = torch.randn(16, 17, generator=generator)[rank::world]
            wanted = torch.randn(16, 5, generator=generator)[rank::world]
            distributed_model = isinstance(model, DistributedDataParallel)
            if distributed_model:
                model.require_backward_grad_sync = part == PARTS - 1  # what no_sync() sets
            nn.functional.mse_loss(model(inputs), wanted).backward()
        norms.append(float(nn.utils.clip_grad_norm_(policy.parameters(), MAX_NORM)))
        optimizer.step()
        optimizer.zero_grad()
    return norms


def work(rank: int, folder: str, as_view: bool) -> None:
    torch.set_num_threads(1)
    # A file, not a port: a port that is free now may be taken when the processes have started.
    meeting = f"file://{folder}/meeting"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    policy = make_policy()
    model = DistributedDataParallel(policy, gradient_as_bucket_view=as_view)
    norms = train(policy, model, rank, 2)
    result = {"world": distributed.get_world_size(), "norms": norms, "w": policy.state_dict()}
    torch.save(result, Path(folder) / f"{rank}.pt")
    # The reducer must be gone and both ranks done before the group is, or gloo aborts now and then.
    del model
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.parametrize("as_view", [False, True], ids=["copies", "bucket views"])
def test_two_processes_solve_the_problem_of_one(tmp_path, as_view):
    run_ranks(work, str(tmp_path), as_view)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["world"] == second["world"] == 2

    policy = make_policy()
    mask, base = make_mask(policy), {n: p.detach().clone() for n, p in policy.named_parameters()}
    norms = train(policy, policy, 0, 1)
    assert first["norms"] == second["norms"]
    # One sum of 16 rows against the mean of two sums of 8, through sums of 33 hidden units: the
    # norm holds no more than this of rounding relative to itself, as do the gradients to the norm.
    relative = 2 * (16 + 33 + 17) * unit()
    assert first["norms"] == pytest.approx(norms, rel=relative)
    assert min(norms) > MAX_NORM  # so clipping did something

    for name, expected in policy.state_dict().items():
        mine: Tensor = first["w"][name]
        assert mine.equal(second["w"][name])
        # Each step moves by at most the gradients' difference, and rounds the weight twice.
        bound = STEPS * (2 * relative * MAX_NORM + 2.1 * unit() * float(expected.abs().max()))
        assert_within(mine, expected, bound)
        moved = mine != base[name]
        assert moved[mask[name]].all() and not moved[~mask[name]].any()


HARD = list(product(PRECISIONS, (1, 4), (0.0, 0.1), (0.1, math.inf)))


def train_hard(rank: int, precision: str, accumulation: int, decay: float, max_norm: float) -> dict:
    """Take twenty steps under DDP and return the weights, and what leaked and what moved."""
    dtype, bf16_update = PRECISIONS[precision]
    policy = make_policy().to(dtype)
    model, mask = DistributedDataParallel(policy), make_mask(policy)
    base = {n: p.detach().clone() for n, p in policy.named_parameters()}
    options = {"lr": 1e-2, "weight_decay": decay, "bf16_update": bf16_update}
    optimizer = MaskedAdamW(policy.named_parameters(), mask, **options)
    for step in range(20):
        for part in range(accumulation):
            generator = torch.Generator().manual_seed(100 * step + 10 * part + rank)
            inputs = torch.randn(8, 17, generator=generator).to(dtype)
            wanted = torch.randn(8, 5, generator=generator).to(dtype)
            model.require_backward_grad_sync = part == accumulation - 1
            nn.functional.mse_loss(model(inputs), wanted).backward()
        optimizer.clip_grad_norm_(policy.parameters(), max_norm)
        optimizer.step()
        optimizer.zero_grad()
    moved = {n: p != base[n] for n, p in policy.named_parameters()}
    return {
        "leaked": sum(int(moved[n][~mask[n]].sum()) for n in moved),
        "moved": sum(int(moved[n][mask[n]].sum()) for n in moved) / sum(map(mask.count, mask)),
        "w": policy.state_dict(),
    }


def work_hard(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    # A file, not a port: a port that is free now may be taken when the processes have started.
    meeting = f"file://{folder}/meeting"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    torch.save([train_hard(rank, *case) for case in HARD], Path(folder) / f"{rank}.pt")
    policy, refused = make_policy(), ""
    try:
        named, mask = policy.named_parameters(), make_mask(policy)
        MaskedAdamW(named, mask, lr=1e-2, free_gradients=True)
    except ValueError as error:
        refused = str(error)
    (Path(folder) / f"{rank}.txt").write_text(refused)
    distributed.barrier()
    distributed.destroy_process_group()


def test_nothing_leaks_on_two_processes_in_any_precision(tmp_path):
    run_ranks(work_hard, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for case, mine, its in zip(HARD, first, second, strict=True):
        assert mine["leaked"] == its["leaked"] == 0 and mine["moved"] > 0.95, case
        assert all(weight.equal(its["w"][name]) for name, weight in mine["w"].items()), case
    # Gradients freed before they are averaged would train two policies.
    assert "free_gradients" in (tmp_path / "0.txt").read_text()
