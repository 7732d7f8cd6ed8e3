"""The figures of a study: curves over steps, accuracies of arms.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; the ninth arm on repeats
them with another line style.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from rlvr.eval.metrics import Estimate

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#333333")
LINE_STYLES = ("-", "--", ":", "-.")
INK, MUTED, BAND = "#222222", "#666666", "#D9D9D9"
WINDOW = 5  # steps of the moving average
FEW = 25  # points; fewer are shown as they are, with markers
STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
}


def smooth(values: Sequence[float], window: int = WINDOW) -> np.ndarray:
    """Return the centred moving average; at the ends over the part of the window that exists."""
    kernel = np.ones(min(window, len(values)))
    total = np.convolve(np.asarray(values, dtype=float), kernel, mode="same")
    return total / np.convolve(np.ones(len(values)), kernel, mode="same")


def _arm_style(index: int) -> dict[str, Any]:
    dashes = LINE_STYLES[index // len(PALETTE) % len(LINE_STYLES)]
    return {"color": PALETTE[index % len(PALETTE)], "linestyle": dashes}


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#EBEBEB", linewidth=0.8)
    axes.set_axisbelow(True)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Return steps and values of the rows that have a finite ``key``."""
    kept = [row for row in rows if row.get(key) is not None and math.isfinite(row[key])]
    return [row["step"] for row in kept], [row[key] for row in kept]


def _draw_curve(axes: Axes, steps: list[float], values: list[float], style: Any) -> None:
    if len(steps) < FEW:
        axes.plot(steps, values, linewidth=1.8, marker="o", markersize=3.5, **style)
        return
    axes.plot(steps, values, linewidth=0.8, alpha=0.25, color=style["color"])
    axes.plot(steps, smooth(values), linewidth=1.8, **style)


def plot_curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    keys: Mapping[str, str],
    path: Path,
    title: str,
) -> None:
    """Write one PNG with a panel per key and a line per arm against the optimizer step.

    Where there are enough points the raw line is faint and its moving average strong.

    Args:
        runs: arm to the rows of its ``metrics.jsonl``, each with ``step``; a panel skips the rows
            that lack its key.
        keys: key to axis label, with the unit.
        path: of the PNG.
        title: of the figure.
    """
    if not runs or not keys:
        raise ValueError("runs and keys must not be empty; there is nothing to plot")
    columns = min(3, len(keys))
    lines = math.ceil(len(keys) / columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(5.5, 4.1 * columns), 3.3 * lines + 0.7), dpi=150)
        figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.08)
        panels = figure.subplots(lines, columns, squeeze=False).flatten()
        for axes, (key, label) in zip(panels, keys.items(), strict=False):
            _draw_panel(axes, runs, key, label)
        for axes in panels[len(keys) :]:
            axes.set_axis_off()
        handles = [Line2D([], [], linewidth=2, **_arm_style(i)) for i in range(len(runs))]
        place: dict[str, Any] = {"loc": "outside lower center", "ncols": min(len(runs), 6)}
        if len(panels) > len(keys):
            place = {"loc": "center", "bbox_to_anchor": panels[-1].get_position(), "ncols": 1}
        figure.legend(handles, list(runs), frameon=False, **place)
        figure.suptitle(title, fontweight="bold")
        _save(figure, path)


def _draw_panel(
    axes: Axes, runs: Mapping[str, Sequence[Mapping[str, Any]]], key: str, label: str
) -> None:
    _tidy(axes)
    drawn = False
    for index, rows in enumerate(runs.values()):
        steps, values = _series(rows, key)
        if steps:
            _draw_curve(axes, steps, values, _arm_style(index))
            drawn = True
    if not drawn:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color=MUTED)
        axes.grid(visible=False)
        axes.set(xticks=[], yticks=[], ylabel=label)
        return
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.margins(x=0.02)


def plot_accuracy(arms: Mapping[str, tuple[Estimate, Estimate]], path: Path, title: str) -> None:
    """Write one PNG with each arm's accuracy before and after, and the base as a vertical band.

    Before is a hollow dot, after a full one with its interval; the band spans the intervals before.
    """
    if not arms:
        raise ValueError("arms is empty; there is nothing to plot")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 1.5 + 0.42 * len(arms)), dpi=150)
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        _tidy(axes)
        axes.grid(visible=False, axis="y")
        _draw_base(axes, [before for before, _ in arms.values()])
        for index, (before, after) in enumerate(arms.values()):
            _draw_arm(axes, index, before, after)
        axes.set_yticks(range(len(arms)), list(arms))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(len(arms) - 0.5, -0.75)
        axes.margins(x=0.1)
        sizes = sorted({estimate.n for pair in arms.values() for estimate in pair})
        problems = " to ".join(map(str, {sizes[0]: 0, sizes[-1]: 0}))
        axes.set_xlabel(f"accuracy (%), 95 % interval over {problems} problems")
        axes.set_title(title, fontweight="bold", loc="left")
        _save(figure, path)


def _draw_base(axes: Axes, estimates: Sequence[Estimate]) -> None:
    low, high = min(e.low for e in estimates), max(e.high for e in estimates)
    axes.axvspan(100 * low, 100 * high, color=BAND, alpha=0.55, linewidth=0)
    axes.annotate(
        "base",
        (50 * (low + high), 1),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        xytext=(0, -4),
        color=MUTED,
        ha="center",
        va="top",
    )


def _draw_arm(axes: Axes, index: int, before: Estimate, after: Estimate) -> None:
    color = PALETTE[index % len(PALETTE)]
    start, end = 100 * before.mean, 100 * after.mean
    axes.plot([start, end], [index, index], color=color, linewidth=1.2, alpha=0.45)
    axes.plot([100 * after.low, 100 * after.high], [index, index], color=color, linewidth=3)
    axes.plot(start, index, "o", markersize=6, markerfacecolor="white", color=color)
    axes.plot(end, index, "o", markersize=7, color=color)
    # The number stands beyond the interval, on the side away from the base.
    rises = end >= start
    axes.annotate(
        f"{end:.1f}",
        (100 * (after.high if rises else after.low), index),
        textcoords="offset points",
        xytext=(7 if rises else -7, -0.5),
        ha="left" if rises else "right",
        va="center",
        color=INK,
    )
