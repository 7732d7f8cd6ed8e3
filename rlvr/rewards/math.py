"""The ``math`` reward of a recipe, and the door to the verifier behind it."""

from rlvr.registry import reward
from rlvr.verdict import Verdict
from rlvr.verifier.conventions import Conventions
from rlvr.verifier.extract import Extract
from rlvr.verifier.service import DEADLINE_S, forget, pool, verify, verify_batch

__all__ = ["DEADLINE_S", "Conventions", "forget", "math", "pool", "verify", "verify_batch"]


@reward
def math(
    completions: list[str],
    answer: list[str],
    *,
    extract: Extract = "boxed",
    deadline_s: float = DEADLINE_S,
    rounded: bool = True,
    percent: bool = False,
    ordered: bool = False,
    math_verify: bool = True,
    correct: float = 1.0,
    wrong: float = 0.0,
) -> list[Verdict]:
    """Judge each completion's final answer against the gold answer, as mathematics.

    The answer is the last ``\\boxed{}`` after ``</think>``; with ``extract: auto`` an announced
    answer will do. ``rounded, percent, ordered`` are the conventions of the page of this package.
    ``math_verify`` lets that library judge what this grammar cannot read. ``correct`` and ``wrong``
    are the rewards of the verdicts; a gold answer that cannot be read gives none.
    """
    return verify_batch(
        zip(map(str, answer), completions, strict=True),
        extract=extract,
        deadline_s=deadline_s,
        conventions=Conventions(rounded, percent, ordered),
        math_verify=math_verify,
    )
