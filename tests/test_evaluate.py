"""Evaluation on the pocket policy; KL against its definition in float64."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import POLICY
from rounding import assert_within, unit
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlvr.data import load_rows, render
from rlvr.eval import EvalSettings, evaluate, read_result, sample, token_kl
from rlvr.eval.divergence import kl_per_position
from rlvr.rewards import parse_reward

ROWS = load_rows({"name": "pocket", "split": "test", "size": 24}, "test")
MATH = parse_reward({"name": "math"}, "verifier")
SETTINGS = EvalSettings(samples=4, max_new_tokens=40, batch_size=32)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(POLICY)


@pytest.fixture(scope="module")
def policy() -> Any:
    return AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32)


@pytest.fixture(scope="module")
def moved(policy: Any) -> Any:
    """The policy after a small random update."""
    other = AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    return other


def judge(completions: list[str], answers: list[str]) -> list[float | None]:
    return MATH(completions, {"answer": answers})


def run(policy: Any, tokenizer: Any, verifier=judge, settings=SETTINGS) -> Any:
    return evaluate(policy, tokenizer, ROWS, render=render, verifier=verifier, settings=settings)


def token_kls(policy: Any, base: Any, tokenizer: Any, prompts: list, groups: list) -> list[float]:
    """Return the KL of every completion token by its definition, one unpadded row at a time."""
    values = []
    for prompt, group in zip(prompts, groups, strict=True):
        head = tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
        for completion in group:
            ids = torch.tensor([head + list(completion.token_ids)])
            logs = []
            for model in (policy, base):
                with torch.no_grad():
                    logits = model(ids).logits[0, len(head) - 1 : -1].double().numpy()
                logs.append(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
            values += list((np.exp(logs[0]) * (logs[0] - logs[1])).sum(-1))
    return values


def test_kl_equals_its_definition(policy, moved, tokenizer):
    prompts = [render(row["problem"]) for row in ROWS[:6]]
    groups = run(moved, tokenizer).completions[:6]
    expected = token_kls(moved, policy, tokenizer, prompts, groups)
    for batch_size in (1, 7, 64):
        kl = token_kl(moved, policy, tokenizer, prompts, groups, batch_size=batch_size)
        assert (kl.num_tokens, kl.n) == (len(expected), 6)
        # Padding changes the order of sums, so each logit by some hundred roundings of its size,
        # here up to 20. The KL changes by that times the spread of the logits' difference, whose
        # square is 2 KL.
        error = 2 * 100 * unit() * 20 * np.sqrt(2 * np.mean(expected))
        assert kl.mean == pytest.approx(np.mean(expected), abs=error)
        assert error < 0.05 * kl.mean
        assert 0 < kl.low < kl.mean < kl.high


def test_kl_of_a_policy_from_itself_is_exactly_zero(policy, tokenizer):
    copied = AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32)
    prompts = [render(row["problem"]) for row in ROWS]
    groups = run(policy, tokenizer).completions
    kl = token_kl(policy, copied, tokenizer, prompts, groups, batch_size=16)
    assert (kl.mean, kl.low, kl.high) == (0.0, 0.0, 0.0)


def test_tiny_kl_is_neither_negative_nor_lost():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(200, 1000, generator=generator)
    for scale in (1e-6, 1e-4, 1e-2):
        base = logits + scale * torch.randn(logits.shape, generator=generator)
        log_p, log_q = logits.double().log_softmax(-1), base.double().log_softmax(-1)
        expected = (log_p.exp() * (log_p - log_q)).sum(-1)
        found = kl_per_position(logits, base)
        assert (found >= 0).all()
        # The error e of a float32 log_softmax: a few roundings of its size. Its first order cancels
        # in the sum over the vocabulary, which leaves p |log p - log q| e and e squared.
        e = 3 * unit() * float(log_p.abs().max())
        first_order = (log_p.exp() * (log_p - log_q).abs()).sum(-1)
        assert_within(found, expected, 2 * e * first_order + 2 * e * e)
        assert scale < 1e-2 or (2 * e * first_order < 0.01 * expected).all()


def test_a_ruled_out_token_costs_nothing():
    logits = torch.tensor([[0.0, float("-inf"), 0.0]])
    base = torch.tensor([[0.0, 0.0, 0.0]])
    assert kl_per_position(logits, base).item() == pytest.approx(np.log(1.5), rel=1e-6)


def test_rates_follow_from_the_rewards(policy, tokenizer):
    result = run(policy, tokenizer)
    for row, problem, group in zip(ROWS, result.problems, result.completions, strict=True):
        texts = [completion.text for completion in group]
        assert (problem.id, problem.completions) == (row["id"], tuple(texts))
        assert list(problem.rewards) == judge(texts, [row["answer"]] * 4)
    assert result.accuracy.mean == pytest.approx(sum(result.counts) / (24 * 4))
    assert list(result.pass_at_k) == [1, 2, 4]
    assert result.pass_at_k[1].mean == pytest.approx(result.accuracy.mean)
    assert result.pass_at_k[4].mean == np.mean([count > 0 for count in result.counts])
    lengths = [len(c.token_ids) for group in result.completions for c in group]
    assert result.mean_length == pytest.approx(np.mean(lengths))


def test_answers_and_completions_meet_in_the_verifier(policy, tokenizer):
    seen: list[tuple[str, str]] = []

    def record(completions: list[str], answers: list[str]) -> list[float | None]:
        seen.extend(zip(completions, answers, strict=True))
        return [0.0] * len(completions)

    result = run(policy, tokenizer, verifier=record)
    expected = [(text, p.answer) for p in result.problems for text in p.completions]
    assert seen == expected
    assert result.accuracy.mean == 0 and result.accuracy.high > 0.1


def test_unjudged_completions_are_counted_and_wrong(policy, tokenizer):
    def broken(completions: list[str], answers: list[str]) -> list[float | None]:
        return [(1.0, None, float("nan"), -1.0)[index % 4] for index in range(len(completions))]

    result = run(policy, tokenizer, verifier=broken)
    assert result.unjudged == 48
    assert result.accuracy.mean == 0.25


def test_a_verifier_that_loses_completions_is_an_error(policy, tokenizer):
    with pytest.raises(ValueError, match="95 rewards for 96"):
        run(policy, tokenizer, verifier=lambda texts, answers: [1.0] * 95)


def test_truncation_is_reported(policy, tokenizer):
    short = dataclasses.replace(SETTINGS, max_new_tokens=3)
    result = run(policy, tokenizer, settings=short)
    assert (result.truncated, result.mean_length, result.accuracy.mean) == (1.0, 3.0, 0.0)


def test_files_hold_the_result(policy, tokenizer, tmp_path: Path):
    result = run(policy, tokenizer)
    path = result.write(tmp_path / "eval", "base")
    assert read_result(path) == result
    content = json.loads(path.read_text())
    assert content["accuracy"] == dataclasses.asdict(result.accuracy)
    assert content["versions"]["torch"] == torch.__version__
    assert content["pass_at_k"]["4"]["mean"] == result.pass_at_k[4].mean
    lines = [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [row["id"] for row in ROWS]
    assert lines[3]["completions"][2]["text"] == result.completions[3][2].text


def test_a_file_cut_short_is_refused(policy, tokenizer, tmp_path: Path):
    path = run(policy, tokenizer).write(tmp_path, "base")
    rows = path.with_suffix(".jsonl")
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="23 problems"):
        read_result(path)


def test_evaluate_draws_what_sample_draws(policy, tokenizer):
    prompts = [render(row["problem"]) for row in ROWS]
    names = [row["id"] for row in ROWS]
    expected = sample(policy, tokenizer, prompts, names=names, **dataclasses.asdict(SETTINGS))
    assert run(policy, tokenizer).completions == expected
