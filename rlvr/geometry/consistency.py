"""Several runs from one base: do they move the same weights? And one run over its steps."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlvr.geometry import overlap as ov
from rlvr.geometry import sparsity
from rlvr.geometry.compare import read_pair, stream, workers_for
from rlvr.geometry.evidence import GROUPS, LEAST_GROUPS, interval
from rlvr.geometry.matrix import Measured
from rlvr.geometry.names import Pair, place_of
from rlvr.geometry.table import PLACE

COLUMNS: dict[str, tuple[str, str]] = {
    **PLACE,
    "runs": ("", "number of runs R; M_r = bf16(W0) != bf16(W_r), p_r = |M_r| / n"),
    "moved_mean": ("share", "mean of p_r over the runs"),
    "jaccard": ("", "mean over pairs of |M_r & M_s| / |M_r or M_s|, pairs of two empty masks out"),
    "jaccard_random": ("", "mean over the same pairs of p q / (p + q - p q): independent masks"),
    "jaccard_rounding": (
        "",
        "mean over the same pairs of sum_c n_c p_c q_c / sum_c n_c (p_c + q_c - p_c q_c) over "
        "classes c of W0 that bf16 treats alike (an eighth of a binade; where W0 is stored more "
        "finely than bf16, a binade and the distance to the next rounding point): runs that agree "
        "on nothing but what rounding shows",
    ),
    "jaccard_error": ("", "standard error of jaccard - jaccard_rounding, by rows and columns"),
    "jaccard_from": ("", "lower end of the 95 % interval of jaccard"),
    "jaccard_to": ("", "upper end"),
    "moved_in_all": ("share", "share of entries with consensus C = (1/R) sum_r M_r = 1"),
    "moved_in_all_random": ("share", "product of p_r: independent masks"),
    "moved_in_none": ("share", "share of entries with C = 0"),
    "moved_in_none_random": ("share", "product of 1 - p_r"),
    "row_spread": (
        "",
        "standard deviation over rows of the mean of C, divided by that of independent entries, "
        "sqrt(sum_r p_r (1 - p_r) / (R^2 cols)): 1 is random, more is stripes",
    ),
    "col_spread": ("", "the same over columns"),
}
STEP_COLUMNS: dict[str, tuple[str, str]] = {
    "step": ("", "optimizer step of the checkpoint"),
    "sparsity_bf16": ("share", "share of target entries with the base's bf16 value"),
    "sparsity_exact": ("share", "share of target entries equal to the base as stored"),
    "previous_step": ("", "step of the checkpoint before; empty for the first: the base"),
    "sparsity_bf16_from_previous": ("share", "share with the bf16 value of that checkpoint"),
    "sparsity_exact_from_previous": ("share", "share equal to that checkpoint as stored"),
}


def agree(base: Tensor, masks: Sequence[Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the columns of one matrix from the bf16 update masks of its runs, and profiles."""
    jaccard, chance = ov.pairwise_jaccard(masks)
    rounding, error = ov.pairwise_jaccard_rounding(base, masks)
    shares = [ov.density(mask) for mask in masks]
    ratio = ov.consensus(masks)
    rows, columns = ratio.shape
    profiles = {"row_profile": ratio.mean(1), "col_profile": ratio.mean(0)}
    numbers = {
        "runs": len(masks),
        "moved_mean": sum(shares) / len(shares),
        "jaccard": jaccard,
        "jaccard_random": chance,
        "jaccard_rounding": rounding,
        "jaccard_error": error,
        "moved_in_all": ov.density(ratio == 1),
        "moved_in_all_random": math.prod(shares),
        "moved_in_none": ov.density(ratio == 0),
        "moved_in_none_random": math.prod(1 - share for share in shares),
    }
    freedom = min(GROUPS, rows, columns) - 1
    freedom = freedom if freedom + 1 >= LEAST_GROUPS else 0
    numbers["jaccard_from"], numbers["jaccard_to"] = interval(jaccard, error, freedom)
    # Variance of the consensus of one entry, were the runs independent.
    variance = sum(share * (1 - share) for share in shares) / len(shares) ** 2
    for axis, length in (("row", columns), ("col", rows)):
        spread = float(profiles[f"{axis}_profile"].std(correction=0))
        scale = math.sqrt(variance / length)
        numbers[f"{axis}_spread"] = spread / scale if scale else math.nan
    return numbers, profiles


def measure_runs(
    pairs: Sequence[Sequence[Pair]], base: Path, tuned: Sequence[Path], device: torch.device
) -> list[Measured]:
    """Measure the agreement of runs, matrix by matrix; ``pairs`` holds a list for each run."""

    def work(own: Sequence[Pair]) -> Measured:
        masks, weight = [], torch.empty(0)
        for pair, path in zip(own, tuned, strict=True):
            weight, second = (tensor.to(device) for tensor in read_pair(pair, (base, path)))
            masks.append(sparsity.update_mask_bf16(weight, second))
        numbers, profiles = agree(weight, masks)
        pair = own[0]
        row = place_of(pair.name, pair.base.shape) | numbers
        return Measured(row, {key: value.cpu() for key, value in profiles.items()})

    items = list(zip(*pairs, strict=True))
    workers = workers_for(max(pair.entries for pair in pairs[0]), device)
    return stream(items, work, workers, "matrix")


def measure_step(
    pairs: Sequence[Pair], paths: tuple[Path, Path], device: torch.device
) -> tuple[float, float]:
    """Return the bf16-aware and the exact sparsity of one checkpoint against another."""

    def work(pair: Pair) -> tuple[float, float]:
        first, second = (tensor.to(device) for tensor in read_pair(pair, paths))
        both = sparsity.update_sparsity(first, second), sparsity.sparsity_exact(first, second)
        return both[0] * pair.entries, both[1] * pair.entries

    workers = workers_for(max(pair.entries for pair in pairs), device)
    shares = stream(pairs, work, workers, "matrix")
    entries = sum(pair.entries for pair in pairs)
    return sum(a for a, _ in shares) / entries, sum(b for _, b in shares) / entries


def summarise_runs(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return plain means over matrices, of all and by kind."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(row["kind"], []).append(row)
    by_kind = {kind: _means(part) for kind, part in kinds.items()}
    return {"all": _means(rows), "by_kind": by_kind}


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {"matrices": len(rows)}
    for key in list(COLUMNS)[6:]:  # after the five columns of the place, and the number of runs
        values = [row[key] for row in rows if not math.isnan(row[key])]
        means[key] = sum(values) / len(values) if values else None
    if means["jaccard"] is not None:
        error = _error_of_mean(rows)
        means["jaccard_error"] = error
        ends = interval(means["jaccard"], error, GROUPS - 1)
        means["jaccard_from"], means["jaccard_to"] = ends
    return means


def _error_of_mean(rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the error of the mean excess: from the matrices' own, or from how they differ."""
    kept = [row for row in rows if not math.isnan(row["jaccard_error"])]
    within = math.sqrt(sum(row["jaccard_error"] ** 2 for row in kept)) / max(1, len(kept))
    if len(kept) < LEAST_GROUPS:
        return within
    excess = [row["jaccard"] - row["jaccard_rounding"] for row in kept]
    return max(within, statistics.stdev(excess) / math.sqrt(len(kept)))
