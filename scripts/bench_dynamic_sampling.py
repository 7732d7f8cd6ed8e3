"""Time a useful group with dynamic sampling against one without, on prompts many of which teach
nothing, paired.

    python scripts/bench_dynamic_sampling.py --steps 20 --hopeless 0.5

Two trainers in this process take turns, one step each, on the pocket recipe with the settings of
DAPO; a share of the problems has a gold answer that nobody gives. A useful group is one in the loss
whose rewards are not all equal. Prints seconds per useful group of both, and the ratio with its
95 % interval from a bootstrap over pairs of steps.
"""

import argparse
import json
import random
import statistics
import tempfile
import threading
from pathlib import Path

from bench_step import WARM_UP, StepClock, Turns

from rlvr.config import load_recipe
from rlvr.data.datasets import pocket
from rlvr.files import read_jsonl
from rlvr.training.plan import check_recipe
from rlvr.training.session import build_trainer

RECIPE = Path(__file__).parent.parent / "recipes" / "pocket" / "full.yaml"
SEED = 0


def write_problems(path: Path, count: int, hopeless: float) -> None:
    """Write pocket problems, the share ``hopeless`` of which no completion solves."""
    chance = random.Random(SEED)
    with open(path, "w", encoding="utf-8") as file:
        for row in pocket(split="train", size=count).rows:
            answer = "123456" if chance.random() < hopeless else row["answer"]
            file.write(json.dumps({"problem": row["problem"], "answer": answer}) + "\n")


def measure(folder: Path, words: list[str], total: int) -> list[list[tuple[float, float]]]:
    """Return (seconds, useful groups) of each step, without and with dynamic sampling."""
    turns, clocks, threads = Turns(), [], []
    for player, dynamic in enumerate(("false", "true")):
        algorithm = f"algorithm={{name: dapo, dynamic_sampling: {dynamic}}}"
        plan = check_recipe(load_recipe(RECIPE, [*words, algorithm]))
        trainer = build_trainer(plan, folder / dynamic)
        clocks.append(StepClock(turns, player))
        trainer.add_callback(clocks[-1])
        threads.append(threading.Thread(target=trainer.train))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    timed = []
    for clock, name in zip(clocks, ("false", "true"), strict=True):
        rows = read_jsonl(folder / name / "metrics.jsonl")
        groups = [_useful(row) for row in rows]
        timed.append(list(zip(clock.seconds, groups, strict=True))[WARM_UP:total])
    return timed


def _useful(row: dict[str, float]) -> float:
    groups = 128 / 8  # of one step of the pocket recipe
    return row.get("sampling/kept_groups", groups * (1 - row["frac_reward_zero_std"]))


def per_group(steps: list[tuple[float, float]]) -> float:
    return sum(seconds for seconds, _ in steps) / sum(groups for _, groups in steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--hopeless", type=float, default=0.5)
    options = parser.parse_args()
    total = options.steps + WARM_UP
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_problems(folder / "problems.jsonl", 4096, options.hopeless)
        words = [f"trainer.max_steps={total}", "trainer.save_strategy=no", "run.kl_every=0"]
        words += ["eval=null", f"data={{name: jsonl, path: {folder / 'problems.jsonl'}}}"]
        words += ["trainer.learning_rate=1e-6"]  # both policies stay what they are
        plain, dynamic = measure(folder, words, total)
    share = 1 - statistics.fmean(groups for _, groups in plain) / 16
    print(f"groups without variance, without dynamic sampling: {share:.0%}")
    print(f"without  {per_group(plain):.3f} s a useful group, {len(plain)} steps")
    print(
        f"with     {per_group(dynamic):.3f} s, {statistics.fmean(g for _, g in dynamic):.1f} of 16"
    )
    draws, chance = [], random.Random(SEED)
    for _ in range(2000):
        chosen = chance.choices(range(len(plain)), k=len(plain))
        draws.append(
            per_group([dynamic[i] for i in chosen]) / per_group([plain[i] for i in chosen])
        )
    low, *_, high = statistics.quantiles(draws, n=40)
    ratio = per_group(dynamic) / per_group(plain)
    print(f"ratio    {ratio:.2f} [{low:.2f}, {high:.2f}] (95 %, bootstrap over pairs of steps)")


if __name__ == "__main__":
    main()
