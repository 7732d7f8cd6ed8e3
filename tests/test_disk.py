"""Full, read-only and odd disks, terminals and launchers: one clear line, and nothing lost."""

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlvr import failures
from rlvr.checkpoints.runs import checkpoints
from rlvr.failures import DiskError, explained_writes
from rlvr.files import replacing, write_json
from rlvr.run_dir import require_writable
from rlvr.schema import RecipeError, RunError
from rlvr.train import main as train_main
from rlvr.training.callbacks import SaveAtEnd

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
MASK = {"builder": "random", "density": 0.5, "seed": 1}


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Mount a filesystem in memory at ``folder``; skip the test where that is not allowed."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine does not let the test mount a filesystem")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond ``size`` bytes in the body."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def append(path: Path) -> None:
    with open(path, "a") as file:
        file.write("x" * 100_000)


WRITES: dict[str, Callable[[Path], object]] = {
    "bytes": lambda path: path.write_bytes(bytes(100_000)),
    "a line": append,
    "torch.save": lambda path: torch.save({"a": torch.zeros(100_000)}, path),
    "safetensors": lambda path: save_file({"a": torch.zeros(100_000)}, path),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_that_does_not_fit_says_path_and_bytes(tmp_path, write):
    with pytest.raises(DiskError) as caught, largest_file(50_000):
        with explained_writes(tmp_path / "file", lambda: 123_456):
            write(tmp_path / "file")
    for word in (str(tmp_path / "file"), "123,456 bytes", "bytes are free", "Make room"):
        assert word in str(caught.value)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_file_that_does_not_fit_leaves_the_old_one_and_no_other(tmp_path, write):
    write_json(tmp_path / "file", {"old": 1})
    with pytest.raises(DiskError), largest_file(50_000), replacing(tmp_path / "file") as temporary:
        write(temporary)
    assert json.loads((tmp_path / "file").read_text()) == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_full_disk_is_told_from_a_mistake(tmp_path, write):
    with mounted(tmp_path / "disk", "size=64k") as disk, pytest.raises(DiskError) as caught:
        with explained_writes(disk):
            write(disk / "file")
    assert str(disk) in str(caught.value) and "No space left" in str(caught.value)
    for error in (KeyError("x"), RuntimeError("shape"), FileNotFoundError(2, "no", "/x")):
        with pytest.raises(type(error)), explained_writes(tmp_path):
            raise error


@pytest.mark.parametrize("name", ["read-only", "below a file", "a file", "a dangling link", "full"])
def test_a_run_directory_that_cannot_be_written_is_refused(write_recipe, tmp_path, capsys, name):
    def refused(run_dir: Path) -> None:
        assert train_main([str(write_recipe(run={"dir": str(run_dir)}))]) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"error: run.dir: {run_dir}") and told.count("\n") == 1
        assert "choose another run.dir" in told

    if name in ("read-only", "full"):
        options = {"read-only": "ro", "full": "size=4k,nr_inodes=1"}[name]
        with mounted(tmp_path / "disk", options) as disk:
            refused(disk / "run")
        return
    (tmp_path / "taken").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "else")
    places = {"below a file": "taken/run", "a file": "taken", "a dangling link": "link"}
    refused(tmp_path / places[name])
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_disk_that_fills_up_stops_a_run_which_then_ends_in_the_same_bits(
    train, write_recipe, tmp_path, capsys
):
    trainer = {"max_steps": 3, "save_steps": 1}
    whole = train("whole", mask=MASK, trainer=trainer)
    size = sum(file.stat().st_size for file in checkpoints(whole)[0].iterdir())
    with mounted(tmp_path / "disk", f"size={int(size * 1.6)}") as disk:
        run_dir = disk / "run"
        path = write_recipe("stopped", mask=MASK, trainer=trainer, run={"dir": str(run_dir)})
        assert train_main([str(path)]) == 1
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith(f"error: {run_dir}")
        for word in ("checkpoint-2", "it needs about", "bytes are free", "--resume"):
            assert word in told
        assert [folder.name for folder in (run_dir / "checkpoints").iterdir()] == ["step-000001"]
        subprocess.run(["mount", "-o", "remount,size=1g", str(disk)], check=True)
        assert train_main([str(path), "--resume"]) == 0
        first, second = (
            load_file(checkpoints(folder)[-1] / "model.safetensors") for folder in (whole, run_dir)
        )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_any_text_reaches_a_terminal_of_any_encoding(tmp_path, encoding):
    code = "import sys; from rlvr.cli import main; from rlvr.runtime import say\n"
    code += "code = main(['train', sys.argv[1]]); say('θ → 𝔼[r] \\udcff'); sys.exit(code)"
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "größe→.yaml")],
        env={**ENVIRONMENT, "PYTHONIOENCODING": encoding, "LC_ALL": "C"},
        capture_output=True,
    )
    assert result.returncode == 2, result.stderr
    assert b"does not exist" in result.stderr and b"Traceback" not in result.stderr
    assert result.stdout.strip()


def test_a_closed_pipe_stops_no_run(write_recipe, tmp_path):
    command = f"{sys.executable} -m rlvr.train {write_recipe(trainer={'max_steps': 2})}"
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} 2>&1 | head -1"], env=ENVIRONMENT, text=True
    )
    assert (tmp_path / "recipe" / "summary.json").is_file()
    assert result.returncode == 0


def test_other_systems_need_no_file_locks_and_no_affinity(tmp_path):
    """A process as on macOS or another system: no fcntl, no sched_getaffinity, no prctl."""
    code = (
        "import os, sys\n"
        "sys.modules['fcntl'] = None\n"
        "del os.sched_getaffinity\n"
        "import torch\n"
        "sys.platform = 'darwin'\n"
        "from pathlib import Path\n"
        "from rlvr import runtime\n"
        "from rlvr.locks import is_locked, locked\n"
        "from rlvr.rewards.math import verify\n"
        "from rlvr.isolation.pool import WorkerPool\n"
        "assert runtime.cores() == os.cpu_count() == WorkerPool('math:x').size\n"
        "with locked(Path(sys.argv[1])): assert not is_locked(Path(sys.argv[1]))\n"
        "assert verify('1/2', r'so \\boxed{0.5}')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_filesystem_without_locks_is_written_all_the_same(tmp_path, monkeypatch, number):
    from rlvr import locks

    def refuse(file: object, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with locks.locked(tmp_path):
        assert not locks.is_locked(tmp_path)


LAUNCHER = """
import subprocess, sys
code = "import os, sys; os.environ['WORLD_SIZE'] = '2'; from rlvr.launcher import resume_command;"
code += "print(resume_command(sys.argv[1], sys.argv[2:]))"
words = sys.argv[sys.argv.index("rlvr.train") + 1 :]
sys.exit(subprocess.call([sys.executable, "-c", code, *words]))
"""


@pytest.mark.parametrize("program", ["accelerate", "torchrun"])
@pytest.mark.parametrize("resumed", [[], ["--resume"]])
def test_the_command_to_go_on_is_the_launchers_with_its_words_quoted(tmp_path, program, resumed):
    (tmp_path / program).write_text(LAUNCHER)
    words = ["launch", "--config_file", "my launch.yaml", "-m", "rlvr.train", "a b.yaml"]
    words += ["mask={builder: dense}", *resumed]
    command = [sys.executable, str(tmp_path / program), *words]
    told = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True).stdout
    assert told.strip() == (
        f"{program} launch --config_file 'my launch.yaml' -m rlvr.train 'a b.yaml' "
        "'mask={builder: dense}' --resume"
    )


def test_the_command_to_go_on_of_one_process_is_quoted(monkeypatch):
    from rlvr.launcher import resume_command

    for name in ("WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    told = resume_command("my recipe.yaml", ["mask={builder: dense}", "data.size=3"])
    assert told == "rlvr train 'my recipe.yaml' 'mask={builder: dense}' data.size=3 --resume"


@pytest.mark.parametrize("error", [RecipeError("no such key"), RunError("a leak")])
def test_a_launcher_is_told_the_reason(tmp_path, monkeypatch, capsys, error):
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    monkeypatch.setenv(failures.ERROR_FILE, str(tmp_path / "error.json"))
    monkeypatch.setenv("RANK", "1")
    assert failures.report(error, 3) == 3
    assert capsys.readouterr().err == f"rank 1: error: {error}\n"
    failure = ProcessFailure(1, 4711, 1, str(tmp_path / "error.json"))
    assert failure.message["extraInfo"]["py_callstack"] == f"error: {error}"


def test_a_resume_of_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="holds no run; start it without --resume"):
        require_writable(tmp_path / "absent", resume=True)
    assert not (tmp_path / "absent").exists()


class State:
    global_step, max_steps = 5, 5


@pytest.mark.parametrize("strategy", ["no", "best", "steps"])
def test_a_run_saves_at_its_end(strategy):
    from transformers import TrainerControl, TrainingArguments

    args = TrainingArguments(save_strategy=strategy, eval_strategy="no", use_cpu=True)
    control = TrainerControl()
    SaveAtEnd().on_step_end(args, State(), control)
    assert control.should_save
