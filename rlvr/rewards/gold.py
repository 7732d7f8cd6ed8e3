"""What a verifier says about the gold answers themselves, each written as a completion."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlvr.registry import reward
from rlvr.rewards.calls import RewardCall
from rlvr.rewards.verdict import Verdict

# How a completion states an answer to each reward; a plugin may add its own.
FORMS = {
    "countdown": "<answer>{answer}</answer>",
    "json_schema": "```json\n{answer}\n```",
    "python_tests": "```python\n{answer}\n```",
    "reasoning_gym": "<answer>{answer}</answer>",
}
BOXED = "\\boxed{{answer}}"


def is_verifier(call: RewardCall) -> bool:
    """Tell a reward of right and wrong from one that shapes: it takes the option ``correct``."""
    return "correct" in inspect.signature(reward.functions[call.name]).parameters


def write_gold(name: str, answer: str) -> str:
    """Return a completion that gives ``answer`` in the form that reward ``name`` reads."""
    # Empty thoughts: a verifier with require_think would find none otherwise.
    return f"<think>\n</think>{FORMS.get(name, BOXED).replace('{answer}', answer)}"


def gold_verdicts(call: RewardCall, rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Return the verdict on each row's own gold answer; all are correct in sound data."""
    completions = [write_gold(call.name, str(row["answer"])) for row in rows]
    # Sources of a mix need not have the same columns; a reward gets None, as it does in a run.
    names = set().union(*rows) & set(call.reads)
    columns = {name: [row.get(name) for row in rows] for name in names}
    judged = call.apply(completions, columns)
    return [one if isinstance(one, Verdict) else _from_reward(one) for one in judged]


def _from_reward(value: float | None) -> Verdict:
    return Verdict("correct" if value is not None and value > 0 else "wrong", value)


def unparsable_golds(calls: Iterable[RewardCall], rows: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Tell which rows have a gold answer that one of the verifiers cannot parse."""
    flags = [False] * len(rows)
    for call in filter(is_verifier, calls):
        for index, verdict in enumerate(gold_verdicts(call, rows)):
            flags[index] |= verdict.status == "gold_unparsable"
    return flags
