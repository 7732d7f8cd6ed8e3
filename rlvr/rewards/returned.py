"""What a reward function returned, checked: one finite number, verdict or None a completion."""

import inspect
import math
from collections.abc import Sequence
from typing import get_args

import numpy as np

from rlvr.registry import shown
from rlvr.schema import RecipeError
from rlvr.verdict import Status, Verdict

Result = float | Verdict | None
EXPECTED = "a finite number, a Verdict, or None where it cannot be judged"
_LARGEST = float(np.finfo(np.float32).max)  # TRL keeps rewards in float32
_STATUSES = get_args(Status)


def as_list(returned: object, count: int, what: str) -> list[object]:
    """Return what a reward returned as a list of ``count`` values, whatever each of them is.

    Raises:
        RecipeError: it is no list, tuple, 1-D array or tensor, or of another length.
    """
    if inspect.iscoroutine(returned):
        returned.close()  # or Python warns that nobody awaited it
    values: list[object] | None = None
    # NumPy and torch alike; tolist() also moves a tensor from the GPU.
    if getattr(returned, "ndim", None) == 1:
        values = returned.tolist()  # pyright: ignore[reportAttributeAccessIssue]
    elif isinstance(returned, Sequence) and not isinstance(returned, str | bytes):
        values = list(returned)
    if values is None:
        raise RecipeError(
            f"{what}: returned {shown(returned)} for {count} completions; return a list that holds "
            f"for each {EXPECTED}"
        )
    if len(values) != count:
        raise RecipeError(
            f"{what}: returned {len(values)} rewards for {count} completions; return one for each"
        )
    return values


def as_result(value: object) -> Result:
    """Return one reward as a float, a verdict or None.

    Raises:
        ValueError: it is something else, or not finite in float32; the text describes it.
    """
    if value is None:
        return None
    if isinstance(value, Verdict):
        if value.status not in _STATUSES:
            raise ValueError(f"a Verdict of status {value.status!r}, not {', '.join(_STATUSES)}")
        if value.reward is not None:
            # Checked, not converted: a Verdict is frozen.
            _number(value.reward)
        return value
    return _number(value)


def _number(value: object) -> float:
    # float("1") and float(array([1])) would work; neither was meant as a reward.
    if isinstance(value, str | bytes) or getattr(value, "ndim", 0) != 0:
        raise ValueError(shown(value))
    try:
        number = float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(shown(value)) from error
    if not math.isfinite(number) or abs(number) > _LARGEST:
        raise ValueError(shown(value))
    return number
