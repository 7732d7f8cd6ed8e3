"""A resume goes on with what the run was started on, wherever that lies now, or is refused."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import POLICY, SMALL
from safetensors.torch import load_file, save_file

from rlvr.checkpoints.runs import step_folder
from rlvr.config import load_recipe
from rlvr.files import write_json
from rlvr.provenance import Start, plugin_digests, read_provenance, rows_digest
from rlvr.run_dir import check_run, differences
from rlvr.schema import RecipeError
from rlvr.train import main as train_main

MASK = {"builder": "random", "density": 0.5, "seed": 1}
PLUGIN = """
from rlvr.registry import reward
@reward
def longer(completions: list[str]) -> list[float]:
    return [float(len(text)) for text in completions]
"""
FACTS = {
    "base_weights": ("a" * 64, "b" * 64),
    "tokenizer": ("a" * 64, "b" * 64),
    "rows_sha256": ("a" * 64, "b" * 64),
    "plugins": ({"mine": "a" * 64}, {"mine": "b" * 64}),
    "processes": (1, 2),
    "engine": ("DDP", "FSDP2"),
    "precision": ("fp32", "bf16 autocast"),
    "mask": ("a" * 64, "b" * 64),
    "initial_adapter": ("a" * 64, "b" * 64),
}


@pytest.mark.parametrize(("name", "values"), FACTS.items(), ids=FACTS)
def test_a_resume_with_something_else_is_refused_and_the_first_start_kept(
    write_recipe, tmp_path, name, values
):
    before, now = values
    recipe = load_recipe(write_recipe())
    first = Start(recipe, tmp_path, None)
    first.require(**{name: before})
    first.record({"versions": {"torch": "1"}}, lost=[])
    again = Start(recipe, tmp_path, 3)
    with pytest.raises(RecipeError, match="or choose another run.dir"):
        again.require(**{name: now})
    same = Start(recipe, tmp_path, 3)
    same.require(**{name: before})
    same.record({"versions": {"torch": "2"}}, lost=["rollouts.jsonl: damaged"])
    recorded = read_provenance(tmp_path)
    assert recorded[name] == before and recorded["versions"] == {"torch": "1"}
    assert recorded["resumes"] == [
        {"step": 3, "lost": ["rollouts.jsonl: damaged"], "versions": {"torch": "2"}}
    ]


def test_what_an_older_run_did_not_record_is_not_compared(write_recipe, tmp_path):
    recipe = load_recipe(write_recipe())
    write_json(tmp_path / "provenance.json", {"base_weights": "a"})
    start = Start(recipe, tmp_path, 1)
    start.require(base_weights="a", processes=2)
    start.record({}, lost=[])
    assert read_provenance(tmp_path)["processes"] == 2
    with pytest.raises(RecipeError, match="2 processes|launch 2"):
        Start(recipe, tmp_path, 1).require(processes=1)


def test_rows_and_plugins_are_told_by_their_content(tmp_path, monkeypatch):
    rows = [{"id": "1", "problem": "a"}, {"id": "2", "problem": "b"}]
    assert rows_digest(rows) == rows_digest([dict(reversed(row.items())) for row in rows])
    assert rows_digest(rows) != rows_digest(rows[::-1])
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "told_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("a = 1")
    before = plugin_digests(["told_package"])
    (package / "inner.py").write_text("a = 2")
    assert plugin_digests(["told_package"]) != before


def began(run_dir: Path, recipe_path: Path) -> None:
    """Make ``run_dir`` one in which steps of the recipe were taken."""
    step_folder(run_dir, 2).mkdir(parents=True)
    write_json(run_dir / "recipe.json", load_recipe(recipe_path).to_dict())


SCHEDULES = {
    "linear by default": ({"lr_scheduler_type": "linear"}, "max_steps", False),
    "cosine": ({"lr_scheduler_type": "cosine"}, "max_steps", False),
    "a decay at the end": ({"lr_scheduler_type": "warmup_stable_decay"}, "max_steps", False),
    "epochs": ({"lr_scheduler_type": "cosine", "max_steps": -1}, "num_train_epochs", False),
    "a warm-up that is a share": (
        {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 0.1},
        "max_steps",
        False,
    ),
    "constant": ({"lr_scheduler_type": "constant"}, "max_steps", True),
    "constant epochs": (
        {"lr_scheduler_type": "constant", "max_steps": -1},
        "num_train_epochs",
        True,
    ),
    "a warm-up in steps": (
        {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 5},
        "max_steps",
        True,
    ),
    "epochs that steps overrule": ({"lr_scheduler_type": "cosine"}, "num_train_epochs", True),
}


@pytest.mark.parametrize(("trainer", "key", "extends"), SCHEDULES.values(), ids=SCHEDULES)
def test_only_a_schedule_without_an_end_can_be_extended(
    write_recipe, tmp_path, trainer, key, extends
):
    trainer = {**SMALL["trainer"], "num_train_epochs": 2.0, **trainer}
    began(tmp_path / "recipe", write_recipe(trainer=trainer))
    longer = load_recipe(write_recipe(trainer={**trainer, key: 9}))
    if extends:
        check_run(longer, resume=True)
        return
    with pytest.raises(RecipeError, match=rf"trainer.{key}: .* was changed to 9.*constant"):
        check_run(longer, resume=True)
    check_run(load_recipe(write_recipe(trainer=trainer)), resume=True)


def test_the_evaluation_and_the_place_of_the_base_may_change(write_recipe, tmp_path):
    run_dir = tmp_path / "recipe"
    began(run_dir, write_recipe(mask=MASK))
    section = {"data": {"name": "pocket", "split": "test"}, "verifier": {"name": "math"}}
    assert differences(run_dir, load_recipe(write_recipe(mask=MASK, eval=section))) == []
    elsewhere = {"model": {"path": "/elsewhere"}, "mask": MASK}
    assert differences(run_dir, load_recipe(write_recipe(**elsewhere))) == ["model.path"]
    write_json(run_dir / "provenance.json", {"base_weights": "a"})
    assert differences(run_dir, load_recipe(write_recipe(**elsewhere))) == []
    assert differences(run_dir, load_recipe(write_recipe(mask={**MASK, "seed": 2}))) == [
        "mask.seed"
    ]


def test_base_data_and_plugin_are_compared_by_content(tmp_path, capsys, monkeypatch):
    """One run, and a resume of it after each change of what it was started on."""
    base, moved = tmp_path / "base", tmp_path / "moved"
    shutil.copytree(POLICY, base)
    rows = [{"problem": f"{i} + 1 =", "answer": str(i + 1), "id": str(i)} for i in range(32)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.syspath_prepend(str(tmp_path))
    plugin = tmp_path / "resumed_plugin.py"
    plugin.write_text(PLUGIN)
    content = {
        **SMALL,
        "model": {"path": str(base)},
        "data": {"name": "jsonl", "path": str(data)},
        "rewards": [{"name": "longer"}],
        "plugins": ["resumed_plugin"],
        "trainer": {**SMALL["trainer"], "max_steps": -1, "num_train_epochs": 0.3},
        "run": {"dir": str(tmp_path / "run"), "checkpoint": "delta"},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    assert train_main([str(path)]) == 0
    ended = sorted((tmp_path / "run" / "checkpoints").iterdir())

    def resume(*words: str) -> tuple[int, str]:
        code = train_main([str(path), "--resume", *words])
        return code, capsys.readouterr().err

    shutil.move(base, moved)
    assert resume(f"model.path={moved}")[0] == 0
    plugin.write_text(PLUGIN + "# changed\n")
    code, told = resume(f"model.path={moved}")
    assert code == 2 and "plugins: resumed_plugin" in told
    plugin.write_text(PLUGIN)
    data.write_text("".join(json.dumps({**row, "answer": "0"}) + "\n" for row in rows))
    code, told = resume(f"model.path={moved}")
    assert code == 2 and "data: the rows" in told
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    weights = {
        name: tensor.clone() for name, tensor in load_file(moved / "model.safetensors").items()
    }
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, moved / "model.safetensors", metadata={"format": "pt"})
    code, told = resume(f"model.path={moved}")
    assert code == 2 and "model.path: the base weights" in told and told.count("\n") == 1
    # No resume of a run that had taken the last step of its share of an epoch took another.
    assert sorted((tmp_path / "run" / "checkpoints").iterdir()) == ended
