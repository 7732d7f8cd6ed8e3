"""The numbers of a study: a row for each run, a cell for each arm and swept value."""

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.files import read_jsonl
from rlvr.intervals import Estimate, paired_difference
from rlvr.run_dir import read_summary
from rlvr.studies.spec import Run, Study, label
from rlvr.studies.statistics import Difference, difference, holm, mean_over_seeds


@dataclass(frozen=True)
class Metric:
    """A number of a finished run: its title with the unit, its digits, and what it means."""

    title: str
    digits: int
    meaning: str


# All that is compared between arms, and corrected for together: a metric more makes each weaker.
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
SIZES = {
    "optimizer_state_bytes": Metric(
        "optimizer state (MB)", 2, "state tensors and packed masks on one process, MB = 1e6 bytes"
    ),
    "checkpoint_bytes": Metric(
        "checkpoint (MB)", 2, "files that make the base policy the trained one"
    ),
}
# How one number stands for the seeds of a cell, where it is no metric with an interval.
COMBINED: dict[str, Callable[[Sequence[float]], float]] = {
    "accuracy_before": statistics.fmean,
    "density": statistics.fmean,
    "mask_leak": max,
    "truncated": statistics.fmean,
    "optimizer_state_bytes": max,
    "checkpoint_bytes": statistics.fmean,
}


@dataclass(frozen=True)
class Cell:
    """One arm at one swept value: over its finished seeds, and against the control.

    ``means`` hold intervals over seeds; with one seed, those over problems where there are any.
    ``over_problems`` is the difference in accuracy (points) between the only run of this cell and
    that of the control, on the same problems: it tells two policies apart, not two arms.
    """

    arm: str
    value: Any
    rows: dict[int | None, dict[str, Any]]
    planned: int
    means: dict[str, Estimate]
    differences: dict[str, Difference]
    over_problems: Estimate | None = None

    @property
    def name(self) -> str:
        return self.arm if self.value is None else f"{self.arm}, {label(self.value)}"


def row_of(run: Run) -> dict[str, Any] | None:
    """Return the measured numbers of a run, or ``None`` while it is unfinished."""
    summary = read_summary(run.folder)
    if summary is None:
        return None
    row: dict[str, Any] = {"run": run.name, "arm": run.arm, "value": run.value, "seed": run.seed}
    # Shares become per cent here, once, so that tables and figures need not know.
    row["sparsity"] = 100 * summary["sparsity_bf16"]
    for key in ("density", "mask_leak", "truncated", "seconds_per_step", *SIZES):
        row[key] = summary.get(key)
    if "accuracy_after" in summary:
        after = summary["accuracy_after"]
        row["accuracy"] = 100 * after["mean"]
        row["accuracy_low"], row["accuracy_high"] = 100 * after["low"], 100 * after["high"]
        row["problems"] = after["n"]
        row["accuracy_before"] = 100 * summary["accuracy_before"]["mean"]
        kl = summary["kl_to_base"]
        row["kl"], row["kl_low"], row["kl_high"] = kl["mean"], kl["low"], kl["high"]
    measured = run.folder / "geometry" / "summary.json"
    if measured.is_file():
        row |= _geometry(json.loads(measured.read_text(encoding="utf-8"))["all"])
    return row


def _geometry(total: Mapping[str, Any]) -> dict[str, float]:
    # Either side may have turned further; the larger one is reported.
    angles = [total[f"max_max_angle_{side}_deg"] for side in ("left", "right")]
    numbers = {
        "nss": total["mean_nss"],
        "angle": max((angle for angle in angles if angle is not None), default=math.nan),
        "off_principal": 100 * total["energy_off_principal"],
    }
    for key, mask in (("principal_excess", "principal"), ("low_excess", "low")):
        overlap, null = total[f"overlap_{mask}"], total[f"overlap_{mask}_null"]
        if overlap is not None and null is not None:
            numbers[key] = 100 * (overlap - null)
    return {key: value for key, value in numbers.items() if math.isfinite(value)}


def cells_of(study: Study) -> list[Cell]:
    """Return every cell with a finished run, each against the control at the same swept value."""
    cells = []
    for arm in study.arms:
        for value in study.values:
            runs = study.runs_of(arm, value)
            rows = {run.seed: row for run in runs if (row := row_of(run)) is not None}
            if rows:
                means = {key: mean for key in METRICS if (mean := _mean(rows, key)) is not None}
                cells.append(Cell(arm, value, rows, len(runs), means, {}))
    controls = {cell.value: cell for cell in cells if cell.arm == study.control}
    return compare(cells, lambda cell: controls.get(cell.value), study.folder)


def _mean(rows: Mapping[int | None, Mapping[str, Any]], key: str) -> Estimate | None:
    """Return a metric over seeds; for one seed with the interval that its run measured."""
    values = list(_by_seed(rows, key).values())
    if not values:
        return None
    if len(values) == 1:
        row = next(row for row in rows.values() if row.get(key) is not None)
        low, high = (row.get(f"{key}_{end}", math.nan) for end in ("low", "high"))
        return Estimate(values[0], low, high, 1)
    return mean_over_seeds(values, _resolution(rows, key))


def compare(
    cells: Sequence[Cell], control: Callable[[Cell], Cell | None], folder: Path | None = None
) -> list[Cell]:
    """Return the cells with their differences from ``control(cell)``.

    Holm's correction is over every comparison that the study makes: arms times metrics. Corrected
    over arms only, eight metrics of equal arms give 35 % of studies some "seen" difference.

    Args:
        folder: of the study, to compare single runs problem by problem; ``None`` leaves that out.
    """
    differences: list[dict[str, Difference]] = [{} for _ in cells]
    singles: list[Estimate | None] = [None] * len(cells)
    pairs = []
    for index, cell in enumerate(cells):
        other = control(cell)
        if other is None or other.arm == cell.arm:
            continue
        if folder is not None and len(cell.rows) == len(other.rows) == 1:
            # One run each: seeds say nothing, but the two were judged on the same problems.
            singles[index] = _over_problems(folder, cell, other)
        for key in METRICS:
            step = _resolution(cell.rows, key)
            between = difference(_by_seed(cell.rows, key), _by_seed(other.rows, key), step)
            # A pair of arms without two seeds each makes no claim, and weighs on no other.
            if between is not None:
                pairs.append((index, key, between))
    corrected = holm([between.p for _, _, between in pairs])
    for (index, key, between), p in zip(pairs, corrected, strict=True):
        differences[index][key] = dataclasses.replace(between, p_holm=p)
    return [
        dataclasses.replace(cell, differences=own, over_problems=single)
        for cell, own, single in zip(cells, differences, singles, strict=True)
    ]


def _over_problems(folder: Path, cell: Cell, control: Cell) -> Estimate | None:
    """Return the paired difference of two runs' accuracies; ``None`` without equal problems."""
    shares = []
    for one in (control, cell):
        run = next(iter(one.rows.values()))["run"]
        lines = read_jsonl(folder / run / "eval" / "final.jsonl")
        shares.append({line["id"]: line["correct"] / len(line["completions"]) for line in lines})
    base, own = shares
    # By the problem's id: another order of the rows is the same evaluation.
    if not own or base.keys() != own.keys():
        return None
    between = paired_difference([base[key] for key in own], list(own.values()))
    return Estimate(100 * between.mean, 100 * between.low, 100 * between.high, between.n)


def _resolution(rows: Mapping[int | None, Mapping[str, Any]], key: str) -> float:
    """Return the step between two possible values: accuracies are counts of problems."""
    problems = [row["problems"] for row in rows.values() if row.get("problems")]
    return 100 / min(problems) if key == "accuracy" and problems else 0.0


def _by_seed(rows: Mapping[int | None, Mapping[str, Any]], key: str) -> dict[int | None, float]:
    return {seed: row[key] for seed, row in rows.items() if row.get(key) is not None}


def at_best(study: Study, cells: Sequence[Cell]) -> list[Cell]:
    """Return each arm at the swept value of its highest accuracy, compared with the control's.

    The value is chosen on the problems that are reported, which favours arms with more luck.
    """
    return _selected(study, cells, lambda cell, _: -cell.means["accuracy"].mean)


def at_matched_accuracy(study: Study, cells: Sequence[Cell]) -> list[Cell]:
    """Return each arm at the swept value with the accuracy nearest to the control's best."""
    return _selected(study, cells, lambda cell, best: abs(cell.means["accuracy"].mean - best))


def _selected(
    study: Study, cells: Sequence[Cell], distance: Callable[[Cell, float], float]
) -> list[Cell]:
    measured = [cell for cell in cells if "accuracy" in cell.means]
    # The yardstick is the control at its own best value, for every arm alike.
    controls = [cell.means["accuracy"].mean for cell in measured if cell.arm == study.control]
    best = max(controls, default=math.nan)
    chosen = []
    for arm in study.arms:
        own = [cell for cell in measured if cell.arm == arm]
        if own:
            chosen.append(min(own, key=lambda cell: distance(cell, best)))
    control = next((cell for cell in chosen if cell.arm == study.control), None)
    return compare(chosen, lambda _: control, study.folder)


def over_seeds(cell: Cell, key: str) -> float | None:
    """Return one number for all seeds of a cell, as ``COMBINED`` says; ``None`` if unmeasured."""
    values = [row[key] for row in cell.rows.values() if row.get(key) is not None]
    return COMBINED[key](values) if values else None
