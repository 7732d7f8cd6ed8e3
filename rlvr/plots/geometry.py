"""The figures of a geometry report: spectra, angles, overlaps, sparsities and stripes."""

from collections.abc import Mapping, Sequence
from textwrap import fill, shorten
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from rlvr.geometry.storage import NULLS
from rlvr.plots.theme import Draw, Theme, color_of, ordered_kinds, smooth, tidy

Row = Mapping[str, Any]
Vectors = Mapping[str, np.ndarray]
Floats = NDArray[np.floating]

MASK_TITLES = {
    "principal": "principal weights",
    "low": "smallest weights",
    "principal_not_low": "principal and not small",
}
_TINY = 1e-12  # below every relative change that float64 resolves


def spectra_figure(names: Sequence[str], vectors: Sequence[Vectors]) -> tuple[Draw, tuple]:
    """Return singular values before and after, and their relative change, of a few matrices."""

    def draw(figure: Figure, theme: Theme) -> None:
        panels = figure.subplots(2, len(names), squeeze=False, sharex="col")
        for column, (name, vector) in enumerate(zip(names, vectors, strict=True)):
            top, bottom = panels[0][column], panels[1][column]
            before, after = vector["before"], vector["after"]
            index = np.arange(1, len(before) + 1)
            tidy(top, theme)
            tidy(bottom, theme)
            top.semilogy(index, before, color=theme.muted, linewidth=4, alpha=0.45, label="base")
            top.semilogy(index, after, color=color_of(1, theme), linewidth=1.3, label="tuned")
            top.set_title(name)
            _draw_change(bottom, index, before, vector.get("null"), theme.muted, "shuffled update")
            _draw_change(bottom, index, before, after, color_of(0, theme), "this update")
            bottom.set_xlabel("index of the singular value")
        panels[0][0].set_ylabel("singular value")
        panels[1][0].set_ylabel("relative change")
        panels[0][0].legend(frameon=False)
        if panels[1][0].get_lines():
            panels[1][0].legend(frameon=False)
        else:
            panels[1][0].text(0.5, 0.5, "no change", color=theme.muted, ha="center",
                              transform=panels[1][0].transAxes)  # fmt: skip

    return draw, (3.6 * len(names) + 0.6, 5.4)


def _draw_change(
    axes: Axes,
    index: NDArray[np.integer],
    before: Floats,
    after: Floats | None,
    color: str,
    label: str,
) -> None:
    if after is None or not before.max():
        return
    # The floor keeps singular values of 0 from dividing by 0.
    change = np.abs(after - before) / np.maximum(before, _TINY * before.max())
    if change.max() > 0:
        # A logarithmic axis cannot show 0: no change stands at the floor.
        axes.semilogy(index, np.maximum(change, _TINY), color=color, linewidth=1.0, label=label)


def angles_figure(rows: Sequence[Row]) -> tuple[Draw, tuple]:
    """Return the largest principal angle of each matrix by block, left and right subspaces."""
    kinds = ordered_kinds([row["kind"] for row in rows])

    def draw(figure: Figure, theme: Theme) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, side in zip(panels, ("left", "right"), strict=True):
            tidy(axes, theme)
            for index, kind in enumerate(kinds):
                own = [row for row in rows if row["kind"] == kind]
                x = _places(own, rows)
                color = color_of(index, theme)
                # The null is missing with --fast, for all matrices alike.
                null = [row[f"max_angle_{side}_null_deg"] for row in own]
                if all(value is not None for value in null):
                    axes.plot(x, null, ":", color=color, linewidth=1.2, alpha=0.8)
                y = [row[f"max_angle_{side}_deg"] for row in own]
                axes.plot(x, y, "o-", color=color, markersize=4, linewidth=1.6)
            axes.set_title(f"{side} subspace ({'outputs' if side == 'left' else 'inputs'})")
            axes.set_xlabel("block")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        # The panels share an axis, so that both sides decide on its scale.
        sides = ("max_angle_left_deg", "max_angle_right_deg")
        _log_if_wide(panels[0], [row[side] for row in rows for side in sides])
        panels[0].set_ylabel("largest angle (degrees)")
        handles = [Line2D([], [], color=color_of(i, theme), marker="o") for i in range(len(kinds))]
        labels = list(kinds)
        if any(row["max_angle_left_null_deg"] is not None for row in rows):
            handles.append(Line2D([], [], color=theme.muted, linestyle=":"))
            labels.append("shuffled update")
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)),
                      frameon=False)  # fmt: skip

    return draw, (9.6, 4.6)


def _places(own: Sequence[Row], rows: Sequence[Row]) -> list[int]:
    """Return the blocks of ``own``; matrices outside of blocks stand before the first."""
    return [-1 if row["layer"] is None else row["layer"] for row in own]


def _log_if_wide(axes: Axes, values: Sequence[float]) -> None:
    positive = [value for value in values if value > 1e-9]  # NaN is not
    # From 30 times on, the small ones would lie on a linear axis's bottom.
    if positive and max(positive) > 30 * min(positive):
        axes.set_yscale("log")
        axes.set_ylim(bottom=min(positive) / 2)
    else:
        axes.set_ylim(bottom=0)


def overlap_figure(by_kind: Mapping[str, Row], total: Row) -> tuple[Draw, tuple]:
    """Return the overlap with each mask, next to chance and to what only rounding shows."""
    kinds = ordered_kinds(list(by_kind))
    lines = [("all", total), *((kind, by_kind[kind]) for kind in kinds)]

    def draw(figure: Figure, theme: Theme) -> None:
        panels = figure.subplots(1, len(MASK_TITLES), sharey=True)
        for axes, (mask, title) in zip(panels, MASK_TITLES.items(), strict=True):
            tidy(axes, theme)
            axes.grid(visible=False, axis="y")
            for place, (_, row) in enumerate(lines):
                _draw_overlap(axes, place, row, mask, theme)
            axes.set_title(title)
            axes.xaxis.set_major_formatter(PercentFormatter(1))
            axes.margins(x=0.12)
            _widen(axes, 0.04)
            axes.set_xlabel("share of the moved entries")
        panels[0].set_yticks(range(len(lines)), [name for name, _ in lines])
        panels[0].set_ylim(len(lines) - 0.5, -0.6)
        marks = [
            Line2D([], [], color=color_of(0, theme), marker="o", linestyle="", markersize=8),
            Line2D([], [], color=theme.ink, marker="|", linestyle="", markersize=14),
            Line2D([], [], color=color_of(1, theme), marker="D", linestyle="", fillstyle="none"),
        ]
        labels = ["this update, 95 % interval", "random places", "knows no weights, by storage"]
        figure.legend(marks, labels, loc="outside lower center", ncols=3, frameon=False)

    return draw, (9.6, 1.9 + 0.32 * len(lines))


def _widen(axes: Axes, least: float) -> None:
    """Widen the x axis to ``least``: a tenth of a point must not look like a finding."""
    low, high = axes.get_xlim()
    extra = max(0.0, least - (high - low)) / 2
    axes.set_xlim(low - extra, high + extra)


def _draw_overlap(axes: Axes, place: int, row: Row, mask: str, theme: Theme) -> None:
    share, chance = row[f"overlap_{mask}"], row[f"overlap_{mask}_random"]
    if share is None:
        inside = axes.get_yaxis_transform()
        axes.text(0.5, place, "nothing moved", color=theme.muted, ha="center", va="center",
                  transform=inside)  # fmt: skip
        return
    axes.plot([chance, share], [place, place], color=color_of(0, theme), linewidth=2, alpha=0.4)
    axes.plot(chance, place, "|", color=theme.ink, markersize=16, markeredgewidth=2)
    ends = [row[f"overlap_{mask}_{end}"] for end in ("from", "to")]
    if None not in ends:
        axes.plot(ends, [place, place], color=color_of(0, theme), linewidth=5, alpha=0.7)
    axes.plot(share, place, "o", color=color_of(0, theme), markersize=7)
    for null in NULLS:
        if (value := row[f"overlap_{mask}_null_{null}"]) is not None:
            axes.plot(value, place, "D", color=color_of(1, theme), fillstyle="none", markersize=6)


def sparsity_figure(rows: Sequence[Row]) -> tuple[Draw, tuple]:
    """Return the bf16-aware update sparsity of every matrix as a heat map, block by kind."""
    kinds = ordered_kinds([row["kind"] for row in rows])
    layers = sorted({-1 if row["layer"] is None else row["layer"] for row in rows})
    # Several matrices of a kind in a block (experts) are averaged; a missing one stays empty.
    sums, counts = np.zeros((2, len(kinds), len(layers)))
    for row in rows:
        at = kinds.index(row["kind"]), layers.index(-1 if row["layer"] is None else row["layer"])
        sums[at] += row["sparsity_bf16"]
        counts[at] += 1
    shares = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        image = axes.imshow(shares, aspect="auto", cmap=theme.heat, interpolation="nearest")
        names = ["-" if layer < 0 else str(layer) for layer in layers]
        step = max(1, len(layers) // 16)  # at most about 16 ticks, however deep the model
        axes.set_xticks(range(0, len(layers), step), names[::step])
        axes.set_yticks(range(len(kinds)), kinds)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("block")
        bar = figure.colorbar(image, ax=axes, pad=0.02, format=PercentFormatter(1, decimals=1))
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
        bar.set_label("share of entries unchanged")
        if len(layers) <= 16:
            _write_cells(axes, shares)

    return draw, (9.6, 1.7 + 0.34 * len(kinds))


def _write_cells(axes: Axes, shares: np.ndarray) -> None:
    image = axes.get_images()[0]
    for (line, column), share in np.ndenumerate(shares):
        if np.isfinite(share):
            red, green, blue, _ = image.cmap(image.norm(share))
            # Perceived brightness (ITU-R BT.601) decides on white or black digits.
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.55
            axes.text(column, line, f"{100 * share:.1f}", ha="center", va="center", fontsize=8.5,
                      color="#ffffff" if dark else "#1f2328")  # fmt: skip


def card_figure(about: str, numbers: Sequence[tuple[str, str]]) -> tuple[Draw, tuple]:
    """Return a picture of a few numbers, each with what it is, to be posted by itself."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        axes.set_axis_off()
        axes.set_xlim(0, 2)
        axes.set_ylim(0, 2.5)
        axes.text(0.04, 2.3, shorten(about, 70), fontsize=13, color=theme.muted, va="center")
        for place, (number, what) in enumerate(numbers):
            x, y = 0.04 + place % 2, 1.75 - place // 2
            axes.text(x, y, number, fontsize=30, color=color_of(0, theme), weight="bold")
            axes.text(x, y - 0.12, fill(what, 40), fontsize=12, va="top", linespacing=1.4)

    return draw, (8.4, 4.4)


def agreement_figure(by_kind: Mapping[str, Row], total: Row) -> tuple[Draw, tuple]:
    """Return the Jaccard index of runs by kind of matrix, next to that of independent runs."""
    lines = [("all", total), *((kind, by_kind[kind]) for kind in ordered_kinds(list(by_kind)))]

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        tidy(axes, theme)
        axes.grid(visible=False, axis="y")
        for place, (_, row) in enumerate(lines):
            share, chance = row["jaccard"], row["jaccard_random"]
            if share is None:
                continue
            axes.plot([chance, share], [place, place], color=color_of(0, theme), alpha=0.4)
            axes.plot(chance, place, "|", color=theme.ink, markersize=16, markeredgewidth=2)
            axes.plot(row["jaccard_rounding"], place, "D", color=color_of(1, theme),
                      fillstyle="none", markersize=7)  # fmt: skip
            ends = [row["jaccard_from"], row["jaccard_to"]]
            axes.plot(ends, [place, place], color=color_of(0, theme), linewidth=5, alpha=0.7)
            axes.plot(share, place, "o", color=color_of(0, theme), markersize=7)
        axes.set_yticks(range(len(lines)), [name for name, _ in lines])
        axes.set_ylim(len(lines) - 0.5, -0.6)
        axes.margins(x=0.12)
        _widen(axes, 0.04)
        axes.set_xlabel("Jaccard index of the moved entries, mean over pairs of runs")
        marks = [
            Line2D([], [], color=color_of(0, theme), marker="o", linestyle="", markersize=8),
            Line2D([], [], color=theme.ink, marker="|", linestyle="", markersize=14),
            Line2D([], [], color=color_of(1, theme), marker="D", linestyle="", fillstyle="none"),
        ]
        names = ["these runs", "independent runs", "only rounding in common"]
        figure.legend(marks, names, loc="outside lower center", ncols=3, frameon=False)

    return draw, (9.6, 1.6 + 0.32 * len(lines))


def stripes_figure(
    name: str, shape: tuple[int, int], vectors: Vectors, runs: int = 1
) -> tuple[Draw, tuple]:
    """Return the share of moved entries of each row and column of one matrix, with chance.

    With several ``runs`` the profiles are of their consensus, and the chance band is narrower.
    """

    def draw(figure: Figure, theme: Theme) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, axis, length in zip(panels, ("row", "col"), shape[::-1], strict=True):
            tidy(axes, theme)
            profile = vectors[f"{axis}_profile"]
            share = float(profile.mean())
            # Two standard deviations of a mean of ``runs length`` independent entries.
            band = 2 * (max(0.0, share * (1 - share)) / (runs * length)) ** 0.5
            axes.axhspan(share - band, share + band, color=theme.muted, alpha=0.25, linewidth=0,
                         label="95 % of random rows or columns")  # fmt: skip
            index = np.arange(len(profile))
            axes.plot(index, profile, ".", markersize=2.5, color=color_of(0, theme), alpha=0.55)
            # Stripes are wider than single rows: smooth over a 64th of them.
            window = max(3, len(profile) // 64)
            axes.plot(index, smooth(profile.tolist(), window), color=color_of(1, theme),
                      linewidth=1.4, label=f"mean of {window} neighbours")  # fmt: skip
            axes.set_title("rows (outputs)" if axis == "row" else "columns (inputs)")
            axes.set_xlabel(f"{'row' if axis == 'row' else 'column'} of {name}")
        panels[0].set_ylabel("share of entries that moved")
        panels[0].yaxis.set_major_formatter(PercentFormatter(1))
        panels[1].legend(frameon=False, loc="upper right", fontsize=9)

    return draw, (9.6, 3.9)
