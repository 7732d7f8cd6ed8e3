"""Real processes: two of them share the problems, a kill loses no shard, the bytes are one's."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import POLICY, ROOT

from rlvr.cli import main

WORDS = ["evaluate", str(POLICY), "--benchmark", "pocket", "pocket.size=48", "--samples", "2"]
WORDS += ["--max-new-tokens", "24", "--batch-size", "3"]  # eight shards of six problems


def start(out: Path) -> list[subprocess.Popen]:
    """Start the two processes of a launch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": port, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "rlvr.cli", *WORDS, "--out", str(out)]
    return [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]


def shards(out: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (out / "pocket.shards").glob("*-*-*.jsonl")}


def kill_at_a_shard(processes: list[subprocess.Popen], out: Path, count: int) -> None:
    """Kill both processes when ``count`` shards are there."""
    try:
        while len(shards(out)) < count:
            assert all(one.poll() is None for one in processes)
            time.sleep(0.005)
    finally:
        for one in processes:
            one.send_signal(signal.SIGKILL)
        errors = [one.communicate()[1] for one in processes]
        print(*errors)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_that_were_killed_end_in_the_file_of_one(tmp_path):
    out = tmp_path / "two"
    kill_at_a_shard(start(out), out, 1)
    kept = shards(out)
    assert kept and not (out / "pocket.jsonl").exists()
    again = start(out)
    errors = [one.communicate(timeout=500)[1] for one in again]
    assert [one.returncode for one in again] == [0, 0], errors
    assert main([*WORDS, "--out", str(tmp_path / "one")]) == 0
    assert (out / "pocket.jsonl").read_bytes() == (tmp_path / "one" / "pocket.jsonl").read_bytes()
    # What was written before the kill is in the file as it was.
    lines = (out / "pocket.jsonl").read_bytes().splitlines()
    assert all(line in lines for shard in kept.values() for line in shard.splitlines())
