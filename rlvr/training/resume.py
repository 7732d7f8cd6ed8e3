"""What a checkpoint must hold beside Trainer's files for a run to go on in the same bits.

What TRL 1.16 and Trainer lose between a checkpoint and the run that goes on from it:

1. TRL generates once for several optimizer steps (``num_iterations``, ``steps_per_generation``) and
   buffers the completions. A checkpoint between these steps holds the buffer and the place in it,
   of each rank, and the metrics that wait to be logged.
2. TRL's order of prompts comes from a generator that runs on from epoch to epoch. A run that starts
   in a later epoch draws the epochs before once more, to be where the first run was.
3. A checkpoint that holds a delta (``run.checkpoint: delta``) is made whole before it is loaded.
4. Of a masked run under FSDP2 each rank saves the compact states of its shards, and reads its rows
   of the exported weights; accelerate keeps rank 0's states alone, and the weights twice.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import PreTrainedModel
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from rlvr import runtime
from rlvr.adapters import Adapter, load_adapter, save_adapter
from rlvr.checkpoint import read_weights
from rlvr.config import Recipe
from rlvr.delta import DELTA, check_base, discard_applied, policy_folder
from rlvr.engines import FSDP2, load_shards
from rlvr.optim import MaskedAdamW
from rlvr.policy import checkpoint_folder
from rlvr.schema import RecipeError


def check_checkpoint(recipe: Recipe, model: PreTrainedModel) -> None:
    """Refuse checkpoints as deltas where they would save nothing or could not be exact.

    The base's files are looked at where they are on this machine.
    """
    if recipe.run.checkpoint == "full":
        return
    if recipe.adapter is not None:
        raise RecipeError(
            "run.checkpoint: a merged adapter changes every entry of its targets, so a delta would "
            "be no smaller than the weights; set it to full"
        )
    if runtime.launched_zero_stage() or (runtime.launched_fsdp() and recipe.mask is None):
        raise RecipeError(
            "run.checkpoint: DeepSpeed, and FSDP without a mask, write the weights once more for "
            "themselves into each checkpoint; set it to full, or launch with DDP"
        )
    folder = checkpoint_folder(recipe.model)
    if any(folder.glob("model*.safetensors")):
        buffers = model.state_dict().keys() - dict(model.named_parameters(remove_duplicate=False))
        names = {*dict(model.named_parameters()), *buffers}
        check_base(folder, names, recipe.model.dtype)


def generation_file(folder: str | Path, rank: int, world: int) -> Path:
    return Path(folder) / f"generation-{rank:05d}-of-{world:05d}.pt"


SCHEDULER = "scheduler.pt"


class EpochOrder(Sampler[int]):
    """TRL's order of prompts in the epoch that ``epoch`` names, whatever was drawn before."""

    def __init__(self, sampler: RepeatSampler, seed: int, epoch: Callable[[], int]) -> None:
        self.sampler, self.seed, self.epoch = sampler, seed, epoch

    def __iter__(self) -> Iterator[int]:
        if self.sampler.shuffle:
            generator = self.sampler.generator.manual_seed(self.seed)
            for _ in range(self.epoch()):
                torch.randperm(self.sampler.num_samples, generator=generator)
        yield from self.sampler

    def __len__(self) -> int:
        return len(self.sampler)


class ExactResume(GRPOTrainer):
    """GRPOTrainer whose checkpoints, of any step, go on as if the run had never stopped."""

    model: Any
    args: Any
    engine: str
    masked: MaskedAdamW | None
    adapter: Adapter | None

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        sampler: Any = super()._get_train_sampler(dataset)
        return EpochOrder(sampler, self.args.seed, lambda: int(self.state.epoch or 0))

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        place = self._step % (self.args.steps_per_generation * self.num_iterations)
        state = {
            "step": self._step,
            "buffer": self._buffered_inputs if place else None,
            "metrics": {k: list(map(float, v)) for k, v in self._metrics["train"].items()},
        }
        rank, world = self.args.process_index, self.args.world_size
        torch.save(state, generation_file(output_dir, rank, world))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is None:
            return
        file = generation_file(checkpoint, self.args.process_index, self.args.world_size)
        if not file.is_file():
            runtime.say(f"{file} is missing: the next step starts a generation of its own")
            return
        state = torch.load(file, map_location=self.args.device, weights_only=True)
        self._step, self._buffered_inputs = state["step"], state["buffer"]
        self._metrics["train"] = defaultdict(list, state["metrics"])

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if self.adapter is None:
            return super().save_model(output_dir, _internal_call)
        save_adapter(self.adapter, Path(output_dir or str(self.args.output_dir)))

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if state_dict is not None:
            # Gathered, a tied head shares no memory and would be stored beside its embedding.
            stored = {name for name, _ in self.model.named_parameters()}
            every = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
            state_dict = {k: v for k, v in state_dict.items() if k in stored or k not in every}
        super()._save(output_dir, state_dict)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.engine != FSDP2 or self.masked is None:
            return super()._save_optimizer_and_scheduler(output_dir)
        self.masked.save_shards(Path(output_dir))
        if runtime.is_main():
            scheduler: Any = self.lr_scheduler
            torch.save(scheduler.state_dict(), Path(output_dir) / SCHEDULER)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        checkpoint = Path(resume_from_checkpoint)
        if self.adapter is not None:
            return load_adapter(self.adapter, checkpoint)
        is_delta = (checkpoint / DELTA).is_file()
        whole = runtime.from_main(lambda: policy_folder(checkpoint)) if is_delta else checkpoint
        if self.engine == FSDP2 and self.masked is not None:
            load_shards(self.model, read_weights(whole))
        else:
            super()._load_from_checkpoint(str(whole), model)
        if is_delta:
            self.accelerator.wait_for_everyone()
            if runtime.is_main():
                discard_applied(checkpoint.parent.parent)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.engine != FSDP2 or self.masked is None:
            return super()._load_optimizer_and_scheduler(checkpoint)
        self.masked.load_shards(Path(checkpoint))
        scheduler: Any = self.lr_scheduler
        scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER))
