"""Rewards that shape the tokens of a completion: ``overlong``, ``length`` and ``repetition``.

They read the column ``completion_ids``, the token ids of each completion, which the trainer adds.
"""

from typing import Any

from rlvr.registry import reward
from rlvr.schema import RecipeError


@reward
def overlong(
    completions: list[str],
    completion_ids: list[list[int]],
    *,
    max_length: int,
    buffer: int,
    factor: float = 1.0,
) -> list[float | None]:
    """Return the soft punishment of long completions.

    DAPO (arXiv 2503.14476, eq. 13): with L = ``max_length``, C = ``buffer``, |y| in tokens,

        R(y) = 0                   for |y| <= L - C
               ((L - C) - |y|) / C for L - C < |y| <= L
               -1                  for L < |y|

    times ``factor``.
    """
    free = max_length - buffer
    # + 0.0 turns -0.0 into 0.0, which logs and files would show.
    return [-factor * min(max(len(ids) - free, 0) / buffer, 1.0) + 0.0 for ids in completion_ids]


@reward.checks_options("overlong")
def _check_overlong(options: dict[str, Any], where: str) -> None:
    if not 0 < options["buffer"] <= options["max_length"]:
        raise RecipeError(
            f"{where}.buffer: must be in [1, max_length = {options['max_length']}], got "
            f"{options['buffer']}"
        )
    _check_sign(options, "factor", where)


@reward
def length(
    completions: list[str],
    completion_ids: list[list[int]],
    *,
    max_length: int,
    min_length: int = 0,
    slope: int,
) -> list[float | None]:
    """Return 0 inside [``min_length``, ``max_length``] tokens, falling to -1 over ``slope`` tokens.

    R(y) = -min(d / slope, 1), d the distance of |y| from the interval.
    """
    distances = (max(min_length - len(ids), len(ids) - max_length, 0) for ids in completion_ids)
    return [-min(distance / slope, 1.0) + 0.0 for distance in distances]


@reward.checks_options("length")
def _check_length(options: dict[str, Any], where: str) -> None:
    if not 0 <= options["min_length"] <= options["max_length"]:
        raise RecipeError(
            f"{where}.min_length: must be in [0, max_length = {options['max_length']}], got "
            f"{options['min_length']}"
        )
    if options["slope"] < 1:
        raise RecipeError(f"{where}.slope: must be at least 1 token, got {options['slope']}")


@reward
def repetition(
    completions: list[str],
    completion_ids: list[list[int]],
    *,
    ngram: int = 4,
    factor: float = 1.0,
) -> list[float | None]:
    """Return minus the share of repeated n-grams of tokens, times ``factor``.

    R(y) = -factor (1 - distinct / all n-grams); 0 where there is none (arXiv 2502.03373, C.2).
    """
    return [-factor * _repeated(ids, ngram) + 0.0 for ids in completion_ids]


def _repeated(ids: list[int], ngram: int) -> float:
    # The number of n-grams; below 1 the completion is shorter than one.
    count = len(ids) - ngram + 1
    if count < 1:
        return 0.0
    return 1.0 - len({tuple(ids[start : start + ngram]) for start in range(count)}) / count


@reward.checks_options("repetition")
def _check_repetition(options: dict[str, Any], where: str) -> None:
    if not 1 <= options["ngram"] <= 64:
        raise RecipeError(f"{where}.ngram: must be in [1, 64], got {options['ngram']}")
    _check_sign(options, "factor", where)


def _check_sign(options: dict[str, Any], key: str, where: str) -> None:
    if options[key] < 0:
        raise RecipeError(
            f"{where}.{key}: must be 0 or above, got {options[key]}; the reward is minus it"
        )
