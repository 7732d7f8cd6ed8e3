"""What a comparison of two checkpoints found, in plain words; also for screens and alt texts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlvr.geometry.evidence import EVERYTHING
from rlvr.geometry.findings import MASK, null_range

Summary = Mapping[str, Any]
Row = Mapping[str, Any]
_SAME = 0.0005  # shares that print alike
PRINCIPAL = (
    "Principal weights are the largest entries of the part of a matrix that its strongest "
    "directions make: a copy of low rank would have them. The page asks about those of them that "
    "are not among the smallest weights."
)


def percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None or value != value else f"{100 * value:.{digits}f} %"


def short(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def verdict(summary: Summary) -> str:
    """Return the finding in a few plain sentences."""
    total = summary["all"]
    if total["same_bits"]:
        return (
            "The target matrices of the two checkpoints are identical, bit for bit, so there is no "
            "update to describe."
        )
    if total["sparsity_exact"] == 1:
        return (
            "The target matrices have equal values in other bits (another dtype, or zeros of the "
            "other sign), so there is no update to describe."
        )
    words = [f"{percent(total['sparsity_bf16'])} of the weights did not change as bf16 numbers."]
    if total[MASK] is None:
        words.append("No change is large enough for bf16, so no weight visibly moved.")
        return " ".join(words)
    words.append(_place_words(total))
    angle = largest_angle(total)
    if angle is not None:
        calm = "barely turned" if angle < 1 else "turned a little" if angle < 10 else "turned far"
        words.append(f"The main directions {calm}: at most {angle:.2g}° in any matrix.")
    return " ".join(words)


def _place_words(total: Mapping[str, Any]) -> str:
    """Return what can be said of the weights that are principal and not small."""
    place = "the weights that are principal and not small"
    low, high = null_range(total, MASK)
    nulls = percent(low) if high - low < _SAME else f"{percent(low)} to {percent(high)}"
    numbers = (
        f"{percent(total[MASK])} of the moved entries{_within(total, MASK)} lie there; random "
        f"places: {percent(total[f'{MASK}_random'])}; an update that does not know the weights, as "
        f"such files are stored: {nulls}"
    )
    if total["verdict"]:
        points = 100 * total[f"{MASK}_excess"]
        than = "less" if points < 0 else "more"
        return (
            f"It {total['verdict']} {place}: {numbers}. It hits them {abs(points):.1f} points "
            f"{than} often than other weights of the same size."
        )
    if total["moved"] > EVERYTHING:
        return f"Nearly every weight moved, so it can prefer no place ({numbers})."
    if total["relative"]:
        return (
            "Large weights move as often as small ones: the update scales with the weights, no "
            f"null of rounding fits it, and there is no verdict ({numbers})."
        )
    return f"Nothing shows that it prefers or avoids {place} ({numbers})."


def _within(row: Mapping[str, Any], key: str) -> str:
    """Return the interval of a share in brackets; empty where there is none."""
    low, high = row[f"{key}_from"], row[f"{key}_to"]
    if low is None or low != low:
        return ""
    return f" [{100 * low:.1f}, {100 * high:.1f}]"


def largest_angle(total: Mapping[str, Any]) -> float | None:
    """Return the largest angle of any matrix, of either side."""
    angles = [total[f"max_max_angle_{side}_deg"] for side in ("left", "right")]
    known = [angle for angle in angles if angle is not None]
    return max(known, default=None)


def opening(summary: Summary) -> str:
    """Return what the page is, for a reader who knows nothing of it."""
    total = summary["all"]
    return (
        f"This page compares {total['matrices']} weight matrices ({total['entries']:,} numbers) of "
        "one language model before and after training, and shows how many of the numbers changed, "
        "which ones, and by how much."
    )


def headline_numbers(summary: Summary) -> list[tuple[str, str]]:
    """Return the four numbers of the card, each with what it is."""
    total = summary["all"]
    angle, within = short(largest_angle(total), ".2g", "°"), _within(total, MASK)
    shift = short(total["mean_nss"], ".1e")
    return [
        (percent(total["sparsity_bf16"]), "of the entries unchanged in bf16"),
        (percent(total[MASK]), f"of the moved entries are principal and not small{within}"),
        (angle, "largest turn of the main directions of any matrix"),
        (shift, "mean change of the singular values, relative to their norm"),
    ]


def alternatives(rows: Sequence[Row], summary: Summary) -> dict[str, str]:
    """Return what each figure shows, by its name, for readers who do not see it."""
    total = summary["all"]
    turned = _extreme(rows, "max_angle_left_deg", "max_angle_right_deg")
    shifted = _extreme(rows, "nss")
    stripes = _extreme(rows, "row_spread", "col_spread")
    least, most = (end(rows, key=lambda row: row["sparsity_bf16"]) for end in (min, max))
    return {
        "overlap": _place_words(total) if total[MASK] is not None else "No entry moved visibly.",
        "sparsity": f"Unchanged in bf16: from {percent(least['sparsity_bf16'])} in {least['name']} "
        f"to {percent(most['sparsity_bf16'])} in {most['name']}.",
        "angles": f"Largest turn of the main directions: {_at(turned, '.2g', '°')}.",
        "spectra": f"Largest change of the singular values, relative to their norm: "
        f"{_at(shifted, '.1e')}.",
        "stripes": f"Strongest stripes of moved entries, where 1 is random: {_at(stripes, '.1f')}.",
    }


def _extreme(rows: Sequence[Row], *keys: str) -> tuple[float, str] | None:
    values = [(row[key], row["name"]) for row in rows for key in keys if row[key] is not None]
    return max((pair for pair in values if not math.isnan(pair[0])), default=None)


def _at(place: tuple[float, str] | None, form: str, unit: str = "") -> str:
    return "none is defined" if place is None else f"{place[0]:{form}}{unit} in {place[1]}"
