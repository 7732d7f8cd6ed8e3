"""The tables of a study as text: what each arm reached, and what can be told apart."""

import math
from collections.abc import Mapping, Sequence

from rlvr.intervals import Estimate
from rlvr.studies.results import METRICS, Cell, at_best, at_matched_accuracy, first
from rlvr.studies.spec import Study
from rlvr.studies.statistics import Difference


def interval(item: Estimate | Difference | None, digits: int, *, sign: bool = False) -> str:
    """Return ``mean [low, high]``, or the mean alone where there is no interval."""
    if item is None:
        return "-"
    text = f"{item.mean:+.{digits}f}" if sign else f"{item.mean:.{digits}f}"
    if math.isnan(item.low):
        return text
    return f"{text} [{item.low:.{digits}f}, {item.high:.{digits}f}]"


def verdict(item: Difference | None, is_control: bool) -> str:
    if is_control:
        return "control"
    if item is None:
        return "too few seeds"
    if item.is_seen:
        return "higher" if item.mean > 0 else "lower"
    return "no difference seen"


def result_rows(study: Study, cells: Sequence[Cell]) -> list[dict[str, str]]:
    """Return the table as text, one row a cell; columns that no cell has are left out."""
    rows = []
    is_compared = any("accuracy" in cell.differences for cell in cells)
    for cell in cells:
        density, leak = first(cell, "density"), first(cell, "mask_leak")
        accuracy, between = cell.means.get("accuracy"), cell.differences.get("accuracy")
        row = {"arm": cell.name}
        if set(cell.rows) != {None}:
            row["seeds"] = f"{len(cell.rows)} of {cell.planned}"
        row["density"] = "-" if density is None else f"{density:.1%}"
        row["leak"] = "-" if leak is None else str(leak)
        if accuracy is not None:
            row["accuracy (%)"] = _accuracy(cell, accuracy)
        if accuracy is not None and is_compared:
            row["minus control (points)"] = interval(between, 1, sign=True)
            row["verdict"] = verdict(between, cell.arm == study.control)
            needed = None if between is None or between.is_seen else between.seeds_needed
            row["seeds to see it"] = "-" if needed is None else str(needed)
        for key, metric in METRICS.items():
            if key != "accuracy" and key in cell.means:
                row[metric.title] = interval(cell.means[key], metric.digits)
        rows.append(row)
    return rows


def _accuracy(cell: Cell, accuracy: Estimate) -> str:
    if accuracy.n > 1:
        return interval(accuracy, 1)
    only = next(iter(cell.rows.values()))
    return interval(Estimate(accuracy.mean, only["accuracy_low"], only["accuracy_high"], 1), 1)


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Return rows of text as an aligned Markdown table."""
    titles = list(dict.fromkeys(key for row in rows for key in row))
    lines = [titles, *([row.get(title, "-") for title in titles] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(titles))]
    text = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    ]
    return "\n".join([text[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *text[1:]])


def tables(study: Study, cells: Sequence[Cell]) -> dict[str, list[dict[str, str]]]:
    """Return the tables of a study by title, as rows of text."""
    before = next((b for cell in cells if (b := first(cell, "accuracy_before")) is not None), None)
    base = "" if before is None else f" (base policy: {before:.1f} %)"
    found = {f"every arm{base}": result_rows(study, cells)}
    if study.swept is not None:
        field = study.swept.rsplit(".", 1)[-1]
        best, matched = at_best(study, cells), at_matched_accuracy(study, cells)
        found[f"each arm at its best {field} (chosen on the same problems)"] = result_rows(
            study, best
        )
        title = f"each arm at the {field} whose accuracy is nearest to the control's best"
        found[title] = result_rows(study, matched)
    return found
