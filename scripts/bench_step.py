"""Time a masked RLVR step against the same step of TRL's own trainer without a mask, paired.

    python scripts/bench_step.py recipes/pocket/mask_safe.yaml --steps 30

Both trainers live in this process and take turns, one step each, so that a machine that slows down
slows both. The first steps warm up. Prints the medians and the median of the paired ratios.
"""

import argparse
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from rlvr import runtime

runtime.prepare_environment()

from transformers import PrinterCallback, TrainerCallback  # noqa: E402
from trl import GRPOTrainer  # noqa: E402

from rlvr.config import load_recipe  # noqa: E402
from rlvr.data import load_rows  # noqa: E402
from rlvr.policy import choose_trainable, load_policy, load_tokenizer  # noqa: E402
from rlvr.rewards import UnverifiedLimit  # noqa: E402
from rlvr.training.inputs import reward_function, to_dataset, training_arguments  # noqa: E402
from rlvr.training.plan import Plan, check_recipe  # noqa: E402
from rlvr.training.session import build_trainer  # noqa: E402

WARM_UP = 3


class Turns:
    """Lets two threads run one step each, in turn."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.turn = 0

    def wait(self, player: int) -> None:
        with self.condition:
            self.condition.wait_for(lambda: self.turn == player)

    def hand_over(self, player: int) -> None:
        with self.condition:
            self.turn = 1 - player
            self.condition.notify_all()


class StepClock(TrainerCallback):
    """Measures whole steps, generation and optimizer included, in its own turn only."""

    def __init__(self, turns: Turns, player: int) -> None:
        self.turns, self.player = turns, player
        self.seconds: list[float] = []
        self.started = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.turns.wait(self.player)
        self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self.started)
        self.turns.hand_over(self.player)
        if state.global_step < state.max_steps:
            self.turns.wait(self.player)
        self.started = time.perf_counter()


def plain_trainer(plan: Plan, run_dir: Path) -> GRPOTrainer:
    """Return TRL's trainer on the same targets: no mask, no guard, no KL measurement."""
    policy = load_policy(plan.recipe.model)
    choose_trainable(policy, list(plan.targets))
    tokenizer: Any = load_tokenizer(plan.recipe.model)
    limit = UnverifiedLimit(1.0, [call.name for call in plan.rewards])
    ends = {tokenizer.eos_token_id, tokenizer.pad_token_id}
    trainer = GRPOTrainer(
        model=policy,
        args=training_arguments(plan.recipe, run_dir),
        train_dataset=to_dataset(load_rows(plan.recipe.data, "data")),
        reward_funcs=[reward_function(call, limit, ends) for call in plan.rewards],
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    total = options.steps + WARM_UP
    words = [*options.overrides, f"trainer.max_steps={total}", "trainer.save_strategy=no"]
    plan = check_recipe(load_recipe(options.recipe, words))
    turns = Turns()
    clocks = [StepClock(turns, 0), StepClock(turns, 1)]
    with tempfile.TemporaryDirectory() as folder:
        plain = plain_trainer(plan, Path(folder) / "plain")
        masked = build_trainer(plan, Path(folder) / "masked")
        threads = []
        for trainer, clock in ((plain, clocks[0]), (masked, clocks[1])):
            trainer.add_callback(clock)
            threads.append(threading.Thread(target=trainer.train))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    first, second = (clock.seconds[WARM_UP:] for clock in clocks)
    ratios = [b / a for a, b in zip(first, second, strict=True)]
    print(f"plain TRL  {statistics.median(first):.3f} s a step (median of {len(first)})")
    print(f"{plan.mask.builder if plan.mask else 'dense':<10} {statistics.median(second):.3f} s")
    low, _, high = statistics.quantiles(ratios, n=4)
    print(f"ratio      {statistics.median(ratios):.3f} (quartiles {low:.3f}, {high:.3f})")


if __name__ == "__main__":
    main()
