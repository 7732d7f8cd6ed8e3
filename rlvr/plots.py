"""Figures of runs, as PNG files."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

from rlvr.eval import Estimate  # noqa: E402

# Okabe and Ito's palette, distinguishable under every common colour-blindness.
COLOURS = ["#000000", "#D55E00", "#009E73", "#56B4E9", "#CC79A7", "#E69F00", "#0072B2", "#999999"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "savefig.dpi": 150,
}


@contextmanager
def _figure(path: Path, columns: int, width: float, height: float) -> Iterator[list[Axes]]:
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, columns, figsize=(width, height), squeeze=False, layout="constrained"
        )
        yield list(axes[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
        plt.close(figure)


def smooth(values: Sequence[float], window: int = 5) -> np.ndarray:
    """Return the centred moving average; at the ends over the values that there are."""
    kernel = np.ones(window)
    total = np.convolve(values, kernel, mode="same")
    return total / np.convolve(np.ones(len(values)), kernel, mode="same")


def plot_curves(
    runs: Mapping[str, list[dict[str, Any]]], keys: Mapping[str, str], path: Path, title: str
) -> None:
    """Draw one panel per metric and one line per arm over the optimizer steps.

    Args:
        runs: rows of ``metrics.jsonl`` by arm; a row without a key is left out of its panel.
        keys: metric to its axis label with unit.
        path: the PNG to write.
        title: over the first panel.
    """
    with _figure(path, len(keys), 3.4 * len(keys), 3.4) as axes:
        for axis, (key, label) in zip(axes, keys.items(), strict=True):
            for index, (arm, rows) in enumerate(runs.items()):
                points = [(r["step"], r[key]) for r in rows if isinstance(r.get(key), float)]
                if not points:
                    continue
                steps, values = zip(*points, strict=True)
                colour = COLOURS[index % len(COLOURS)]
                many = len(values) > 20
                if many:
                    axis.plot(steps, values, color=colour, alpha=0.18, linewidth=0.8)
                line = smooth(values) if many else np.array(values)
                marker = None if many else MARKERS[index % len(MARKERS)]
                axis.plot(
                    steps, line, color=colour, label=arm, linewidth=1.6, marker=marker, markersize=4
                )
            axis.set(xlabel="optimizer step", ylabel=label)
        axes[0].set_title(title)
        handles, labels = axes[0].get_legend_handles_labels()
        figure = axes[0].figure
        figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels) or 1))


def plot_accuracy(arms: Mapping[str, tuple[Estimate, Estimate]], path: Path, title: str) -> None:
    """Draw each arm's accuracy with its 95 % interval over the band of the base policy."""
    with _figure(path, 1, 6.0, 0.9 + 0.38 * len(arms)) as (axis,):
        before = next(iter(arms.values()))[0]
        axis.axvspan(100 * before.low, 100 * before.high, color="#eeeeee", label="base policy")
        axis.axvline(100 * before.mean, color="#999999", linewidth=1)
        for row, (_, after) in enumerate(arms.values()):
            colour = COLOURS[row % len(COLOURS)]
            axis.plot([100 * after.low, 100 * after.high], [row, row], color=colour, linewidth=2)
            axis.plot(100 * after.mean, row, MARKERS[row % len(MARKERS)], color=colour)
        axis.set_yticks(range(len(arms)), list(arms))
        axis.invert_yaxis()
        axis.set_xlim(0, 100)
        axis.set(xlabel=f"held-out accuracy (%), 95 % interval, n = {before.n}", title=title)
        axis.grid(axis="y", visible=False)
        axis.legend(loc="upper left")
