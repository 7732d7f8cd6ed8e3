"""Damaged files of a run: each is named in one line, and what can be recovered is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from conftest import SMALL
from safetensors.torch import load_file

from rlvr.checkpoints.runs import checkpoints, publish_checkpoint, step_folder
from rlvr.config import load_recipe
from rlvr.files import read_jsonl, read_sealed, write_json, write_sealed
from rlvr.logs import read_metrics, record_logs, restore_logs
from rlvr.masks import Mask
from rlvr.run_dir import open_run, read_summary
from rlvr.schema import RecipeError
from rlvr.train import main as train_main

MASK = {"builder": "random", "density": 0.5, "seed": 1}
ADAPTER = {"builder": "pissa", "rank": 4}


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def cut_last_line(file: Path) -> None:
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip(file: Path, place: float = 0.5) -> None:
    content = bytearray(file.read_bytes())
    content[int(len(content) * place)] ^= 0x10
    file.write_bytes(content)


def flip_a_digit(file: Path) -> None:
    """Leave valid JSON with another value."""
    content = file.read_bytes()
    index = next(i for i in range(len(content) // 2, len(content)) if content[i : i + 1].isdigit())
    digit = b"2" if content[index : index + 1] != b"2" else b"3"
    file.write_bytes(content[:index] + digit + content[index + 1 :])


def binary(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00" + file.read_bytes())


HARMS = [cut, empty, flip, flip_a_digit, binary, Path.unlink]


def trained(folder: Path, **sections: dict) -> tuple[Path, Path]:
    """Train two steps, each with a checkpoint; return the recipe and the run directory."""
    trainer = {**SMALL["trainer"], "max_steps": 2, "save_steps": 1}
    run = {**SMALL["run"], "dir": str(folder / "run")}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "trainer": trainer, "run": run, **sections}))
    assert train_main([str(path)]) == 0
    return path, folder / "run"


@pytest.fixture(scope="module")
def masked_run(tmp_path_factory) -> tuple[Path, Path]:
    return trained(tmp_path_factory.mktemp("masked"), mask=MASK)


@pytest.fixture(scope="module")
def adapter_run(tmp_path_factory) -> tuple[Path, Path]:
    return trained(tmp_path_factory.mktemp("adapter"), adapter=ADAPTER)


@pytest.fixture
def copied(tmp_path) -> Callable[[tuple[Path, Path]], tuple[Path, Callable[[], int]]]:
    """Return a function that copies a run; it returns the copy and a resume of it."""

    def copy(run: tuple[Path, Path]) -> tuple[Path, Callable[[], int]]:
        recipe, source = run
        shutil.copytree(source, tmp_path / "run")
        words = [str(recipe), "--resume", f"run.dir={tmp_path / 'run'}"]
        return tmp_path / "run", lambda: train_main(words)

    return copy


@pytest.mark.parametrize("harm", [cut, flip_a_digit, Path.unlink])
def test_a_damaged_recipe_is_restored(masked_run, copied, capsys, harm):
    run_dir, resume = copied(masked_run)
    whole = json.loads((run_dir / "recipe.json").read_text())
    harm(run_dir / "recipe.json")
    assert resume() == 0
    assert "recipe.json: damaged" in capsys.readouterr().out
    restored = json.loads((run_dir / "recipe.json").read_text())
    assert {**restored, "run": None} == {**whole, "run": None}


@pytest.mark.parametrize("harm", [cut, empty, flip, flip_a_digit, binary])
def test_damaged_provenance_is_one_line_with_the_fix(masked_run, copied, capsys, harm):
    run_dir, resume = copied(masked_run)
    harm(run_dir / "provenance.json")
    assert resume() == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    for word in ("provenance.json: damaged", "delete it", "--resume"):
        assert word in errors


@pytest.mark.parametrize("place", [0.0, 0.02, 0.5, 1.0 - 1e-9])
def test_a_damaged_mask_is_built_again(masked_run, copied, capsys, place):
    run_dir, resume = copied(masked_run)
    whole = Mask.load(run_dir / "mask.safetensors").fingerprint()
    flip(run_dir / "mask.safetensors", place)
    assert resume() == 0
    assert "mask.safetensors" in capsys.readouterr().out
    assert Mask.load(run_dir / "mask.safetensors").fingerprint() == whole


@pytest.mark.parametrize("harm", [cut, flip])
def test_damaged_initial_factors_are_computed_again(adapter_run, copied, capsys, harm):
    run_dir, resume = copied(adapter_run)
    file = run_dir / "initial_adapter.safetensors"
    whole = {name: tensor.clone() for name, tensor in load_file(file).items()}
    harm(file)
    assert resume() == 0
    assert "initial_adapter.safetensors: damaged" in capsys.readouterr().out
    assert all(torch.equal(whole[name], tensor) for name, tensor in load_file(file).items())


@pytest.mark.parametrize("harm", [cut, empty, flip_a_digit, binary])
def test_a_damaged_summary_is_none_and_named(masked_run, copied, capsys, harm):
    run_dir, _ = copied(masked_run)
    assert read_summary(run_dir) is not None
    harm(run_dir / "summary.json")
    assert read_summary(run_dir) is None
    assert "summary.json: damaged" in capsys.readouterr().out


def test_a_resume_says_what_the_logs_lost_and_keeps_the_rest(masked_run, copied, capsys):
    run_dir, resume = copied(masked_run)
    (run_dir / "summary.json").unlink()
    cut_last_line(run_dir / "metrics.jsonl")
    flip(run_dir / "rollouts.jsonl", 0.001)
    rollouts = len((run_dir / "rollouts.jsonl").read_bytes().splitlines())
    with pytest.raises(RecipeError, match=r"metrics.jsonl: damaged \(step-000002 recorded 2 rows"):
        read_metrics(run_dir)
    assert resume() == 0
    told = capsys.readouterr().out
    assert "metrics.jsonl: damaged; 1 of 2 rows" in told and "rollouts.jsonl: damaged" in told
    assert [row["step"] for row in read_metrics(run_dir)] == [1]
    assert len(read_jsonl(run_dir / "rollouts.jsonl")) >= rollouts - 1
    assert (run_dir / "rollouts.jsonl.damaged").is_file()
    resumes = json.loads((run_dir / "provenance.json").read_text())["resumes"]
    assert resumes[0]["step"] == 2 and len(resumes[0]["lost"]) == 2
    assert read_summary(run_dir) is not None


@pytest.fixture
def logged(tmp_path) -> tuple[Path, Path]:
    """Return a run directory with logs of six steps, and a checkpoint of the fourth."""
    checkpoint = step_folder(tmp_path, 4)
    checkpoint.mkdir(parents=True)
    lines = [json.dumps({"step": step, "reward": step / 7}) + "\n" for step in range(1, 7)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines[:4]))
    (tmp_path / "rollouts.jsonl").write_text('{"step": 0}\n{"step": 3}\n')
    record_logs(tmp_path, checkpoint)
    (tmp_path / "metrics.jsonl").write_text("".join(lines) + '{"step": 7, "rew')
    (tmp_path / "rollouts.jsonl").write_text('{"step": 0}\n{"step": 3}\n{"step": 4}\n')
    return tmp_path, checkpoint


def test_a_resume_cuts_the_logs_at_its_checkpoint(logged):
    run_dir, checkpoint = logged
    assert restore_logs(run_dir, checkpoint) == []
    assert [row["step"] for row in read_jsonl(run_dir / "metrics.jsonl")] == [1, 2, 3, 4]
    assert [row["step"] for row in read_jsonl(run_dir / "rollouts.jsonl")] == [0, 3]
    assert restore_logs(run_dir, checkpoint) == []  # a kill here and the next start change nothing
    assert restore_logs(run_dir, None) == []
    assert read_jsonl(run_dir / "metrics.jsonl") == []


@pytest.mark.parametrize("harm", HARMS)
def test_whatever_harms_a_log_the_rows_that_can_be_read_are_kept(logged, harm):
    run_dir, checkpoint = logged
    restore_logs(run_dir, checkpoint)
    path = run_dir / "metrics.jsonl"
    before = path.read_bytes().splitlines(keepends=True)
    harm(path)
    left = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    (told,) = restore_logs(run_dir, checkpoint)
    assert str(path) in told and "of 4 rows" in told
    kept = path.read_bytes().splitlines(keepends=True)
    assert set(before) & set(left) <= set(kept)
    assert all(json.loads(line)["step"] <= 4 for line in kept)


def test_a_checkpoint_of_an_earlier_version_cuts_the_logs_by_step(logged):
    run_dir, checkpoint = logged
    (checkpoint / "logs.json").unlink()
    assert restore_logs(run_dir, checkpoint) == []
    assert [row["step"] for row in read_jsonl(run_dir / "metrics.jsonl")] == [1, 2, 3, 4]
    assert [row["step"] for row in read_jsonl(run_dir / "rollouts.jsonl")] == [0, 3]


@pytest.mark.parametrize("line", ['{"step": 2', "[1]", "\x00", '{"step": NaNa}'])
def test_a_line_that_is_no_row_is_named_with_its_number(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(RecipeError, match=r"metrics.jsonl: damaged \(line 2 .*--resume"):
        read_jsonl(path)


def test_every_flipped_byte_of_a_sealed_file_is_seen(tmp_path):
    path, content = tmp_path / "sealed.json", {"step": 4, "name": "é", "nested": {1: [2.5, None]}}
    write_sealed(path, content)
    whole, read = path.read_bytes(), json.loads(json.dumps(content))
    assert read_sealed(path, "fix") == read
    for index in range(len(whole)):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 0x01]) + whole[index + 1 :])
        try:
            # What JSON does not mean, such as a space, may change; so may the name of the seal.
            found = read_sealed(path, "fix")
            assert found == read or set(found) - set(read)
        except RecipeError as error:
            assert str(path) in str(error)


KILLED_AT = {
    "the folder": [],
    "the lock": [".lock"],
    "half a file": [".lock", ".provenance.json.4711"],
    "the mask": [".lock", "mask.safetensors"],
    "provenance": [".lock", "mask.safetensors", "provenance.json"],
    "the recipe": [".lock", "provenance.json", "recipe.json"],
    "an empty log": [".lock", "provenance.json", "recipe.json", "metrics.jsonl", "rollouts.jsonl"],
    "half a checkpoint": [".lock", "provenance.json", "recipe.json", "checkpoints/checkpoint-1/a"],
    "a tracker": [".lock", "provenance.json", "recipe.json", "tensorboard/events"],
}


@pytest.mark.parametrize("resume", [False, True], ids=["start", "resume"])
@pytest.mark.parametrize("names", KILLED_AT.values(), ids=KILLED_AT)
def test_a_start_killed_before_its_first_step_is_begun_anew(write_recipe, tmp_path, names, resume):
    recipe = load_recipe(write_recipe(mask=MASK))
    folder = tmp_path / "recipe"
    folder.mkdir()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    assert open_run(recipe, resume=resume) is None
    assert not (folder / "recipe.json").exists() and not list(folder.glob(".*.4711"))
    assert not list(folder.glob("checkpoints/*"))


@pytest.mark.parametrize("name", ["notes.txt", "model.safetensors", ".git/config", "data/a"])
def test_a_folder_with_files_of_the_users_is_refused(write_recipe, tmp_path, name):
    file = tmp_path / "recipe" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(RecipeError, match="not empty and holds no run"):
        open_run(load_recipe(write_recipe()), resume=True)
    assert file.read_text() == "mine"


def written_checkpoint(run_dir: Path, step: int) -> Path:
    temporary = run_dir / "checkpoints" / f"checkpoint-{step}"
    temporary.mkdir(parents=True)
    (temporary / "model.safetensors").write_bytes(bytes(range(100)))
    return temporary


def test_what_killed_saves_left_is_finished_or_cleared(write_recipe, tmp_path):
    run_dir = tmp_path / "recipe"
    recipe = load_recipe(write_recipe())
    publish_checkpoint(written_checkpoint(run_dir, 1), step_folder(run_dir, 1), keep=None)
    publish_checkpoint(written_checkpoint(run_dir, 2), step_folder(run_dir, 2), keep=None)
    step_folder(run_dir, 2).rename(run_dir / "checkpoints" / "checkpoint-2")  # lacks its name only
    written_checkpoint(run_dir, 3)  # no manifest yet
    (run_dir / "checkpoints" / ".deleted").mkdir()
    (run_dir / ".summary.json.99").write_text("{")
    write_json(run_dir / "recipe.json", recipe.to_dict())
    assert open_run(recipe, resume=True) == step_folder(run_dir, 2)
    assert [path.name for path in checkpoints(run_dir)] == ["step-000001", "step-000002"]
    left = {path.name for path in (*run_dir.iterdir(), *(run_dir / "checkpoints").iterdir())}
    assert left == {"checkpoints", "recipe.json", "step-000001", "step-000002"}
