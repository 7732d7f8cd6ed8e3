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


def workers(launcher: int) -> dict[int, int]:
    """Return the process ids of a launcher's ranks, by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ranks = [item for item in variables if item.startswith(b"RANK=")]
        if parent == launcher and ranks:
            found[int(ranks[0].removeprefix(b"RANK="))] = int(folder.name)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGSTOP], ids=["exchange", "wait"])
def test_the_others_name_a_rank_that_was_killed(write_recipe, tmp_path, rank, way):
    """Killed in a step; or first stopped, so that the other one waits for it, as under NCCL."""
    trainer = {"max_steps": 500, "save_steps": 1, "per_device_train_batch_size": 8}
    path = write_recipe(mask=SAFE, rewards=VARIED, trainer=trainer)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    launch += ["--config_file", str(ROOT / "launch" / "ddp_cpu.yaml"), "-m", "rlvr.train"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen([*launch, str(path)], env=ENVIRONMENT, **streams)
    try:
        wait_for_steps(process, tmp_path / "recipe", 2)
        pid = workers(process.pid)[rank]
        if way == signal.SIGSTOP:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(3)
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert time.monotonic() - killed < 60
    assert process.returncode == 1
    step = saved_step(tmp_path / "recipe")
    assert f"because rank {rank} ended in the middle of a step" in output, output[-3000:]
    assert f"step-{step:06d}" in output and "--resume" in output
    done = subprocess.run(
        [*launch, str(path), "--resume", f"trainer.max_steps={step + 1}"],
        env=ENVIRONMENT,
        **streams,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert saved_step(tmp_path / "recipe") == step + 1


WAITING = """
import sys, time
from rlvr import peers
peers._ranks_here = lambda: {0: int(sys.argv[1]), 1: int(sys.argv[2])}
peers.PERIOD_S = peers.GRACE_S = 0.2
with peers.watched(lambda: "go on"):
    time.sleep(20 if sys.argv[3] == "waits" else 1)
print("finished")
"""


@pytest.mark.parametrize("does", ["waits", "ends"])
def test_a_process_that_waits_for_a_dead_one_is_ended(does):
    """Nothing raises where an exchange waits for ever; a body that ends by itself is left alone."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    others = {"waits": dead.pid, "ends": os.getpid()}
    words = [sys.executable, "-c", WAITING, str(os.getpid()), str(others[does]), does]
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    if does == "ends":
        assert (done.returncode, done.stdout) == (0, "finished\n"), done.stderr
    else:
        assert done.returncode == 1 and "finished" not in done.stdout
        assert (
            done.stderr == "error: stopped, because rank 1 ended in the middle of a step; go on\n"
        )


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
