"""What a verifier says about one completion."""

from dataclasses import dataclass
from typing import Literal

Status = Literal[
    "correct", "wrong", "unparsable", "gold_unparsable", "timeout", "crashed", "truncated"
]


@dataclass(frozen=True)
class Verdict:
    """One judgement: a status, and what led to it.

    ``reward`` is None where the status decides and the recipe's options give the number;
    ``answer`` is what the completion answered; ``detail`` says in one line why; ``by`` names the
    library that judged, where it was not this project's verifier.
    """

    status: Status
    reward: float | None = None
    answer: str | None = None
    detail: str = ""
    by: str = ""
