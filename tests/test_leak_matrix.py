"""Contract C1 in every cell: engine x precision x accumulation x weight decay x clipping."""

import json
from contextlib import nullcontext
from itertools import product
from pathlib import Path

import pytest
import torch
from ranks import run_ranks
from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import Qwen3Config, Qwen3ForCausalLM

from rlvr.engines import whole
from rlvr.masks import Mask, build_mask, parse_spec
from rlvr.optim import MaskedAdamW
from rlvr.targets import linear_weights

STEPS = 8
PRECISIONS = {
    "fp32": (torch.float32, "master"),
    "bf16 master": (torch.bfloat16, "master"),
    "bf16 stochastic": (torch.bfloat16, "stochastic"),
}
CELLS = list(product(PRECISIONS, (1, 4), (0.0, 0.1), (None, 0.05)))


def make_model(dtype: torch.dtype) -> tuple[nn.Module, Mask]:
    config = Qwen3Config(
        vocab_size=32, hidden_size=11, intermediate_size=13, num_hidden_layers=1, head_dim=6,
        num_attention_heads=3, num_key_value_heads=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config).to(dtype)
    targets = linear_weights(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in targets)
    spec = parse_spec({"builder": "random", "density": 0.3})
    return model, build_mask(spec, ((n, p) for n, p in model.named_parameters() if n in targets))


def wrap(model: nn.Module, engine: str) -> nn.Module:
    if engine == "DDP":
        return DistributedDataParallel(model)
    if engine == "FSDP2":
        return fully_shard(model)
    return model


def train(cell: tuple, engine: str, rank: int, world: int) -> dict[str, int]:
    """Take the steps of one cell and count what moved inside and outside of the mask."""
    precision, accumulation, weight_decay, max_norm = cell
    dtype, update = PRECISIONS[precision]
    model, mask = make_model(dtype)
    base = {name: p.detach().clone() for name, p in model.named_parameters()}
    wrapped = wrap(model, engine)
    assert isinstance(wrapped, FSDPModule) == (engine == "FSDP2")
    assert isinstance(wrapped, DistributedDataParallel) == (engine == "DDP")
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    optimizer = MaskedAdamW(trained, mask, lr=1e-2, weight_decay=weight_decay, bf16_update=update)
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        for part in range(accumulation):
            waits = engine == "DDP" and part < accumulation - 1
            tokens = torch.randint(32, (4, 6), generator=generator).chunk(world)[rank]
            with wrapped.no_sync() if waits else nullcontext():
                (wrapped(input_ids=tokens, labels=tokens).loss / accumulation).backward()
        if max_norm is not None:
            nn.utils.clip_grad_norm_([p for _, p in trained], max_norm)
        optimizer.step()
        optimizer.zero_grad()
    counts = {"leak": 0, "moved": 0, "allowed": sum(mask.count(name) for name in mask)}
    for name, parameter in model.named_parameters():
        with whole(parameter) as weight:
            changed = weight.detach() != base[name]
        allowed = mask[name] if name in mask else torch.zeros_like(changed)
        counts["leak"] += int((changed & ~allowed).sum())
        counts["moved"] += int((changed & allowed).sum())
    optimizer.release()
    return counts


def run_rank(rank: int, world: int, engine: str, folder: str) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    assert distributed.get_world_size() == world
    results = [train(cell, engine, rank, world) for cell in CELLS]
    if rank == 0:
        (Path(folder) / "results.json").write_text(json.dumps(results))
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.parametrize("engine", ["one process", "DDP", "FSDP2"])
def test_no_cell_leaks(tmp_path, engine):
    if engine == "one process":
        results = [train(cell, engine, 0, 1) for cell in CELLS]
    else:
        run_ranks(run_rank, 2, engine, str(tmp_path))
        results = json.loads((tmp_path / "results.json").read_text())
    for cell, counts in zip(CELLS, results, strict=True):
        assert counts["leak"] == 0, cell
        assert counts["moved"] > 0.9 * counts["allowed"], cell
