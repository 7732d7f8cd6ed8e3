"""What a verifier says about the gold answers themselves, each written as a completion."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlvr.registry import reward
from rlvr.rewards.calls import RewardCall
from rlvr.verdict import Verdict

# How a completion states an answer to each reward; a plugin may add its own.
FORMS = {
    "countdown": "<answer>{answer}</answer>",
    "json_schema": "```json\n{answer}\n```",
    "python_tests": "```python\n{answer}\n```",
    "reasoning_gym": "<answer>{answer}</answer>",
}
BOXED = "\\boxed{{answer}}"
OTHER = "0"  # an answer that a verifier can compare with any gold


def is_verifier(call: RewardCall) -> bool:
    """Tell a reward of right and wrong from one that shapes: it takes the option ``correct``."""
    return "correct" in inspect.signature(reward.functions[call.name]).parameters


def write_gold(name: str, answer: str) -> str:
    """Return a completion that gives ``answer`` in the form that reward ``name`` reads."""
    return f"<think>\n</think>{FORMS.get(name, BOXED).replace('{answer}', answer)}"


def gold_verdicts(call: RewardCall, rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Return the verdict on each row's own gold answer; all are correct in sound data.

    A sentence is right by its own words, and no other answer can be judged by it. So each gold of a
    reward that reads free text is asked about another answer too: where the verifier cannot judge
    that, the gold cannot score.
    """
    # Sources of a mix need not have the same columns; a reward gets None, as it does in a run.
    names = set().union(*rows) & (set(call.reads) | {"id"})
    columns = {name: [row.get(name) for row in rows] for name in names}

    def judge(answers: list[str]) -> list[Verdict]:
        results = call.apply([write_gold(call.name, answer) for answer in answers], columns)
        return [item if isinstance(item, Verdict) else _from_reward(item) for item in results]

    own = judge([str(row["answer"]) for row in rows])
    if call.name in FORMS:
        return own
    other = judge([OTHER] * len(rows))
    return [b if b.status == "gold_unparsable" else a for a, b in zip(own, other, strict=True)]


def _from_reward(value: float | None) -> Verdict:
    return Verdict("correct" if value is not None and value > 0 else "wrong", value)


def unparsable_golds(calls: Iterable[RewardCall], rows: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Tell which rows have a gold answer that one of the verifiers cannot parse."""
    flags = [False] * len(rows)
    for call in filter(is_verifier, calls):
        for index, verdict in enumerate(gold_verdicts(call, rows)):
            flags[index] |= verdict.status == "gold_unparsable"
    return flags
