"""A metric over the steps of a cell's runs: mean over seeds, with the interval of the mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from rlvr.checkpoint import read_jsonl
from rlvr.studies.statistics import LEVEL


@dataclass(frozen=True)
class Curve:
    """A metric over optimizer steps; ``low`` and ``high`` are nan where one seed has it."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def curve_of(folders: Sequence[Path], key: str) -> Curve | None:
    """Return ``key`` of ``metrics.jsonl`` at the steps that every run recorded, ``None`` if none.

    The band is the 95 % Student t-interval of the mean over runs.
    """
    runs = [
        {
            row["step"]: row[key]
            for row in read_jsonl(folder / "metrics.jsonl")
            if is_number(row, key)
        }
        for folder in folders
    ]
    runs = [run for run in runs if run]
    steps = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    if not steps:
        return None
    table = np.array([[run[step] for step in steps] for run in runs], dtype=float)
    mean, half = table.mean(axis=0), np.full(len(steps), np.nan)
    if len(runs) > 1:
        quantile = stats.t.ppf((1 + LEVEL) / 2, len(runs) - 1)
        half = quantile * table.std(axis=0, ddof=1) / np.sqrt(len(runs))
    return Curve(np.array(steps), mean, mean - half, mean + half)


def is_number(row: dict, key: str) -> bool:
    value = row.get(key)
    return isinstance(value, int | float) and bool(np.isfinite(value))
