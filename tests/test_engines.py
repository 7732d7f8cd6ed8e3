"""Contract C1 on every engine that accelerate starts, with the launch files that users start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import VARIED
from safetensors.torch import load_file

from rlvr.checkpoints.runs import checkpoints
from rlvr.cli import main as cli_main
from rlvr.files import read_jsonl
from rlvr.masks import load_mask
from rlvr.train import main as train_main

ROOT = Path(__file__).parent.parent
POLICY = ROOT / "recipes" / "pocket" / "policy"
SAFE = {"builder": "safe", "rank": 8, "principal_density": 0.5, "low_density": 0.5}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
# accumulation 2 on 2 processes, clipped: the hard case that all engines have in common
TRAINER = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "max_grad_norm": 0.05,
}
PLUGINS = ["fsdp_on_cpu"]
ENGINES = {
    "ddp": ("DDP", 0.1),
    "fsdp2": ("FSDP2", 0.1),
    "zero1": ("DeepSpeed ZeRO-1", 0.0),
    "zero2": ("DeepSpeed ZeRO-2", 0.0),
    "zero3": ("DeepSpeed ZeRO-3", 0.0),
}
# DeepSpeed compiles its Adam for CPUs once, for minutes.
OFFLOAD = {"zero3_offload": ("DeepSpeed ZeRO-3", 0.0)}


def launch(name: str, path: Path, *words: str) -> str:
    """Train with `accelerate launch` on two gloo processes; return what it wrote to stderr."""
    accelerate = [sys.executable, "-m", "accelerate.commands.launch"]
    file = str(ROOT / f"launch/{name}.yaml")
    options = ["--config_file", file, "--num_processes", "2"]
    command = [*accelerate, *options, "-m", "rlvr.train", str(path), *words]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=240)
    assert result.returncode == 0 or "error: " in result.stderr, result.stderr[-4000:]
    return result.stderr


def train_with(name: str, path: Path, *words: str) -> None:
    errors = launch(name, path, *words)
    assert "error: " not in errors, errors[-4000:]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoints(run_dir)[-1] / "model.safetensors")


# ZeRO-1 and 2 restrict as ZeRO-3 does, and cost a minute.
SLOW = ("zero1", "zero2", "zero3_offload")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in SLOW else []) for n in (*ENGINES, *OFFLOAD)],
)
def test_nothing_moves_outside_the_mask(write_recipe, tmp_path, name):
    engine, weight_decay = {**ENGINES, **OFFLOAD}[name]
    trainer = {**TRAINER, "weight_decay": weight_decay}
    train_with(name, write_recipe(mask=SAFE, rewards=VARIED, trainer=trainer, plugins=PLUGINS))
    run_dir = tmp_path / "recipe"
    provenance = json.loads((run_dir / "provenance.json").read_text())
    assert (provenance["processes"], provenance["engine"]) == (2, engine)
    held = provenance["optimizer_state_bytes"] / whole_state(run_dir)
    assert held == pytest.approx(1 if name == "ddp" else 0.5, rel=0.05)
    rows = read_jsonl(run_dir / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(row["mask_leak"] == 0 and row["moved"] > 0.9 for row in rows)
    # float32: what the sampler and the policy compute differs by rounding only.
    assert all(row["sampler_gap"] < 1e-4 for row in rows)
    # The step's KL is that of one step on every engine, also where backward takes the step.
    assert all(0 < row["kl_step_completion"] < row["kl_step_bound"] for row in rows)
    require_no_leak(run_dir)


def whole_state(run_dir: Path) -> int:
    """Return the bytes of two float32 moments of all that may move (DeepSpeed: of all) and masks.

    Shards are not quite equal, and step counts are left out: both are below 5 %.
    """
    masks = load_mask(run_dir / "mask.safetensors").values()
    entries = sum(mask.numel() for mask in masks)
    if "DeepSpeed" in json.loads((run_dir / "provenance.json").read_text())["engine"]:
        return 8 * entries
    return 8 * sum(int(mask.sum()) for mask in masks) + entries // 8


def require_no_leak(run_dir: Path) -> None:
    base, masks = load_file(POLICY / "model.safetensors"), load_mask(run_dir / "mask.safetensors")
    tuned = weights(run_dir)
    assert base.keys() == tuned.keys()
    for name, weight in base.items():
        changed = weight.float() != tuned[name].float()
        assert not (changed & ~masks.get(name, torch.zeros_like(changed))).any(), name
        assert changed.any() == (name in masks)


@pytest.mark.slow
@pytest.mark.parametrize("clip", [0.0, 0.05])
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3"])
def test_no_cell_of_deepspeed_leaks(write_recipe, tmp_path, name, bf16, accumulation, clip):
    trainer = {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": accumulation,
        "max_grad_norm": clip,
        "max_completion_length": 12,
        "max_steps": 20,
        "bf16": bf16,
    }
    recipe = write_recipe(mask=SAFE, trainer=trainer, run={"kl_every": 0})
    train_with(name, recipe)
    rows = read_jsonl(tmp_path / "recipe" / "metrics.jsonl")
    assert [row["mask_leak"] for row in rows] == [0.0] * 20
    require_no_leak(tmp_path / "recipe")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ENGINES, *OFFLOAD])
def test_the_reference_is_the_base_policy(write_recipe, tmp_path, name):
    trainer = {**TRAINER, "beta": 0.1, "max_steps": 2}
    train_with(name, write_recipe(mask=SAFE, trainer=trainer, plugins=PLUGINS))
    first, second = read_jsonl(tmp_path / "recipe" / "metrics.jsonl")
    assert first["kl"] == 0.0 and second["kl"] > 1e-6


def test_fsdp_that_accelerate_would_run_as_ddp_is_refused(write_recipe):
    errors = launch("fsdp2", write_recipe(mask=SAFE, trainer=TRAINER))
    assert "accelerate runs DistributedType.MULTI_CPU" in errors


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ENGINES, *OFFLOAD])
def test_resuming_is_never_having_stopped(write_recipe, tmp_path, name):
    trainer = {**TRAINER, "max_steps": 4, "save_steps": 2}
    train_with(name, write_recipe("whole", mask=SAFE, trainer=trainer, plugins=PLUGINS))
    path = write_recipe("halved", mask=SAFE, trainer=trainer, plugins=PLUGINS)
    train_with(name, path, "trainer.max_steps=2")
    train_with(name, path, "--resume")
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "halved")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_a_run_of_deltas_resumes_as_the_run_of_whole_checkpoints(write_recipe, tmp_path, name):
    trainer = {**TRAINER, "max_steps": 2, "save_steps": 1}
    sections = {"mask": SAFE, "trainer": trainer, "plugins": PLUGINS}
    train_with(name, write_recipe("whole", **sections))
    path = write_recipe("delta", run={"checkpoint": "delta"}, **sections)
    train_with(name, path, "trainer.max_steps=1")
    train_with(name, path, "--resume")
    assert not list(checkpoints(tmp_path / "delta")[-1].glob("model*"))
    words = [str(POLICY), str(tmp_path / "delta"), str(tmp_path / "applied")]
    assert cli_main(["delta", "apply", *words]) == 0
    first, second = weights(tmp_path / "whole"), load_file(tmp_path / "applied/model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def zero_3_launched(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")


def test_weight_decay_under_deepspeed_is_refused(write_recipe, zero_3_launched, capsys):
    path = write_recipe(mask=SAFE, trainer={"weight_decay": 0.1})
    assert train_main([str(path), "--check"]) == 2
    assert "trainer.weight_decay" in capsys.readouterr().err


@pytest.fixture
def fsdp_launched(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT")
    return monkeypatch


@pytest.mark.parametrize(
    "setting, value", [("FSDP_VERSION", "1"), ("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT")]
)
def test_another_fsdp_than_the_shipped_one_is_refused(
    write_recipe, fsdp_launched, capsys, setting, value
):
    assert train_main([str(write_recipe(mask=SAFE)), "--check"]) == 0
    fsdp_launched.setenv(setting, value)
    assert train_main([str(write_recipe(mask=SAFE)), "--check"]) == 2
    assert setting.lower() in capsys.readouterr().err


def test_weights_that_fsdp_would_widen_are_refused(write_recipe, fsdp_launched, capsys):
    path = write_recipe(mask=SAFE, model={"dtype": "bfloat16"})
    assert train_main([str(path), "--check"]) == 0
    assert train_main([str(path), "--check", "trainer.bf16=true"]) == 2
    assert "model.dtype" in capsys.readouterr().err


def test_the_check_says_that_states_are_dense_under_deepspeed(
    write_recipe, zero_3_launched, capsys
):
    assert train_main([str(write_recipe(mask=SAFE)), "--check"]) == 0
    assert "dense, ZeRO-3's share" in capsys.readouterr().out
