"""Every recipe and study that ships is checked."""

from pathlib import Path

import pytest
from hub_models import cache_model

from rlvr.cli import VERBS
from rlvr.cli import main as cli_main
from rlvr.config import load_recipe, resolve_recipe
from rlvr.recipe_file import read_recipe, read_yaml
from rlvr.studies.spec import load_study
from rlvr.train import main as train_main
from rlvr.training.plan import check_recipe

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "recipes").rglob("*.yaml"))
STUDIES = [path for path in FILES if "arms" in read_yaml(path)]
RECIPES = [path for path in FILES if path not in STUDIES]


@pytest.fixture
def stand_in(monkeypatch):
    """Return a function from a model to the words that put its configuration in its place.

    A recipe of a model on the hub is written for the 8 GPUs of one machine.
    """

    def words(model: str) -> list[str]:
        found = cache_model(model)
        if found:
            monkeypatch.setenv("WORLD_SIZE", "8")
        return found

    return words


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_shipped_recipe_passes_the_check(path, stand_in, capsys):
    words = stand_in(load_recipe(path).model.path)
    assert train_main([str(path), *words, "--check"]) == 0
    output = capsys.readouterr().out
    assert "targets" in output and "optimizer step" in output


def test_the_check_says_that_completions_outgrow_the_model(stand_in, capsys):
    path = ROOT / "recipes/qwen2.5-math-7b/full.yaml"
    words = stand_in("Qwen/Qwen2.5-Math-7B")
    assert train_main([str(path), *words, "--check"]) == 0
    assert "4,096 positions, which are too few" in capsys.readouterr().out
    short = ["trainer.max_completion_length=3072", "--check"]
    assert train_main([str(path), *words, *short]) == 0
    assert "too few" not in capsys.readouterr().out


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_arm_of_a_shipped_study_passes_the_check(path, stand_in):
    model = read_recipe(path.parent / read_yaml(path)["base"])["model"]["path"]
    study = load_study(path, stand_in(model))
    for arm in study.arms:
        for value in study.values:
            recipe = study.runs_of(arm, value)[0].recipe
            assert check_recipe(resolve_recipe(recipe, "")).targets


def test_help_lists_the_verbs(capsys):
    with pytest.raises(SystemExit) as caught:
        cli_main(["--help"])
    assert caught.value.code == 0
    output = capsys.readouterr().out
    assert all(verb in output for verb in VERBS)
