"""Every recipe and study that ships is checked, and every command that the README shows exists."""

import re
from pathlib import Path

import pytest

from rlvr.cli import VERBS
from rlvr.cli import main as cli_main
from rlvr.config import read_yaml, resolve_recipe
from rlvr.studies.spec import load_study
from rlvr.train import main as train_main
from rlvr.training.plan import check_recipe

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "recipes").rglob("*.yaml"))
STUDIES = [path for path in FILES if "arms" in read_yaml(path)]
RECIPES = [path for path in FILES if path not in STUDIES]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_shipped_recipe_passes_the_check(path, capsys):
    assert train_main([str(path), "--check"]) == 0
    assert "targets" in capsys.readouterr().out


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_arm_of_a_shipped_study_passes_the_check(path):
    study = load_study(path, [])
    for arm in study.arms:
        for value in study.values:
            recipe = study.runs_of(arm, value)[0].recipe
            assert check_recipe(resolve_recipe(recipe, "")).targets


def test_the_readme_shows_only_files_and_verbs_that_exist():
    text = (ROOT / "README.md").read_text()
    for path in re.findall(r"\b((?:recipes|launch|scripts|rlvr|tests)/[\w./-]+\.\w+)", text):
        assert (ROOT / path).is_file(), path
    for verb in re.findall(r"\brlvr (\w+) recipes/", text):
        assert verb in VERBS, verb


def test_help_lists_the_verbs(capsys):
    with pytest.raises(SystemExit) as caught:
        cli_main(["--help"])
    assert caught.value.code == 0
    output = capsys.readouterr().out
    assert all(verb in output for verb in VERBS)
