"""The tables of ``rlvr geometry``, without its figures, which cost ten times as much."""

import csv
from pathlib import Path

from rlvr.checkpoints.folders import base_of_run
from rlvr.geometry.settings import Settings
from rlvr.geometry.table import COLUMNS, write_table
from rlvr.verbs.geometry import measure, measure_steps

Table = list[dict[str, str]]


def read_table(path: Path) -> Table:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def matrices(base: Path, tuned: Path, out: Path, settings: Settings) -> Table:
    """Return the rows of ``matrices.csv`` of two checkpoints, which is written to ``out``."""
    measured, summary = measure(base, tuned, settings, ["linear"])
    rows = [item.row for item in measured]
    write_table(out / "matrices.csv", rows, COLUMNS, summary["settings"])
    return read_table(out / "matrices.csv")


def steps(run_dir: Path) -> list[dict]:
    """Return the rows of ``steps.csv`` of a run."""
    return measure_steps(base_of_run(run_dir), run_dir, ["linear"])
