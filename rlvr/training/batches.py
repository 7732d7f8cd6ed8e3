"""The groups of one batch under dynamic sampling, and each process's part of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor


@dataclass(frozen=True)
class Rollout:
    """One completion on its way between processes: the row of the data and what TRL generated."""

    row: int
    prompt_ids: list[int]
    completion_ids: list[int]
    completion: Any
    logprobs: list[float] | None


@dataclass(frozen=True)
class Group:
    """The rollouts of one prompt and their rewards (G, functions)."""

    rollouts: list[Rollout]
    rewards: Tensor


@dataclass
class Batch:
    """What the rounds of one batch generated, the same on all processes but for ``first``.

    ``kept``: useful groups, at most ``needed``; ``spare``: a few others, to fill equal parts.
    ``rewards``: those of all completions, of each round.
    ``first``: this process's rollouts of the first round.
    """

    needed: int
    kept: list[Group] = field(default_factory=list)
    spare: list[Group] = field(default_factory=list)
    rewards: list[Tensor] = field(default_factory=list)
    first: list[Rollout] = field(default_factory=list)
    useful: int = 0
    generated: int = 0
    seconds: float = 0.0

    def add(
        self, local: list[Rollout], start: int, rewards: Tensor, useful: Sequence[bool], spare: int
    ) -> None:
        """Sort the groups of one round.

        Args:
            local: this process's rollouts, the first of which is the ``start``-th of all.
            rewards: of the rollouts of all processes, (N, functions).
            useful: of each group, whether it teaches something.
            spare: how many others are enough for the batch.
        """
        size = len(rewards) // len(useful)
        numbers = range(len(useful))
        kept = [group for group in numbers if useful[group]][: self.needed - len(self.kept)]
        rest = [group for group in numbers if not useful[group]][: spare - len(self.spare)]
        for numbered, groups in ((kept, self.kept), (rest, self.spare)):
            chosen = set(numbered)
            # `place` counts rollouts over all processes; place // size is the number of their
            # group.
            mine = [one for place, one in enumerate(local, start) if place // size in chosen]
            # In the order of the processes, which is that of the groups.
            every = gather_object(mine)
            for at, group in enumerate(numbered):
                judged = rewards[group * size : (group + 1) * size]
                groups.append(Group(every[at * size : (at + 1) * size], judged))
        # Only the first round is free of selection: later ones depend on what it lacked.
        self.first = self.first or local
        self.rewards.append(rewards)
        self.useful += sum(useful)
        self.generated += len(useful)


@dataclass(frozen=True)
class Selected:
    """One process's rollouts of a batch; the first ``kept`` of all ``rewards`` are in the loss."""

    rollouts: list[Rollout]
    rewards: Tensor
    kept: int


def smallest_part(parts: int, size: int) -> int:
    """Return the fewest groups of ``size`` rollouts that ``parts`` can share equally."""
    return math.lcm(parts, size) // size


def select(batch: Batch, unit: int, rank: int, world: int) -> Selected:
    """Return the part of process ``rank``: the useful groups, filled up to a multiple of ``unit``.

    There is always enough to fill up with: the first round by itself was a multiple of ``unit``.
    """
    kept = len(batch.kept)
    # At least one unit, even if nothing is kept: TRL cannot score a batch without rows.
    filler = max(unit, math.ceil(kept / unit) * unit) - kept
    groups = [*batch.kept, *batch.spare[:filler]]
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    share = len(rollouts) // world
    rewards = torch.cat([group.rewards for group in groups])
    in_loss = sum(len(group.rollouts) for group in batch.kept)
    return Selected(rollouts[rank * share : (rank + 1) * share], rewards, in_loss)
