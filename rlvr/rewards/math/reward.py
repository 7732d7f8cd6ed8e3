"""The ``math`` reward of a recipe."""

from rlvr.registry import reward
from rlvr.rewards.math.extract import Extract
from rlvr.rewards.math.verify import DEADLINE_S, verify_batch
from rlvr.rewards.verdict import Verdict


@reward
def math(
    completions: list[str],
    answer: list[str],
    *,
    extract: Extract = "boxed",
    deadline_s: float = DEADLINE_S,
    correct: float = 1.0,
    wrong: float = 0.0,
) -> list[Verdict]:
    """Judge each completion's final answer against the gold answer, as mathematics.

    The answer is the last ``\\boxed{}`` after ``</think>``; with ``extract: auto`` an announced
    answer will do. ``correct`` and ``wrong`` are the rewards of the verdicts; a gold answer that
    cannot be read gives none.
    """
    pairs = zip(map(str, answer), completions, strict=True)
    return verify_batch(pairs, extract=extract, deadline_s=deadline_s)
