"""The figures of a curvature measurement: masks against random masks, and who paid the length."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from rlvr.plots.theme import Draw, Theme, color_of, tidy

Row = Mapping[str, Any]
TITLES = {
    "principal": "principal weights",
    "off_principal": "off-principal",
    "low": "smallest weights",
    "safe": "safe mask",
    "principal_not_low": "principal and not small",
}
_TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10)


def masks_figure(rows: Sequence[Row], masks: Mapping[str, Row]) -> tuple[Draw, tuple]:
    """Return the curvature ratio of each mask: all matrices together, and each as a small dot."""
    panels = {
        "ratio": "against random entries",
        "ratio_magnitude": "against random entries of the same magnitudes",
    }

    def draw(figure: Figure, theme: Theme) -> None:
        jitter = np.random.default_rng(0)  # up and down only, so that equal matrices stay visible
        for axes, (key, title) in zip(
            figure.subplots(1, 2, sharey=True, sharex=True), panels.items(), strict=True
        ):
            tidy(axes, theme)
            axes.grid(visible=False, axis="y")
            axes.axvline(1, color=theme.ink, linewidth=1.4)
            for place, mask in enumerate(TITLES):
                own = [row[key] for row in rows if row["mask"] == mask and row[key]]
                y = place + jitter.uniform(-0.28, 0.28, len(own))
                axes.plot(own, y, ".", color=theme.muted, alpha=0.45, markersize=5)
                _interval(axes, place, masks[mask], key, theme)
            axes.set_title(title)
            axes.set_xscale("log")  # twice as sharp and half as sharp are equally far from 1
            axes.xaxis.set_major_locator(FixedLocator(_TICKS))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlabel("mean curvature on the mask / random")
            axes.set_yticks(range(len(TITLES)), list(TITLES.values()))
            axes.set_ylim(len(TITLES) - 0.5, -0.5)
        marks = [
            Line2D([], [], color=color_of(0, theme), marker="o", markersize=7),
            Line2D([], [], color=theme.muted, marker=".", linestyle=""),
        ]
        figure.legend(marks, ["all matrices, 95 % over prompts", "one matrix"], ncols=2,
                      loc="outside lower center", frameon=False)  # fmt: skip

    return draw, (9.6, 3.9)


def _interval(axes: Axes, place: float, row: Row, key: str, theme: Theme) -> None:
    if row[key] is None:
        return
    color = color_of(0, theme)
    axes.plot([row[f"{key}_low"], row[f"{key}_high"]], [place, place], color=color, linewidth=2.4)
    axes.plot(row[key], place, "o", color=color, markersize=7.5)


def length_figure(masks: Mapping[str, Row]) -> tuple[Draw, tuple]:
    """Return the share of the Fisher length on each mask, with its energy and random masks."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        tidy(axes, theme)
        axes.grid(visible=False, axis="y")
        for place, mask in enumerate(TITLES):
            row = masks[mask]
            share = row["share"]
            if share["mean"] is None:
                continue
            color = color_of(0, theme)
            axes.plot([share["low"], share["high"]], [place, place], color=color, linewidth=2.4)
            axes.plot(share["mean"], place, "o", color=color, markersize=7.5)
            axes.plot(row["share_random"], place, "|", color=theme.ink, markersize=18,
                      markeredgewidth=2)  # fmt: skip
            axes.plot(row["share_of_energy"], place, "D", color=color_of(1, theme),
                      fillstyle="none", markersize=7)  # fmt: skip
        axes.set_yticks(range(len(TITLES)), list(TITLES.values()))
        axes.set_ylim(len(TITLES) - 0.5, -0.5)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel("share of the update on the mask")
        marks = [
            Line2D([], [], color=color_of(0, theme), marker="o", markersize=7),
            Line2D([], [], color=theme.ink, marker="|", linestyle="", markersize=14),
            Line2D([], [], color=color_of(1, theme), marker="D", linestyle="", fillstyle="none"),
        ]
        labels = ["Fisher length, 95 % over prompts", "random masks", "squared norm"]
        figure.legend(marks, labels, ncols=3, loc="outside lower center", frameon=False)

    return draw, (9.6, 3.6)
