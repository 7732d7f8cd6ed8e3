"""How the two sides of a comparison were stored, and what that makes of an update.

The number format decides which changes can be seen. Two things matter: the grid on which a tensor's
values lie (``grid_of``), and how the run kept the weights between its steps (``History``), which
no tensor tells.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from rlvr.schema import RecipeError

Grid = Literal["bfloat16", "float16", "float32"]
History = Literal["masters", "stochastic", "pure", "unknown"]
Null = Literal["nearest", "dithered", "size"]
HISTORIES: tuple[History, ...] = get_args(History)
NULLS: tuple[Null, ...] = get_args(Null)

NULL_WORDS: dict[Null, str] = {
    "nearest": "float32 masters of weights that lay on the bf16 grid, rounded once to the nearest "
    "stored number",
    "dithered": "a rounding point that lies anywhere between two bf16 numbers: stochastic "
    "rounding, or a base that is stored more finely than bf16",
    "size": "only the size of each weight matters, in whatever way: this holds for every way of "
    "storing, bf16 arithmetic and resumed runs included",
}
_KNOWN: dict[History, str] = {
    "masters": "the run kept float32 masters",
    "stochastic": "the run rounded its bf16 weights stochastically",
    "pure": "the run computed its updates in the precision of the file",
}


@dataclass(frozen=True)
class Storage:
    """The grids of base and tuned weights, and how the run kept its weights."""

    base: Grid
    tuned: Grid
    history: History = "unknown"
    quantised: bool = False

    @property
    def nulls(self) -> tuple[Null, ...]:
        """The nulls of all plausible ways of storing; the first is the likeliest.

        ``size`` is always one of them: it is the only one that no history can make wrong.
        """
        if self.quantised or self.history == "pure":
            return ("size",)
        exact: Null = "nearest" if self.base == "bfloat16" else "dithered"
        if self.tuned == "float32":
            return (exact, "size")  # the masters themselves: nothing of the update is lost
        if self.history == "stochastic":
            return ("dithered", "size")
        if self.history == "masters" and self.base == "bfloat16":
            return ("nearest", "size")
        if self.tuned == "float16":
            return (exact, "size")  # nobody rounds float16 stochastically
        # A wider base may have been cast to bf16 before training started, or after.
        other: Null = "dithered" if exact == "nearest" else "nearest"
        return (exact, other, "size")

    @property
    def words(self) -> str:
        """The assumption in words."""
        sides = f"base values on the {self.base} grid, tuned values on the {self.tuned} grid"
        if self.quantised:
            return f"{sides}; stored in fewer bits than bf16"
        if self.tuned == "float32" and self.history != "pure":
            return f"{sides}: the whole update is in the file"
        return f"{sides}; {_KNOWN.get(self.history, 'how the run kept its weights is not known')}"


def parse_history(word: str | None) -> History | None:
    """Return the history that a user names; ``None`` if none.

    Raises:
        RecipeError: there is no such history.
    """
    for history in (None, *HISTORIES):
        if word == history:
            return history
    raise RecipeError(f"--history: {word!r} is none of {', '.join(HISTORIES)}")


def recorded_history(tuned: Path) -> History:
    """Return how the run that wrote ``tuned`` kept its weights, by its ``recipe.json``.

    ``tuned`` is a run directory, its policy or one of its checkpoints; ``unknown`` for any other.
    """
    folders = (tuned, *tuned.absolute().parents[:2])
    file = next((f / "recipe.json" for f in folders if (f / "recipe.json").is_file()), None)
    if file is None:
        return "unknown"
    try:
        recipe = json.loads(file.read_text(encoding="utf-8"))
        dtype, mask = recipe["model"]["dtype"], recipe.get("mask")
        update = recipe["optimizer"]["bf16_update"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "unknown"
    if dtype == "float32":
        return "masters"
    # Only the masked optimizer keeps masters of 16-bit weights; torch's AdamW computes in bf16.
    if mask is None:
        return "pure"
    return "stochastic" if update == "stochastic" else "masters"
