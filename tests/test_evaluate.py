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
from rlvr.eval import EvalSettings, Task, evaluate, read_result, sample, token_kl
from rlvr.eval.divergence import kl_per_position
from rlvr.eval.records import natural
from rlvr.rewards import parse_reward
from rlvr.schema import RecipeError
from rlvr.verdict import Verdict

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


TASK = Task(ROWS, render, MATH.verdicts)


@pytest.fixture(scope="module")
def drawn(policy: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The result of one evaluation, its file, and the completions with their token ids."""
    file = tmp_path_factory.mktemp("eval") / "base.jsonl"
    kept: dict = {}
    result = evaluate(policy, tokenizer, TASK, SETTINGS, file, keep=kept)
    return result, file, [kept[row["id"]] for row in ROWS]


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


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
    groups = sample(moved, tokenizer, prompts, **dataclasses.asdict(SETTINGS))
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


def test_kl_of_a_policy_from_itself_is_exactly_zero(policy, tokenizer, drawn):
    copied = AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32)
    prompts = [render(row["problem"]) for row in ROWS]
    groups = drawn[2]
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


def test_rates_follow_from_the_verdicts(drawn):
    result, _, groups = drawn
    by_id = {problem.id: problem for problem in result.problems}
    right = 0
    for row, group in zip(ROWS, groups, strict=True):
        texts = [completion.text for completion in group]
        cut = [completion.truncated for completion in group]
        verdicts = MATH.verdicts([row] * 4, texts, cut)
        problem = by_id[row["id"]]
        assert list(problem.statuses) == [one.status for one in verdicts if one]
        assert list(problem.rewards) == [one.reward for one in verdicts if one]
        assert problem.right == [one is not None and one.status == "correct" for one in verdicts]
        right += problem.correct
    assert result.accuracy.mean == pytest.approx(right / (24 * 4))
    assert list(result.pass_at_k) == [1, 2, 3, 4]
    assert result.pass_at_k[1].mean == pytest.approx(result.accuracy.mean)
    assert result.pass_at_k[4].mean == np.mean([count > 0 for count in result.counts])
    lengths = [len(c.token_ids) for group in groups for c in group]
    assert result.mean_length == pytest.approx(np.mean(lengths))
    assert sum(result.statuses.values()) == 24 * 4


def test_files_hold_every_completion_with_its_verdict(drawn):
    result, file, groups = drawn
    assert read_result(file.with_suffix(".json")) == result
    content = json.loads(file.with_suffix(".json").read_text())
    assert content["accuracy"] == dataclasses.asdict(result.accuracy)
    assert content["versions"]["torch"] == torch.__version__
    assert content["pass_at_k"]["4"]["mean"] == result.pass_at_k[4].mean
    by_id = {line["id"]: line for line in lines_of(file)}
    assert list(by_id) == sorted(by_id, key=natural)
    for row, group in zip(ROWS, groups, strict=True):
        line = by_id[row["id"]]
        assert (line["problem"], line["answer"]) == (row["problem"], row["answer"])
        assert [one["text"] for one in line["completions"]] == [one.text for one in group]
        assert line["correct"] == sum(one["status"] == "correct" for one in line["completions"])
    assert not file.with_suffix(".shards").exists()


def test_unjudged_completions_are_counted_and_wrong(policy, tokenizer, tmp_path):
    def broken(rows: Any, completions: list[str], truncated: Any) -> list[Any]:
        say = [Verdict("correct", 1.0), None, Verdict("crashed"), Verdict("wrong", -1.0)]
        return [say[index % 4] for index in range(len(completions))]

    task = Task(ROWS, render, broken)
    result = evaluate(policy, tokenizer, task, SETTINGS, tmp_path / "x.jsonl")
    assert result.unjudged == 48
    assert result.statuses == {"correct": 24, "unjudged": 24, "crashed": 24, "wrong": 24}
    assert result.accuracy.mean == 0.25


def test_a_verifier_that_loses_completions_is_an_error(policy, tokenizer, tmp_path):
    task = Task(ROWS, render, lambda rows, texts, cut: [Verdict("wrong")] * 5)
    with pytest.raises(ValueError, match="5 verdicts for 96"):
        evaluate(policy, tokenizer, task, SETTINGS, tmp_path / "x.jsonl")


def test_truncation_is_reported(policy, tokenizer, tmp_path):
    short = dataclasses.replace(SETTINGS, max_new_tokens=3)
    result = evaluate(policy, tokenizer, TASK, short, tmp_path / "x.jsonl")
    assert (result.truncated, result.mean_length, result.accuracy.mean) == (1.0, 3.0, 0.0)
    assert result.statuses == {"truncated": 96}


def test_a_file_cut_short_is_refused(drawn, tmp_path):
    file = drawn[1]
    for path in (file, file.with_suffix(".json")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    copy = tmp_path / file.name
    whole = copy.read_text().splitlines(keepends=True)
    copy.write_text("".join(whole[:-1]))
    with pytest.raises(RecipeError, match="23 problems"):
        read_result(copy.with_suffix(".json"))
    copy.write_text("".join(whole)[:-40])
    with pytest.raises(RecipeError, match="line 24 is no problem"):
        read_result(copy.with_suffix(".json"))
