"""Masked AdamW on the real ``fully_shard``: two gloo ranks against one process."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ranks import run_ranks
from rounding import assert_within, unit
from torch import distributed
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from rlvr.base_weights import BaseWeights
from rlvr.engines import local_rows, whole
from rlvr.masks import Mask, build_mask, parse_spec
from rlvr.optim import MaskedAdamW
from rlvr.optim.shards import read_state
from rlvr.schema import RecipeError
from rlvr.targets import linear_weights

STEPS = 6
MAX_NORM = 0.05
# An eps above every clipped gradient makes the update nearly linear in the gradient, lr / eps = 1.
# With the usual one AdamW divides by the size of the gradient, and an entry that cancels steps by
# the whole rate in the direction that the order of its sum gave it.
OPTIONS = {"lr": 1e-2, "weight_decay": 0.1, "eps": 1e-2}
# Gradients that are summed in another order differ from each other by a few hundred roundings of
# their norm (two blocks of sums of up to 32 terms, there and back), and the weights by as much.
DIFFERENCE = STEPS * 500 * unit() * MAX_NORM


def make_model() -> Qwen3ForCausalLM:
    # 7 KV rows and 11 hidden columns: shards that are uneven and no whole bytes
    config = Qwen3Config(
        vocab_size=32, hidden_size=11, intermediate_size=13, num_hidden_layers=2, head_dim=6,
        num_attention_heads=3, num_key_value_heads=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config)
    targets = linear_weights(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in targets)
    return model


def make_mask(model) -> Mask:
    parameters = dict(model.named_parameters())
    spec = parse_spec({"builder": "random", "density": 0.3})
    return build_mask(spec, ((name, parameters[name]) for name in linear_weights(model)))


def trained(model) -> list[tuple[str, torch.Tensor]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def take_steps(model, optimizer, steps: range, rank: int, world: int) -> None:
    """Two micro-batches a step, clipped; each rank sees its half of the rows of each."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for _ in range(2):
            tokens = torch.randint(32, (4, 8), generator=generator)
            rows = tokens.chunk(world)[rank]
            (model(input_ids=rows, labels=rows).loss / 2).backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in trained(model)], MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()


def run_rank(rank: int, world: int, folder: Path, job: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=(folder / "port").read_text())
    distributed.init_process_group("gloo", rank=rank, world_size=world)
    assert distributed.get_world_size() == world
    model = make_model()
    mask = make_mask(model)
    early = None
    if job == "rebind":  # accelerate makes the optimizer first and shards afterwards
        early = MaskedAdamW(trained(model), mask, **OPTIONS)
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    assert all(isinstance(p, DTensor) for p in model.parameters())
    optimizer = early or MaskedAdamW(trained(model), mask, **OPTIONS)
    optimizer.rebind(trained(model))
    if job == "second half":
        with torch.no_grad():
            saved = torch.load(folder / "half" / "model.pt")
            for name, parameter in trained(model):
                parameter.to_local().copy_(saved[name][local_rows(parameter)])
        optimizer.load_shards(folder / "half")
    half = STEPS // 2
    steps = {"first half": range(half), "second half": range(half, STEPS)}
    take_steps(model, optimizer, steps.get(job, range(STEPS)), rank, world)
    state = {}
    for name, parameter in model.named_parameters():
        with whole(parameter) as weight:
            state[name] = weight.detach().clone()
    out = folder / ("half" if job == "first half" else "out")
    optimizer.save_shards(out)
    if rank == 0:
        torch.save(state, out / "model.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def swap_rank(rank: int, world: int, folder: Path, job: str) -> None:
    """The base policy's logits before any step, after some with the base swapped in, and after."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=(folder / "port").read_text())
    distributed.init_process_group("gloo", rank=rank, world_size=world)
    model = make_model()
    model.model.norm.weight.requires_grad_(True)  # in the root unit, which stays gathered
    mask = make_mask(model).with_dense({"model.norm.weight": (11,)})
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    optimizer = MaskedAdamW(trained(model), mask, **OPTIONS)
    base = BaseWeights(model, mask)
    tokens = torch.arange(8)[None]

    def logits() -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=tokens).logits

    at_start = logits()
    take_steps(model, optimizer, range(2), rank, world)
    at_end = logits()
    with base.swapped_in():
        swapped = logits()
    result = {"start": at_start, "end": at_end, "swapped": swapped, "again": logits()}
    result |= {"moved": base.count_moved(), "count": base.count(), "total": mask_count(mask)}
    torch.save(result, folder / f"{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def mask_count(mask: Mask) -> int:
    return sum(mask.count(name) for name in mask)


def spawn(folder: Path, job: str, world: int = 2, work: Callable = run_rank) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        (folder / "port").write_text(str(probe.getsockname()[1]))
    run_ranks(work, world, folder, job, world=world)


def reference() -> tuple[dict, dict, Mask]:
    model = make_model()
    base = {name: p.detach().clone() for name, p in model.named_parameters()}
    mask = make_mask(model)
    optimizer = MaskedAdamW(trained(model), mask, **OPTIONS)
    take_steps(model, optimizer, range(STEPS), 0, 1)
    return base, dict(model.named_parameters()), mask


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory) -> Path:
    """Return what two ranks wrote after all steps; a test that changes it copies it first."""
    folder = tmp_path_factory.mktemp("whole")
    spawn(folder, "whole")
    return folder / "out"


@pytest.fixture(scope="module")
def half_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("half")
    spawn(folder, "first half")
    return folder / "half"


def require_same_problem(out: Path) -> None:
    base, expected, mask = reference()
    for name, weight in torch.load(out / "model.pt").items():
        changed = weight != base[name]
        allowed = mask[name] if name in mask else torch.zeros_like(changed)
        assert not (changed & ~allowed).any(), name
        assert (changed & allowed).sum() == allowed.sum(), name
        assert_within(weight, expected[name].detach(), DIFFERENCE)


def test_two_shards_solve_the_problem_of_one_process_and_leak_nothing(whole_run):
    require_same_problem(whole_run)


def test_an_optimizer_made_before_sharding_solves_the_same_problem(tmp_path):
    spawn(tmp_path, "rebind")
    require_same_problem(tmp_path / "out")


@pytest.mark.parametrize("world", [2, 1])
def test_a_state_goes_on_with_as_many_ranks_or_others(tmp_path, whole_run, half_run, world):
    shutil.copytree(half_run, tmp_path / "half")
    spawn(tmp_path, "second half", world)
    resumed = torch.load(tmp_path / "out" / "model.pt")
    for name, weight in torch.load(whole_run / "model.pt").items():
        if world == 2:
            assert torch.equal(weight, resumed[name]), name
        else:
            assert_within(weight, resumed[name], DIFFERENCE)


def test_resharding_there_and_back_keeps_every_bit_of_the_state(tmp_path, whole_run):
    model = make_model()
    optimizer = MaskedAdamW(trained(model), make_mask(model), **OPTIONS)
    optimizer.load_shards(whole_run)
    one = tmp_path / "one"
    optimizer.save_shards(one)
    for number, (name, _) in enumerate(trained(model)):
        count = optimizer.mask.count(name)
        two_ranks = read_state(whole_run, {number: slice(0, count)})["state"][number]
        rejoined = read_state(one, {number: slice(0, count)})["state"][number]
        assert all(torch.equal(two_ranks[key], rejoined[key]) for key in two_ranks)
        assert two_ranks["exp_avg"].numel() == count


def test_a_missing_rank_is_named(tmp_path, whole_run):
    shutil.copytree(whole_run, tmp_path / "out")
    next((tmp_path / "out").glob("optimizer-00001*")).unlink()
    model = make_model()
    optimizer = MaskedAdamW(trained(model), make_mask(model), **OPTIONS)
    with pytest.raises(RecipeError, match="1 of 2 optimizer files"):
        optimizer.load_shards(tmp_path / "out")


def test_swapped_in_shards_are_the_base_policy_bit_for_bit(tmp_path):
    spawn(tmp_path, "swap", work=swap_rank)
    for rank in (0, 1):
        seen = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(seen["swapped"], seen["start"])
        assert torch.equal(seen["again"], seen["end"])
        assert not torch.equal(seen["start"], seen["end"])
        assert seen["moved"] == seen["count"] == seen["total"]
