"""One word of a recipe is an algorithm with the settings of its paper."""

import pytest
import yaml

from rlvr.config import load_recipe, resolve_recipe
from rlvr.eval import Completion
from rlvr.eval.records import line_of, result_of
from rlvr.rewards import parse_reward
from rlvr.schema import RecipeError
from rlvr.studies.spec import load_study
from rlvr.train import main as train_main
from rlvr.training.inputs import training_arguments

# Written from the papers: DeepSeekMath section 4.2, DAPO 4.1, Dr. GRPO 3.2, GSPO 5.1, MiniMax-M1
# 3.1. A clipping range is [1 - low, 1 + high]; CISPO has a cap on the ratio.
PUBLISHED = {
    "grpo": {"loss": "grpo", "low": 0.2, "high": None, "beta": 0.04, "scale": "group"},
    "dapo": {"loss": "dapo", "low": 0.2, "high": 0.28, "beta": 0.0, "scale": "group"},
    "dr_grpo": {"loss": "dr_grpo", "low": 0.2, "high": None, "beta": 0.0, "scale": "none"},
    "gspo": {"loss": "grpo", "low": 3e-4, "high": 4e-4, "beta": 0.0, "scale": "group"},
    "cispo": {"loss": "cispo", "low": 0.2, "high": 5.0, "beta": 0.0, "scale": "group"},
}


@pytest.mark.parametrize("word", PUBLISHED)
def test_a_word_reaches_trl_with_the_settings_of_its_paper(write_recipe, tmp_path, word):
    recipe = load_recipe(write_recipe(algorithm=word))
    args = training_arguments(recipe, tmp_path)
    found = {
        "loss": args.loss_type,
        "low": args.epsilon,
        "high": args.epsilon_high,
        "beta": args.beta,
        "scale": args.scale_rewards,
    }
    assert found == PUBLISHED[word]
    assert args.importance_sampling_level == ("sequence" if word == "gspo" else "token")
    assert not args.mask_truncated_completions
    assert recipe.algorithm is not None
    assert recipe.algorithm.dynamic_sampling is (word in ("dapo", "cispo"))


def test_without_an_algorithm_nothing_changes(write_recipe):
    path = write_recipe()
    assert load_recipe(path).trainer == yaml.safe_load(path.read_text())["trainer"]
    assert load_recipe(path).algorithm is None


def test_a_resolved_recipe_resolves_to_itself(write_recipe):
    recipe = load_recipe(write_recipe(algorithm="dapo"))
    content = recipe.to_dict()
    assert content["algorithm"] == {"name": "dapo", "dynamic_sampling": True, "max_rounds": 10}
    assert content["trainer"]["epsilon_high"] == 0.28
    assert resolve_recipe(content, "") == recipe


@pytest.mark.parametrize("base", ["dapo", {"name": "dapo", "max_rounds": 4}])
def test_both_spellings_merge_and_are_overridden(write_recipe, base):
    path = write_recipe(algorithm=base)
    cases = {
        "algorithm=grpo": ("grpo", False, 10),
        "algorithm={name: gspo, max_rounds: 2}": ("gspo", False, 2),
        "algorithm.max_rounds=3": ("dapo", True, 3),
        "algorithm.dynamic_sampling=false": ("dapo", False, 10 if base == "dapo" else 4),
    }
    for word, expected in cases.items():
        section = load_recipe(path, [word]).algorithm
        assert section is not None
        assert (section.name, section.dynamic_sampling, section.max_rounds) == expected
    assert load_recipe(path, ["algorithm=null"]).algorithm is None


def test_an_arm_of_a_study_takes_either_spelling(write_recipe, tmp_path):
    base = write_recipe(algorithm="dapo")
    arms = {
        "word": {"algorithm": "cispo"},
        "mapping": {"algorithm": {"name": "grpo"}},
        "rounds": {"algorithm": {"max_rounds": 2}},
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"base": base.name, "arms": arms}))
    found = {run.arm: resolve_recipe(run.recipe, "") for run in load_study(path).runs}
    losses = {name: recipe.trainer["loss_type"] for name, recipe in found.items()}
    assert losses == {"word": "cispo", "mapping": "grpo", "rounds": "dapo"}
    assert found["rounds"].to_dict()["algorithm"]["max_rounds"] == 2


@pytest.mark.parametrize(
    ("algorithm", "named"),
    [
        ("dpo", "algorithm.name: expected"),
        ({"max_rounds": 3}, "'name' is missing"),
        ({"name": "dapo", "max_round": 3}, "did you mean 'max_rounds'"),
        ({"name": "dapo", "max_rounds": 0}, "algorithm.max_rounds: must be at least 1"),
        ({"name": "dapo", "dynamic_sampling": "yes"}, "algorithm.dynamic_sampling: expected bool"),
    ],
)
def test_a_mistaken_algorithm_is_refused_by_name(write_recipe, algorithm, named):
    with pytest.raises(RecipeError, match=named):
        load_recipe(write_recipe(algorithm=algorithm))


def test_the_check_prints_the_settings_and_marks_the_recipes_own(write_recipe, capsys):
    path = write_recipe(algorithm="dapo", trainer={"beta": 0.01})
    assert train_main([str(path), "--check"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "algorithm" in line]
    assert len(lines) == 1 and lines[0].startswith("algorithm  dapo: loss_type dapo, epsilon 0.2,")
    assert "epsilon_high 0.28," in lines[0]
    assert "beta 0.01 (the recipe's; dapo has 0)" in lines[0]
    assert lines[0].count("the recipe's") == 1


def test_rewards_of_plus_and_minus_one_leave_correct_as_it_is():
    """The rewards of DAPO, section 2.4; correct is what lies above 0, whatever wrong is."""
    signed = parse_reward({"name": "math", "correct": 1.0, "wrong": -1.0}, "rewards[0]")
    texts = ["\\boxed{7}", "\\boxed{8}", "no answer", "so \\boxed{7.0}"]
    rewards = signed(texts, {"answer": ["7"] * 4})
    assert rewards == [1.0, -1.0, -1.0, 1.0]
    verdicts = signed.verdicts([{"answer": "7"}] * 4, texts, [False] * 4)
    drawn = [Completion(text, (1,), False) for text in texts]
    line = line_of({"id": "0", "problem": "", "answer": "7"}, drawn, verdicts)
    assert line["correct"] == result_of(line).correct == 2
