"""The worked examples of a user's own code run as a user runs them: as plugins of a recipe."""

import json
from pathlib import Path

import pytest
import yaml

from rlvr.cli import main
from rlvr.files import read_jsonl
from rlvr.masks import Mask
from rlvr.train import main as train_main

EXAMPLES = Path(__file__).parent / "examples"
POLICY = Path(__file__).parent.parent / "recipes" / "pocket" / "policy"
REWARDS = [{"name": "math"}, {"name": "near_miss", "weight": 0.2, "scale": 10.0}]
ONE_STEP = {"max_steps": 1}


@pytest.fixture(autouse=True)
def examples_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


def recipe_of(write_recipe, *plugins: str, **sections) -> Path:
    """Write a recipe of the examples; ``data`` is that of ``my_dataset``."""
    path = write_recipe(trainer=ONE_STEP, plugins=list(plugins), rewards=REWARDS, **sections)
    content = yaml.safe_load(path.read_text())
    content["data"] = {"name": "sums", "size": 16, "shuffle": 0}
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_mask_a_reward_a_dataset_and_a_benchmark_train_together(write_recipe, tmp_path, capsys):
    benchmark = {
        "data": {"name": "products"},
        "verifier": {"name": "last_number"},
        "samples": 2,
        "max_new_tokens": 40,
    }
    plugins = ("my_mask", "my_reward", "my_dataset", "my_benchmark")
    mask = {"builder": "every_other_row", "start": 1}
    path = recipe_of(write_recipe, *plugins, mask=mask, eval=benchmark)
    assert train_main([str(path), "--check"]) == 0
    plan = capsys.readouterr().out
    assert "near_miss x 0.2" in plan and "every_other_row" in plan
    assert not (tmp_path / "recipe").exists()
    assert train_main([str(path)]) == 0
    run_dir = tmp_path / "recipe"
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["accuracy_after"]["n"] == 16 and summary["mask_leak"] == 0
    assert Mask.load(run_dir / "mask.safetensors").density() == 0.5
    (row,) = read_jsonl(run_dir / "metrics.jsonl")
    assert 0 < row["rewards/near_miss/mean"] <= 1


def test_an_adapter_trains_what_it_says(write_recipe, tmp_path):
    adapter = {"builder": "lora_b_only", "rank": 4}
    path = recipe_of(write_recipe, "my_adapter", "my_reward", "my_dataset", adapter=adapter)
    assert train_main([str(path), "--check"]) == 0
    assert train_main([str(path)]) == 0
    assert json.loads((tmp_path / "recipe" / "summary.json").read_text())["step"] == 1


def test_a_mask_is_built_and_a_dataset_shown_without_a_recipe(tmp_path, capsys):
    out = tmp_path / "mask.safetensors"
    words = ["--builder", "every_other_row", "--out", str(out), "start=1", "plugins=[my_mask]"]
    assert main(["mask", "build", str(POLICY), *words]) == 0
    assert Mask.load(out).density() == 0.5
    words = ["sums", "size=4", "plugins=[my_dataset, my_benchmark]"]
    assert main(["data", *words, "--validate", "--reward", "last_number"]) == 0
    assert "4 of 4 gold answers score themselves (last_number)" in capsys.readouterr().out
