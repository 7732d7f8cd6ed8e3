"""Settings that would change the sampled distribution, or leave it without an end, are refused."""

import dataclasses
import math

import pytest
from test_rollout_policy import copy_base
from transformers import GenerationConfig
from trl import GRPOConfig

from rlvr.schema import RecipeError
from rlvr.train import main as train_main
from rlvr.training.distribution import GENERATION_KWARGS, WHOLE, check_sampling

VALUES = {
    field.name: None if field.default is dataclasses.MISSING else field.default
    for field in dataclasses.fields(GRPOConfig)
} | {"bf16": False}


def test_what_is_not_listed_may_not_be_set_by_generation_kwargs():
    keys = {*GenerationConfig().to_dict(), "seed", "n", "stop", "logit_bias", "frequency_penalty"}
    keys |= {"max_tokens", "stop_token_ids", "ignore_eos", "allowed_token_ids", "best_of"}
    for key in sorted(keys - {*GENERATION_KWARGS}):
        for value in (3, None):
            with pytest.raises(RecipeError, match=f"trainer.generation_kwargs.{key}: "):
                check_sampling({**VALUES, "generation_kwargs": {key: value}})
    check_sampling({**VALUES, "generation_kwargs": dict.fromkeys(GENERATION_KWARGS)})
    check_sampling({**VALUES, "generation_kwargs": {k: v[-1] for k, v in WHOLE.items() if v[-1]}})


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"top_p": 0.95}, "1.0"),
        ({"top_k": 50}, "0"),
        ({"top_k": None}, "0"),  # transformers takes an open top_k for 50
        ({"top_k": -1}, "0"),  # and refuses this one while it samples
        ({"min_p": 0.05}, "remove it"),
        ({"repetition_penalty": 1.1}, "1.0"),
        ({"temperature": 0.0}, "above 0"),
        ({"temperature": math.inf}, "finite"),
        ({"temperature": math.nan}, "finite"),
        ({"vllm_structured_outputs_regex": "[0-9]+"}, "remove it"),
        ({"use_transformers_continuous_batching": True, "bf16": None}, "trainer.bf16 to false"),
        ({"use_transformers_continuous_batching": True, "bf16": True}, "trainer.bf16 to false"),
    ],
)
def test_settings_that_reshape_the_distribution_are_refused(settings, word):
    [key, *_] = settings
    with pytest.raises(RecipeError, match=f"trainer.{key}: ") as caught:
        check_sampling({**VALUES, **settings})
    assert word in str(caught.value)


@pytest.mark.parametrize(
    "trainer",
    [
        {"generation_kwargs": {"num_return_sequences": 2}},
        {"generation_kwargs": {"repetition_penalty": 1.1}},
        {"generation_kwargs": {"top_p": 0.9}},
        {"generation_kwargs": {"stop_strings": ["}"]}},
        {"top_p": 0.9},
    ],
    ids=lambda trainer: str(trainer),
)
def test_a_recipe_with_such_a_setting_is_one_clear_error(write_recipe, capsys, trainer):
    assert train_main([str(write_recipe(trainer=trainer)), "--check"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: trainer.") and error.count("\n") == 1
    assert next(iter(trainer)) in error
    assert "remove it" in error or "use trainer.num_generations" in error


def test_a_check_of_a_supervised_run_says_nothing_of_sampled_tokens(
    write_recipe, write_sft, tmp_path, capsys
):
    base = copy_base(tmp_path / "base", generation_config={"min_p": 0.5})
    texts = []
    for write in (write_recipe, write_sft):
        assert train_main([str(write(model={"path": str(base)})), "--check"]) == 0
        texts.append(capsys.readouterr().out)
    words = ("sampler ", "min_p", "completions", "lengths ", "a generation")
    assert all(word in texts[0] for word in words)
    assert not any(word in texts[1] for word in words)


@pytest.mark.parametrize("allowed", [{}, {"temperature": 0.6}, {"min_p": 0.0}])
def test_settings_that_keep_the_distribution_are_allowed(allowed):
    check_sampling({**VALUES, **allowed})


NO_END = {
    "generation_config": {"eos_token_id": None},
    "config": {"eos_token_id": None},
    "tokenizer_config": {"eos_token": None},
}


@pytest.mark.parametrize("words", [["--check"], []])
@pytest.mark.parametrize("supervised", [False, True])
def test_a_model_without_an_end_token_is_one_clear_error(
    write_recipe, write_sft, tmp_path, capsys, words, supervised
):
    base = copy_base(tmp_path / "base", **NO_END)
    model = {"model": {"path": str(base)}}
    path = (write_sft if supervised else write_recipe)(**model)
    assert train_main([str(path), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: model.path") and error.count("\n") == 1
    assert "end token" in error and "tokenizer_config.json" in error


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"eos_token_id": "</s>"}', '{"eos_token_id": [1, "x"]}']
)
def test_a_damaged_generation_config_is_one_clear_error(write_recipe, tmp_path, capsys, content):
    base = copy_base(tmp_path / "base")
    (base / "generation_config.json").write_text(content)
    assert train_main([str(write_recipe(model={"path": str(base)})), "--check"]) == 2
    error = capsys.readouterr().err
    assert "generation_config.json" in error and error.count("\n") == 1
