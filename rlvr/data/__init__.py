"""Datasets in the one row schema: ``id, problem, answer, source``. Importing registers them."""

from rlvr.data.datasets import Row, load_rows, parse_dataset, render

__all__ = ["Row", "load_rows", "parse_dataset", "render"]
