"""A study file becomes whole recipes, and a mistake in it is named before anything runs."""

from pathlib import Path

import pytest
import yaml

from rlvr.cli import main as cli_main
from rlvr.schema import RecipeError
from rlvr.studies.spec import load_study

EVERY = {
    "data": {"name": "pocket", "split": "test", "size": 16},
    "verifier": {"name": "math"},
    "checkpoints": "every",
}
RANDOM = {"mask": {"builder": "random", "density": 0.5}}


@pytest.fixture
def write_study(write_recipe, tmp_path):
    def write(**content) -> Path:
        write_recipe("base", trainer={"max_steps": 2})
        path = tmp_path / "study.yaml"
        content = {"base": "base.yaml", "dir": str(tmp_path / "study"), **content}
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def test_runs_are_arms_times_values_times_seeds_seed_by_seed(write_study, tmp_path):
    sweep = {"trainer.learning_rate": [1e-3, 3e-4]}
    arms = {"dense": {}, "half": RANDOM}
    study = load_study(
        write_study(arms=arms, seeds=[3, 4], sweep=sweep, recipe={"run": {"kl_every": 1}})
    )
    assert [run.name for run in study.runs[:2]] == [
        "dense, learning_rate=0.001, seed=3",
        "dense, learning_rate=0.0003, seed=3",
    ]
    assert len(study.runs) == 8 and [run.seed for run in study.runs] == [3] * 4 + [4] * 4
    for run in study.runs:
        assert run.recipe["trainer"]["seed"] == run.seed
        assert run.recipe["trainer"]["learning_rate"] == run.value
        assert run.recipe["trainer"]["max_steps"] == 2 and run.recipe["run"]["kl_every"] == 1
        assert run.recipe["run"]["dir"] == str(tmp_path / "study" / run.name)
    assert len({run.folder for run in study.runs}) == 8


def test_a_random_mask_is_drawn_anew_for_each_seed_unless_it_states_one(write_study):
    fixed = {"mask": {**RANDOM["mask"], "seed": 7}}
    study = load_study(write_study(arms={"half": RANDOM, "fixed": fixed}, seeds=[1, 2]))
    assert [run.recipe["mask"]["seed"] for run in study.runs_of("half")] == [1, 2]
    assert [run.recipe["mask"]["seed"] for run in study.runs_of("fixed")] == [7, 7]


@pytest.mark.parametrize(
    ("mask", "path"),
    [
        ({"builder": "complement", "of": RANDOM["mask"]}, ["of"]),
        ({"builder": "union", "of": [RANDOM["mask"], {"builder": "dense"}]}, ["of", 0]),
        (
            {"builder": "intersection", "of": [{"builder": "complement", "of": RANDOM["mask"]}]},
            ["of", 0, "of"],
        ),
    ],
)
def test_a_random_mask_inside_another_is_drawn_anew_too(write_study, mask, path):
    study = load_study(write_study(arms={"half": {"mask": mask}}, seeds=[1, 2]))
    seeds = []
    for run in study.runs_of("half"):
        inner = run.recipe["mask"]
        for key in path:
            inner = inner[key]
        seeds.append(inner["seed"])
        assert "seed" not in run.recipe["mask"]
    assert seeds == [1, 2]


def test_an_arm_may_have_its_own_base_and_seeds(write_study, write_recipe):
    write_recipe("other", trainer={"max_steps": 9})
    arms = {"dense": {}, "other": {"base": "other.yaml", "seeds": [8, 9]}}
    study = load_study(write_study(arms=arms, seeds=[1, 2], recipe={"trainer": {"max_steps": 3}}))
    assert [run.recipe["trainer"]["max_steps"] for run in study.runs_of("dense")] == [3, 3]
    assert [run.recipe["trainer"]["max_steps"] for run in study.runs_of("other")] == [9, 9]
    assert [run.seed for run in study.runs_of("other")] == [8, 9]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"arms": {}}, ["arms is empty"]),
        ({"arms": {"a": {"maks": {}}}}, ["arm 'a'", "maks", "did you mean 'mask'"]),
        ({"arms": {"a": 3}}, ["arms.a", "expected"]),
        ({"arms": {"a/b": {}}}, ["a/b", "folder"]),
        ({"arms": {"a": {}}, "control": "b"}, ["control", "'b'", "the arms are a"]),
        ({"arms": {"a": {}}, "seed": [1]}, ["seed", "did you mean 'seeds'"]),
        ({"arms": {"a": {}}, "seeds": [1, 1]}, ["seeds", "twice"]),
        ({"arms": {"a": {}}, "sweep": {"trainer.beta": []}}, ["trainer.beta", "at least one"]),
        ({"arms": {"a": {}}, "sweep": {"trainer.beta": [1], "mask.rank": [1]}}, ["sweep one"]),
        ({"arms": {"a": {}}, "geometry": {"rnk": 3}}, ["geometry", "rnk", "rank"]),
        ({"arms": {"a": {}}, "launch": "none.yaml"}, ["launch", "none.yaml", "does not exist"]),
        ({"arms": {"a": {"base": "none.yaml"}}}, ["none.yaml", "does not exist"]),
        ({"arms": {"a": {}}, "base": None}, ["base", "is missing"]),
    ],
)  # fmt: skip
def test_a_mistake_is_named_before_anything_runs(write_study, tmp_path, capsys, content, words):
    assert cli_main(["study", str(write_study(**content))]) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("odd", "word"),
    [
        ({"trainer": {"num_generations": 3}}, "num_generations"),
        ({"eval": {**EVERY, "temperature": -1.0}}, "eval.temperature"),
    ],
)
def test_what_a_run_would_be_refused_for_is_refused_at_once(
    write_study, tmp_path, capsys, odd, word
):
    assert cli_main(["study", str(write_study(arms={"dense": {}, "odd": odd})), "--dry-run"]) == 2
    message = capsys.readouterr().err
    assert "arm 'odd'" in message and word in message
    assert not (tmp_path / "study").exists()


def test_a_launch_file_of_several_machines_is_refused(write_study, tmp_path):
    (tmp_path / "nodes.yaml").write_text("num_machines: 4\nnum_processes: 32\n")
    with pytest.raises(RecipeError, match="several machines"):
        load_study(write_study(arms={"a": {}}, launch="./nodes.yaml"))
