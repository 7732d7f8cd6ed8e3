"""Runs as processes of their own: Ctrl-C and kill -9."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlvr.checkpoints.runs import checkpoints
from rlvr.files import read_jsonl

ROOT = Path(__file__).parent.parent
SAFE = {"builder": "safe", "rank": 8, "principal_density": 0.5, "low_density": 0.5}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
TRAIN = [sys.executable, "-m", "rlvr.train"]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoints(run_dir)[-1] / "model.safetensors")


def start(path: Path, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [*TRAIN, str(path), *words],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_steps(process: subprocess.Popen, run_dir: Path, count: int) -> None:
    while process.poll() is None:
        if len(read_jsonl(run_dir / "metrics.jsonl")) >= count:
            return
        time.sleep(0.1)
    output, _ = process.communicate()
    pytest.fail(f"{run_dir} did not reach step {count}:\n{output}")


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_resume(write_recipe, tmp_path):
    path = write_recipe(mask=SAFE, trainer={"max_steps": 500})
    process = start(path)
    wait_for_steps(process, tmp_path / "recipe", 2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert re.search(rf"rlvr train {re.escape(str(path))} --resume", output)
    assert "Traceback" not in output
    step = int(checkpoints(tmp_path / "recipe")[-1].name.removeprefix("step-"))
    assert step >= 2
    words = ["--resume", f"trainer.max_steps={step + 1}"]
    output, _ = start(path, *words).communicate(timeout=120)
    assert checkpoints(tmp_path / "recipe")[-1].name == f"step-{step + 1:06d}", output


def test_kill_9_loses_nothing_that_was_saved(write_recipe, tmp_path):
    trainer = {"max_steps": 6, "save_steps": 2}
    whole = write_recipe("whole", mask=SAFE, trainer=trainer)
    assert (
        subprocess.run([*TRAIN, str(whole)], env=ENVIRONMENT, capture_output=True).returncode == 0
    )
    killed = write_recipe("killed", mask=SAFE, trainer=trainer)
    process = start(killed)
    wait_for_steps(process, tmp_path / "killed", 3)
    process.kill()
    process.wait()
    assert checkpoints(tmp_path / "killed")
    output, _ = start(killed, "--resume").communicate(timeout=120)
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(first[name], second[name]) for name in first), output
