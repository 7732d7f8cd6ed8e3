"""Real processes: two of them share the problems, a kill loses no shard, the bytes are one's."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import POLICY, ROOT

from rlvr.cli import main

WORDS = ["evaluate", str(POLICY), "--benchmark", "pocket", "pocket.size=48", "--samples", "2"]
WORDS += ["--max-new-tokens", "24", "--batch-size", "3"]  # eight shards of six problems


def start(out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command += ["-m", "rlvr.cli", *WORDS, "--out", str(out)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True
    )


def kill_at_first_shard(process: subprocess.Popen, folder: Path) -> None:
    try:
        while not list(folder.glob("*-*-*.jsonl")):
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
def test_two_processes_that_were_killed_end_in_the_file_of_one(tmp_path):
    assert main([*WORDS, "--out", str(tmp_path / "one")]) == 0
    folder = tmp_path / "two" / "pocket.shards"
    kill_at_first_shard(start(tmp_path / "two"), folder)
    kept = {path: path.read_bytes() for path in folder.glob("*-*-*.jsonl")}
    times = {path: path.stat().st_mtime_ns for path in kept}
    again = start(tmp_path / "two")
    _, error = again.communicate(timeout=550)
    assert again.returncode == 0, error
    assert kept and times  # those were not drawn again: the merge read them as they were
    one, two = (tmp_path / name / "pocket.jsonl" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
