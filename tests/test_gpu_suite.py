"""The suite that measures a GPU, at toy size on what is here: so that it works the first time."""

import subprocess
import sys
from pathlib import Path

import pytest

SUITE = Path(__file__).parent.parent / "scripts" / "gpu_suite.py"
PARTS = {
    "kernel": (["whole gradients", "freed gradients", "d = 0.05"], "agrees True"),
    "fsdp2": (["float32 weights, bf16 compute", "bf16 weights"], "leak 0"),
    "mask": (["safe mask", "geometry --fast"], " s "),
    "train": (["plain", "mask5-freed", "pissa"], "s a step"),
}


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_the_suite_runs_at_toy_size_and_writes_its_rows(tmp_path, part):
    pytest.importorskip("triton")
    words, figure = PARTS[part]
    table = tmp_path / "MEASURED.md"
    command = [sys.executable, str(SUITE), part, "--toy", "--out", str(table)]
    if part == "train":
        command += ["--arms", "plain", "dense", "mask5-freed", "pissa"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=480)
    assert done.returncode == 0, done.stderr[-3000:]
    text = table.read_text()
    assert all(word in text for word in words) and figure in text
    rows = [line for line in text.splitlines() if line.startswith("| 2")]
    assert rows and all(row.count("|") == 7 and "torch" in row for row in rows)
    assert "agrees False" not in text
