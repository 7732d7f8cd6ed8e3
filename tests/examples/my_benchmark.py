"""A benchmark of one's own: a dataset that no run trains on, and the verifier that judges it.

plugins: [my_benchmark]
eval:
  data: {name: products}
  verifier: {name: last_number}
  samples: 2
  max_new_tokens: 40
"""

import re

from rlvr.registry import dataset, reward
from rlvr.rewards import Verdict


@dataset
def products() -> list[dict[str, str]]:
    """The same sixteen problems in every run."""
    pairs = [(left, right) for left in (2, 3, 4, 6) for right in (1, 5, 7, 9)]
    return [
        {"id": f"{a}x{b}", "problem": f"{a}*{b}+{a}*{b}", "answer": str(2 * a * b)}
        for a, b in pairs
    ]


@reward
def last_number(
    completions: list[str], answer: list[str], *, correct: float = 1.0, wrong: float = 0.0
) -> list[Verdict]:
    """Judge the last number of each completion.

    The option ``correct`` makes this reward a verifier: it returns verdicts (the options
    ``correct`` and ``wrong`` are their numbers). ``rlvr data --validate`` asks it whether each gold
    answer, written as a completion, is right.
    """
    return [verdict(*pair) for pair in zip(completions, answer, strict=True)]


def verdict(completion: str, answer: str) -> Verdict:
    numbers = re.findall(r"-?\d+", completion)
    if not numbers:
        return Verdict("unparsable", detail="no number")
    status = "correct" if numbers[-1] == answer else "wrong"
    return Verdict(status, answer=numbers[-1])
