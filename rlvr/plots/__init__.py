"""Figures; the only package that knows matplotlib."""

from rlvr.plots.curves import PALETTE, plot_accuracy, plot_curves, smooth

__all__ = ["PALETTE", "plot_accuracy", "plot_curves", "smooth"]
