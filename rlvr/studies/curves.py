"""A metric over the steps of a cell's runs: mean over seeds, with the interval of the mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlvr.intervals import student_quantile
from rlvr.run_dir import read_summary
from rlvr.studies.statistics import LEVEL


@dataclass(frozen=True)
class Curve:
    """A metric over optimizer steps; ``low`` and ``high`` are nan where one seed has it."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def curve_of(runs: Sequence[Mapping[int, float]]) -> Curve | None:
    """Return the mean over runs, each step to value, at the steps that all of them recorded.

    The band is the 95 % Student t-interval of the mean. ``None`` where they share no step.
    """
    runs = [run for run in runs if run]
    # Only shared steps: a mean over fewer runs at some steps would jump where a run ends.
    steps = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    if not steps:
        return None
    table = np.array([[run[step] for step in steps] for run in runs], dtype=float)
    mean, half = table.mean(axis=0), np.full(len(steps), np.nan)
    if len(runs) > 1:
        quantile = student_quantile(len(runs) - 1, LEVEL)
        half = quantile * table.std(axis=0, ddof=1) / np.sqrt(len(runs))
    return Curve(np.array(steps), mean, mean - half, mean + half)


def logged(rows: Sequence[Mapping[str, Any]], key: str) -> dict[int, float]:
    """Return ``key`` of the rows of a ``metrics.jsonl`` by step, where it is a finite number."""
    # A metric that is measured every few steps is missing from the rows between.
    return {row["step"]: row[key] for row in rows if _is_number(row.get(key))}


def accuracies(folder: Path) -> dict[int, float]:
    """Return a finished run's held-out accuracy in per cent, at each step that was evaluated."""
    summary = read_summary(folder)
    if summary is None or "accuracy_after" not in summary:
        return {}
    by_step = {0: summary["accuracy_before"], summary["step"]: summary["accuracy_after"]}
    by_step |= {int(step): value for step, value in summary.get("accuracy_on_the_way", {}).items()}
    return {step: 100 * by_step[step]["mean"] for step in sorted(by_step)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))
