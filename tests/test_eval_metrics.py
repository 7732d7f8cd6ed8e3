"""Rates against enumeration, intervals against known values and against their promise."""

import itertools

import numpy as np
import pytest

from rlvr.eval import (
    Estimate,
    avg_at_k,
    bootstrap_interval,
    paired_bootstrap_difference,
    pass_at_k,
    wilson_interval,
)
from rlvr.intervals import bootstrap_ratio


def enumerated(n: int, c: int, k: int) -> float:
    outcomes = [True] * c + [False] * (n - c)
    draws = list(itertools.combinations(outcomes, k))
    return sum(any(draw) for draw in draws) / len(draws)


@pytest.mark.parametrize("n", [1, 2, 5, 7])
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
    interval = bootstrap_interval([share] * 10)
    assert interval.mean == share
    assert interval.low <= share <= interval.high
    assert interval.high - interval.low > 0.2


def test_bootstrap_interval_covers_at_its_level():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        shares = rng.binomial(4, rng.beta(2, 2, size=60)) / 4  # of mean 1/2
        interval = bootstrap_interval(shares, resamples=500)
        covered.append(interval.low <= 0.5 <= interval.high)
    # The standard error of the coverage over 300 repetitions is 1.3 points.
    assert 0.90 <= np.mean(covered) <= 0.99


def test_bootstrap_interval_has_the_normal_width_on_many_problems():
    values = np.random.default_rng(0).random(5000) < 0.3
    interval = bootstrap_interval(values)
    expected = 1.96 * np.sqrt(0.3 * 0.7 / 5000)
    assert (interval.high - interval.low) / 2 == pytest.approx(expected, rel=0.1)


def test_bootstrap_is_a_function_of_its_seed():
    values = np.random.default_rng(0).random(50)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_pairing_removes_what_the_problems_share():
    rng = np.random.default_rng(0)
    hard = rng.random(200)
    better = np.clip(hard + 0.05 + 0.02 * rng.standard_normal(200), 0, 1)
    difference = paired_bootstrap_difference(hard, better)
    alone = bootstrap_interval(hard)
    assert difference.mean == pytest.approx((better - hard).mean())
    assert 0 < difference.low < difference.high
    assert difference.high - difference.low < (alone.high - alone.low) / 5


def test_equal_differences_do_not_read_as_certain():
    values = np.random.default_rng(0).random(20)
    same = paired_bootstrap_difference(values, values)
    assert same.mean == 0 and same.low < -0.1 and same.high > 0.1


def test_ratio_weighs_units_by_their_size():
    assert bootstrap_ratio([1.0, 30.0], [1, 10]).mean == pytest.approx(31 / 11)


def test_values_that_are_no_shares_are_refused():
    for values in ([0.5, 1.5], [], [0.5, float("nan")]):
        with pytest.raises(ValueError):
            bootstrap_interval(values)


def test_an_estimate_reads_as_percent():
    assert str(Estimate(0.613, 0.57, 0.654, 512)) == "61.3 % [57.0, 65.4] (n = 512)"
