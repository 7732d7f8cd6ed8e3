"""The verifier of the pocket task: one boxed integer after the thoughts."""

import re

from rlvr.registry import reward

_BOXED_INTEGER = re.compile(r"\s*\\boxed\{(-?\d{1,18})\}\s*")


@reward
def arithmetic(
    completions: list[str], answer: list[str], *, correct: float = 1.0, wrong: float = 0.0
) -> list[float]:
    """Return ``correct`` where the completion ends in the gold integer, else ``wrong``.

    The text after the last ``</think>`` must be one ``\\boxed{integer}`` and nothing else; a
    completion that never closes its thoughts has given no answer.
    """
    rewards = []
    for completion, gold in zip(completions, answer, strict=True):
        _, closed, conclusion = completion.rpartition("</think>")
        match = _BOXED_INTEGER.fullmatch(conclusion) if closed else None
        rewards.append(correct if match and int(match.group(1)) == int(gold) else wrong)
    return rewards
