"""From overlaps, nulls and errors to a verdict: does the update avoid or seek principal weights?"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlvr.geometry.evidence import (
    EVERYTHING,
    GROUPS,
    LEAST_GROUPS,
    LEVEL,
    holm,
    interval,
    p_value,
)
from rlvr.geometry.storage import NULLS

Row = Mapping[str, Any]
MASK = "overlap_principal_not_low"  # the entries that the paper's safe mask freezes
LEAST_EXCESS = 0.005  # half a point: less is no finding, however certain


def pooled(rows: Sequence[Row], moved: Sequence[float]) -> dict[str, Any]:
    """Return intervals and excesses over several matrices, weighted by moved entries.

    The error is that of independent matrices, or from eight on what their differences show,
    whichever is larger.
    """
    total: dict[str, Any] = {"groups": max((row["groups"] for row in rows), default=0)}
    freedom = _freedom(total)
    for mask in ("principal", "low", "principal_not_low"):
        key = f"overlap_{mask}"
        keys = (key, f"{key}_excess") if mask != "low" else (key,)
        for name in keys:
            mean, error = _weighted(rows, moved, name)
            if name == key:
                total[f"{key}_error"] = _none(error)
                ends = (math.nan, math.nan) if mean is None else interval(mean, error, freedom)
                total[f"{key}_from"], total[f"{key}_to"] = map(_none, ends)
            else:
                total[name], total[f"{name}_error"] = mean, _none(error)
    return total


def _none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _weighted(rows: Sequence[Row], weights: Sequence[float], key: str) -> tuple[Any, float]:
    kept = [
        (row[key], row[f"{key}_error"], weight)
        for row, weight in zip(rows, weights, strict=True)
        if weight and not math.isnan(row[f"{key}_error"])
    ]
    if not kept:
        return None, math.nan
    whole = sum(weight for *_, weight in kept)
    mean = sum(value * weight for value, _, weight in kept) / whole
    error = math.sqrt(sum((error * weight) ** 2 for _, error, weight in kept)) / whole
    # Overlaps of different matrices differ by nature; only excesses should all be 0.
    if key.endswith("_excess") and len(kept) >= LEAST_GROUPS:
        squares = sum(((value - mean) * weight) ** 2 for value, _, weight in kept)
        error = max(error, math.sqrt(squares * len(kept) / (len(kept) - 1)) / whole)
    return mean, error


def _freedom(row: Row) -> int:
    groups = min(GROUPS, row["groups"])
    return groups - 1 if groups >= LEAST_GROUPS else 0


def verdicts_of(rows: Sequence[Row]) -> list[str]:
    """Return ``avoids``, ``seeks`` or nothing for each row, corrected for their number."""
    chances = [_chance(row) for row in rows]
    return [
        _direction(row) if chance < LEVEL else ""
        for row, chance in zip(rows, holm(chances), strict=True)
    ]


def _chance(row: Row) -> float:
    """Return the p value of the excess over entries of the same size."""
    excess, error = row[f"{MASK}_excess"], row[f"{MASK}_excess_error"]
    if _missing(excess) or _missing(error) or _missing(row[f"{MASK}_from"]):
        return 1.0
    return p_value(excess, error, _freedom(row))


def _direction(row: Row) -> str:
    """Return the word on which chance, all plausible nulls and the excess agree; empty if none."""
    moved = row["moved"] if "moved" in row else 1 - row["sparsity_bf16"]
    excess = row[f"{MASK}_excess"]
    if row["relative"] or moved > EVERYTHING or abs(excess) < LEAST_EXCESS:
        return ""
    low, high = null_range(row, MASK)
    chance = row.get(f"{MASK}_random", row["density_principal_not_low"])
    if row[f"{MASK}_from"] <= chance <= row[f"{MASK}_to"]:
        return ""
    # Rounding pushes any update to one side of chance, so the nulls decide on the direction.
    if row[f"{MASK}_to"] < low and excess < 0:
        return "avoids"
    return "seeks" if row[f"{MASK}_from"] > high and excess > 0 else ""


def null_range(row: Row, key: str) -> tuple[float, float]:
    """Return the least and the largest overlap that a plausible null expects, or NaN."""
    nulls = [row[f"{key}_null_{null}"] for null in NULLS]
    known = [value for value in nulls if not _missing(value)]
    return min(known, default=math.nan), max(known, default=math.nan)


def _missing(value: float | None) -> bool:
    return value is None or math.isnan(value)
