"""``reasoning_gym``: any task of the package reasoning-gym, judged by the task's own scorer."""

from importlib.util import find_spec
from typing import Any

from rlvr.isolation.pool import Outcome, scorers
from rlvr.registry import reward
from rlvr.rewards.text import boxes, conclusion, last_tagged
from rlvr.schema import RecipeError
from rlvr.verdict import Verdict

_SCORER = "rlvr.rewards.gym_scorer:score"


@reward
def reasoning_gym(
    completions: list[str],
    problem: list[str],
    answer: list[str],
    metadata: list[Any],
    *,
    threshold: float = 0.99,
    seconds: float = 5.0,
    require_think: bool = False,
    correct: float = 1.0,
    wrong: float = 0.0,
) -> list[Verdict]:
    """Judge a completion correct where its task's scorer gives at least ``threshold`` in [0, 1].

    ``metadata`` is the entry's own (an object or its JSON); its ``source_dataset`` names the
    task. The answer is the last ``<answer>`` or ``\\boxed{}`` after the thoughts, or else the whole
    conclusion. A scorer that needs longer than ``seconds`` is killed.
    """
    verdicts: list[Verdict | str] = []
    requests = []
    columns = zip(completions, problem, answer, metadata, strict=True)
    for completion, question, gold, about in columns:
        rest = conclusion(completion, require_think)
        reading = rest if isinstance(rest, Verdict) else find_answer(rest)
        verdicts.append(reading)
        if not isinstance(reading, Verdict):
            # The fields of an entry as the package makes it: its scorers read more than the answer.
            entry = {"question": question, "answer": gold, "metadata": about}
            requests.append({"answer": reading, "entry": entry})
    jobs = [(request,) for request in requests]
    replies = iter(scorers(_SCORER).map(jobs, deadline_s=seconds) if jobs else [])
    return [
        one if isinstance(one, Verdict) else _verdict(one, next(replies), threshold)
        for one in verdicts
    ]


@reward.checks_options("reasoning_gym")
def _check(options: dict[str, Any], where: str) -> None:
    if find_spec("reasoning_gym") is None:
        raise RecipeError(
            f"{where}: the package reasoning-gym is missing; pip install 'rlvr[rewards]'"
        )
    if not 0 < options["threshold"] <= 1:
        raise RecipeError(f"{where}.threshold: must be in (0, 1], got {options['threshold']}")


def _verdict(answer: str, outcome: Outcome, threshold: float) -> Verdict:
    shown = answer[:1000]
    if outcome.status == "timeout":
        return Verdict("timeout", answer=shown, detail="the scorer passed the deadline")
    if outcome.status == "crashed":
        return Verdict("crashed", answer=shown, detail=f"the scorer: {outcome.value}")
    reply: dict[str, Any] = outcome.value
    if "gold" in reply:
        return Verdict("gold_unparsable", detail=reply["gold"])
    if "raised" in reply:
        return Verdict("wrong", answer=shown, detail=f"the scorer raised {reply['raised']}")
    status = "correct" if reply["score"] >= threshold else "wrong"
    return Verdict(status, answer=shown, detail=f"score {reply['score']:g}")


def find_answer(text: str) -> str | Verdict:
    """Return the answer of a conclusion, as text."""
    tagged, boxed = last_tagged(text), boxes(text)
    if tagged is not None:
        return tagged.strip()
    if boxed:
        content = boxed[-1][1]
        return Verdict("unparsable", detail="an open box") if content is None else content.strip()
    return text.strip() or Verdict("unparsable", detail="no answer")
