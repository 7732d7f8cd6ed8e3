"""Two checkpoints into one row per target matrix: opened, paired, streamed, summed up."""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from tqdm import tqdm

from rlvr import runtime
from rlvr.checkpoints.plain import Stored
from rlvr.geometry.findings import pooled, verdicts_of
from rlvr.geometry.matrix import MASKS, Measured, Settings, measure
from rlvr.geometry.names import Pair, place_of
from rlvr.geometry.storage import NULLS
from rlvr.schema import RecipeError

_BUDGET = 1.8 * 2**30  # bytes that all workers together may hold
_COPIES = 65  # bytes per entry of the matrix that a worker holds at its peak, measured
Item = TypeVar("Item")
Result = TypeVar("Result")


def read_pair(pair: Pair, paths: Sequence[Path]) -> tuple[Tensor, Tensor]:
    """Read both matrices; refuse what has no geometry, with the name of the tensor."""
    read = [
        _read(pair, side, path) for side, path in zip((pair.base, pair.tuned), paths, strict=True)
    ]
    return read[0], read[1]


def _read(pair: Pair, stored: Stored, path: Path) -> Tensor:
    tensor = stored.load()
    if tensor.dtype.itemsize == 1:
        tensor = tensor.float()  # float8 has no arithmetic, and every value of it is a float32
    if not tensor.numel():
        raise RecipeError(f"{path}: {pair.name!r} is empty, of shape {list(tensor.shape)}")
    if not bool(tensor.isfinite().all()):
        what = "NaN" if bool(tensor.isnan().any()) else "infinity"
        raise RecipeError(
            f"{path}: {pair.name!r} holds {what}; a broken checkpoint has no geometry, take an "
            "earlier one"
        )
    return tensor


def workers_for(largest: int, device: torch.device) -> int:
    """Return how many matrices of up to ``largest`` entries are measured at a time."""
    if device.type != "cpu":
        return 1
    return max(1, min(runtime.cores(), int(_BUDGET // (_COPIES * largest))))


@contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Yield threads that share the cores; the process's own number of threads returns after."""
    before, threads = torch.get_num_threads(), max(1, runtime.cores() // workers)
    # Threads, not processes: LAPACK runs outside the interpreter's lock, and imports cost memory.
    # SciPy's LAPACK keeps threads of its own.
    with (
        threadpool_limits(threads),
        ThreadPoolExecutor(workers, initializer=lambda: torch.set_num_threads(threads)) as pool,
    ):
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)


def stream(
    items: Sequence[Item], work: Callable[[Item], Result], workers: int, unit: str
) -> list[Result]:
    """Return ``work`` of every item, in order, a few at a time, under a progress bar."""
    with _pool(workers) as pool:
        bar = tqdm(
            total=len(items),
            desc="geometry",
            unit=unit,
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 15,
        )
        with bar:
            futures: list[Future[Result]] = [pool.submit(work, item) for item in items]
            for future in futures:
                future.add_done_callback(lambda _: bar.update())
            return [future.result() for future in futures]


def measure_pairs(
    pairs: Sequence[Pair], paths: Sequence[Path], settings: Settings, device: torch.device
) -> list[Measured]:
    """Measure every pair, the matrices of a few at a time in memory."""

    def work(pair: Pair) -> Measured:
        base, tuned = read_pair(pair, paths)
        quantised = any(side.bits < 16 for side in (pair.base, pair.tuned))
        measured = measure(pair.name, base, tuned, settings, device, quantised=quantised)
        place = place_of(pair.name, pair.base.shape) | {"dtype": pair.tuned.dtype}
        return Measured(place | measured.row, measured.vectors)

    largest = max(pair.entries for pair in pairs)
    measured = stream(pairs, work, workers_for(largest, device), "matrix")
    found = verdicts_of([item.row for item in measured])
    for item, word in zip(measured, found, strict=True):
        item.row["verdict"] = word
    return measured


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the numbers of a whole checkpoint, over all target matrices and by kind.

    Sparsities are weighted by entries, overlaps (and what random places give) by moved entries,
    ``energy_off_principal`` by the energy of the update; NSS and angles are plain means and maxima.
    """
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(row["kind"], []).append(row)
    total, by_kind = _totals(rows), {kind: _totals(part) for kind, part in kinds.items()}
    for row, word in zip(by_kind.values(), verdicts_of(list(by_kind.values())), strict=True):
        row["verdict"] = word
    return {"all": total | {"verdict": verdicts_of([total])[0]}, "by_kind": by_kind}


def _totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    entries = [row["rows"] * row["cols"] for row in rows]
    moved = [n * (1 - row["sparsity_bf16"]) for n, row in zip(entries, rows, strict=True)]
    energy = [row["update_norm"] ** 2 for row in rows]
    totals: dict[str, Any] = {"matrices": len(rows), "entries": sum(entries)}
    for key in ("sparsity_bf16", "sparsity_exact", "sparsity_atol", "below_half_ulp"):
        totals[key] = _mean(rows, key, entries)
    for key in ("nss", "max_angle_left_deg", "max_angle_right_deg"):
        # A subspace of most directions hardly can turn: its angles are not mixed with others'.
        kept = [row for row in rows if key == "nss" or 2 * row["angle_rank"] <= _side(row)]
        totals[f"mean_{key}"] = _mean(kept, key, [1.0] * len(kept))
        totals[f"max_{key}"] = max((r[key] for r in kept if not math.isnan(r[key])), default=None)
    totals["angles_of"] = sum(2 * row["angle_rank"] <= _side(row) for row in rows)
    for key in ("energy_off_principal", "energy_off_principal_random"):
        totals[key] = _mean(rows, key, energy)
    for mask in MASKS:
        key = f"overlap_{mask}"
        totals[key] = _mean(rows, key, moved)
        totals[f"{key}_random"] = _mean(rows, f"density_{mask}", moved)
        totals[f"density_{mask}"] = _mean(rows, f"density_{mask}", entries)
        # Weighted as the overlap itself, so that like is compared with like.
        for null in ("", *(f"_{name}" for name in NULLS)):
            totals[f"{key}_null{null}"] = _mean(rows, f"{key}_null{null}", moved)
    totals["same_bits"] = all(row["same_bits"] for row in rows)
    totals["moved"] = sum(moved) / sum(entries)
    totals["relative"] = sum(n for n, r in zip(moved, rows, strict=True) if r["relative"]) > (
        sum(moved) / 2
    )
    return totals | pooled(rows, moved)


def _side(row: Mapping[str, Any]) -> int:
    return min(row["rows"], row["cols"])


def _mean(rows: Sequence[Mapping[str, Any]], key: str, weights: Sequence[float]) -> float | None:
    """Return the weighted mean over the rows that define ``key``; ``None`` where none does."""
    kept = [
        (row[key], weight)
        for row, weight in zip(rows, weights, strict=True)
        if row[key] is not None and not math.isnan(row[key])
    ]
    total = sum(weight for _, weight in kept)
    return sum(value * weight for value, weight in kept) / total if total else None
