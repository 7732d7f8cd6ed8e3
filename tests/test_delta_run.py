"""The deltas of real runs: packed from a run directory, and in a run's checkpoints."""

import filecmp
import shutil

import pytest
import torch
from conftest import POLICY, SHORT, SHORT_REWARDS
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from rlvr.checkpoints.runs import (
    checkpoints,
    damage,
    newest_checkpoint,
    require_newest,
    step_folder,
    step_of,
)
from rlvr.cli import main as cli_main
from rlvr.delta import apply, pack, policy_folder, revert
from rlvr.masks.mask import Mask
from rlvr.run_dir import read_summary
from rlvr.schema import RecipeError
from rlvr.train import main as train_main

RANDOM = {"builder": "random", "density": 0.02}
DELTA = {"checkpoint": "delta"}


def trained_policy(run_dir):
    """Return the newest masters of a run as a folder of whole weights, and their step."""
    newest = require_newest(run_dir)
    return policy_folder(newest), step_of(newest)


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_masked_run_packs_against_its_base_and_both_come_back(train, tmp_path):
    """The base is bf16 on disk and the run float32: each side keeps its dtype."""
    run_dir = train(mask=RANDOM)
    delta = tmp_path / "delta"
    packed = pack(POLICY, run_dir, delta)
    may_move = sum(int(bits.sum()) for _, bits in Mask.load(run_dir / "mask.safetensors").items())
    assert 0 < packed.changed <= may_move
    # 4 bytes a changed float32, under a byte for its place, and the tokenizer and headers.
    assert packed.file_bytes < 5 * packed.changed + 12000
    tuned = trained_policy(run_dir)[0]
    apply(POLICY, delta, tmp_path / "applied")
    revert(run_dir, delta, tmp_path / "reverted")
    names = [path.name for path in (tmp_path / "applied").iterdir()]
    assert {"config.json", "tokenizer.json", "chat_template.jinja"} <= set(names)
    assert filecmp.cmpfiles(tmp_path / "applied", tuned, names, shallow=False)[1:] == ([], [])
    names = [path.name for path in (tmp_path / "reverted").iterdir()]
    assert {"model.safetensors", "config.json"} <= set(names)
    assert filecmp.cmpfiles(tmp_path / "reverted", POLICY, names, shallow=False)[1:] == ([], [])


def test_a_run_whose_checkpoints_are_deltas_is_the_run_whose_are_whole(train, tmp_path, capsys):
    evaluation = {
        "data": {"name": "pocket", "split": "test", "size": 8},
        "verifier": {"name": "math"},
        "max_new_tokens": 32,
    }
    trainer = {"max_steps": 4, "save_steps": 2}
    whole = train("whole", mask=RANDOM, trainer=trainer, eval=evaluation)
    sparse = train("sparse", mask=RANDOM, trainer=trainer, eval=evaluation, run=DELTA)
    first, second = (read_summary(run) for run in (whole, sparse))
    assert first is not None and second is not None
    for summary in (first, second):
        del summary["seconds_per_step"], summary["policy"]["folder"]
    assert 10 * second.pop("checkpoint_bytes") < first.pop("checkpoint_bytes")
    assert first == second and second["mask_leak"] == 0
    assert not (sparse / "policy").exists()
    newest = checkpoints(sparse)[-1]
    assert damage(newest) is None
    names = {path.name for path in newest.iterdir()}
    assert {"policy.delta", "optimizer.pt", "trainer_state.json", "config.json"} <= names
    assert not list(newest.glob("model*"))
    changed = 0.02 * sum(weight.numel() for weight in weights(POLICY).values())
    assert (newest / "policy.delta").stat().st_size < 5 * changed + 12000

    expected = weights(trained_policy(whole)[0])
    folder, step = trained_policy(sparse)
    assert step == 4
    assert_same_weights(weights(folder), expected)
    AutoModelForCausalLM.from_pretrained(folder)
    # A run directory stands for its newest policy, and for that policy's delta.
    for words in (
        ("apply", POLICY, sparse, "applied"),
        ("pack", POLICY, sparse, "packed"),
        ("apply", POLICY, tmp_path / "packed", "again"),
        ("revert", sparse, newest, "reverted"),
    ):
        assert cli_main(["delta", *map(str, words[:-1]), str(tmp_path / words[-1])]) == 0
        assert not (sparse / ".applied").exists()
    assert_same_weights(weights(tmp_path / "applied"), expected)
    assert_same_weights(weights(tmp_path / "again"), expected)
    reverted = (tmp_path / "reverted" / "model.safetensors").read_bytes()
    assert reverted == (POLICY / "model.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_resuming_from_a_delta_is_never_having_stopped(train, write_recipe, tmp_path, dtype):
    sections = {"mask": RANDOM, "model": {"dtype": dtype}, "rewards": SHORT_REWARDS}
    trainer = {**SHORT, "max_steps": 4, "save_steps": 2}
    whole = train("whole", trainer=trainer, **sections)
    halved = train("halved", trainer={**trainer, "max_steps": 2}, run=DELTA, **sections)
    path = write_recipe("halved", trainer=trainer, run=DELTA, **sections)
    assert train_main([str(path), "--resume"]) == 0
    assert_same_weights(weights(trained_policy(halved)[0]), weights(checkpoints(whole)[-1]))


def test_a_damaged_delta_falls_back_and_a_stale_policy_is_made_anew(train, tmp_path, capsys):
    run_dir = train(mask=RANDOM, trainer={"max_steps": 2, "save_steps": 1}, run=DELTA)
    folder, step = trained_policy(run_dir)
    assert step == 2
    other = dict(weights(folder))
    other["model.norm.weight"] += 1
    save_file(other, folder / "model.safetensors")
    assert weights(trained_policy(run_dir)[0])["model.norm.weight"].equal(
        other["model.norm.weight"] - 1
    )
    with open(step_folder(run_dir, 2) / "policy.delta", "r+b") as file:
        file.seek(-9, 2)
        file.write(b"x")
    assert newest_checkpoint(run_dir) == step_folder(run_dir, 1)
    assert trained_policy(run_dir)[1] == 1
    assert "step-000002 is damaged (policy.delta" in capsys.readouterr().out


def test_what_a_killed_save_left_is_in_no_checkpoint(train, write_recipe):
    trainer = {"max_steps": 2, "save_steps": 1}
    run_dir = train(mask=RANDOM, trainer={**trainer, "max_steps": 1}, run=DELTA)
    left = run_dir / "checkpoints" / "checkpoint-2"
    left.mkdir()
    for name in ("policy.delta", "model.safetensors", "generation-00001-of-00002.pt"):
        (left / name).write_text("half")
    path = write_recipe(mask=RANDOM, trainer=trainer, run=DELTA)
    assert train_main([str(path), "--resume"]) == 0
    names = [{path.name for path in folder.iterdir()} for folder in checkpoints(run_dir)]
    assert names[0] == names[1] and not left.exists()


def test_a_base_that_is_gone_or_another_is_named(train, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(POLICY, base)
    run_dir = train(mask=RANDOM, model={"path": str(base)}, run=DELTA)
    original = (base / "model.safetensors").read_bytes()
    changed = bytearray(original)
    changed[-1] ^= 1
    (base / "model.safetensors").write_bytes(changed)
    with pytest.raises(RecipeError, match="not the base checkpoint of"):
        trained_policy(run_dir)
    base.rename(tmp_path / "moved")
    with pytest.raises(RecipeError, match="rlvr delta apply BASE .*policy.delta OUT"):
        trained_policy(run_dir)


def refused(write_recipe, capsys, **sections) -> str:
    assert train_main([str(write_recipe(run=DELTA, **sections)), "--check"]) == 2
    return capsys.readouterr().err


def test_what_no_delta_can_hold_is_refused_by_the_check(
    write_recipe, tmp_path, capsys, monkeypatch
):
    error = refused(write_recipe, capsys, adapter={"builder": "lora", "rank": 4})
    assert "run.checkpoint" in error and "merged adapter" in error
    wide, tied = tmp_path / "wide", tmp_path / "tied"
    model = AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32)
    for folder in (wide, tied):
        shutil.copytree(POLICY, folder)
    model.save_pretrained(wide)
    error = refused(
        write_recipe, capsys, mask=RANDOM, model={"path": str(wide), "dtype": "bfloat16"}
    )
    assert "run.checkpoint" in error and "float32" in error and "model.dtype" in error
    head = weights(tied)["model.embed_tokens.weight"].clone()
    save_file({**weights(tied), "lm_head.weight": head}, tied / "model.safetensors")
    error = refused(write_recipe, capsys, mask=RANDOM, model={"path": str(tied)})
    assert "stores 'lm_head.weight'" in error and "save_pretrained" in error
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert "DeepSpeed" in refused(write_recipe, capsys, mask=RANDOM)
