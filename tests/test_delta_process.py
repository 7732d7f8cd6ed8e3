"""Processes: killed at any moment nothing stands under the final name, and memory is bounded."""

import filecmp
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlvr.cli import main as cli_main
from rlvr.delta import apply, pack

# Forks a child for each OUT, kills it at a random moment once it writes, and says what it left
# under the name. A moment counted from the start would fall before the writing on a slow machine,
# and after it on a fast one.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
from rlvr.delta import apply, pack
base, tuned, delta, folder = sys.argv[1:]
random.seed(0)
seconds = 0.0  # of the first, which is killed as soon as it writes
for round in range(6):
    out = Path(folder, f"out{round}")
    child = os.fork()
    if child == 0:
        if round % 2:
            pack(Path(base), Path(tuned), out)
        else:
            apply(Path(base), Path(delta), out)
        os._exit(0)
    start = time.monotonic()
    ended = 0
    while not ended and not list(Path(folder).glob(f".out{round}.*")):
        time.sleep(0.001)
        ended = os.waitpid(child, os.WNOHANG)[0]
    seconds = seconds or time.monotonic() - start
    if not ended:
        time.sleep(random.random() * seconds if round else 0.0)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    print(round, int(out.exists()), len(list(Path(folder).glob(f".out{round}.*"))), flush=True)
"""

# Since the high-water mark of getrusage is inherited from the parent, /proc has the right one.
MEMORY = """
import re, sys
from pathlib import Path
from rlvr.delta import apply, pack
base, tuned, delta, out = map(Path, sys.argv[1:])
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
Path("/proc/self/clear_refs").write_text("5")  # the imports' peak is forgotten
start = peak()
pack(base, tuned, delta)
packed = peak()
apply(base, delta, out)
print(packed - start, peak() - start)
"""


def run_script(script: str, *arguments: Path | float) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def large_pair(save_checkpoint) -> tuple[Path, Path]:
    """Return two checkpoints of 192 MiB: one tensor of 64 MiB, many of 4; a tenth is changed."""
    torch.manual_seed(0)
    rows = torch.randn(1 << 20)
    base = {f"layers.{index}.weight": rows + index for index in range(32)}
    base["embed.weight"] = torch.cat([rows * index for index in range(1, 17)])
    tuned = {name: weight.clone() for name, weight in base.items()}
    moved = torch.rand(1 << 20) < 0.1
    for weight in tuned.values():
        weight.view(-1, 1 << 20)[:, moved] += 1
    return save_checkpoint("base", base, 3), save_checkpoint("tuned", tuned)


def test_killed_at_any_moment_nothing_incomplete_has_the_final_name(large_pair, tmp_path):
    base, tuned = large_pair
    delta, made = tmp_path / "delta", tmp_path / "made"
    pack(base, tuned, delta)
    made.mkdir()
    apply(base, delta, tmp_path / "whole")
    rounds = run_script(KILLER, base, tuned, delta, made).split("\n")[:-1]
    results = [tuple(map(int, line.split())) for line in rounds]
    assert len(results) == 6
    for index, exists, _ in results:
        out = made / f"out{index}"
        if exists and index % 2:
            assert filecmp.cmp(out, delta, shallow=False)
        elif exists:
            names = [path.name for path in (tmp_path / "whole").iterdir()]
            assert not any(filecmp.cmpfiles(out, tmp_path / "whole", names, shallow=False)[1:])
    # The kills fell into the writing: some left a hidden partial file or folder.
    assert any(leftover for _, _, leftover in results)


def test_a_leftover_is_named_by_the_next_run(save_checkpoint, tmp_path, capsys):
    base = save_checkpoint("base", {"weight": torch.zeros(3)})
    leftover = tmp_path / ".out.12345.partial"
    leftover.mkdir()
    assert cli_main(["delta", "pack", str(base), str(base), str(tmp_path / "out")]) == 0
    assert f"left {leftover}" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_memory_is_a_few_chunks_not_a_tensor_nor_a_model(large_pair, tmp_path):
    """Of checkpoints of 192 MiB with a tensor of 64 MiB. It grows by 19 MiB."""
    grown = run_script(MEMORY, *large_pair, tmp_path / "delta", tmp_path / "out")
    assert max(map(int, grown.split())) < 60 << 10, grown


def test_a_folder_that_cannot_be_written_is_one_message(save_checkpoint, tmp_path, capsys):
    base = save_checkpoint("base", {"weight": torch.zeros(3)})
    (tmp_path / "file").touch()
    assert cli_main(["delta", "pack", str(base), str(base), str(tmp_path / "file" / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
