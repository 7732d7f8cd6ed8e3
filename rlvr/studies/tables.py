"""The tables of a study as text: what each arm reached, and what can be told apart."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlvr.files import read_json
from rlvr.intervals import Estimate
from rlvr.studies.results import METRICS, SIZES, Cell, at_best, at_matched_accuracy, over_seeds
from rlvr.studies.spec import Study
from rlvr.studies.statistics import Difference, mean_over_seeds


def interval(item: Estimate | Difference | None, digits: int, *, sign: bool = False) -> str:
    """Return ``mean [low, high]``, or only the mean where there is no interval."""
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
        density, leak = over_seeds(cell, "density"), over_seeds(cell, "mask_leak")
        row = {"arm": cell.name}
        if set(cell.rows) != {None}:  # a study without seeds has one run a cell
            row["seeds"] = f"{len(cell.rows)} of {cell.planned}"
        row["density"] = "-" if density is None else f"{density:.1%}"
        row["leak"] = "-" if leak is None else str(leak)
        if "accuracy" in cell.means:
            row["accuracy (%)"] = interval(cell.means["accuracy"], 1)
            row |= _comparison(cell, cell.arm == study.control) if is_compared else {}
        if cell.over_problems is not None:
            row["minus control, same problems"] = interval(cell.over_problems, 1, sign=True)
        if "kl" in cell.means:
            row[METRICS["kl"].title] = interval(cell.means["kl"], METRICS["kl"].digits)
        for key, metric in SIZES.items():
            size = over_seeds(cell, key)
            if size is not None:
                row[metric.title] = f"{size / 1e6:,.{metric.digits}f}"
        for key, metric in METRICS.items():
            if key not in ("accuracy", "kl") and key in cell.means:
                row[metric.title] = interval(cell.means[key], metric.digits)
        rows.append(row)
    return rows


def _comparison(cell: Cell, is_control: bool) -> dict[str, str]:
    between = cell.differences.get("accuracy")
    # A difference that is seen needs no more seeds.
    needed = None if between is None or between.is_seen else between.seeds_needed
    return {
        "minus control (points)": interval(between, 1, sign=True),
        "verdict": verdict(between, is_control),
        "seeds to see it": "-" if needed is None else str(needed),
    }


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Return rows of text as an aligned Markdown table; titles are the union over the rows."""
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
    befores = [before for c in cells if (before := over_seeds(c, "accuracy_before")) is not None]
    base = f" (base policy: {befores[0]:.1f} %)" if befores else ""
    shown = {f"every arm{base}": result_rows(study, cells)}
    if study.swept is not None:
        field = study.swept.rsplit(".", 1)[-1]
        best = f"each arm at its best {field} (chosen on the same problems)"
        shown[best] = result_rows(study, at_best(study, cells))
        matched = f"each arm at the {field} whose accuracy is nearest to the control's best"
        shown[matched] = result_rows(study, at_matched_accuracy(study, cells))
    return shown | benchmark_tables(study.folder, cells)


def benchmark_tables(folder: Path, cells: Sequence[Cell]) -> dict[str, list[dict[str, str]]]:
    """Return for each preset the scores of the runs that ``rlvr evaluate`` has evaluated.

    A cell is the mean over seeds with its t-interval; the average is over the benchmarks that all
    of these runs have. Runs of two presets never share a table.
    """
    # By preset, then by arm: the scores of each run, in per cent.
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for cell in cells:
        for row in cell.rows.values():
            file = folder / str(row["run"]) / "eval" / "summary.json"
            if file.is_file():
                content = read_json(file, "evaluate the run again")
                scores = {
                    name: 100 * one["accuracy"]["mean"]
                    for name, one in content["benchmarks"].items()
                }
                found.setdefault(content["preset"], {}).setdefault(cell.name, []).append(scores)
    tables = {}
    for preset, arms in sorted(found.items()):
        names = sorted(set.intersection(*(set(run) for runs in arms.values() for run in runs)))
        if names:
            title = f"benchmarks, preset {preset} (avg@n in per cent)"
            tables[title] = [_scores(arm, runs, names) for arm, runs in arms.items()]
    return tables


def _scores(arm: str, runs: Sequence[Mapping[str, float]], names: Sequence[str]) -> dict[str, str]:
    columns = {name: [run[name] for run in runs] for name in names}
    columns["average"] = [sum(run[name] for name in names) / len(names) for run in runs]
    means = {name: interval(mean_over_seeds(own), 2) for name, own in columns.items()}
    return {"arm": arm, "seeds": str(len(runs)), **means}
