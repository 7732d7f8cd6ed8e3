"""A damaged checkpoint is seen, and the one before is taken."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlvr.checkpoints.runs import (
    checkpoints,
    damage,
    newest_checkpoint,
    publish_checkpoint,
    step_folder,
)
from rlvr.config import load_recipe
from rlvr.files import write_json
from rlvr.locks import is_locked, locked
from rlvr.run_dir import differences
from rlvr.schema import RecipeError, RunError
from rlvr.train import main as train_main

SAFE = {"builder": "safe", "rank": 8, "principal_density": 0.5, "low_density": 0.5}


@pytest.fixture
def run_dir(tmp_path) -> Path:
    for step in (1, 2):
        temporary = tmp_path / "checkpoints" / f"checkpoint-{step}"
        (temporary / "adapter").mkdir(parents=True)
        (temporary / "model.safetensors").write_bytes(bytes(range(200)))
        (temporary / "adapter" / "config.json").write_text("{}")
        publish_checkpoint(temporary, step_folder(tmp_path, step), keep=None)
    return tmp_path


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("harm", [cut, flip, Path.unlink])
def test_a_harmed_file_is_damage_and_the_one_before_is_taken(run_dir, harm, capsys):
    newest = step_folder(run_dir, 2)
    assert newest_checkpoint(run_dir) == newest
    harm(newest / "model.safetensors")
    assert "model.safetensors" in str(damage(newest))
    assert newest_checkpoint(run_dir) == step_folder(run_dir, 1)
    assert "step-000002 is damaged" in capsys.readouterr().out


def test_nested_files_and_the_manifest_count_too(run_dir):
    cut(step_folder(run_dir, 2) / "adapter" / "config.json")
    (step_folder(run_dir, 1) / "manifest.json").unlink()
    with pytest.raises(RecipeError, match="every checkpoint is damaged"):
        newest_checkpoint(run_dir)


def test_only_the_newest_are_kept(tmp_path):
    for step in (5, 10, 15):
        temporary = tmp_path / "checkpoints" / f"checkpoint-{step}"
        temporary.mkdir(parents=True)
        publish_checkpoint(temporary, step_folder(tmp_path, step), keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000010", "step-000015"]


def test_a_run_goes_on_from_the_checkpoint_before_and_ends_in_the_same_bits(
    train, write_recipe, tmp_path, capsys
):
    trainer = {"max_steps": 4, "save_steps": 2}
    train("whole", mask=SAFE, trainer=trainer)
    expected = load_file(step_folder(tmp_path / "whole", 4) / "model.safetensors")
    flip(step_folder(tmp_path / "whole", 4) / "optimizer.pt")
    assert train_main([str(write_recipe("whole", mask=SAFE, trainer=trainer)), "--resume"]) == 0
    assert "step-000004 is damaged (optimizer.pt" in capsys.readouterr().out
    resumed = load_file(step_folder(tmp_path / "whole", 4) / "model.safetensors")
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_a_run_made_before_a_key_existed_is_the_same_recipes(write_recipe, tmp_path):
    recipe = load_recipe(write_recipe())
    recorded = recipe.to_dict()
    del recorded["run"]["max_unverified"]
    write_json(tmp_path / "recipe.json", recorded)
    assert differences(tmp_path, recipe) == []
    recorded["optimizer"] = {"bf16_update": "stochastic"}
    write_json(tmp_path / "recipe.json", recorded)
    assert differences(tmp_path, recipe) == ["optimizer.bf16_update"]
    write_json(tmp_path / "recipe.json", {**recorded, "gone": 1})
    assert "gone" in differences(tmp_path, recipe)


def test_a_folder_is_one_process_at_a_time(tmp_path):
    hold = "import sys, time; from pathlib import Path; from rlvr.locks import locked\n"
    hold += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    folder = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", hold, folder], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    assert is_locked(folder)
    with pytest.raises(RunError, match=f"pid {holder.pid}"), locked(folder):
        pass
    holder.kill()
    holder.wait()
    assert not is_locked(folder)
    with locked(folder):
        (folder / "recipe.json").write_text("{}")
    assert (folder / "recipe.json").is_file()


def test_a_folder_that_stays_empty_is_not_left_behind(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "run"):
        raise KeyError
    assert not (tmp_path / "run").exists()
