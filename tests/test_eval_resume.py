"""The file of an evaluation has the same bytes, however its problems were drawn."""

import dataclasses
import random
from typing import Any

import pytest
import torch
from conftest import POLICY
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlvr.data import load_rows, render
from rlvr.eval import EvalSettings, Task, evaluate
from rlvr.eval.evaluate import FILLS
from rlvr.rewards import parse_reward
from rlvr.schema import RecipeError

ROWS = load_rows({"name": "pocket", "split": "test", "size": 40}, "test")
MATH = parse_reward({"name": "math"}, "verifier")
TASK = Task(ROWS, render, MATH.verdicts)
SETTINGS = EvalSettings(samples=2, max_new_tokens=24, batch_size=4)  # shards of 8 problems


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(POLICY)


@pytest.fixture(scope="module")
def policy() -> Any:
    return AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32)


@pytest.fixture(scope="module")
def whole(policy: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a call that nothing disturbed."""
    file = tmp_path_factory.mktemp("whole") / "x.jsonl"
    evaluate(policy, tokenizer, TASK, SETTINGS, file)
    return file.read_bytes()


class Killed(BaseException):
    """Ends an evaluation as a kill does: nothing catches it."""


def test_the_order_of_the_problems_changes_no_byte(policy, tokenizer, whole, tmp_path):
    rows = list(ROWS)
    random.Random(0).shuffle(rows)
    task = dataclasses.replace(TASK, rows=rows)
    evaluate(policy, tokenizer, task, SETTINGS, tmp_path / "x.jsonl")
    assert (tmp_path / "x.jsonl").read_bytes() == whole


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_size_of_a_shard_changes_no_byte(policy, tokenizer, whole, tmp_path, batch_size):
    # Another batch rounds otherwise: of a million tokens one may differ, and of these none does.
    settings = dataclasses.replace(SETTINGS, batch_size=batch_size)
    evaluate(policy, tokenizer, TASK, settings, tmp_path / "x.jsonl")
    assert (tmp_path / "x.jsonl").read_bytes() == whole


def test_what_was_drawn_before_a_kill_is_not_drawn_again(policy, tokenizer, whole, tmp_path):
    judged: list[str] = []
    size = FILLS * SETTINGS.batch_size // SETTINGS.samples
    left = 0

    def judge(rows: Any, texts: list[str], cut: Any) -> list[Any]:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        judged.extend(row["id"] for row in rows)
        return MATH.verdicts(rows, texts, cut)

    task = dataclasses.replace(TASK, judge=judge)
    for survive in (1, 0, 2):
        left = survive
        with pytest.raises(Killed):
            evaluate(policy, tokenizer, task, SETTINGS, tmp_path / "x.jsonl")
        assert not (tmp_path / "x.jsonl").exists()
    assert len(judged) == 3 * size * SETTINGS.samples
    left = -1
    evaluate(policy, tokenizer, task, SETTINGS, tmp_path / "x.jsonl")
    assert sorted(judged) == sorted(row["id"] for row in ROWS for _ in range(SETTINGS.samples))
    assert (tmp_path / "x.jsonl").read_bytes() == whole
    # A finished evaluation draws nothing and keeps its bytes.
    left = 0
    evaluate(policy, tokenizer, task, SETTINGS, tmp_path / "x.jsonl")
    assert (tmp_path / "x.jsonl").read_bytes() == whole


def test_more_samples_are_those_of_a_call_for_all(policy, tokenizer, whole, tmp_path):
    few = dataclasses.replace(SETTINGS, samples=1)
    evaluate(policy, tokenizer, TASK, few, tmp_path / "x.jsonl")
    before = (tmp_path / "x.jsonl").read_bytes()
    result = evaluate(policy, tokenizer, TASK, SETTINGS, tmp_path / "x.jsonl")
    assert (tmp_path / "x.jsonl").read_bytes() == whole != before
    # Fewer than there are: nothing is thrown away, and the numbers are of all.
    again = evaluate(policy, tokenizer, TASK, few, tmp_path / "x.jsonl")
    assert (tmp_path / "x.jsonl").read_bytes() == whole
    assert again == result and again.settings.samples == 2


@pytest.mark.parametrize("change", [{"seed": 1}, {"temperature": 0.5}, {"max_new_tokens": 9}])
def test_completions_of_other_settings_are_not_mixed(policy, tokenizer, tmp_path, change):
    file = tmp_path / "x.jsonl"
    one = dataclasses.replace(TASK, rows=ROWS[:2])
    facts = {"weights": "a"}
    evaluate(policy, tokenizer, one, SETTINGS, file, about=facts)
    before = file.read_bytes()
    (key,) = change
    other = dataclasses.replace(SETTINGS, **change)
    with pytest.raises(RecipeError, match=rf"is of {key} .*name another --out"):
        evaluate(policy, tokenizer, one, other, file, about=facts)
    with pytest.raises(RecipeError, match='is of weights "a", and this call has "b"'):
        evaluate(policy, tokenizer, one, SETTINGS, file, about={"weights": "b"})
    assert file.read_bytes() == before


def test_a_problem_with_a_lone_surrogate_is_kept(policy, tokenizer, tmp_path):
    task = dataclasses.replace(TASK, rows=[{**ROWS[0], "answer": "\ud800"}])
    result = evaluate(policy, tokenizer, task, SETTINGS, tmp_path / "x.jsonl")
    assert result.problems[0].answer == "\ud800"
