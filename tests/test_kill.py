"""Contract C5 by force: kill -9 five times at random moments, and the final bits are the same."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlvr.checkpoints.runs import checkpoints, require_newest
from rlvr.files import read_jsonl

ROOT = Path(__file__).parent.parent
SAFE = {"builder": "safe", "rank": 8, "principal_density": 0.5, "low_density": 0.5}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
KILLS, STEPS = 5, 30
TRAIN = ["-m", "rlvr.train"]
DDP = ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / "launch/ddp_cpu.yaml")]
RUNS = {
    "one process": (TRAIN, {}),
    "one process, deltas": (TRAIN, {"checkpoint": "delta"}),
    "DDP": ([*DDP, *TRAIN], {}),
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def start(words: list[str], log: Path) -> subprocess.Popen:
    """Start Python in a process group of its own, which ``kill`` ends with all its children."""
    with open(log, "a") as output:
        return subprocess.Popen(
            [sys.executable, *words],
            env=ENVIRONMENT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def kill(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def kill_at_random(
    start_again: Callable[[], subprocess.Popen], step: Callable[[], int], log: Path, pause_s: float
) -> None:
    """Start and kill ``KILLS`` times, each at a random moment one to three steps further on."""
    draw = random.Random(0)
    for _ in range(KILLS):
        target = step() + draw.randint(1, 3)
        process = start_again()
        while step() < target:
            assert process.poll() is None, log.read_text()[-4000:]
            time.sleep(0.02)
        time.sleep(draw.uniform(0, pause_s))
        assert process.poll() is None, "the run ended before it was killed; give it more steps"
        kill(process)


def run_to_the_end(words: list[str], log: Path) -> None:
    assert start(words, log).wait(timeout=600) == 0, log.read_text()[-4000:]


@pytest.mark.parametrize(("command", "run"), RUNS.values(), ids=RUNS)
def test_five_kills_change_no_bit_of_a_run(write_recipe, tmp_path, command, run):
    # A generation of four steps: nearly every kill is inside one.
    trainer = {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 4,
        "num_iterations": 2,
        "max_steps": STEPS,
        "save_steps": 1,
        "save_total_limit": 2,
        "weight_decay": 0.1,
    }
    sections = {"mask": SAFE, "trainer": trainer}
    log = tmp_path / "log"
    run_to_the_end([*command, str(write_recipe("whole", **sections))], log)
    path, killed = write_recipe("killed", run=run, **sections), tmp_path / "killed"

    def start_again() -> subprocess.Popen:
        again = ["--resume"] if (killed / "recipe.json").exists() else []
        return start([*command, str(path), *again], log)

    def step() -> int:
        rows = read_jsonl(killed / "metrics.jsonl")
        return rows[-1]["step"] if rows else 0

    kill_at_random(start_again, step, log, pause_s=1.0)
    run_to_the_end([*command, str(path), "--resume"], log)
    first = load_file(checkpoints(tmp_path / "whole")[-1] / "model.safetensors")
    second = load_file(require_newest(killed) / "model.safetensors")
    assert checkpoints(killed)[-1].name == f"step-{STEPS:06d}"
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_five_kills_change_no_bit_of_an_fsdp2_loop(tmp_path):
    log = tmp_path / "log"
    loop = str(ROOT / "tests" / "fsdp2_loop.py")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    steps = str(4 * STEPS)
    run_to_the_end([loop, str(whole), steps], log)

    def step() -> int:
        return max((int(path.name[5:]) for path in killed.glob("step-*")), default=0)

    kill_at_random(lambda: start([loop, str(killed), steps], log), step, log, pause_s=0.3)
    assert not (killed / "final.pt").exists()
    run_to_the_end([loop, str(killed), steps], log)
    first, second = torch.load(whole / "final.pt"), torch.load(killed / "final.pt")
    assert all(torch.equal(first[name], second[name]) for name in first)
