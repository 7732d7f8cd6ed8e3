"""What a checkpoint must hold, further to Trainer's files, for a run to go on in the same bits.

What TRL 1.16 and Trainer lose between a checkpoint and the run that goes on from it, whatever the
algorithm:

1. The metrics and the loss that wait to be logged, where not every step is.
2. A checkpoint that holds a delta (``run.checkpoint: delta``) is loaded through the base.
3. Under FSDP2 each rank of a masked run saves the compact states of its shards, and reads its rows
   of the exported weights; accelerate keeps rank 0's states only, and the weights twice.
4. How much of the run's logs belongs to the checkpoint (``logs.py``).
5. A run that has taken its last step takes no further one.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer

from rlvr import runtime
from rlvr.adapters import Adapter, load_adapter, save_adapter
from rlvr.checkpoints.delta import checked_base, open_delta
from rlvr.checkpoints.delta_file import read_delta
from rlvr.checkpoints.folders import DELTA, model_folder, weight_files
from rlvr.checkpoints.reader import read_weights, weights_of
from rlvr.config import Recipe
from rlvr.delta import check_delta_base
from rlvr.engines import FSDP2, load_shards
from rlvr.logs import record_logs
from rlvr.optim import MaskedAdamW
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
    folder = model_folder(recipe.model.path, recipe.model.revision, download=False)
    if weight_files(folder):
        buffers = model.state_dict().keys() - dict(model.named_parameters(remove_duplicate=False))
        names = {*dict(model.named_parameters()), *buffers}
        check_delta_base(folder, names, recipe.model.dtype)


SCHEDULER = "scheduler.pt"


class ExactResume(Trainer):
    """A Trainer that resumes from a checkpoint of any step with the bits of an unbroken run.

    A mixin before one of TRL's trainers, which adds to ``held_state`` what it holds itself.
    """

    model: Any
    args: Any
    engine: str
    masked: MaskedAdamW | None
    adapter: Adapter | None
    run_dir: Path
    state_name = "trainer"  # of each rank's file in a checkpoint
    _tr_loss: torch.Tensor
    _metrics: dict[str, defaultdict[str, list[float]]]

    def held_state(self) -> dict[str, Any]:
        """Return what this rank holds between two steps, and Trainer does not save."""
        metrics = {k: list(map(float, v)) for k, v in self._metrics["train"].items()}
        return {"metrics": metrics, "loss": self._tr_loss, "logged": self._globalstep_last_logged}

    def restore_state(self, state: dict[str, Any]) -> None:
        self._metrics["train"] = defaultdict(list, state["metrics"])
        if "loss" in state:  # checkpoints of earlier versions lack it
            self._tr_loss, self._globalstep_last_logged = state["loss"], state["logged"]

    def _state_file(self, folder: str) -> Path:
        rank, world = self.args.process_index, self.args.world_size
        return Path(folder) / f"{self.state_name}-{rank:05d}-of-{world:05d}.pt"

    def ends_by(self, step: int) -> bool:
        """Tell whether training is over at ``step``, where Trainer would take one step more."""
        if self.args.max_steps > 0:
            return step >= self.args.max_steps
        # max_steps is not set: Trainer counts steps from epochs and the length of its dataloader.
        *_, last = self.set_initial_training_values(self.args, self.get_train_dataloader())
        return step >= last

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # Trainer calls this hook on every rank, unlike `_save`, which runs on the main one.
        torch.save(self.held_state(), self._state_file(output_dir))
        if runtime.is_main():
            record_logs(self.run_dir, Path(output_dir))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is None:
            return
        file = self._state_file(checkpoint)
        if not file.is_file():
            runtime.say(f"{file} is missing: the next step starts with nothing held")
            return
        # weights_only: a checkpoint from elsewhere must not run code.
        self.restore_state(torch.load(file, map_location=self.args.device, weights_only=True))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if self.adapter is None:
            return super().save_model(output_dir, _internal_call)
        save_adapter(self.adapter, Path(output_dir or str(self.args.output_dir)))

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if state_dict is not None:
            # A gathered tied head no longer shares memory with its embedding: both would be stored.
            # named_parameters lists a shared parameter once, so the tied copy is in `every` only;
            # buffers are in neither set and stay.
            stored = {name for name, _ in self.model.named_parameters()}
            every = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
            state_dict = {k: v for k, v in state_dict.items() if k in stored or k not in every}
        super()._save(output_dir, state_dict)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.engine != FSDP2 or self.masked is None:
            return super()._save_optimizer_and_scheduler(output_dir)
        # accelerate saves only the states of rank 0, and each rank has others.
        self.masked.save_shards(Path(output_dir))
        if runtime.is_main():
            scheduler: Any = self.lr_scheduler
            torch.save(scheduler.state_dict(), Path(output_dir) / SCHEDULER)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        checkpoint = Path(resume_from_checkpoint)
        if self.adapter is not None:
            return load_adapter(self.adapter, checkpoint)
        is_delta = (checkpoint / DELTA).is_file()
        if is_delta:
            # The main process hashes the base, and tells the others that it is the delta's.
            checked = runtime.from_main(lambda: checked_base(read_delta(checkpoint / DELTA)))
            load_shards(self.model, weights_of(open_delta(checkpoint / DELTA, checked)))
        elif self.engine == FSDP2 and self.masked is not None:
            # Each rank reads its own rows: no rank needs memory for the whole model.
            load_shards(self.model, read_weights(checkpoint))
        else:
            super()._load_from_checkpoint(str(checkpoint), model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.engine != FSDP2 or self.masked is None:
            return super()._load_optimizer_and_scheduler(checkpoint)
        # The shards exist now: Trainer calls this after it has prepared the model.
        self.masked.load_shards(Path(checkpoint))
        scheduler: Any = self.lr_scheduler
        scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER))
