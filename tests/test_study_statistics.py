"""What a study claims: intervals, paired differences, Holm's correction, seeds needed."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from scipy import stats

from rlvr.studies.findings import prices, sentences
from rlvr.studies.results import METRICS, Cell, compare
from rlvr.studies.spec import load_study
from rlvr.studies.statistics import difference, holm, mean_over_seeds, seeds_to_see


def test_a_paired_difference_is_the_t_test_of_the_differences():
    rng = np.random.default_rng(0)
    arm = {seed: float(x) for seed, x in enumerate(rng.normal(82, 3, 5))}
    control = {seed: float(x) for seed, x in enumerate(rng.normal(80, 3, 5))}
    found = difference(arm, control)
    assert found is not None and found.paired and found.n == 5
    expected = stats.ttest_rel(list(arm.values()), list(control.values()))
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(float(expected.pvalue), rel=1e-9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_arms_of_other_seeds_are_compared_by_welch():
    first, second = [80.0, 83.0, 81.5, 79.0], [75.0, 78.5, 76.0]
    found = difference(dict(enumerate(first)), dict(enumerate(second, 10)))
    assert found is not None and not found.paired
    expected = stats.ttest_ind(first, second, equal_var=False)
    assert found.p == pytest.approx(float(expected.pvalue), rel=1e-9)


def test_only_seeds_that_both_have_are_paired():
    found = difference({0: 1.0, 1: 2.0, 2: 9.0}, {0: 0.0, 1: 0.0, 5: 3.0})
    assert found is not None and found.n == 2 and found.mean == 1.5


@pytest.mark.parametrize(
    ("arm", "control"),
    [({0: 1.0}, {0: 2.0}), ({0: 1.0, 1: 2.0}, {1: 3.0, 2: 4.0}), ({0: 1.0}, {5: 1.0, 6: 2.0})],
)
def test_too_few_seeds_say_nothing(arm, control):
    assert difference(arm, control) is None


def test_equal_arms_do_not_differ_and_constant_differences_do():
    same = difference({0: 3.0, 1: 4.0}, {0: 3.0, 1: 4.0})
    apart = difference({0: 3.0, 1: 4.0}, {0: 2.0, 1: 3.0})
    assert same is not None and same.p == 1 and same.seeds_needed is None
    assert apart is not None and apart.p == 0


def test_differences_that_happen_to_be_equal_are_no_finding():
    """Two accuracies on 512 problems that each gained two problems have no spread to go by."""
    step = 100 / 512
    arm, control = {0: 40 * step, 1: 42 * step}, {0: 38 * step, 1: 40 * step}
    blind, honest = difference(arm, control), difference(arm, control, resolution=step)
    assert blind is not None and blind.p == 0
    assert honest is not None and honest.p > 0.2 and honest.low < 0 < honest.high


def test_holm_is_bonferroni_step_by_step():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_identical_arms_are_told_apart_in_fewer_than_one_study_in_twenty():
    """An A/A study of five seeds and six arms, a thousand times: the family-wise rate holds."""
    rng = np.random.default_rng(1)
    claims = 0
    for _ in range(1000):
        shared = rng.normal(0, 3, 5)  # what a seed does to every arm
        arms = shared + rng.normal(80, 2, (6, 5))
        found = [difference(dict(enumerate(a)), dict(enumerate(arms[0]))) for a in arms[1:]]
        claims += min(holm([d.p for d in found if d is not None])) <= 0.05
    assert claims <= 65  # 50 expected at most; three standard errors


def test_identical_arms_are_told_apart_in_fewer_than_one_study_in_twenty_over_all_metrics():
    """Three equal arms, five seeds, eight metrics: corrected over arms only, 35 % make a claim."""
    rng = np.random.default_rng(4)
    claims = 0
    for _ in range(100):
        cells = []
        for arm in ("control", "a", "b"):
            values = rng.normal(50, 2, (5, len(METRICS)))
            rows = {seed: dict(zip(METRICS, row, strict=True)) for seed, row in enumerate(values)}
            cells.append(Cell(arm, None, rows, 5, {}, {}))
        compared = compare(cells, lambda _, first=cells[0]: first)
        claims += any(d.is_seen for cell in compared for d in cell.differences.values())
    assert claims <= 11  # 5 expected at most; three standard errors


@pytest.mark.parametrize(("effect", "spread"), [(3.0, 2.0), (1.0, 2.0)])
def test_seeds_to_see_has_the_power_it_promises(effect, spread):
    needed = seeds_to_see(effect, spread)
    assert needed is not None
    rng = np.random.default_rng(2)

    def power(n: int) -> float:
        d = rng.normal(effect, spread, (4000, n))
        return float((stats.ttest_1samp(d, 0, axis=1).pvalue <= 0.05).mean())

    assert power(needed) > 0.77 and (needed == 2 or power(needed - 1) < 0.83)


def test_seeds_to_see_an_effect_far_below_the_spread_are_not_counted():
    assert seeds_to_see(0.001, 10.0) is None and seeds_to_see(0.0, 1.0) is None
    assert seeds_to_see(100.0, 0.01) == 2


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_of_a_mean_covers_it_as_often_as_it_says(seeds):
    """Four thousand studies of known mean; a bootstrap over seeds covers 50, 74 and 84 %."""
    values = np.random.default_rng(3).normal(80, 2, (4000, seeds))
    intervals = [mean_over_seeds(row) for row in values.tolist()]
    covered = np.mean([one.low <= 80 <= one.high for one in intervals])
    assert abs(covered - 0.95) < 0.015  # four standard errors of a share of 4000


def test_the_interval_of_a_mean_is_students():
    values = [70.0, 74.0, 75.0, 71.0, 80.0]
    mean = mean_over_seeds(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean.low, mean.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert mean.n == 5 and np.isnan(mean_over_seeds([3.0]).low)


def test_seeds_that_agree_to_the_last_problem_have_an_interval():
    step = 100 / 512
    assert mean_over_seeds([80.0, 80.0]).low == 80
    assert mean_over_seeds([80.0, 80.0], step).low < 80 - step


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        ({"a": 0.0}, "No difference in accuracy from dense is seen (1 compared)"),
        (
            {"a": 9.0, "b": 0.0},
            "1 of 2 comparisons with dense differs in accuracy: a above by 9.0",
        ),
        (
            {"a": -9.0, "b": 8.0, "c": 7.0, "d": -20.0, "e": 6.0},
            "5 of 5 comparisons with dense differ in accuracy: from b above by 8.0 points to d "
            "below by 20.0 points.",
        ),
    ],
)
def test_a_study_says_in_words_which_arms_differ(gains, words):
    spread = (-0.4, 0.1, 0.3, 0.2, -0.2)
    cells = [
        Cell(arm, None, {s: {"accuracy": 50 + gain + sign * e} for s, e in enumerate(spread)},
             5, {}, {})
        for arm, gain, sign in [("dense", 0.0, 1), *((a, g, -1) for a, g in gains.items())]
    ]  # fmt: skip
    study = load_study(ROOT / "recipes/pocket/study_masks.yaml", [])
    assert words in " ".join(sentences(study, compare(cells, lambda _: cells[0])))


def finished(folder: Path, arm: str, right: list[int], **numbers: float) -> Cell:
    """Return the cell of one run, with its file of judged problems."""
    (folder / arm / "eval").mkdir(parents=True)
    lines = [{"id": str(i), "correct": c, "completions": [{}]} for i, c in enumerate(right)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / arm / "eval" / "final.jsonl").write_text(text)
    row = {"run": arm, "accuracy": 100 * np.mean(right), **numbers}
    return Cell(arm, None, {None: row}, 1, {"accuracy": mean_over_seeds([row["accuracy"]])}, {})


@pytest.mark.parametrize(
    ("lost", "gained", "words"),
    [
        (16, 12, ["-1.0 points", "may be chance"]),
        (60, 0, ["-15.0 points", "below by more than chance"]),
    ],
)
def test_single_runs_are_compared_problem_by_problem_and_weighed(tmp_path, lost, gained, words):
    dense = [1] * 300 + [0] * 100
    thin = [0] * lost + [1] * (300 - lost + gained) + [0] * (100 - gained)
    state = {"optimizer_state_bytes": 6_000_000, "checkpoint_bytes": 4_000_000}
    small = {"optimizer_state_bytes": 400_000, "checkpoint_bytes": 160_000, "density": 0.05}
    cells = [finished(tmp_path, "dense", dense, **state), finished(tmp_path, "thin", thin, **small)]
    compared = compare(cells, lambda _: cells[0], tmp_path)
    between = compared[1].over_problems
    assert between is not None and between.n == 400 and not compared[1].differences
    spread = 100 * np.std(np.subtract(thin, dense))
    half = 1.96 * spread / np.sqrt(400)
    assert between.high - between.low == pytest.approx(2 * half, rel=0.15)
    study = load_study(ROOT / "recipes/pocket/demo.yaml", [])
    first, *rest = sentences(study, compared)
    assert first.startswith("5 % of the weights (thin) reach")
    assert "1/15 of its optimizer state and a checkpoint of 4 % of its size" in first
    assert all(word in first for word in words), first
    assert "ran once" in rest[-1]


def test_runs_on_other_problems_are_not_compared(tmp_path):
    cells = [finished(tmp_path, "a", [1, 0, 1]), finished(tmp_path, "b", [1, 0])]
    assert compare(cells, lambda _: cells[0], tmp_path)[1].over_problems is None


def test_only_arms_that_keep_up_are_praised_and_a_control_without_an_accuracy_praises_none(
    tmp_path,
):
    dense = [1] * 300 + [0] * 100
    state = {"optimizer_state_bytes": 6_000_000, "checkpoint_bytes": 4_000_000}
    cells = [finished(tmp_path, "dense", dense, **state)]
    for name, lost, own in (("poor", 90, 10_000), ("good", 2, 50_000), ("large", 0, 5_000_000)):
        right = [0] * lost + dense[lost:]
        cells.append(finished(tmp_path, name, right, optimizer_state_bytes=own))
    study = load_study(ROOT / "recipes/pocket/demo.yaml", [])
    compared = compare(cells, lambda _: cells[0], tmp_path)
    (only,) = prices(study, compared)
    assert only.startswith("good reaches 74.5 % where dense reaches 75.0 %, with 1/120")
    (worst,) = prices(study, compared[:2])
    assert worst.startswith("poor reaches") and "below by more than chance" in worst
    blind = Cell("dense", None, {None: {"run": "dense", **state}}, 1, {}, {})
    assert prices(study, [blind, *compared[1:]]) == []
