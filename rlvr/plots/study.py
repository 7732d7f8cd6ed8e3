"""The figures of a study: what each arm reached, by how much it differs, and the way there."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from rlvr.plots.theme import Draw, Theme, color_of, smooth, tidy
from rlvr.studies.curves import Curve
from rlvr.studies.statistics import Difference

ARMS_PER_PANEL = 4


@dataclass(frozen=True)
class Dots:
    """One number of one arm: its mean, the interval of it, and the values of the seeds."""

    mean: float
    low: float
    high: float
    values: Sequence[float]


def dots_figure(
    names: Sequence[str],
    panels: Mapping[str, Sequence[Dots | None]],
    control: int | None,
    bars: Mapping[str, Sequence[float | None]] | None = None,
) -> tuple[Draw, tuple]:
    """Return a row for each name and a panel for each number; the band is the control's.

    Args:
        bars: sizes, which have no interval, each a panel of bars after the others.
    """
    bars = bars or {}
    count = len(panels) + len(bars)

    def draw(figure: Figure, theme: Theme) -> None:
        axes_of = figure.subplots(1, count, sharey=True, squeeze=False)[0]
        for axes, title in zip(axes_of, [*panels, *bars], strict=True):
            tidy(axes, theme)
            axes.grid(visible=False, axis="y")
            axes.set_xlabel(title)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        for axes, dots in zip(axes_of, panels.values(), strict=False):
            reference = None if control is None else dots[control]
            if reference is not None:
                _band(axes, reference, theme)
            for row, item in enumerate(dots):
                if item is not None:
                    _draw_dots(axes, row, item, color_of(0 if row == control else 1, theme))
        for axes, sizes in zip(axes_of[len(panels) :], bars.values(), strict=True):
            _draw_bars(axes, sizes, control, theme)
        _rows(axes_of[0], names)

    return draw, (2.4 + 2.6 * count, 1.2 + 0.34 * len(names))


def _draw_bars(
    axes: Axes, sizes: Sequence[float | None], control: int | None, theme: Theme
) -> None:
    for row, size in enumerate(sizes):
        if size is not None:
            color = color_of(0 if row == control else 1, theme)
            bar = axes.barh(row, size, height=0.55, color=color, alpha=0.85)
            axes.bar_label(bar, [f"{size:,.2f}"], padding=4, color=theme.ink)
    axes.set_xlim(0, 1.25 * max(size or 0.0 for size in sizes))  # room for the longest bar's label


def _band(axes: Axes, reference: Dots, theme: Theme) -> None:
    if math.isnan(reference.low):
        axes.axvline(reference.mean, color=theme.muted, linewidth=1, linestyle=":")
    else:
        axes.axvspan(reference.low, reference.high, color=theme.muted, alpha=0.2, linewidth=0)


def _draw_dots(axes: Axes, row: int, item: Dots, color: str) -> None:
    if not math.isnan(item.low):
        axes.plot([item.low, item.high], [row, row], color=color, linewidth=2.5, alpha=0.8)
    if len(item.values) > 1:
        axes.plot(item.values, [row] * len(item.values), "o", color=color, markersize=3, alpha=0.45)
    axes.plot(item.mean, row, "o", color=color, markersize=6.5)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), list(names))
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)  # downwards, so that the first name is on top


def differences_figure(
    names: Sequence[str], differences: Sequence[Difference], title: str
) -> tuple[Draw, tuple]:
    """Return each arm's difference from the control with its t-interval; full dots are seen."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        tidy(axes, theme)
        axes.grid(visible=False, axis="y")
        axes.axvline(0, color=theme.muted, linewidth=1)
        for row, item in enumerate(differences):
            color = color_of(1, theme) if item.is_seen else theme.muted
            axes.plot([item.low, item.high], [row, row], color=color, linewidth=2.5)
            face = color if item.is_seen else theme.page
            axes.plot(item.mean, row, "o", color=color, markersize=7, markerfacecolor=face)
        # An interval of two seeds may be many times wider than all others and would squeeze them
        # into a point: the axis follows the means and the median width.
        reach = max(abs(item.mean) for item in differences)
        widths = sorted(item.high - item.low for item in differences)
        reach = max(2 * reach, widths[len(widths) // 2]) or 1.0
        low, high = axes.get_xlim()
        axes.set_xlim(max(low, -1.5 * reach), min(high, 1.5 * reach))
        axes.set_xlabel(title)
        _rows(axes, names)

    return draw, (8.5, 1.2 + 0.34 * len(names))


def curves_figure(
    panels: Mapping[str, Mapping[str, Curve]], control: str | None
) -> tuple[Draw, tuple]:
    """Return a panel for each metric and group of arms, the control grey in each.

    Args:
        panels: axis label to the curve of each arm: steps, mean, low, high.
        control: the arm that is drawn into every panel.
    """
    arms = list(dict.fromkeys(arm for curves in panels.values() for arm in curves))
    others = [arm for arm in arms if arm != control]
    # Five lines in a panel can be told apart: the control and four arms.
    groups = [others[i : i + ARMS_PER_PANEL] for i in range(0, len(others), ARMS_PER_PANEL)] or [[]]
    # Few arms: the metrics stand side by side. Many: each group is a column of its own.
    rows, columns = len(panels), len(groups)
    if columns == 1:
        columns = min(3, rows)
        rows = -(-rows // columns)

    def draw(figure: Figure, theme: Theme) -> None:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
        # Whatever the shape of the grid, panel i and group j stand at flat place i len(groups) + j.
        for axes in grid.flat[len(panels) * len(groups) :]:
            axes.set_axis_off()
        for index, (label, curves) in enumerate(panels.items()):
            line = grid.flat[index * len(groups) : (index + 1) * len(groups)]
            for axes, group in zip(line, groups, strict=True):
                _draw_group(axes, curves, group, control, theme)
                axes.set_ylim(*_limits(curves))
                if index * len(groups) >= (rows - 1) * columns:  # the last row
                    axes.set_xlabel("optimizer step")
            line[0].set_ylabel(label)
        for column, group in enumerate(groups):
            names = ([control] if control is not None else []) + group
            colors = ([theme.muted] if control is not None else []) + [
                color_of(index, theme) for index in range(len(group))
            ]
            handles = [Line2D([], [], color=color, linewidth=2) for color in colors]
            if len(groups) == 1:
                figure.legend(handles, names, frameon=False, loc="outside upper center", ncols=5)
            else:
                grid[0][column].legend(handles, names, frameon=False, fontsize=8.5,
                                       loc="lower center", bbox_to_anchor=(0.5, 1.0))  # fmt: skip

    return draw, (1.2 + 3.3 * columns, 1.0 + 2.2 * rows)


def _draw_group(
    axes: Axes,
    curves: Mapping[str, Curve],
    group: Sequence[str],
    control: str | None,
    theme: Theme,
) -> None:
    tidy(axes, theme)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    if control is not None and control in curves:
        _draw_curve(axes, curves[control], theme.muted)
    for index, arm in enumerate(group):
        if arm in curves:
            _draw_curve(axes, curves[arm], color_of(index, theme))


def _limits(curves: Mapping[str, Curve]) -> tuple[float, float]:
    """Return limits that follow the means: the t-interval of two seeds would dwarf every line."""
    low = min(float(curve.mean.min()) for curve in curves.values())
    high = max(float(curve.mean.max()) for curve in curves.values())
    margin = 0.15 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def _draw_curve(axes: Axes, curve: Curve, color: str) -> None:
    few = len(curve.steps) < 25  # too few points for a moving average: show each
    width = 1 if few else 5
    axes.plot(curve.steps, smooth(curve.mean, width), color=color, linewidth=1.6,
              marker="o" if few else None, markersize=3)  # fmt: skip
    if not np.isnan(curve.low).any():
        axes.fill_between(curve.steps, smooth(curve.low, width), smooth(curve.high, width),
                          color=color, alpha=0.15, linewidth=0)  # fmt: skip


def sweep_figure(
    field: str, values: Sequence[Any], panels: Mapping[str, Mapping[str, Sequence[Dots | None]]]
) -> tuple[Draw, tuple]:
    """Return a panel for each number: a line per arm over the swept values, with intervals."""
    # type() and not isinstance: booleans are integers, and have no place on an axis.
    numeric = all(type(value) in (int, float) for value in values)
    places = list(values) if numeric else list(range(len(values)))

    def draw(figure: Figure, theme: Theme) -> None:
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (title, arms) in zip(grid, panels.items(), strict=True):
            tidy(axes, theme)
            for index, (arm, dots) in enumerate(arms.items()):
                kept = [(x, d) for x, d in zip(places, dots, strict=True) if d is not None]
                if not kept:
                    continue
                x = [place for place, _ in kept]
                style: Any = {"color": color_of(index, theme), "linewidth": 1.6, "label": arm}
                # Colours repeat after the palette's last one; the line style then tells arms apart.
                style["linestyle"] = "-" if index < len(theme.colors) else "--"
                axes.plot(x, [d.mean for _, d in kept], marker="o", markersize=4, **style)
                for place, d in kept:
                    axes.plot([place, place], [d.low, d.high], color=style["color"], alpha=0.5)
            # Learning rates are swept by factors.
            if numeric and min(places) > 0 and max(places) >= 5 * min(places):
                axes.set_xscale("log")
                axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticks(places, [f"{v:g}" if numeric else str(v) for v in values])
            axes.set_xlabel(field)
            axes.set_ylabel(title)
            _spread_out(axes, [d.mean for dots in arms.values() for d in dots if d is not None])
        figure.legend(*grid[0].get_legend_handles_labels(), frameon=False,
                      loc="outside lower center", ncols=4)  # fmt: skip

    return draw, (4.2 * len(panels), 4.3)


def _spread_out(axes: Axes, values: Sequence[float]) -> None:
    """Draw values over more than two decades on a logarithmic axis, except shares of a whole."""
    is_share = axes.get_ylabel().endswith("(%)")
    if not is_share and values and min(values) > 0 and max(values) > 100 * min(values):
        axes.set_yscale("log")


def scatter_figure(
    label: str, points: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]
) -> tuple[Draw, tuple]:
    """Return, for each number, every run at its accuracy: what an equal gain has cost.

    Args:
        label: of the horizontal axis.
        points: axis label to the (accuracy, number) of each arm's runs.
    """

    def draw(figure: Figure, theme: Theme) -> None:
        grid = figure.subplots(1, len(points), squeeze=False)[0]
        for axes, (title, arms) in zip(grid, points.items(), strict=True):
            tidy(axes, theme)
            for index, (arm, pairs) in enumerate(arms.items()):
                # With more arms than colours the marker tells them apart.
                marker = "os^Dv"[index // len(theme.colors) % 5]
                x, y = zip(*pairs, strict=True) if pairs else ((), ())
                axes.plot(x, y, marker, color=color_of(index, theme), markersize=4.5, alpha=0.8,
                          label=arm)  # fmt: skip
            axes.set_xlabel(label)
            axes.set_ylabel(title)
            _spread_out(axes, [y for pairs in arms.values() for _, y in pairs])
        figure.legend(*grid[0].get_legend_handles_labels(), frameon=False,
                      loc="outside lower center", ncols=4)  # fmt: skip

    return draw, (4.2 * len(points), 4.3)
