"""The verifier on pairs that are right, or wrong, by construction: see ``fuzz``."""

from collections import Counter

import pytest
from fuzz import RIGHT, WRONG, Generator, pairs

from rlvr.rewards.math import verify_batch

SEED = 20
SMALL, LARGE = 1_500, 20_000


def statuses(kinds: dict[str, Generator], count: int) -> list[tuple[tuple[str, str, str], str]]:
    cases = list(pairs(kinds, count, SEED))
    texts = [(gold, f"\\boxed{{{answer}}}") for _, gold, answer in cases]
    verdicts = verify_batch(texts, extract="boxed")
    return [(case, verdict.status) for case, verdict in zip(cases, verdicts, strict=True)]


COUNTS = [SMALL, pytest.param(LARGE, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]


@pytest.mark.parametrize("count", COUNTS)
def test_no_wrong_answer_is_rewarded(count):
    assert len(WRONG) >= 60
    judged = statuses(WRONG, count)
    assert [case for case, status in judged if status == "correct"] == []
    # Refused for what it says, and not because nobody can read it.
    assert Counter(status for _, status in judged)["wrong"] >= 0.97 * count


@pytest.mark.parametrize("count", COUNTS)
def test_right_answers_in_another_form_are_rewarded(count):
    refused = [(case, status) for case, status in statuses(RIGHT, count) if status != "correct"]
    assert len(refused) <= 0.03 * count, refused
