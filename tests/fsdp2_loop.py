"""A training loop of a user's own on two FSDP2 ranks: ``python fsdp2_loop.py FOLDER STEPS``.

Each step is saved under a temporary name and renamed when both ranks are done, and a start goes on
from the newest. ``FOLDER/final.pt`` holds the weights after the last step.
"""

import os
import shutil
import sys
from pathlib import Path

import torch
from test_fsdp2 import OPTIONS, make_mask, make_model, take_steps, trained
from torch import distributed, multiprocessing
from torch.distributed.fsdp import fully_shard

from rlvr.engines import local_rows, whole
from rlvr.optim import MaskedAdamW

WORLD = 2


def whole_weights(model) -> dict[str, torch.Tensor]:
    state = {}
    for name, parameter in model.named_parameters():
        with whole(parameter) as weight:
            state[name] = weight.detach().clone()
    return state


def save(model, optimizer, folder: Path, step: int, rank: int) -> None:
    temporary = folder / ".saving"
    if rank == 0 and temporary.exists():
        shutil.rmtree(temporary)
    distributed.barrier()
    optimizer.save_shards(temporary)
    weights = whole_weights(model)
    if rank == 0:
        torch.save(weights, temporary / "model.pt")
    distributed.barrier()
    if rank == 0:
        os.replace(temporary, folder / f"step-{step:04d}")
    distributed.barrier()


def run_rank(rank: int, folder: Path, steps: int, meeting: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=WORLD)
    model = make_model()
    mask = make_mask(model)
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    optimizer = MaskedAdamW(trained(model), mask, **OPTIONS)
    found = sorted(folder.glob("step-*"))
    start = 0
    if found:
        start = int(found[-1].name.removeprefix("step-"))
        saved = torch.load(found[-1] / "model.pt")
        with torch.no_grad():
            for name, parameter in trained(model):
                parameter.to_local().copy_(saved[name][local_rows(parameter)])
        optimizer.load_shards(found[-1])
    for step in range(start, steps):
        take_steps(model, optimizer, range(step, step + 1), rank, WORLD)
        save(model, optimizer, folder, step + 1, rank)
    weights = whole_weights(model)
    if rank == 0:
        torch.save(weights, folder / "final.pt")
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    target, count = Path(sys.argv[1]), int(sys.argv[2])
    target.mkdir(exist_ok=True)
    # A file of this start's own: one that a killed start left would be joined by nobody.
    join = f"file://{target}/.meeting-{os.getpid()}"
    multiprocessing.spawn(run_rank, (target, count, join), nprocs=WORLD)
