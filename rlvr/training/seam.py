"""The seam to any Trainer of TRL's: update masks, the base policy beside it, and run files.

What ``RLVRTrainer`` and ``SupervisedTrainer`` share, and how both deviate from TRL 1.16:

1. ``create_optimizer`` returns a ``MaskedAdamW`` where the recipe has a mask.
2. A mask's base policy is the policy with the base values swapped in; an adapter's is the policy
   with the adapter switched off. There is no second model.
3. Gradients that the optimizer frees are clipped, and their norm logged, by the optimizer.
4. A checkpoint is checked for leaks, written under a temporary name, and then renamed; its weights
   may be replaced by their delta against the base.
5. A run goes on from a checkpoint of any step as if it had never stopped (``resume.py``).
6. Under FSDP2 the optimizer and the base policy are bound to the shards as soon as they exist.
7. A loss or gradient norm that is NaN or infinite stops the run before it reaches the optimizer,
   and no checkpoint holds such weights (``finite.py``).
8. The files beside the weights of a checkpoint are the base's own (``checkpoint_files.py``).
"""

import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, TrainingArguments

from rlvr import runtime
from rlvr.adapters import Adapter, adapters_off, set_rates
from rlvr.base_weights import BaseWeights
from rlvr.checkpoints.folders import model_folder
from rlvr.checkpoints.runs import publish_checkpoint, step_folder
from rlvr.config import ModelSection, OptimizerSection, RunSection
from rlvr.delta import store_delta
from rlvr.engines import FSDP2, engine_name, require_engine, restrict_gradients
from rlvr.eval.gap import ScoredTokens
from rlvr.eval.sampling import evaluation_mode
from rlvr.failures import DiskError, explained_writes
from rlvr.masks import Mask
from rlvr.optim import MaskedAdamW
from rlvr.provenance import add_to_provenance
from rlvr.training.callbacks import GuardCallback, optimizer_bytes
from rlvr.training.checkpoint_files import restore_files
from rlvr.training.export import TRAINED_LOGPS
from rlvr.training.finite import FiniteSteps
from rlvr.training.guard import Guard
from rlvr.training.resume import ExactResume


@dataclass(frozen=True)
class Setup:
    """What a run gives its trainer, whichever its algorithm."""

    source: ModelSection
    run: RunSection
    optimizer: OptimizerSection
    run_dir: Path
    mask: Mask | None
    adapter: Adapter | None

    def has_base(self, args: TrainingArguments) -> bool:
        """Tell whether the base policy can be had from the trained one's weights.

        Where ZeRO-3 has scattered the weights there is nothing to swap.
        """
        return self.adapter is not None or engine_name(args) != "DeepSpeed ZeRO-3"


class Seam(FiniteSteps, ExactResume):
    """A Trainer for a policy that may only move where its mask or adapter lets it.

    A mixin: the class after it is one of TRL's trainers.
    """

    _tokenizer: Any
    idle: ClassVar[str]  # why nothing moved in a run whose gradients were all 0

    def __init__(self, setup: Setup, *, args: TrainingArguments, **trl: Any) -> None:
        self.run, self.run_dir, self.source = setup.run, setup.run_dir, setup.source
        self.mask, self.adapter, self.precision = setup.mask, setup.adapter, setup.optimizer
        self.masked: MaskedAdamW | None = None
        self.engine, self.swaps = engine_name(args), setup.has_base(args)
        super().__init__(args=args, **trl)
        # With the progress bar off, Trainer prints every log as a dict; the run has its own bar.
        self.remove_callback(PrinterCallback)
        require_engine(self.accelerator)
        if self.engine != FSDP2:
            self._keep_base()

    def _keep_base(self) -> None:
        """Remember the base policy, of the whole parameters or of this rank's shards of them."""
        self.base = BaseWeights(self.model, self.mask)
        control = self.adapter is not None and self.adapter.is_control
        exempt = [name for name, _ in self.model.named_parameters()] if control else ()
        self.guard = Guard(self.model, self.mask, self.base, exempt)
        self.add_callback(GuardCallback(self.guard, self.idle))

    def base_policy(self) -> AbstractContextManager:
        """Make ``model`` compute the base policy's function in the body of a ``with``."""
        return self.base.swapped_in() if self.adapter is None else adapters_off(self.model)

    def measures_kl(self) -> bool:
        """Tell whether the KL to the base is measured at this step."""
        if self.adapter is not None and self.adapter.is_control:
            return False  # its base weights are no longer the base policy's
        return self.swaps and self.is_due()

    def close(self) -> None:
        """End what the trainer has started beside itself: a sampler in this process."""
        sampler = getattr(self, "vllm_generation", None)
        if sampler is not None:
            sampler.close()

    def is_due(self) -> bool:
        """Tell whether ``run.kl_every`` asks for measurements at this step."""
        every = self.run.kl_every
        return every > 0 and self.state.global_step % every == 0

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """Create it as ever; FSDP2 has just sharded the model, and no checkpoint is loaded yet."""
        if self.engine == FSDP2:
            if self.masked is not None:
                self.masked.rebind(self.model.named_parameters())
            self._keep_base()
        return super().create_scheduler(*args, **kwargs)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.mask is None or self.optimizer is not None:
            fresh, optimizer = self.optimizer is None, super().create_optimizer(model)
            if self.adapter is not None and fresh:
                set_rates(self.adapter, optimizer)
            return optimizer
        source = self.model if model is None else model
        if self.is_deepspeed_enabled:
            restrict_gradients(source, self.mask)
            return super().create_optimizer(model)
        decayed = set(self.get_decay_parameter_names(source))
        trained = [(name, p) for name, p in source.named_parameters() if p.requires_grad]
        groups = [
            {"params": [(n, p) for n, p in trained if n in decayed]},
            {"params": [(n, p) for n, p in trained if n not in decayed], "weight_decay": 0.0},
        ]
        self.optimizer = self.masked = MaskedAdamW(
            [group for group in groups if group["params"]],
            self.mask,
            lr=self.args.learning_rate,
            betas=(self.args.adam_beta1, self.args.adam_beta2),
            eps=self.args.adam_epsilon,
            weight_decay=self.args.weight_decay,
            bf16_update=self.precision.bf16_update,
            free_gradients=self.precision.free_gradients,
            seed=self.args.seed,
        )
        return self.optimizer

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        if self.masked is not None and self.precision.free_gradients:
            return self.masked.clip_grad_norm_(model.parameters(), self.args.max_grad_norm)
        return super()._clip_grad_norm(model)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> Any:
        if grad_norm is None and self.masked is not None and self.precision.free_gradients:
            grad_norm = self.masked.clip_grad_norm_(model.parameters(), float("inf"))
        return super()._get_grad_norm(model, grad_norm)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log({**logs, **self.guard.metrics} if self.model.training else logs, start_time)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Leave out TRL's card: ``recipe.json`` and ``provenance.json`` say it all."""

    def trained_logps(self) -> ScoredTokens | None:
        """Score some of the latest completions with the policy as it is now; every rank must call.

        ``None`` where nothing was generated or read yet.
        """
        raise NotImplementedError

    def _save_trained_logps(self, folder: Path) -> None:
        """Store what the trained policy computes on this engine, for the export to give again."""
        with evaluation_mode(self.model):
            scored = self.trained_logps()
        if scored is not None and runtime.is_main():
            scored.save(folder / TRAINED_LOGPS)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        step = self.state.global_step
        self.require_finite_weights()
        self.guard.check(step)
        temporary = Path(self.args.output_dir) / f"checkpoint-{step}"
        try:
            with explained_writes(temporary, self._bytes_to_save):
                self._write_checkpoint(model, trial, temporary)
        except DiskError:
            shutil.rmtree(temporary, ignore_errors=True)  # half a checkpoint fills the disk
            raise

    def _bytes_to_save(self) -> int:
        """Return the bytes of the weights and of the optimizer's state, near to a checkpoint's."""
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        return weights + optimizer_bytes(self.optimizer)

    def _write_checkpoint(self, model: nn.Module, trial: Any, temporary: Path) -> None:
        step = self.state.global_step
        if runtime.is_main() and temporary.exists():
            shutil.rmtree(temporary)  # what a killed run left of this step
        if runtime.is_main():
            # Before the checkpoint has its name: a run killed right after it lacks nothing.
            held = optimizer_bytes(self.optimizer)
            add_to_provenance(self.run_dir, {"optimizer_state_bytes": held})
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        if step >= self.state.max_steps:
            self._save_trained_logps(temporary)
        self.accelerator.wait_for_everyone()
        if runtime.is_main():
            restore_files(model_folder(self.source.path, self.source.revision), temporary)
            if self.run.checkpoint == "delta":
                names = {"path": self.source.path, "revision": self.source.revision}
                store_delta(temporary, model_folder(**names), names)
            final = step_folder(self.run_dir, step)
            publish_checkpoint(temporary, final, self.args.save_total_limit)
        self.accelerator.wait_for_everyone()
