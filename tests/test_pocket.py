import random
from itertools import islice

from rlvr.data import load_rows
from rlvr.data.pocket import (
    demonstrate,
    draw_problem,
    draw_split,
    reductions,
    split_of,
)
from rlvr.rewards import parse_reward


def judged(completions, golds):
    return parse_reward({"name": "math"}, "rewards")(completions, {"answer": golds})


def test_splits_never_share_a_problem():
    train = set(islice(draw_split("train", seed=0), 20_000))
    held_out = {
        row["problem"]
        for row in load_rows({"name": "pocket", "split": "test", "size": 2000}, "data")
    }
    assert not train & held_out
    assert {split_of(problem) for problem in held_out} == {"test"}


def test_reductions_agree_with_python_and_differ_without_precedence():
    rng = random.Random(0)
    for _ in range(2000):
        problem = draw_problem(rng)
        assert int(reductions(problem)[-1]) == eval(problem)
        assert reductions(problem, precedence=False)[-1] != reductions(problem)[-1]


def test_left_to_right_reduction_by_hand():
    assert reductions("2-5*3+1", precedence=False) == ["-3*3+1", "-9+1", "-8"]
    assert reductions("2-5*3+1") == ["2-15+1", "-13+1", "-12"]


def test_a_demonstration_without_faults_is_rewarded_and_one_with_faults_often_not():
    rng = random.Random(0)
    problems = [draw_problem(rng) for _ in range(500)]
    golds = [reductions(problem)[-1] for problem in problems]
    careful = [demonstrate(p, rng, slip=0.0, miscount=0.0, direct=0.0) for p in problems]
    careless = [demonstrate(p, rng, slip=0.5, miscount=0.2, direct=0.1) for p in problems]
    assert judged(careful, golds) == [1.0] * 500
    assert 100 < sum(judged(careless, golds)) < 300


def test_only_a_single_box_after_the_thoughts_is_an_answer():
    refused = [
        "<think>\\boxed{7}",
        "<think>\n</think>\\boxed{7}\\boxed{8}",
        "<think>\n</think>\\boxed{}",
        "<think>\n</think>\\boxed{7",
        "<think>\n</think>7",
        "<think>\n</think>\\boxed{" + "7" * 30 + "}",
    ]
    assert judged(refused, ["7"] * len(refused)) == [0.0] * len(refused)
    assert judged(["<think>\n</think> \\boxed{-07}"], ["-7"]) == [1.0]
