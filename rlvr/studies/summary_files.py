"""The numbers of a study as files: ``runs.csv``, ``summary.csv`` and what its columns are."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlvr.files import write_bytes, write_json
from rlvr.studies.results import COMBINED, METRICS, Cell, over_seeds
from rlvr.studies.spec import Study

DIFFERENCE = {
    "mean": "difference from the control, mean over seeds, paired where seeds are shared",
    "low": "lower end of its 95 % Student t-interval over seeds",
    "high": "upper end of its 95 % Student t-interval over seeds",
    "p": "two-sided p-value of Student's t-test over seeds",
    "p_holm": "that p-value after Holm's correction over arms times metrics",
    "seeds_needed": "seeds of each arm that see such a difference with 80 % power",
}
_INTERVAL = "end of the 95 % interval: Student's t over seeds; of one seed, over problems"
_SAME = "points above the control, one run of each on the same problems; 95 % paired t-interval"


def write_tables(study: Study, cells: Sequence[Cell]) -> None:
    """Write ``runs.csv``, one row a run, and ``summary.csv``, one row a cell.

    ``summary.columns.json`` says what each column of the summary is, and how its seeds were
    combined.
    """
    _write_csv(study.folder / "runs.csv", [row for cell in cells for row in cell.rows.values()])
    summary = [_columns(cell) for cell in cells]
    values = [{name: value for name, (value, _) in row.items()} for row in summary]
    _write_csv(study.folder / "summary.csv", values)
    # Cells have different columns; the union describes them all.
    meanings = {name: meaning for row in summary for name, (_, meaning) in row.items()}
    write_json(study.folder / "summary.columns.json", meanings)


def _columns(cell: Cell) -> dict[str, tuple[Any, str]]:
    """Return each column of ``summary.csv`` with its value and what it is."""
    row: dict[str, tuple[Any, str]] = {
        "arm": (cell.arm, "name of the arm"),
        "value": (cell.value, "value of the swept field; empty where nothing is swept"),
        "seeds": (len(cell.rows), "finished runs"),
        "planned": (cell.planned, "runs in the study"),
    }
    for key, combine in COMBINED.items():
        # A leak of one seed must not vanish in a mean.
        how = "maximum" if combine is max else "mean"
        row[key] = (over_seeds(cell, key), f"{how} over seeds")
    for key, mean in cell.means.items():
        metric = METRICS[key]
        row[key] = (mean.mean, f"{metric.title}, mean over seeds: {metric.meaning}")
        row[f"{key}_low"] = (mean.low, f"lower {_INTERVAL}")
        row[f"{key}_high"] = (mean.high, f"upper {_INTERVAL}")
    for key, between in cell.differences.items():
        for field, meaning in DIFFERENCE.items():
            row[f"{key}_minus_control_{field}"] = (getattr(between, field), meaning)
    if cell.over_problems is not None:
        for field, value in asdict(cell.over_problems).items():
            row[f"accuracy_on_same_problems_{field}"] = (value, f"{field}: {_SAME}")
    return row


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    # The union of all rows' keys, in the order of their first appearance.
    columns = list(dict.fromkeys(key for row in rows for key in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        # An empty cell, since readers take "nan" or "None" for text.
        writer.writerow({key: "" if _is_empty(value) else value for key, value in row.items()})
    write_bytes(path, buffer.getvalue().encode())


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
