"""Sharded parameters (FSDP2): each rank restricts, updates and saves the rows that it holds.

``fully_shard`` divides a matrix by rows. A rank's entries are therefore consecutive in row-major
order, and its compact vectors are a consecutive part of the whole ones. To change the number of
ranks, the ranks' vectors are joined and cut again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from rlvr.schema import RecipeError


def rank_and_world() -> tuple[int, int]:
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def state_file(folder: Path, rank: int, world: int) -> Path:
    return folder / f"optimizer-{rank:05d}-of-{world:05d}.pt"


def save_state(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Write this rank's state; every rank writes its own file."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(optimizer.state_dict(), state_file(folder, *rank_and_world()))


def read_state(folder: Path, ranges: Mapping[int, slice]) -> dict[str, Any]:
    """Return the state dict of this rank from files of any world size.

    Args:
        folder: what ``save_state`` wrote, by all ranks.
        ranges: by the number of a parameter in the state dict, which of its moving entries this
            rank holds.

    Raises:
        RecipeError: a rank's file is missing.
    """
    files = sorted(folder.glob("optimizer-*-of-*.pt"))
    world = int(files[0].stem.rsplit("-", 1)[-1]) if files else 1
    if len(files) != world:
        raise RecipeError(f"{folder}: holds {len(files)} of {world} optimizer files; it is damaged")
    # mmap: every rank opens all files and reads only its own part of them.
    parts = [torch.load(file, map_location="cpu", mmap=True, weights_only=True) for file in files]
    state: dict[int, dict[str, Tensor]] = {}
    for number, run in ranges.items():
        # A rank without rows of this parameter saved no state of it.
        shards = [part["state"][number] for part in parts if number in part["state"]]
        if shards:
            state[number] = {key: _cut([shard[key] for shard in shards], run) for key in shards[0]}
    return {**parts[0], "state": state}


def _cut(shards: list[Tensor], run: slice) -> Tensor:
    # The step is one number, the same on every rank; vectors are runs of the whole one.
    return shards[0].clone() if shards[0].ndim == 0 else torch.cat(shards)[run].clone()
