"""Contract C1 on every engine that accelerate starts, with the launch files that users start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlvr.checkpoint import checkpoints, read_jsonl
from rlvr.masks import load_mask
from rlvr.train import main as train_main

ROOT = Path(__file__).parent.parent
POLICY = ROOT / "recipes" / "pocket" / "policy"
SAFE = {"builder": "safe", "rank": 8, "principal_density": 0.5, "low_density": 0.5}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
# accumulation 2 on 2 processes, clipped: the hard case that all engines have in common
TRAINER = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "max_grad_norm": 0.05,
}
ENGINES = {
    "ddp": ("DDP", 0.1),
    "zero1": ("DeepSpeed ZeRO-1", 0.0),
    "zero2": ("DeepSpeed ZeRO-2", 0.0),
    "zero3": ("DeepSpeed ZeRO-3", 0.0),
}


def launch(name: str, path: Path, *words: str, mixed_precision: str = "no") -> None:
    """Train with `accelerate launch` on two gloo processes, in fp32 if nothing else is said."""
    accelerate = [sys.executable, "-m", "accelerate.commands.launch"]
    options = ["--config_file", str(ROOT / f"launch/{name}.yaml"), "--num_processes", "2"]
    command = [
        *accelerate,
        *options,
        "--mixed_precision",
        mixed_precision,
        "-m",
        "rlvr.train",
        str(path),
        *words,
    ]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=240)
    assert result.returncode == 0, result.stderr[-4000:]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoints(run_dir)[-1] / "model.safetensors")


@pytest.mark.parametrize("name", ENGINES)
def test_nothing_moves_outside_the_mask(write_recipe, tmp_path, name):
    engine, weight_decay = ENGINES[name]
    launch(name, write_recipe(mask=SAFE, trainer={**TRAINER, "weight_decay": weight_decay}))
    run_dir = tmp_path / "recipe"
    provenance = json.loads((run_dir / "provenance.json").read_text())
    assert (provenance["processes"], provenance["engine"]) == (2, engine)
    rows = read_jsonl(run_dir / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(row["mask_leak"] == 0 and row["moved"] > 0.9 for row in rows)
    base, masks = load_file(POLICY / "model.safetensors"), load_mask(run_dir / "mask.safetensors")
    tuned = weights(run_dir)
    for name, weight in base.items():
        changed = weight.float() != tuned[name]
        assert not (changed & ~masks.get(name, torch.zeros_like(changed))).any(), name
        assert changed.any() == (name in masks)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_resuming_is_never_having_stopped(write_recipe, tmp_path, name):
    trainer = {**TRAINER, "max_steps": 4, "save_steps": 2}
    launch(name, write_recipe("whole", mask=SAFE, trainer=trainer))
    path = write_recipe("halved", mask=SAFE, trainer=trainer)
    launch(name, path, "trainer.max_steps=2")
    launch(name, path, "--resume")
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "halved")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def zero_3_launched(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")


def test_weight_decay_under_deepspeed_is_refused(write_recipe, zero_3_launched, capsys):
    path = write_recipe(mask=SAFE, trainer={"weight_decay": 0.1})
    assert train_main([str(path), "--check"]) == 2
    assert "trainer.weight_decay" in capsys.readouterr().err


def test_fsdp_through_accelerate_is_refused_until_it_is_verified(write_recipe, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert train_main([str(write_recipe(mask=SAFE)), "--check"]) == 2
    assert "FSDP" in capsys.readouterr().err


def test_the_check_says_that_states_are_dense_under_deepspeed(
    write_recipe, zero_3_launched, capsys
):
    assert train_main([str(write_recipe(mask=SAFE)), "--check"]) == 0
    assert "dense, ZeRO-3's share" in capsys.readouterr().out
