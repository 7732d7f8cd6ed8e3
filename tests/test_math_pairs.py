"""Pairs of answers that are the same, or not, one of each kind; ``math_pairs.tsv`` holds them."""

from pathlib import Path

import pytest

from rlvr.rewards.math import verify_batch

LINES = (Path(__file__).parent / "math_pairs.tsv").read_text(encoding="utf-8").splitlines()
PAIRS = [line.split("\t") for line in LINES]


@pytest.mark.parametrize("kind", ["same", "other"])
def test_pairs(kind):
    pairs = [(gold, answer) for found, gold, answer in PAIRS if found == kind]
    verdicts = verify_batch([(gold, f"\\boxed{{{answer}}}") for gold, answer in pairs])
    got = ["same" if verdict.status == "correct" else "other" for verdict in verdicts]
    assert [pair for pair, said in zip(pairs, got, strict=True) if said != kind] == []


def test_sameness_goes_both_ways():
    pairs = [(gold, answer) for kind, gold, answer in PAIRS if kind == "other"]
    verdicts = verify_batch([(answer, f"\\boxed{{{gold}}}") for gold, answer in pairs])
    wrong = [pair for pair, v in zip(pairs, verdicts, strict=True) if v.status == "correct"]
    assert wrong == []
