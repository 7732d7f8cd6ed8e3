"""What a checkpoint of a GRPO run must hold, further to that of any run (``resume.py``).

1. TRL generates once for several optimizer steps (``num_iterations``, ``steps_per_generation``) and
   buffers the completions. A checkpoint between these steps holds the buffer and the place in it,
   of each rank.
2. TRL's order of prompts comes from a generator that runs on from epoch to epoch. A run that starts
   in a later epoch draws the earlier epochs again, to reach the same state.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import Sampler
from trl.trainer.utils import RepeatSampler

from rlvr.training.resume import ExactResume
from rlvr.training.rollouts import Rollouts


class EpochOrder(Sampler[int]):
    """TRL's order of prompts in the epoch that ``epoch`` names, whatever was drawn before."""

    def __init__(self, sampler: RepeatSampler, seed: int, epoch: Callable[[], int]) -> None:
        self.sampler, self.seed, self.epoch = sampler, seed, epoch

    def __iter__(self) -> Iterator[int]:
        if self.sampler.shuffle:
            generator = self.sampler.generator.manual_seed(self.seed)
            # One permutation an epoch, discarded: this leaves the generator where the epochs before
            # did.
            for _ in range(self.epoch()):
                torch.randperm(self.sampler.num_samples, generator=generator)
        yield from self.sampler

    def __len__(self) -> int:
        return len(self.sampler)


class ResumesGenerations(ExactResume, Rollouts):
    """GRPOTrainer that stores the generation under way in its checkpoints."""

    state_name = "generation"

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        sampler: Any = super()._get_train_sampler(dataset)
        # state.epoch is read when iteration starts: Trainer restores it after making the sampler.
        return EpochOrder(sampler, self.args.seed, lambda: int(self.state.epoch or 0))

    def held_state(self) -> dict[str, Any]:
        # TRL generates when `_step` is a multiple of this; at 0 the buffer is used up and not kept.
        place = self._step % (self.args.steps_per_generation * self.num_iterations)
        buffer = self._buffered_inputs if place else None
        return {**super().held_state(), "step": self._step, "buffer": buffer}

    def restore_state(self, state: dict[str, Any]) -> None:
        super().restore_state(state)
        self._step, self._buffered_inputs = state["step"], state["buffer"]
