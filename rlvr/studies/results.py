"""The numbers of a study: a row for each run, a cell for each arm and swept value."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.files import write_bytes
from rlvr.intervals import Estimate
from rlvr.run_dir import read_summary
from rlvr.studies.spec import Run, Study, label
from rlvr.studies.statistics import Difference, difference, holm, mean_over_seeds


@dataclass(frozen=True)
class Metric:
    """A number of a finished run: its title with the unit, its digits, and what it means."""

    title: str
    digits: int
    meaning: str


METRICS = {
    "accuracy": Metric("accuracy (%)", 1, "held-out accuracy of the exported policy"),
    "kl": Metric("KL to base", 4, "KL(policy || base), nats per token of the policy's completions"),
    "sparsity": Metric("unchanged (%)", 1, "target entries whose bf16 value is the base's"),
    "nss": Metric("NSS", 5, "normalised spectral shift, mean over target matrices"),
    "angle": Metric("largest angle (°)", 1, "of the principal subspaces, over matrices and sides"),
    "off_principal": Metric(
        "energy off principal (%)", 1, "of the update, outside U_k and V_k; random: 1 - k^2 / (m n)"
    ),
    "principal_excess": Metric(
        "in principal, excess (points)", 2, "overlap with the principal mask, beyond rounding"
    ),
    "low_excess": Metric(
        "in low-magnitude, excess (points)",
        2,
        "overlap with the low mask, beyond rounding",
    ),
}
CONSTANTS = ("accuracy_before", "density", "mask_leak", "truncated", "seconds_per_step")


@dataclass(frozen=True)
class Cell:
    """One arm at one swept value: over its finished seeds, and against the control."""

    arm: str
    value: Any
    rows: dict[int | None, dict[str, Any]]
    planned: int
    means: dict[str, Estimate]
    differences: dict[str, Difference]

    @property
    def name(self) -> str:
        return self.arm if self.value is None else f"{self.arm}, {label(self.value)}"


def row_of(run: Run) -> dict[str, Any] | None:
    """Return the numbers of a finished run, those that were measured; ``None`` of another run."""
    summary = read_summary(run.folder)
    if summary is None:
        return None
    row: dict[str, Any] = {"run": run.name, "arm": run.arm, "value": run.value, "seed": run.seed}
    row["sparsity"] = 100 * summary["sparsity_bf16"]
    for key in ("density", "mask_leak", "truncated", "seconds_per_step"):
        row[key] = summary.get(key)
    if "accuracy_after" in summary:
        after = summary["accuracy_after"]
        row["accuracy"] = 100 * after["mean"]
        row["accuracy_low"], row["accuracy_high"] = 100 * after["low"], 100 * after["high"]
        row["problems"] = after["n"]
        row["accuracy_before"] = 100 * summary["accuracy_before"]["mean"]
        row["kl"] = summary["kl_to_base"]["mean"]
    measured = run.folder / "geometry" / "summary.json"
    if measured.is_file():
        row |= _geometry(json.loads(measured.read_text(encoding="utf-8"))["all"])
    return row


def _geometry(total: Mapping[str, Any]) -> dict[str, float]:
    found = {
        "nss": total["mean_nss"],
        "angle": max(total["max_max_angle_left_deg"], total["max_max_angle_right_deg"]),
        "off_principal": 100 * total["energy_off_principal"],
    }
    for key, mask in (("principal_excess", "principal"), ("low_excess", "low")):
        overlap, null = total[f"overlap_{mask}"], total[f"overlap_{mask}_null"]
        if overlap is not None and null is not None:
            found[key] = 100 * (overlap - null)
    return {key: value for key, value in found.items() if math.isfinite(value)}


def cells_of(study: Study) -> list[Cell]:
    """Return every cell with a finished run, each against the control at the same swept value."""
    cells = []
    for arm in study.arms:
        for value in study.values:
            runs = study.runs_of(arm, value)
            rows = {run.seed: row for run in runs if (row := row_of(run)) is not None}
            if rows:
                means = {
                    key: mean_over_seeds(list(by_seed.values()))
                    for key in METRICS
                    if (by_seed := _by_seed(rows, key))
                }
                cells.append(Cell(arm, value, rows, len(runs), means, {}))
    controls = {cell.value: cell for cell in cells if cell.arm == study.control}
    return compare(cells, lambda cell: controls.get(cell.value))


def compare(cells: Sequence[Cell], control: Callable[[Cell], Cell | None]) -> list[Cell]:
    """Return the cells with their differences from ``control(cell)``, corrected over all."""
    found: list[dict[str, Difference]] = [{} for _ in cells]
    for key in METRICS:
        pairs = []
        for index, cell in enumerate(cells):
            other = control(cell)
            if other is None or other.arm == cell.arm:
                continue
            between = difference(
                _by_seed(cell.rows, key), _by_seed(other.rows, key), _resolution(cell, key)
            )
            if between is not None:
                pairs.append((index, between))
        for (index, between), p in zip(pairs, holm([b.p for _, b in pairs]), strict=True):
            found[index][key] = dataclasses.replace(between, p_holm=p)
    return [dataclasses.replace(c, differences=f) for c, f in zip(cells, found, strict=True)]


def _resolution(cell: Cell, key: str) -> float:
    """Return the step between two possible values: accuracies are counts of problems."""
    problems = first(cell, "problems")
    return 100 / problems if key == "accuracy" and problems else 0.0


def _by_seed(rows: Mapping[int | None, Mapping[str, Any]], key: str) -> dict[int | None, float]:
    return {seed: row[key] for seed, row in rows.items() if row.get(key) is not None}


def at_best(study: Study, cells: Sequence[Cell]) -> list[Cell]:
    """Return each arm at the swept value of its highest accuracy, compared with the control's.

    The value is chosen on the problems that are reported, which favours arms with more luck.
    """
    return _selected(study, cells, lambda cell, _: -cell.means["accuracy"].mean)


def at_matched_accuracy(study: Study, cells: Sequence[Cell]) -> list[Cell]:
    """Return each arm at the swept value whose accuracy is nearest to the control's best."""
    return _selected(study, cells, lambda cell, best: abs(cell.means["accuracy"].mean - best))


def _selected(
    study: Study, cells: Sequence[Cell], distance: Callable[[Cell, float], float]
) -> list[Cell]:
    measured = [cell for cell in cells if "accuracy" in cell.means]
    controls = [cell.means["accuracy"].mean for cell in measured if cell.arm == study.control]
    best = max(controls, default=math.nan)
    chosen = []
    for arm in study.arms:
        own = [cell for cell in measured if cell.arm == arm]
        if own:
            chosen.append(min(own, key=lambda cell: distance(cell, best)))
    control = next((cell for cell in chosen if cell.arm == study.control), None)
    return compare(chosen, lambda _: control)


def write_tables(study: Study, cells: Sequence[Cell]) -> None:
    """Write ``summary.csv``, one row a cell, and ``runs.csv``, one row a run."""
    rows = [row for cell in cells for row in cell.rows.values()]
    _write_csv(study.folder / "runs.csv", rows)
    _write_csv(study.folder / "summary.csv", [_flat(cell) for cell in cells])


def _flat(cell: Cell) -> dict[str, Any]:
    row: dict[str, Any] = {"arm": cell.arm, "value": cell.value}
    row |= {"seeds": len(cell.rows), "planned": cell.planned}
    row |= {key: first(cell, key) for key in CONSTANTS if key != "seconds_per_step"}
    for key, mean in cell.means.items():
        row |= {key: mean.mean, f"{key}_low": mean.low, f"{key}_high": mean.high}
    for key, between in cell.differences.items():
        for field in ("mean", "low", "high", "p", "p_holm", "seeds_needed"):
            row[f"{key}_minus_control_{field}"] = getattr(between, field)
    return row


def first(cell: Cell, key: str) -> Any:
    """Return a number that all seeds of a cell share, or their worst leak."""
    values = [row[key] for row in cell.rows.values() if row.get(key) is not None]
    return None if not values else max(values) if key == "mask_leak" else values[0]


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if _is_empty(value) else value for key, value in row.items()})
    write_bytes(path, buffer.getvalue().encode())


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
