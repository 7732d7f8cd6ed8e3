"""The main path end to end, on the real trainer: what moves, what does not, what is written."""

import json
from pathlib import Path

import pytest
import torch
from conftest import moved_entries
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlvr.checkpoints.reader import read_weights
from rlvr.files import read_jsonl
from rlvr.masks import load_mask
from rlvr.train import main as train_main

POLICY = Path(__file__).parent.parent / "recipes" / "pocket" / "policy"
SAFE = {"builder": "safe", "rank": 8, "principal_density": 0.5, "low_density": 0.5}
PRINCIPAL = {"builder": "principal", "rank": 8, "density": 0.1}
MASKS = {
    "safe": SAFE,
    "random like": {"builder": "random", "like": SAFE, "seed": 3},
    "one percent": {"builder": "random", "density": 0.01},
    "algebra": {
        "builder": "intersection",
        "of": [
            {"builder": "complement", "of": PRINCIPAL},
            {"builder": "union", "of": [{"builder": "low_magnitude", "density": 0.2}, PRINCIPAL]},
        ],
    },
}


def base_weights() -> dict[str, torch.Tensor]:
    return load_file(POLICY / "model.safetensors")


def trained_weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return dict(read_weights(run_dir))


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_nothing_moves_outside_the_mask(train, mask):
    hard = {
        "weight_decay": 0.1,
        "max_grad_norm": 0.1,
        "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 8,
    }
    run_dir = train(mask=mask, trainer=hard)
    base, tuned, masks = (
        base_weights(),
        trained_weights(run_dir),
        load_mask(run_dir / "mask.safetensors"),
    )
    assert len(masks) == 28
    leaking, moved = moved_entries(base, tuned, masks)
    assert not leaking
    assert moved > 0.9 * sum(int(mask.sum()) for mask in masks.values())


def test_a_dense_mask_is_no_mask_bit_for_bit(train):
    trainer = {"weight_decay": 0.1}
    free, masked = (
        train("free", trainer=trainer),
        train("masked", trainer=trainer, mask={"builder": "dense"}),
    )
    first, second = trained_weights(free), trained_weights(masked)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], base.float()) for name, base in base_weights().items())


def test_a_run_directory_holds_the_contract(train, write_recipe):
    evaluation = {
        "data": {"name": "pocket", "split": "test", "size": 8},
        "verifier": {"name": "math"},
        "max_new_tokens": 32,
    }
    run_dir = train(mask=SAFE, eval=evaluation)
    rows = read_jsonl(run_dir / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert {"reward", "entropy", "kl_to_base", "grad_norm", "step_time"} <= rows[0].keys()
    assert rows[0]["kl_to_base"] == 0.0 and rows[2]["kl_to_base"] > 0.0
    rollouts = read_jsonl(run_dir / "rollouts.jsonl")
    assert len(rollouts) == 3 * 8 and "math" in rollouts[0]["rewards"]
    provenance = json.loads((run_dir / "provenance.json").read_text())
    assert {
        "base_weights",
        "mask",
        "git_commit",
        "versions",
        "engine",
        "precision",
    } <= provenance.keys()
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["mask_leak"] == 0 and summary["accuracy_after"]["n"] == 8
    assert {path.name for path in (run_dir / "eval").iterdir()} >= {"base.json", "final.json"}
    assert json.loads((run_dir / "recipe.json").read_text())["mask"] == SAFE
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["step-000003"]


def test_resuming_is_never_having_stopped(train, write_recipe, tmp_path):
    trainer = {"max_steps": 4, "save_steps": 2}
    whole = train("whole", trainer=trainer, mask=SAFE)
    halved = train("halved", trainer={**trainer, "max_steps": 2}, mask=SAFE)
    path = write_recipe("halved", trainer=trainer, mask=SAFE)
    assert train_main([str(path), "--resume"]) == 0
    first, second = trained_weights(whole), trained_weights(halved)
    assert all(torch.equal(first[name], second[name]) for name in first)
    rows = [read_jsonl(run_dir / "metrics.jsonl") for run_dir in (whole, halved)]
    assert [row["step"] for row in rows[1]] == [1, 2, 3, 4]
    assert [row["reward"] for row in rows[0]] == [row["reward"] for row in rows[1]]


@pytest.mark.parametrize("builder", ["lora", "pissa"])
def test_an_adapter_starts_at_the_base_policy_and_its_reference_is_the_base(train, builder):
    trainer = {"beta": 0.05}
    run_dir = train(adapter={"builder": builder, "rank": 4}, trainer=trainer)
    provenance = json.loads((run_dir / "provenance.json").read_text())
    assert provenance["start_logit_gap"] < 1e-5
    rows = read_jsonl(run_dir / "metrics.jsonl")
    assert abs(rows[0]["kl"]) < 1e-6 and rows[2]["kl"] > 0
    base, tuned = base_weights(), trained_weights(run_dir)
    moved = {
        name for name in base if not torch.allclose(base[name].float(), tuned[name], atol=1e-6)
    }
    assert {name.split(".")[-2] for name in moved} == {
        f"{kind}_proj" for kind in ("q", "k", "v", "o", "gate", "up", "down")
    }


def test_the_reference_of_a_masked_run_is_the_base_policy(train):
    rows = read_jsonl(train(mask=SAFE, trainer={"beta": 0.05}) / "metrics.jsonl")
    assert rows[0]["kl"] == 0.0
    assert rows[2]["kl"] > 0.0


def test_reporters_carry_our_metrics_too(train):
    run_dir = train(mask=SAFE, trainer={"report_to": "tensorboard"})
    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    assert {"train/kl_to_base", "train/reward", "train/mask_leak"} <= set(events.Tags()["scalars"])


def test_a_second_run_in_the_directory_is_refused_and_nothing_is_lost(train, write_recipe, capsys):
    run_dir = train(mask=SAFE)
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    assert train_main([str(write_recipe(mask=SAFE))]) == 2
    assert "--resume" in capsys.readouterr().err
    assert train_main([str(write_recipe(mask=PRINCIPAL)), "--resume"]) == 2
    message = capsys.readouterr().err
    assert "another recipe's run" in message and "mask.builder" in message
    assert before == {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}


def test_a_reward_that_reads_a_column_which_is_not_there_is_named(
    write_recipe, tmp_path, capsys, monkeypatch
):
    plugin = (
        "from rlvr.registry import reward\n"
        "@reward\n"
        "def hints(completions: list[str], hint: list[str]) -> list[float]:\n"
        "    return [0.0] * len(completions)\n"
    )
    (tmp_path / "my_rewards.py").write_text(plugin)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = write_recipe(plugins=["my_rewards"], rewards=[{"name": "hints"}])
    assert train_main([str(path)]) == 2
    assert "reads the column 'hint'" in capsys.readouterr().err


def test_a_run_in_which_nothing_moves_is_an_error(write_recipe, capsys):
    path = write_recipe(trainer={"learning_rate": 1e-20})
    assert train_main([str(path)]) == 1
    assert "nothing moved by step 1" in capsys.readouterr().err
