"""Sampling on the pocket policy's architecture, randomly initialised or pretrained."""

import copy
import warnings
from typing import Any

import pytest
import torch
from conftest import POLICY
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rlvr.eval import sample

PROMPTS = [
    [{"role": "user", "content": problem}] for problem in ("7-3+8*5", "1+2*3-4", "12-3*2+45", "9")
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(POLICY)


@pytest.fixture
def policy() -> Any:
    return AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32)


def draw(policy: Any, tokenizer: Any, prompts=PROMPTS, **changes: Any) -> list:
    settings = {"samples": 3, "temperature": 1.0, "max_new_tokens": 30, "batch_size": 5, "seed": 0}
    return sample(policy, tokenizer, prompts, **{**settings, **changes})


def greedy_by_hand(policy: Any, tokenizer: Any, prompt: list, limit: int) -> list[int]:
    """Decode one prompt without cache or padding."""
    ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
    start = len(ids)
    for _ in range(limit):
        ids = [*ids, int(policy(torch.tensor([ids])).logits[0, -1].argmax())]
        if ids[-1] == tokenizer.eos_token_id:
            break
    return ids[start:]


def test_greedy_equals_decoding_each_prompt_alone(policy, tokenizer):
    drawn = draw(policy, tokenizer, samples=1, temperature=0.0)
    for prompt, [completion] in zip(PROMPTS, drawn, strict=True):
        assert list(completion.token_ids) == greedy_by_hand(policy, tokenizer, prompt, 30)


def test_each_prompt_gets_its_own_completions(policy, tokenizer):
    expected = draw(policy, tokenizer, samples=1, temperature=0.0)
    # At a temperature this low sampling is greedy; batches of 5 cut across groups of 7.
    drawn = draw(policy, tokenizer, samples=7, temperature=1e-4)
    assert drawn == [group * 7 for group in expected]


def test_one_seed_gives_one_result_whatever_ran_before(policy, tokenizer):
    first = draw(policy, tokenizer)
    torch.rand(17)
    assert draw(policy, tokenizer) == first
    assert draw(policy, tokenizer, seed=1) != first


def test_the_caller_is_left_as_it_was(policy, tokenizer):
    policy.train()
    policy.model.layers[0].eval()
    modes = [module.training for module in policy.modules()]
    settings, rng = policy.generation_config, torch.get_rng_state()
    content, side = copy.deepcopy(settings.to_dict()), tokenizer.padding_side
    draw(policy, tokenizer)
    assert [module.training for module in policy.modules()] == modes
    assert policy.generation_config is settings and settings.to_dict() == content
    assert torch.equal(torch.get_rng_state(), rng)
    assert tokenizer.padding_side == side


def test_the_settings_of_the_checkpoint_do_not_come_in(policy, tokenizer):
    expected = draw(policy, tokenizer)
    policy.generation_config = GenerationConfig(
        eos_token_id=1, pad_token_id=0, do_sample=True, top_k=1, repetition_penalty=3.0, min_p=0.9
    )
    assert draw(policy, tokenizer) == expected


def test_samples_follow_the_distribution_of_the_policy(policy, tokenizer):
    # A temperature this high spreads the mass over the whole vocabulary.
    settings = {"samples": 4000, "max_new_tokens": 1, "temperature": 20.0, "batch_size": 4000}
    [drawn] = draw(policy, tokenizer, PROMPTS[:1], **settings)
    ids = tokenizer.apply_chat_template(PROMPTS[0], add_generation_prompt=True)["input_ids"]
    with torch.no_grad():
        expected = (policy(torch.tensor([ids])).logits[0, -1] / 20.0).softmax(-1)
    tokens = torch.tensor([completion.token_ids[0] for completion in drawn])
    shares = torch.bincount(tokens, minlength=len(expected)) / 4000
    # Five standard errors of a share of 4000 draws.
    assert ((shares - expected).abs() < 5 * (expected / 4000).sqrt() + 1e-3).all()
    assert (shares > 0).sum() > 15


def test_no_token_of_a_large_vocabulary_is_ruled_out(policy, tokenizer):
    config = copy.deepcopy(policy.config)
    config.update({"vocab_size": 300, "num_hidden_layers": 1})
    torch.manual_seed(0)
    large = AutoModelForCausalLM.from_config(config)
    settings = {"samples": 2000, "max_new_tokens": 1, "temperature": 50.0, "batch_size": 2000}
    [drawn] = draw(large, tokenizer, PROMPTS[:1], **settings)
    # transformers' own default keeps the 50 likeliest tokens.
    assert len({completion.token_ids for completion in drawn}) > 250


def test_truncated_means_no_end_token(policy, tokenizer):
    whole = [c for group in draw(policy, tokenizer, samples=8) for c in group]
    cut = [c for group in draw(policy, tokenizer, max_new_tokens=4) for c in group]
    end = tokenizer.eos_token_id
    assert sum(not c.truncated for c in whole) > len(whole) / 2
    assert all(c.truncated == (end not in c.token_ids) for c in whole)
    assert all(end not in c.token_ids[:-1] for c in whole)
    assert all(c.truncated and len(c.token_ids) == 4 for c in cut)


def test_text_has_no_special_tokens(policy, tokenizer):
    for group in draw(policy, tokenizer):
        for completion in group:
            assert "<|" not in completion.text
            assert completion.text.startswith("<think>\n")


def test_nothing_is_printed(policy, tokenizer, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(policy, tokenizer)
        draw(policy, tokenizer, temperature=0.0)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("change", [{"temperature": -1.0}, {"top_p": 0.0}, {"samples": 0}])
def test_impossible_settings_are_refused(policy, tokenizer, change):
    with pytest.raises(ValueError, match="must be"):
        draw(policy, tokenizer, **change)


def test_batches_of_generate_do_not_repeat_each_others_numbers(policy, tokenizer, monkeypatch):
    monkeypatch.setattr("rlvr.eval.sampling.supports", lambda model: False)  # as recurrent layers
    settings = {"max_new_tokens": 30, "samples": 6, "batch_size": 3}
    one = [list(c.token_ids) for c in draw(policy, tokenizer, PROMPTS[:1], **settings)[0]]
    assert one[:3] != one[3:]
    more = draw(policy, tokenizer, PROMPTS[:1], **settings, first=3)[0]
    assert [list(c.token_ids) for c in more] == one[3:]


def test_without_prompts_there_is_nothing_to_draw(policy, tokenizer):
    assert draw(policy, tokenizer, []) == []
