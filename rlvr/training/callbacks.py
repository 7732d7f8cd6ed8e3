"""What happens beside the optimizer: the guard, the run's files, the progress bar, Ctrl-C."""

import json
import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from rlvr import runtime
from rlvr.engines import local
from rlvr.failures import explained_writes
from rlvr.optim import MaskedAdamW
from rlvr.training.guard import Guard


def _masked(optimizer: Optimizer) -> MaskedAdamW | None:
    """Return the masked optimizer inside accelerate's wrapper, if it is one."""
    inner = optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
    return inner if isinstance(inner, MaskedAdamW) else None


def _gradients(model: nn.Module, optimizer: Optimizer) -> Iterator[Tensor]:
    """Return the gradients that the optimizer is about to read, also where it freed them."""
    masked = _masked(optimizer)
    if masked is not None:
        return masked.gradients()
    return (p.grad for p in model.parameters() if p.grad is not None)


def optimizer_bytes(optimizer: Optimizer) -> int:
    """Return the bytes that this process holds for the optimizer beside weights and gradients.

    These are its state tensors (moments, masters, step counts) and, of a masked optimizer, the
    packed masks. Every engine's wrapper hands ``state`` through; sharded tensors count as held.
    """
    tensors = [local(t) for held in optimizer.state.values() for t in held.values()
               if isinstance(t, Tensor)]  # fmt: skip
    masked = _masked(optimizer)
    packed = 0 if masked is None else masked.mask_bytes()
    return packed + sum(t.numel() * t.element_size() for t in tensors)


def _has_hidden_updates(optimizer: Optimizer) -> bool:
    masked = _masked(optimizer)
    return masked is not None and masked.has_hidden_updates()


class GuardCallback(TrainerCallback):
    """Runs the guard after the first step, and stops a run in which nothing can move.

    Small updates of bfloat16 weights move their float32 masters long before the weights; such a
    run goes on, and is stopped only at its end if no weight has moved by then.
    """

    def __init__(self, guard: Guard, idle: str) -> None:
        """``idle`` says why nothing moved in a run whose gradients were all 0."""
        self.guard, self.idle = guard, idle
        self.checked = False
        self.had_gradient = False

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.guard.has_moved or self.had_gradient:
            return
        gradients = _gradients(kwargs["model"], kwargs["optimizer"])
        rates = (group["lr"] for group in kwargs["optimizer"].param_groups)
        here = any(bool(g.any()) for g in gradients) and any(rate > 0 for rate in rates)
        self.had_gradient = runtime.any_rank(here)  # one rank's shards may have none

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self.checked:
            self.guard.check(state.global_step)
            self.checked = True
        if self.guard.has_moved or not self.had_gradient:
            return
        if not _has_hidden_updates(kwargs["optimizer"]):
            self.guard.require_movement(
                state.global_step,
                "a gradient reached the optimizer and no weight changed; is trainer.learning_rate "
                "too small for model.dtype?",
            )
            self.guard.has_moved = True

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        self.guard.check(state.global_step)
        if state.global_step >= state.max_steps:
            self.guard.require_movement(state.global_step, self._reason())

    def _reason(self) -> str:
        if self.had_gradient:
            return (
                "every update stayed below the rounding of the weights; raise "
                "trainer.learning_rate or trainer.max_steps, or set model.dtype to float32"
            )
        return self.idle


class MergeUnmerge(TrainerCallback):
    """The control ``adapter.sync: merge_unmerge``: what TRL does to push weights, without vLLM."""

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        kwargs["model"].merge_adapter()
        kwargs["model"].unmerge_adapter()


class MetricsCallback(TrainerCallback):
    """Appends each log to ``metrics.jsonl``, one row per logged step."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / "metrics.jsonl"

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict | None = None,
        **kwargs: object,
    ) -> None:
        # TRL logs the reward at the steps that generate, and Trainer its own totals at the end.
        if not (runtime.is_main() and logs and "grad_norm" in logs):
            return
        finite = {
            key: value
            for key, value in logs.items()
            if not (isinstance(value, float) and not math.isfinite(value))
        }
        with explained_writes(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": state.global_step, **finite}) + "\n")


class ProgressCallback(TrainerCallback):
    """One bar with the reward, the KL to the base and the completion length, or SFT's accuracy."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.shown: dict[str, str] = {}

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        with suppress(OSError):  # the terminal or pipe is gone, and the run goes on
            self._begin(state)

    def _begin(self, state: TrainerState) -> None:
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="train",
            unit="step",
            disable=not runtime.is_main(),
            dynamic_ncols=True,
            # A log file needs a line now and then, not two a second.
            mininterval=0.5 if sys.stderr.isatty() else 15,
        )

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        if self.bar is None:
            return
        try:
            self.bar.update(state.global_step - self.bar.n)
        except OSError:  # the terminal or pipe is gone, and the run goes on
            self.bar.disable, self.bar = True, None

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict | None = None,
        **kwargs: object,
    ) -> None:
        names = {"reward": "reward", "kl_to_base": "kl", "completions/mean_length": "length"}
        names |= {"mean_token_accuracy": "token accuracy", "kl_to_base_on_data": "kl"}
        for key, label in names.items():
            if logs and isinstance(logs.get(key), float):
                self.shown[label] = f"{logs[key]:.3g}"
        if self.bar is not None:
            self.bar.set_postfix(self.shown, refresh=False)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the line of the bar; also after an error, whose message has its own line."""
        if self.bar is not None:
            with suppress(OSError):
                self.bar.close()
            self.bar = None


class SaveAtEnd(TrainerCallback):
    """Saves a checkpoint after the last step, whatever ``trainer.save_strategy`` says."""

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        # "epoch" saves when this epoch ends, which it does now; twice would be once too often.
        if state.global_step >= state.max_steps and args.save_strategy != SaveStrategy.EPOCH:
            control.should_save = True


class Interrupt(TrainerCallback):
    """Turns Ctrl-C, SIGTERM or SIGHUP into a checkpoint after the current step, then a stop.

    A second Ctrl-C stops at once. Under ``nohup`` SIGHUP is ignored.
    """

    def __init__(self) -> None:
        self.requested = False

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        if runtime.any_rank(self.requested):
            self.requested = True
            control.should_save = True
            control.should_training_stop = True

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch the signals in the body; the handlers before it return afterwards."""

        def request(signum: int, frame: object) -> None:
            if self.requested and signum == signal.SIGINT:
                raise KeyboardInterrupt
            self.requested = True
            runtime.say("\nstopping after this step; press Ctrl-C again to stop at once")

        hung_up = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
        names = (signal.SIGINT, signal.SIGTERM, *[signal.SIGHUP] * hung_up)
        previous = {name: signal.signal(name, request) for name in names}
        try:
            yield
        finally:
            for name, handler in previous.items():
                signal.signal(name, handler)
