"""The verifier on rows that follow public bug reports; each ``rule`` says why its label holds."""

import json
from pathlib import Path

import pytest

from rlvr.rewards.math import verify_batch

FILE = Path(__file__).parent / "data" / "verifier_public.jsonl"
SURE = 0.9  # confidence of a row from which its label is held to


@pytest.fixture(scope="module")
def judged() -> list[tuple[dict, str]]:
    rows = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    verdicts = verify_batch([(row["gold"], row["response"]) for row in rows])
    return [(row, verdict.status) for row, verdict in zip(rows, verdicts, strict=True)]


def test_rows_of_which_the_label_is_sure_are_judged_by_it(judged):
    sure = [(row, status) for row, status in judged if row["confidence"] >= SURE]
    missed = [
        (row["case_id"], status)
        for row, status in sure
        if (status == "correct") != bool(row["label"])
    ]
    assert len(sure) > 200
    assert len(missed) <= 0.01 * len(sure), missed


def test_no_row_is_rewarded_wrongly_and_no_worker_dies(judged):
    rewarded = [row["case_id"] for row, s in judged if s == "correct" and not row["label"]]
    assert rewarded == []
    assert [row["case_id"] for row, s in judged if s in ("crashed", "timeout")] == []


def test_all_rows_together(judged):
    right = sum((status == "correct") == bool(row["label"]) for row, status in judged)
    assert right >= 0.98 * len(judged)
