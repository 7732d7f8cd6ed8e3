"""Processes of one group, forked from a server that has imported the libraries once.

A process that is spawned imports torch, transformers and rlvr anew: several seconds each.
"""

import multiprocessing
from collections.abc import Callable

from torch.multiprocessing import start_processes

# Imported in the server, which runs nothing: threads that computed would not survive its fork.
multiprocessing.set_forkserver_preload(
    [
        "torch.distributed.fsdp",
        "torch.distributed.tensor",
        "transformers.models.qwen3.modeling_qwen3",
        "rlvr.adapters",
        "rlvr.base_weights",
        "rlvr.optim",
        "rlvr.policy",
    ]
)


def run_ranks(work: Callable[..., None], *arguments: object, world: int = 2) -> None:
    """Call ``work(rank, *arguments)`` in ``world`` processes; raise what one of them raises."""
    start_processes(work, arguments, nprocs=world, start_method="forkserver")
