"""Light and dark figures of a report: one drawing, two sets of colours.

Colours are those of Okabe and Ito, which colour-blind readers tell apart.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#333333")
KIND_ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
DPI = 144


@dataclass(frozen=True)
class Theme:
    """Colours of text, of what is muted, of the page, and of the heat map."""

    ink: str
    muted: str
    grid: str
    page: str
    colors: tuple[str, ...]
    heat: str


LIGHT = Theme("#1f2328", "#6b7280", "#e6e8eb", "#ffffff", PALETTE, "YlGnBu")
DARK = Theme(
    "#e6e8eb", "#98a1ad", "#2d333b", "#161a20",
    ("#5aa9e6", "#ff8a4c", "#3fca9b", "#e59ac5", "#f2b84b", "#8ad0f5", "#b491d6", "#c9ced6"),
    "GnBu_r",
)  # fmt: skip
THEMES = {"light": LIGHT, "dark": DARK}
Draw = Callable[[Figure, Theme], None]


def png(draw: Draw, size: tuple[float, float], theme: Theme) -> bytes:
    """Return ``draw`` on a figure of ``size`` inches as a PNG in the colours of ``theme``."""
    style: Any = {
        "font.size": 10,
        "axes.titlesize": 10.5,
        "axes.facecolor": theme.page,
        "axes.edgecolor": theme.muted,
        "axes.labelcolor": theme.ink,
        "axes.titlecolor": theme.ink,
        "figure.facecolor": theme.page,
        "savefig.facecolor": theme.page,
        "text.color": theme.ink,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelcolor": theme.ink,
        "ytick.labelcolor": theme.ink,
        "legend.labelcolor": theme.ink,
        "axes.formatter.limits": (-4, 5),
    }
    # Figure and canvas by hand: pyplot keeps global state, which threads and tests would share.
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, dpi=DPI)
        figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.08)
        draw(figure, theme)
        buffer = io.BytesIO()
        FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def smooth(values: Sequence[float] | np.ndarray, window: int = 5) -> np.ndarray:
    """Return the centred moving average; at the ends over the part of the window that exists."""
    kernel = np.ones(min(window, len(values)))
    # "same" pads with zeros; dividing by the smoothed ones takes the padding out again.
    total = np.convolve(np.asarray(values, dtype=float), kernel, mode="same")
    return total / np.convolve(np.ones(len(values)), kernel, mode="same")


def tidy(axes: Axes, theme: Theme) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)


def ordered_kinds(kinds: Sequence[str]) -> list[str]:
    """Return each kind once: attention, then MLP, then what has another name."""
    place = {kind: index for index, kind in enumerate(KIND_ORDER)}
    return sorted(set(kinds), key=lambda kind: (place.get(kind, math.inf), kind))


def color_of(index: int, theme: Theme) -> str:
    return theme.colors[index % len(theme.colors)]
