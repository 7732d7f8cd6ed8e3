"""Verdicts in a run: their numbers, their shares among the metrics, and the limit on failures."""

from collections import Counter
from typing import get_args

import pytest

from rlvr.checkpoints.runs import checkpoints
from rlvr.files import read_jsonl
from rlvr.rewards import Judgement, Status, UnverifiedLimit, parse_reward
from rlvr.schema import RunError
from rlvr.train import main as train_main

PLUGIN = ["verdict_rewards"]


def test_verdicts_become_the_numbers_of_the_recipe():
    call = parse_reward({"name": "math", "correct": 1, "wrong": -1}, "rewards")
    completions = ["\\boxed{4}", "\\boxed{5}", "4", "\\boxed{4}"]
    judgement = call.judge(completions, {"answer": ["4", "4", "4", ""]})
    assert judgement.rewards == [1.0, -1.0, -1.0, None]
    assert judgement.statuses == Counter(correct=1, wrong=1, unparsable=1, gold_unparsable=1)


def test_a_cut_off_completion_is_truncated_unless_it_has_answered():
    call = parse_reward({"name": "math"}, "rewards")
    completions = ["\\boxed{4}", "\\boxed{5}", "and so", "and so"]
    judgement = call.judge(completions, {"answer": ["4"] * 4}, [True, True, True, False])
    assert judgement.statuses == Counter(correct=1, truncated=2, unparsable=1)
    assert judgement.rewards == [1.0, 0.0, 0.0, 0.0]


def counts(**statuses: int) -> Judgement:
    return Judgement([None] * sum(statuses.values()), Counter(statuses))


def test_the_limit_counts_the_latest_verdicts_only():
    limit = UnverifiedLimit(0.2, ["math", "other"])
    for failures in [12, 13, 12, 13, 0, 0, 0, 0, 40]:
        limit.record("math", counts(correct=64 - failures, timeout=failures))
        limit.record("other", counts(wrong=64))
        limit.check(limit.take())
    limit.record("math", counts(correct=44, timeout=12, crashed=8))
    with pytest.raises(
        RunError, match="latest 256 completions, .math. timed out on 52 and crashed on 8"
    ):
        limit.check(limit.take())


def test_the_limit_waits_for_enough_verdicts():
    limit = UnverifiedLimit(0.2, ["math"])
    limit.record("math", counts(timeout=31))
    limit.check(limit.take())
    limit.record("math", counts(timeout=1))
    with pytest.raises(RunError, match="max_unverified = 0.2"):
        limit.check(limit.take())


def test_shares_of_the_statuses_are_metrics_of_a_run(train):
    row = read_jsonl(train() / "metrics.jsonl")[0]
    shares = {status: row[f"rewards/math/{status}"] for status in get_args(Status)}
    assert shares["correct"] == pytest.approx(row["reward"])
    assert sum(shares.values()) == pytest.approx(1)
    assert row["rewards/worker_restarts"] >= 0


def test_completions_without_an_end_are_counted_as_truncated(train):
    # Answers that are cut off are all wrong: alone they would leave the run without a gradient.
    rewards = [{"name": "math"}, {"name": "alternating"}]
    trainer = {"max_completion_length": 12, "max_steps": 1}
    run_dir = train(rewards=rewards, plugins=PLUGIN, trainer=trainer)
    row = read_jsonl(run_dir / "metrics.jsonl")[0]
    assert row["rewards/math/truncated"] == row["completions/clipped_ratio"] > 0.5


def test_a_run_goes_on_when_its_workers_are_killed_and_counts_them(train):
    run_dir = train(rewards=[{"name": "times_x"}], plugins=PLUGIN)
    rows = read_jsonl(run_dir / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    restarts = [row["rewards/worker_restarts"] for row in rows]
    assert restarts[1] > restarts[0] and restarts[2] >= restarts[1]
    assert sum(row["rewards/times_x/correct"] for row in rows) > 0


def test_failures_are_metrics_and_below_the_limit_the_run_goes_on(train):
    run_dir = train(rewards=[{"name": "unreliable", "every": 8}], plugins=PLUGIN)
    rows = read_jsonl(run_dir / "metrics.jsonl")
    assert len(rows) == 3
    assert rows[0]["rewards/unreliable/timeout"] == rows[0]["rewards/unreliable/crashed"] == 1 / 16


def test_a_run_that_cannot_be_verified_stops_and_keeps_its_checkpoints(write_recipe, capsys):
    trainer = {"save_steps": 1, "max_steps": 4}
    recipe = {"rewards": [{"name": "unreliable", "every": 2}], "plugins": PLUGIN}
    path = write_recipe(**recipe, trainer=trainer)
    assert train_main([str(path)]) == 1
    message = capsys.readouterr().err
    assert "timed out on 8 and crashed on 8" in message and "run.max_unverified" in message
    assert [folder.name for folder in checkpoints(path.with_suffix(""))] == ["step-000001"]
    assert train_main([str(path), "--resume", "run.max_unverified=1"]) == 0
