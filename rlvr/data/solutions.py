"""Demonstrations: rows with a completion to imitate, as token ids.

The prompt is that of RLVR: the same chat template, and a prefill belongs to it. The completion is
the row's ``solution``, tokenised by itself, as a policy would write it (no token spans the end of
the prompt), and one end token. Nothing is cut: a row that cannot be learnt whole is dropped.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from rlvr.data.filters import keep_where
from rlvr.data.prepare import DataSpec
from rlvr.data.prompts import generation_prompt
from rlvr.data.rows import Loaded, Row
from rlvr.schema import RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SOLUTION = "solution"  # the column
IGNORED = -100  # the label of a token without a loss, as torch and TRL have it
_TAG = re.compile(r"\s*(<[^<>\s/]+>)")


class Demonstration(TypedDict):
    """A prompt and its completion: ``labels`` are the ids of the completion, ``IGNORED`` before."""

    input_ids: list[int]
    labels: list[int]


def demonstrations(
    loaded: Loaded,
    spec: DataSpec,
    tokenizer: Any,
    max_length: int | None,
    where: str,
) -> list[Demonstration]:
    """Return the rows as token ids; those without a usable solution are dropped from ``loaded``.

    Args:
        loaded: the rows of ``spec``.
        spec: how their prompts are rendered.
        tokenizer: of the policy, with the prefill of ``spec`` in its chat template.
        max_length: most tokens of prompt and completion.
        where: the section's name in messages.

    Raises:
        RecipeError: no row has a solution, or none is usable.
    """
    if not any(SOLUTION in row for row in loaded.rows):
        raise RecipeError(
            f"{where}: the rows have no column 'solution', which algorithm sft imitates; name it "
            f"in {where}.columns, such as columns: {{solution: rationale}} (the pocket task "
            "writes its own with solutions: expert)"
        )
    texts = {
        row["id"]: generation_prompt(tokenizer, spec.render(row["problem"])) for row in loaded.rows
    }
    prompts = _token_ids(tokenizer, texts)
    prefill, end = spec.shared["prefill"], tokenizer.eos_token
    # Prompt and completion are tokenised apart: at sampling time they are apart too.
    bodies = {
        row["id"]: _completion(texts[row["id"]], row.get(SOLUTION), prefill, end)
        for row in loaded.rows
    }
    keep_where(loaded, "no solution", lambda row: bool(bodies[row["id"]].strip()))
    completions = _token_ids(tokenizer, {row["id"]: bodies[row["id"]] for row in loaded.rows})

    def lacks(token: int | None) -> Any:
        return lambda row: token is None or token not in completions[row["id"]]

    def fits(row: Row) -> bool:
        # + 1 for the end token.
        length = len(prompts[row["id"]]) + len(completions[row["id"]]) + 1
        return max_length is None or length <= max_length

    keep_where(loaded, "an end token inside the solution", lacks(tokenizer.eos_token_id))
    keep_where(loaded, "characters unknown to the tokenizer", lacks(tokenizer.unk_token_id))
    keep_where(loaded, "longer than trainer.max_length", fits)
    if not loaded.rows:
        reasons = ", ".join(f"{len(ids)} {reason}" for reason, ids in loaded.dropped.items())
        raise RecipeError(
            f"{where}: no row has a usable solution ({reasons}); mend the column 'solution', or "
            "raise trainer.max_length"
        )
    # By id: text of the end token in a solution was refused above.
    ends = [tokenizer.eos_token_id]
    return [_join(prompts[row["id"]], completions[row["id"]] + ends) for row in loaded.rows]


def _join(prompt: list[int], completion: list[int]) -> Demonstration:
    return {"input_ids": prompt + completion, "labels": [IGNORED] * len(prompt) + completion}


def _token_ids(tokenizer: "PreTrainedTokenizerBase", texts: dict[str, str]) -> dict[str, list[int]]:
    """Return the ids of each text; special tokens are those that stand in it."""
    if not texts:
        return {}
    ids: Sequence[list[int]] = tokenizer(list(texts.values()), add_special_tokens=False).input_ids
    return dict(zip(texts, ids, strict=True))


def _completion(prompt: str, solution: object, prefill: str | None, end: str) -> str:
    """Return what the policy should write after ``prompt``; empty where there is nothing."""
    if not isinstance(solution, str):
        return ""
    # Data sets often store the end token as text; the run adds its own, once.
    if solution.rstrip().endswith(end):
        solution = solution.rstrip().removesuffix(end)
    return _without_opening(prompt, solution, prefill)


def _without_opening(prompt: str, solution: str, prefill: str | None) -> str:
    """Return ``solution`` without the opening that ``prompt`` ends in, such as ``<think>``.

    An opening is the prefill, or the solution's first tag, which a chat template may write too.
    """
    head, tag = prompt.rstrip(), _TAG.match(solution)
    for opening in (prefill, None if tag is None else tag[1]):
        opening = (opening or "").strip()
        if opening and head.endswith(opening) and solution.lstrip().startswith(opening):
            rest = solution.lstrip().removeprefix(opening)
            # The white space that the prompt has after the opening must not come twice.
            return rest.removeprefix(prompt[len(head) :])
    return solution
