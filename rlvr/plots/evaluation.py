"""The figures of an evaluation: pass@k, how long completions are, and how hard the problems."""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rlvr.eval import EvalResult
from rlvr.plots.theme import Draw, Theme, color_of, tidy

BINS = 24
COLUMNS = 3


def pass_figure(results: Mapping[str, EvalResult]) -> tuple[Draw, tuple[float, float]]:
    """Return pass@k over k with intervals over problems, a line for each benchmark."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        tidy(axes, theme)
        for index, (name, result) in enumerate(results.items()):
            color = color_of(index, theme)
            ks = list(result.pass_at_k)
            mean, low, high = (
                [100 * getattr(one, end) for one in result.pass_at_k.values()]
                for end in ("mean", "low", "high")
            )
            # One sample is one k: a dot with an interval, and no line.
            marker = "o" if len(ks) == 1 else ""
            axes.plot(ks, mean, color=color, linewidth=2, label=name, marker=marker)
            if len(ks) == 1:
                axes.plot([ks[0], ks[0]], [low[0], high[0]], color=color, linewidth=2)
            else:
                axes.fill_between(ks, low, high, color=color, alpha=0.15, linewidth=0)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("k samples")
        axes.set_ylabel("pass@k (%)")
        axes.set_ylim(0, 100)
        axes.legend(frameon=False)

    return draw, (8.5, 4.2)


def histogram_figure(results: Mapping[str, EvalResult]) -> tuple[Draw, tuple[float, float]]:
    """Return for each benchmark the lengths by outcome, and under them the problems' rates."""
    columns = min(COLUMNS, len(results))
    rows = math.ceil(len(results) / columns)

    def draw(figure: Figure, theme: Theme) -> None:
        grid = figure.subplots(2 * rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_visible(False)
        for index, (name, result) in enumerate(results.items()):
            row, column = divmod(index, columns)
            _lengths(grid[2 * row, column], name, result, theme)
            _rates(grid[2 * row + 1, column], result, theme)

    return draw, (3.4 * columns if columns > 1 else 8.5, 4.6 * rows)


def _lengths(axes, name: str, result: EvalResult, theme: Theme) -> None:
    groups: dict[str, list[int]] = {"correct": [], "wrong": [], "truncated": []}
    for problem in result.problems:
        for right, cut, length in zip(
            problem.right, problem.truncated, problem.lengths, strict=True
        ):
            groups["correct" if right else "truncated" if cut else "wrong"].append(length)
    axes.set_visible(True)
    tidy(axes, theme)
    longest = max(max(group, default=1) for group in groups.values())
    colors = [color_of(place, theme) for place in (2, 1, 3)]
    bins = np.linspace(0, longest, min(BINS, longest) + 1).tolist()
    axes.hist(list(groups.values()), bins, stacked=True, color=colors, label=list(groups))
    axes.set_title(name)
    axes.set_xlabel("tokens")
    axes.set_ylabel("completions")
    axes.legend(frameon=False, fontsize=8)


def _rates(axes, result: EvalResult, theme: Theme) -> None:
    n = result.settings.samples
    axes.set_visible(True)
    tidy(axes, theme)
    shares = [100 * count / n for count in result.counts]
    axes.hist(shares, np.linspace(0, 100, min(n, 20) + 2).tolist(), color=color_of(0, theme))
    axes.set_xlabel(f"% of {n} samples correct")
    axes.set_ylabel("problems")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
