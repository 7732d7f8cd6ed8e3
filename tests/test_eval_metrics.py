"""Rates against enumeration, intervals against known values and against their promise."""

import itertools

import numpy as np
import pytest

from rlvr.eval import (
    Estimate,
    Outcome,
    avg_at_k,
    bayes_avg,
    compare,
    maj_at_k,
    paired_difference,
    pass_at_k,
    problem_interval,
    wilson_interval,
)
from rlvr.intervals import bootstrap_ratio


def enumerated(n: int, c: int, k: int) -> float:
    outcomes = [True] * c + [False] * (n - c)
    draws = list(itertools.combinations(outcomes, k))
    return sum(any(draw) for draw in draws) / len(draws)


@pytest.mark.parametrize("n", range(1, 11))
def test_pass_at_k_is_the_share_of_draws_with_a_correct_one(n):
    for k in range(1, n + 1):
        expected = [enumerated(n, c, k) for c in range(n + 1)]
        np.testing.assert_allclose(pass_at_k(n, range(n + 1), k), expected, atol=1e-12)


def test_pass_at_1_is_avg_at_k():
    correct = np.random.default_rng(0).random((20, 8)) < 0.3
    passes = pass_at_k(8, correct.sum(1), 1)
    assert passes.mean() == pytest.approx(avg_at_k(correct), abs=1e-12)


def test_pass_at_k_of_many_samples_stays_exact():
    # 1 - C(9999, 5000) / C(10000, 5000) = 1/2, of binomials beyond any float.
    assert pass_at_k(10_000, 1, 5_000)[0] == pytest.approx(0.5, rel=1e-9)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 2, 5), (4, 5, 1), (4, -1, 1), (4, 2, 0)])
def test_impossible_counts_are_refused(n, c, k):
    with pytest.raises(ValueError, match=r"must be in"):
        pass_at_k(n, c, k)


def test_wilson_interval_has_the_published_values():
    # Newcombe (1998), table I, method 3.
    for successes, n, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)]:
        interval = wilson_interval(successes, n)
        assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)
    assert round(wilson_interval(0, 20).high, 4) == 0.1611
    assert round(wilson_interval(29, 29).low, 4) == 0.8830


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_equal_values_do_not_read_as_certain(share):
    interval = problem_interval([share] * 10)
    assert interval.mean == share
    assert interval.low <= share <= interval.high
    assert interval.high - interval.low > 0.2


# (problems, samples), and the Beta of the problems' true rates, from hard to easy.
SIZES = [(30, 16), (40, 8), (500, 1), (500, 4)]
SPREADS = [(1, 3), (2, 2), (1, 1), (0.5, 0.5), (3, 1)]


def coverage(problems: int, samples: int, beta: tuple[float, float], repetitions: int) -> float:
    """Return how often the interval holds the mean rate of all problems of such a kind."""
    rng = np.random.default_rng(0)
    truth = beta[0] / sum(beta)
    rates = rng.beta(*beta, size=(repetitions, problems))
    held = 0
    for counts in rng.binomial(samples, rates):
        interval = problem_interval(counts / samples)
        held += interval.low <= truth <= interval.high
    return held / repetitions


@pytest.mark.parametrize(("problems", "samples"), SIZES)
def test_an_interval_over_problems_covers_at_its_level(problems, samples):
    covered = [coverage(problems, samples, beta, 200) for beta in SPREADS]
    # The standard error over 1000 repetitions is 0.7 points.
    assert 0.93 <= np.mean(covered) <= 0.97
    # And over 200 it is 1.5 points, of which the worst of 20 may be three away.
    assert 0.90 <= min(covered)


@pytest.mark.slow
@pytest.mark.parametrize("beta", SPREADS)
@pytest.mark.parametrize(("problems", "samples"), SIZES)
def test_every_interval_over_problems_covers_at_its_level(problems, samples, beta):
    assert 0.93 <= coverage(problems, samples, beta, 1000) <= 0.97


def test_an_interval_over_many_problems_has_the_normal_width():
    values = np.random.default_rng(0).random(5000) < 0.3
    interval = problem_interval(values)
    expected = 1.96 * np.sqrt(0.3 * 0.7 / 5000)
    assert (interval.high - interval.low) / 2 == pytest.approx(expected, rel=0.1)


def test_of_single_outcomes_the_interval_is_wilsons():
    mine, wilson = problem_interval(np.arange(400) < 130), wilson_interval(130, 400)
    # They differ by t instead of z, and by P - 1 instead of P: 1/400 of the width each.
    assert mine.low == pytest.approx(wilson.low, abs=0.0005)
    assert mine.high == pytest.approx(wilson.high, abs=0.0005)


VOTES = [
    (["7", "7", "9"], [True, True, False], 1.0),
    (["7", "9", "9"], [True, False, False], 0.0),
    (["1/2", "0.5", "9", "9"], [True, True, False, False], 0.5),  # one answer in two spellings
    (["1", "2", "7"], [False, False, True], 1 / 3),
    ([None, None, "7"], [False, False, True], 1.0),
    ([None, None], [False, False], 0.0),
    ([None, "9"], [True, False], 0.5),  # correct without an answer that could be shown
]


@pytest.mark.parametrize(("answers", "correct", "expected"), VOTES)
def test_a_vote_elects_the_most_frequent_answer(answers, correct, expected):
    assert maj_at_k(answers, correct) == pytest.approx(expected)


def test_bayes_is_the_mean_of_the_posteriors():
    n, counts = 8, np.array([0, 3, 8, 8])
    # The estimate is the mean over problems of Beta(1 + c, 1 + n - c).
    draws = np.random.default_rng(0).beta(1 + counts, 1 + n - counts, size=(200_000, 4)).mean(1)
    estimate = bayes_avg(n, counts)
    # Standard errors of the mean and of the spread over 200,000 draws: 0.0001 each.
    assert estimate.mean == pytest.approx(draws.mean(), abs=0.0005)
    assert estimate.high - estimate.mean == pytest.approx(1.96 * draws.std(), abs=0.001)


def outcomes(rng, rates, samples: int) -> dict[str, Outcome]:
    return {str(i): Outcome(samples, int(c)) for i, c in enumerate(rng.binomial(samples, rates))}


def test_as_many_samples_as_were_asked_for_settle_the_comparison():
    rng = np.random.default_rng(0)
    rates = rng.uniform(0.2, 0.7, size=60)
    needed = []
    for _ in range(40):
        many = compare(outcomes(rng, rates, 256), outcomes(rng, rates + 0.05, 256))
        assert many.is_settled and many.samples_needed is not None
        needed.append(many.samples_needed)
    # t^2 w / (P d^2) = 4 * 0.45 / (60 * 0.05^2) = 12 samples, give or take the noise of d.
    assert 9 <= np.median(needed) <= 16


def test_problems_that_disagree_are_not_settled_by_more_samples():
    a = {str(i): Outcome(64, 64 * (i % 2)) for i in range(20)}
    b = {str(i): Outcome(64, 64 * ((i + i // 9) % 2)) for i in range(20)}
    between = compare(a, b)
    assert not between.is_settled and between.samples_needed is None
    assert between.problems_needed is None or between.problems_needed > 20


def test_a_comparison_is_of_the_problems_that_both_have():
    a = {"x": Outcome(2, 1), "y": Outcome(2, 0), "z": Outcome(2, 2)}
    b = {"x": Outcome(4, 4), "z": Outcome(4, 2), "w": Outcome(4, 0)}
    between = compare(a, b)
    assert (between.difference.mean, between.difference.n) == (0.0, 2)
    assert (between.only_a, between.only_b) == (("y",), ("w",))
    with pytest.raises(ValueError, match="share 1 problems"):
        compare(a, {"x": Outcome(1, 1)})


def test_pairing_removes_what_the_problems_share():
    rng = np.random.default_rng(0)
    hard = rng.random(200)
    better = np.clip(hard + 0.05 + 0.02 * rng.standard_normal(200), 0, 1)
    difference = paired_difference(hard, better)
    alone = problem_interval(hard)
    assert difference.mean == pytest.approx((better - hard).mean())
    assert 0 < difference.low < difference.high
    assert difference.high - difference.low < (alone.high - alone.low) / 5


def test_equal_differences_do_not_read_as_certain():
    values = np.random.default_rng(0).random(20)
    same = paired_difference(values, values)
    assert same.mean == 0 and same.low < -0.1 and same.high > 0.1


def test_ratio_weighs_units_by_their_size():
    assert bootstrap_ratio([1.0, 30.0], [1, 10]).mean == pytest.approx(31 / 11)


def test_values_that_are_no_shares_are_refused():
    for values in ([0.5, 1.5], [], [0.5, float("nan")]):
        with pytest.raises(ValueError):
            problem_interval(values)


def test_an_estimate_reads_as_percent():
    assert str(Estimate(0.613, 0.57, 0.654, 512)) == "61.3 % [57.0, 65.4] (n = 512)"
