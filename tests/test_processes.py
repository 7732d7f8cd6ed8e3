"""Runs as processes of their own: Ctrl-C and kill -9."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import VARIED
from safetensors.torch import load_file

from rlvr.checkpoints.runs import checkpoints
from rlvr.files import read_jsonl
from rlvr.train import main as train_main

ROOT = Path(__file__).parent.parent
SAFE = {"builder": "safe", "rank": 8, "principal_density": 0.5, "low_density": 0.5}
# As many threads as this process, in which some of the runs go on: bits depend on them.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
TRAIN = [sys.executable, "-m", "rlvr.train"]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoints(run_dir)[-1] / "model.safetensors")


def start(path: Path, *words: str, hangup: signal.Handlers = signal.SIG_DFL) -> subprocess.Popen:
    """Start a run that takes a lost terminal as ``hangup`` says, however this suite was started."""
    before = signal.signal(signal.SIGHUP, hangup)
    try:
        return subprocess.Popen(
            [*TRAIN, str(path), *words],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    finally:
        signal.signal(signal.SIGHUP, before)


def wait_for_steps(process: subprocess.Popen, run_dir: Path, count: int) -> None:
    while process.poll() is None:
        if len(read_jsonl(run_dir / "metrics.jsonl")) >= count:
            return
        time.sleep(0.1)
    output, _ = process.communicate()
    pytest.fail(f"{run_dir} did not reach step {count}:\n{output}")


def saved_step(run_dir: Path) -> int:
    return int(checkpoints(run_dir)[-1].name.removeprefix("step-"))


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_resume(write_recipe, tmp_path):
    path = write_recipe(mask=SAFE, rewards=VARIED, trainer={"max_steps": 500})
    process = start(path)
    wait_for_steps(process, tmp_path / "recipe", 2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert re.search(rf"rlvr train {re.escape(str(path))} --resume", output)
    assert "Traceback" not in output
    step = saved_step(tmp_path / "recipe")
    assert step >= 2
    assert train_main([str(path), "--resume", f"trainer.max_steps={step + 1}"]) == 0
    assert saved_step(tmp_path / "recipe") == step + 1


def test_a_lost_terminal_saves_a_checkpoint(write_recipe, tmp_path):
    process = start(write_recipe(mask=SAFE, rewards=VARIED, trainer={"max_steps": 500}))
    wait_for_steps(process, tmp_path / "recipe", 2)
    process.send_signal(signal.SIGHUP)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "nothing is lost" in output, output
    assert saved_step(tmp_path / "recipe") >= 2


def test_nohup_keeps_a_run_going_until_a_polite_end_saves_it(write_recipe, tmp_path):
    """A process that was started with SIGHUP ignored goes on ignoring it."""
    path = write_recipe(mask=SAFE, rewards=VARIED, trainer={"max_steps": 500})
    process = start(path, hangup=signal.SIG_IGN)
    wait_for_steps(process, tmp_path / "recipe", 1)
    process.send_signal(signal.SIGHUP)
    hung_up = len(read_jsonl(tmp_path / "recipe" / "metrics.jsonl"))
    # Whoever heeds the signal ends with the step in which it came.
    wait_for_steps(process, tmp_path / "recipe", hung_up + 3)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "nothing is lost" in output, output
    assert saved_step(tmp_path / "recipe") >= hung_up + 3


@pytest.mark.slow
def test_of_several_processes_that_fail_the_reason_is_what_a_user_reads_last(
    write_recipe, tmp_path
):
    """Two processes with a limit on the size of files, in which no checkpoint fits."""
    trainer = {"max_steps": 3, "save_steps": 1, "per_device_train_batch_size": 8}
    path = write_recipe(mask=SAFE, rewards=VARIED, trainer=trainer)
    launch = [sys.executable, "-m", "accelerate.commands.launch"]
    launch += ["--config_file", str(ROOT / "launch" / "ddp_cpu.yaml"), "--main_process_port", "0"]
    words = shlex.join([*launch, "-m", "rlvr.train", str(path)])
    result = subprocess.run(
        ["bash", "-c", f"ulimit -f 2000; exec {words}"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 1
    reason = f"error: {tmp_path / 'recipe' / 'checkpoints' / 'checkpoint-1'}"
    assert reason in result.stderr.split("Root Cause")[-1], result.stderr
    assert result.stderr.count("bytes are free there") <= 3, result.stderr
    assert "accelerate" in result.stderr.split("go on with")[-1]


def test_kill_9_loses_nothing_that_was_saved(write_recipe, tmp_path):
    trainer = {"max_steps": 5, "save_steps": 2}
    assert train_main([str(write_recipe("whole", mask=SAFE, rewards=VARIED, trainer=trainer))]) == 0
    killed = write_recipe("killed", mask=SAFE, rewards=VARIED, trainer=trainer)
    process = start(killed)
    wait_for_steps(process, tmp_path / "killed", 3)
    process.kill()
    process.communicate()
    assert checkpoints(tmp_path / "killed")
    assert train_main([str(killed), "--resume"]) == 0
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(first[name], second[name]) for name in first)
