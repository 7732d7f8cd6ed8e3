"""The report of a study: what each arm reached, what can be told apart, and what it did to W."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rlvr.logs import read_metrics
from rlvr.plots import study as draw
from rlvr.plots.study import Dots
from rlvr.plots.theme import THEMES, Draw, png
from rlvr.reports import pages
from rlvr.studies.curves import Curve, accuracies, curve_of, logged
from rlvr.studies.findings import sentences
from rlvr.studies.results import METRICS, SIZES, Cell, at_best, over_seeds
from rlvr.studies.spec import Study

CURVES = {
    "reward": "reward",
    "kl_to_base": "KL to base",
    "entropy": "entropy (nats)",
    "completions/mean_length": "length (tokens)",
    "grad_norm": "gradient norm",
    "sampler_gap": "sampler gap (nats)",
}
COSTS = ("kl", "sparsity", "nss", "off_principal")
READING = {
    "accuracy": {
        "What you see": "What each arm reaches and what it takes: accuracy and KL with 95 % "
        "intervals, the memory of the optimizer's state, and the size of a checkpoint. Several "
        "seeds: Student's t over seeds, and a faint dot for each. One seed: intervals over "
        "problems. The band is the control.",
        "What to look for": "An arm with short bars inside the band of accuracy.",
        "By chance": "Arms that do the same scatter around the band, some of them outside of it.",
    },
    "differences": {
        "What you see": "Each arm minus the control at the same seed, with its 95 % t-interval. "
        "Full dots: the difference is seen after Holm's correction over arms and metrics.",
        "What to look for": "Full dots, and how far from 0 they are.",
        "By chance": "Hollow dots on both sides of 0; one interval in twenty misses it.",
    },
    "sweep": {
        "What you see": "The same numbers over the swept field, a line per arm.",
        "What to look for": "Arms that peak at another value, or break where others still learn.",
        "By chance": "Lines that cross within their intervals.",
    },
    "curves": {
        "What you see": "The runs on the way, the control in grey; bands are 95 % t-intervals of "
        "the mean over seeds, lines of 25 steps or more a moving average of five.",
        "What to look for": "An arm that learns later, loses its entropy, or leaves the base. A "
        "sampler gap that grows: rollouts of another policy than the loss takes them for.",
        "By chance": "Overlapping bands.",
    },
    "geometry": {
        "What you see": "What the update did to the weights, measured on the exported policy. "
        "Excess: the overlap of the moved weights with a mask, minus what rounding to bf16 shows "
        "of an update that does not know the weights.",
        "What to look for": "Excess below 0 in principal and above 0 in low-magnitude: the update "
        "went off the principals. A small NSS: it kept the spectrum.",
        "By chance": "An excess of 0.",
    },
    "cost": {
        "What you see": "Every run at the accuracy that it reached.",
        "What to look for": "Arms that reach an accuracy with less KL, or fewer moved weights, "
        "than others at the same place on the axis.",
        "By chance": "One cloud.",
    },
}
TITLES = {
    "accuracy": "What did each arm reach, and what did it take?",
    "differences": "Which arms differ from the control?",
    "sweep": "How does it depend on the swept field?",
    "curves": "How did they get there?",
    "geometry": "Where did the update go?",
    "cost": "What does an equal accuracy cost?",
}
NOTE = (
    "Means over several seeds have 95 % Student t-intervals over seeds. The interval of a single "
    "run is a bootstrap over problems. Differences are paired by seed (by Welch's test where the "
    "seeds differ), with 95 % t-intervals. A difference is called seen where its p-value is below "
    "0.05 after Holm's correction over all arms and metrics of the study. 'Seeds to see it': the "
    "seeds that see a difference of this size with a chance of 80 %. All verdicts hold for the "
    "evaluated problems: seeds do not show what other problems would change."
)


def _dots(cells: Sequence[Cell], key: str) -> list[Dots | None]:
    dots: list[Dots | None] = []
    for cell in cells:
        mean = cell.means.get(key)
        values = [row[key] for row in cell.rows.values() if row.get(key) is not None]
        dots.append(None if mean is None else Dots(mean.mean, mean.low, mean.high, values))
    return dots


def _plans(
    study: Study, cells: Sequence[Cell], shown: Sequence[Cell]
) -> dict[str, tuple[Draw, tuple]]:
    """Return what is drawn; ``shown`` is one cell an arm."""
    # The order here is the order in the report.
    names = [cell.arm for cell in shown]
    control = next((i for i, cell in enumerate(shown) if cell.arm == study.control), None)
    plans: dict[str, tuple[Draw, tuple]] = {}
    present = [key for key in METRICS if any(key in cell.means for cell in cells)]
    if "accuracy" in present:
        dots = {METRICS[key].title: _dots(shown, key) for key in ("accuracy", "kl")}
        bars = {
            metric.title: [None if size is None else size / 1e6 for size in sizes]
            for key, metric in SIZES.items()
            # Sizes that no run recorded get no panel.
            if any(sizes := [over_seeds(cell, key) for cell in shown])
        }
        plans["accuracy"] = draw.dots_figure(names, dots, control, bars)
    compared = [cell for cell in cells if "accuracy" in cell.differences]
    if compared:
        plans["differences"] = draw.differences_figure(
            [cell.name for cell in compared],
            [cell.differences["accuracy"] for cell in compared],
            f"accuracy minus {study.control} (points)",
        )
    if study.swept is not None:
        keys = [key for key in ("accuracy", "kl", "sparsity", "nss") if key in present]
        plans["sweep"] = draw.sweep_figure(study.swept, study.values, {
            METRICS[key].title: _by_arm(study, cells, lambda own, key=key: _dots(own, key))
            for key in keys
        })  # fmt: skip
    # The curves of a sweep are those of each arm's best value, as in the first figure.
    curves = _curves(study, shown)
    if curves:
        plans["curves"] = draw.curves_figure(curves, study.control)
    measured = [key for key in METRICS if key in present and key not in ("accuracy", "kl")]
    if len(measured) > 1:  # more than the sparsity, which every run has
        panels = {METRICS[key].title: _dots(shown, key) for key in measured}
        plans["geometry"] = draw.dots_figure(names, panels, control)
    costs = [key for key in COSTS if key in present]
    # With one run an arm the scatter would only repeat the first figure.
    if "accuracy" in present and costs and len(study.runs) > len(study.arms):
        plans["cost"] = draw.scatter_figure(METRICS["accuracy"].title, {
            METRICS[key].title: {arm: _pairs(cells, arm, key) for arm in study.arms}
            for key in costs
        })  # fmt: skip
    return plans


def _by_arm(study: Study, cells: Sequence[Cell], dots: Callable) -> dict[str, list[Dots | None]]:
    lines = {}
    for arm in study.arms:
        own = {cell.value: cell for cell in cells if cell.arm == arm}
        # None leaves a gap where a value has no finished run.
        lines[arm] = [dots([own[v]])[0] if v in own else None for v in study.values]
    return lines


def _folders(study: Study, cell: Cell) -> list[Path]:
    # Runs that are finished, and no others: a curve must not end early for half of its seeds.
    return [run.folder for run in study.runs_of(cell.arm, cell.value) if run.seed in cell.rows]


def _curves(study: Study, shown: Sequence[Cell]) -> dict[str, dict[str, Curve]]:
    """Return the curve of each arm by axis label; a metric that no arm recorded is left out."""
    curves: dict[str, dict[str, Curve]] = {}
    for cell in shown:
        folders = _folders(study, cell)
        curve = curve_of([accuracies(folder) for folder in folders])
        if curve is not None and len(curve.steps) > 2:  # more than before and after
            curves.setdefault("held-out accuracy (%)", {})[cell.arm] = curve
        metrics = [read_metrics(folder) for folder in folders]
        for key, label in CURVES.items():
            curve = curve_of([logged(rows, key) for rows in metrics])
            if curve is not None and len(curve.steps) > 1:
                # Grouped by axis first: one panel holds the curves of all arms.
                curves.setdefault(label, {})[cell.arm] = curve
    return curves


def _pairs(cells: Sequence[Cell], arm: str, key: str) -> list[tuple[float, float]]:
    rows = [row for cell in cells if cell.arm == arm for row in cell.rows.values()]
    return [(row["accuracy"], row[key]) for row in rows if key in row and "accuracy" in row]


def figures(study: Study, cells: Sequence[Cell]) -> dict[str, dict[str, bytes]]:
    """Return the figures as PNG by name and theme."""
    # A figure has one row an arm: of a sweep, the arm's best value.
    shown = at_best(study, cells) if study.swept is not None else list(cells)
    return {
        name: {theme: png(how, size, colors) for theme, colors in THEMES.items()}
        for name, (how, size) in _plans(study, cells, shown or cells).items()
    }


def build(
    study: Study,
    cells: Sequence[Cell],
    images: Mapping[str, dict[str, bytes]],
    tables: Mapping[str, Sequence[Mapping[str, str]]],
) -> str:
    """Return the HTML of the report."""
    parts = [pages.paragraph(sentence, "lead") for sentence in sentences(study, cells)]
    parts.append(pages.cards(_cards(study, cells)))
    for name, image in images.items():
        parts += [pages.heading(TITLES[name]), pages.figure(image, TITLES[name], READING[name])]
    parts.append(pages.heading("Numbers"))
    for title, rows in tables.items():
        # Rows leave out what their cell lacks; the table has the union of their columns.
        titles = list(dict.fromkeys(key for row in rows for key in row))
        lines = [[(row.get(t, "-"), None) for t in titles] for row in rows]
        parts += [pages.paragraph(f"{title[0].upper()}{title[1:]}."), pages.table(titles, lines)]
    parts.append(pages.paragraph(NOTE))
    words = [[(m.title, None), (m.meaning, None)] for m in (METRICS | SIZES).values()]
    inside = pages.table(["number", "what it is"], words, kind="text")
    parts.append(pages.details("What each number is", inside))
    done = sum(len(cell.rows) for cell in cells)
    subtitle = f"{done} of {len(study.runs)} runs, control {study.control}: {study.folder}"
    return pages.page(study.folder.name, subtitle, parts)


def _cards(study: Study, cells: Sequence[Cell]) -> list[tuple[str, str, str]]:
    done = sum(len(cell.rows) for cell in cells)
    leaks = [over_seeds(cell, "mask_leak") for cell in cells]
    # The worst run counts: one leak is one too many.
    worst = max((leak for leak in leaks if leak is not None), default=None)
    seconds = [
        row["seconds_per_step"]
        for cell in cells
        for row in cell.rows.values()
        if row.get("seconds_per_step") is not None
    ]
    items = [
        (f"{done} / {len(study.runs)}", "runs are finished", "unfinished ones are left out"),
        ("-" if worst is None else str(worst), "entries leaked out of a mask", "0 by contract"),
    ]
    # Every run evaluates the base policy on the same problems with the same seed.
    before = [c.rows[s]["accuracy_before"] for c in cells for s in c.rows
              if c.rows[s].get("accuracy_before") is not None]  # fmt: skip
    if before:
        items.append((f"{before[0]:.1f} %", "accuracy of the base policy", "where all runs start"))
    if seconds:
        middle = sorted(seconds)[len(seconds) // 2]
        items.append((f"{middle:.2f} s", "a step, median over runs", "on the machines they ran on"))
    return items
