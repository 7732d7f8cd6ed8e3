"""bf16 weights and freed gradients, end to end on the real trainer."""

import json
from pathlib import Path

import pytest
import torch
from conftest import SHORT, SHORT_REWARDS, VARIED
from safetensors.torch import load_file

from rlvr.checkpoints.runs import checkpoints
from rlvr.files import read_jsonl
from rlvr.masks import load_mask
from rlvr.train import main as train_main

POLICY = Path(__file__).parent.parent / "recipes" / "pocket" / "policy"
SAFE = {"builder": "safe", "rank": 8, "principal_density": 0.5, "low_density": 0.5}
BF16 = {"dtype": "bfloat16"}
TRAINER = {**SHORT, "max_steps": 4, "save_steps": 2, "weight_decay": 0.1, "max_grad_norm": 0.1}


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoints(run_dir)[-1] / "model.safetensors")


def optimizer_states(run_dir: Path) -> dict[int, dict[str, torch.Tensor]]:
    saved = torch.load(checkpoints(run_dir)[-1] / "optimizer.pt", weights_only=True)
    return saved["state"]


@pytest.mark.parametrize("bf16_update", ["master", "stochastic"])
def test_a_bf16_run_keeps_its_mask_and_resumes_exactly(train, write_recipe, bf16_update):
    sections = {
        "mask": SAFE,
        "model": BF16,
        "rewards": SHORT_REWARDS,
        "optimizer": {"bf16_update": bf16_update, "free_gradients": bf16_update == "stochastic"},
    }
    whole = train("whole", trainer=TRAINER, **sections)
    halved = train("halved", trainer={**TRAINER, "max_steps": 2}, **sections)
    assert train_main([str(write_recipe("halved", trainer=TRAINER, **sections)), "--resume"]) == 0
    base, masks = load_file(POLICY / "model.safetensors"), load_mask(whole / "mask.safetensors")
    first, second = weights(whole), weights(halved)
    for name, weight in first.items():
        assert weight.dtype == torch.bfloat16 and weight.equal(second[name]), name
        changed = weight != base[name]
        assert not (changed & ~masks.get(name, torch.zeros_like(changed))).any(), name
        assert changed.any() == (name in masks), name
    assert json.loads((whole / "provenance.json").read_text())["weights"].startswith("bfloat16, ")
    assert json.loads((whole / "summary.json").read_text())["mask_leak"] == 0
    rows = [read_jsonl(run_dir / "metrics.jsonl") for run_dir in (whole, halved)]
    assert [row["reward"] for row in rows[0]] == [row["reward"] for row in rows[1]]


def test_a_checkpoint_holds_bf16_weights_and_their_masters(train):
    run_dir = train(mask=SAFE, model=BF16, rewards=SHORT_REWARDS, trainer={**SHORT, "max_steps": 2})
    masks, tuned = load_mask(run_dir / "mask.safetensors"), weights(run_dir)
    states = optimizer_states(run_dir)
    masters = {name: state["master"] for name, state in zip(masks, states.values(), strict=True)}
    for name, master in masters.items():
        assert master.dtype == torch.float32
        assert master.bfloat16().equal(tuned[name][masks[name]])
        assert not master.equal(master.bfloat16().float())  # so the masters hold more


def test_freed_gradients_change_no_bit_of_a_run(train):
    trainer = {
        "weight_decay": 0.1,
        "gradient_accumulation_steps": 2,
        "max_steps": 2,
        "per_device_train_batch_size": 8,
    }
    for name, change in {
        "clip": {"max_grad_norm": 0.05},
        "no clip": {"max_grad_norm": 0.0},
    }.items():
        both = {"mask": SAFE, "trainer": {**trainer, **change}}
        kept = train(f"kept-{name}", **both)
        freed = train(f"freed-{name}", **both, optimizer={"free_gradients": True})
        first, second = weights(kept), weights(freed)
        assert all(weight.equal(second[name]) for name, weight in first.items())
        rows = [read_jsonl(run_dir / "metrics.jsonl") for run_dir in (kept, freed)]
        norms = [[row["grad_norm"] for row in run] for run in rows]
        assert norms[0] == norms[1] and min(norms[0]) > 0.05


def test_a_small_rate_moves_the_masters_first(write_recipe, capsys):
    # The largest weights are far above 1e-8, so no bf16 weight moves and every master does.
    path = write_recipe(
        mask={"builder": "principal", "rank": 64, "density": 0.01},
        model=BF16,
        rewards=VARIED,
        trainer={"learning_rate": 1e-8},
    )
    assert train_main([str(path)]) == 1
    message = capsys.readouterr().err
    assert "nothing moved by step 3" in message and "below the rounding" in message


def test_a_rate_that_moves_no_master_is_an_error_at_once(write_recipe, capsys):
    path = write_recipe(mask=SAFE, model=BF16, rewards=VARIED, trainer={"learning_rate": 1e-25})
    assert train_main([str(path)]) == 1
    assert "nothing moved by step 1" in capsys.readouterr().err
