"""The order of prompts and the sums over rounds that dynamic sampling rests on."""

import math

import pytest
import torch
from trl.trainer.utils import RepeatSampler

from rlvr.training.batches import smallest_part
from rlvr.training.prompts import PromptStream
from rlvr.training.rounds import (
    groups_to_try,
    join_lengths,
    join_pending,
    total_rewards,
    useful_groups,
)

NAN = float("nan")


def test_the_stream_is_trls_order_pass_upon_pass():
    sampler = RepeatSampler(range(12), mini_repeat_count=1, batch_size=4, seed=5)
    expected = [index for _ in range(3) for index in sampler]
    stream = PromptStream(12, seed=5, shuffle=True)
    assert [index for _ in range(9) for index in stream.take(4, set())] == expected
    later = PromptStream(12, seed=5, shuffle=True)
    later.place = 20
    assert later.take(4, set()) == expected[20:24]
    assert PromptStream(3, seed=5, shuffle=False).take(3, set()) == [0, 1, 2]


def test_no_prompt_is_taken_twice_and_all_are_taken_in_the_end():
    for start in range(14):
        stream, taken = PromptStream(7, seed=1, shuffle=True), set()
        stream.place = start
        found = stream.take(4, taken) + stream.take(2, taken) + stream.take(5, taken)
        assert sorted(found) == list(range(7))
        assert stream.take(1, taken) == []


def test_a_group_is_useful_where_all_are_judged_and_not_all_equal():
    groups = [[0.1, 0.1, 0.1], [1.3, 1.3, 1.3], [0.0, 1.0, 0.0], [NAN, 1.0, 0.0], [NAN] * 3]
    totals = torch.tensor(groups).flatten()
    assert useful_groups(totals, 3).tolist() == [False, False, True, False, False]


def test_the_total_is_over_the_rewards_that_judged():
    rewards = torch.tensor([[1.0, -0.5], [NAN, -0.5], [1.0, NAN], [NAN, NAN]])
    found = total_rewards(rewards, torch.tensor([1.0, 2.0]))
    assert found[:3].tolist() == [0.0, -1.0, 1.0] and found[3].isnan()


@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_about_as_many_groups_are_tried_as_will_be_needed(share):
    """Half a standard deviation above the mean of the negative binomial, within rounding."""
    missing, generated = 40, 1000
    found = groups_to_try(missing, int(share * generated), generated)
    mean, deviation = missing / share, math.sqrt(missing * (1 - share)) / share
    assert abs(found - (mean + 0.5 * deviation)) < 0.02 * mean + 1
    assert 1 < groups_to_try(1, 0, 8) < 100  # none yet is not never


def test_parts_are_equal_and_no_smaller_than_they_must_be():
    for parts, size in ((1, 8), (2, 8), (3, 4), (8, 4), (16, 12)):
        found = smallest_part(parts, size)
        assert found * size % parts == 0
        assert not any(less * size % parts == 0 for less in range(1, found))


def lengths_of(lengths: list[int], ended: list[bool]) -> dict[str, float]:
    """Return what TRL logs of one generation."""
    done = [length for length, is_ended in zip(lengths, ended, strict=True) if is_ended] or [0]
    return {
        "completions/mean_length": sum(lengths) / len(lengths),
        "completions/min_length": min(lengths),
        "completions/max_length": max(lengths),
        "completions/clipped_ratio": 1 - sum(ended) / len(ended),
        "completions/mean_terminated_length": sum(done) / len(done),
        "completions/min_terminated_length": min(done),
        "completions/max_terminated_length": max(done),
    }


def test_lengths_of_rounds_join_to_those_of_all_completions():
    rounds = [([3, 9, 4, 9], [True, False, True, False]), ([9, 9], [False, False]), ([5], [True])]
    metrics: dict[str, list[float]] = {"reward": [1.0]}
    for lengths, ended in rounds:
        for key, value in lengths_of(lengths, ended).items():
            metrics.setdefault(key, [7.0]).append(value)  # of the generation before
    join_lengths(metrics, [len(lengths) for lengths, _ in rounds])
    lengths = [length for part, _ in rounds for length in part]
    ended = [is_ended for _, part in rounds for is_ended in part]
    for key, value in lengths_of(lengths, ended).items():
        assert metrics[key] == [7.0, pytest.approx(value)], key
    assert metrics["reward"] == [1.0]


def test_what_rewards_log_is_summed_or_weighted():
    pending = {
        "rewards/math/seconds": [1.0, 0.5],
        "rewards/math/unjudged": [2, 1],
        "rewards/math/correct": [0.25, 1.0],
        "rewards/worker_restarts": [3, 4],
    }
    join_pending(pending, [12, 4])
    assert pending == {
        "rewards/math/seconds": [1.5],
        "rewards/math/unjudged": [3],
        "rewards/math/correct": [0.4375],
        "rewards/worker_restarts": [4],
    }
