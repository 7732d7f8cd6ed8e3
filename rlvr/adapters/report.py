"""What an adapter holds before its first step, by kind of matrix."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rlvr.adapters.factors import Matrix


def start_row(matrix: Matrix, first: Tensor, second: Tensor, scaling: float) -> dict[str, Any]:
    r"""Return what the factors A and B of one matrix hold of it.

    ``share`` is :math:`\|s B A\|_F / \|W_0\|_F`. ``overlap`` is
    :math:`\|U_r^\top Q\|_F^2 / \mathrm{rank}(Q)`, Q an orthonormal basis of B's columns and
    :math:`U_r` the top-r left singular vectors of W0: 1 for principal directions, r / m for random
    ones (``overlap_random``); ``None`` where B = 0 spans nothing.
    """
    rank, rows = first.shape[0], matrix.weight.shape[0]
    # ||B A||_F^2 = trace(A^T B^T B A): two r x r products in place of an m x n one.
    held = ((second.T @ second) * (first @ first.T)).sum().clamp(min=0).sqrt()
    row: dict[str, Any] = {
        "share": float(scaling * held / matrix.weight.norm()),
        "overlap": None,
        "overlap_random": rank / rows,
    }
    if bool(second.any()):
        basis = torch.linalg.qr(second).Q
        # Randomized is enough here: the number is shown with four digits and trains nothing.
        left, _, _ = matrix.top(rank, "randomized")
        row["overlap"] = float((left.T @ basis).square().sum() / basis.shape[1])
    return row


def summarise(rows: Mapping[str, dict[str, Any]], trained: Mapping[str, int]) -> dict[str, Any]:
    """Return the mean of each number by kind of matrix, with counts of trainable parameters.

    Args:
        rows: ``start_row`` of each target module; empty for a method of PEFT's own.
        trained: the trainable parameters of each target module.
    """
    kinds: dict[str, list[str]] = {}
    for name in trained:
        kinds.setdefault(name.rsplit(".", 1)[-1], []).append(name)
    report = {}
    for kind, names in kinds.items():
        entry: dict[str, Any] = {
            "matrices": len(names),
            "trainable": sum(trained[name] for name in names),
        }
        for key in ("share", "overlap", "overlap_random"):
            values = [rows[name][key] for name in names if name in rows]
            # MiCA and LoRA have matrices without an overlap: B or A is 0.
            known = [value for value in values if value is not None]
            entry[key] = math.fsum(known) / len(known) if known else None
        report[kind] = entry
    return report


def describe(report: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the report as a table of one screen."""
    header = ("trainable", "share of |W|", "overlap", "at random")
    lines = [f"{'matrices':<14}{'count':>6}" + "".join(f"{title:>14}" for title in header)]
    for kind, row in report.items():
        numbers = [
            "-" if row[key] is None else f"{row[key]:.4f}"
            for key in ("share", "overlap", "overlap_random")
        ]
        cells = "".join(f"{cell:>14}" for cell in [f"{row['trainable']:,}", *numbers])
        lines.append(f"{kind:<14}{row['matrices']:>6}{cells}")
    total = sum(row["trainable"] for row in report.values())
    lines.append(f"{'all':<14}{sum(r['matrices'] for r in report.values()):>6}{total:>14,}")
    return "\n".join(lines)
