r"""Is the curvature larger on a mask than on random entries? Statistics of a Fisher diagonal.

Every entry of a target matrix has a cell: which masks hold it (principal or not, low-magnitude or
not) and which of up to 128 equally full bins its :math:`|W_0|` is in. Sums by cell and prompt
decide all:

1. ``ratio``: mean curvature on the mask over that on all entries of the same matrices, which is the
   mean of random masks of the same size in every matrix. Its interval is the percentile bootstrap
   over prompts.
2. ``z_random``: its distance from 1 in standard deviations of those random masks, in closed form
   (drawing without replacement). Entries of a row or column share their curvature, so that a large
   z says little; hence 3.
3. ``z_shuffled``: the same for masks whose rows and columns are shuffled, which keep the mask's
   stripes and lose their places.
4. ``ratio_magnitude``: the ratio to random entries of the same magnitudes. A mask of large weights
   may be sharp only because large weights are.

Prompts are the unit of resampling; entries are not a sample of anything.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlvr.geometry.settings import Settings
from rlvr.masks.builders import generator_for, low_magnitude, principal

Floats = NDArray[np.float64]
Expect = Callable[[Floats], Floats]  # from sums by cell to the mean sum on random masks
BINS = 128  # of the magnitudes of one matrix, fewer where one would have few entries
_FEW = 16
GROUPS = 4  # principal + 2 low
SHUFFLES = 100
_ROUNDING = 1e-9  # relative: a smaller deviation between the sums of two masks is rounding
RESAMPLES = 1000
# Which of the groups (neither, principal, low, both) each mask is made of.
MASKS: dict[str, tuple[int, ...]] = {
    "principal": (1, 3),
    "off_principal": (0, 2),
    "low": (2, 3),
    "safe": (0, 2, 3),
    "principal_not_low": (1,),
}


def cells_of(name: str, weight: Tensor, settings: Settings) -> Tensor:
    """Return the cell of each entry, int16 in 0 .. GROUPS BINS - 1, in the shape of ``weight``.

    The masks are those that ``principal`` and ``low_magnitude`` build, the rank cut to the matrix.
    """
    rank = min(settings.rank, *weight.shape)
    in_principal = principal(weight, name, rank=rank, density=settings.density)
    in_low = low_magnitude(weight, name, density=settings.low_density)
    order = weight.float().abs().reshape(-1).argsort(stable=True)
    bins = torch.empty_like(order)
    count = max(1, min(BINS, len(order) // _FEW))
    # The rank of an entry among the magnitudes, scaled to bins of equal counts.
    bins[order] = torch.arange(len(order), device=order.device) * count // len(order)
    groups = in_principal.long() + 2 * in_low.long()  # 0 .. 3, the numbers in MASKS
    return (groups * BINS + bins.view(weight.shape)).to(torch.int16)


def sum_cells(values: Tensor, cells: Tensor) -> Tensor:
    """Return the sums of ``values`` by cell, float64 on the CPU, GROUPS x BINS."""
    flat = cells.reshape(-1).int()
    sums = torch.bincount(flat, weights=values.reshape(-1).double(), minlength=GROUPS * BINS)
    return sums.view(GROUPS, BINS).cpu()


def shuffled_sums(name: str, diagonal: Tensor, cells: Tensor) -> Floats:
    """Return the sums by group under shuffled rows and columns, SHUFFLES x GROUPS."""
    # Shuffling the diagonal under a fixed mask is shuffling the mask over a fixed diagonal.
    generator = generator_for(name, 0)
    sums = []
    for _ in range(SHUFFLES):
        rows, columns = (torch.randperm(n, generator=generator) for n in diagonal.shape)
        other = diagonal[rows.to(diagonal.device)][:, columns.to(diagonal.device)]
        sums.append(sum_cells(other, cells).sum(1).numpy())
    return np.stack(sums)


def resample(prompts: int) -> Floats:
    """Return how often each prompt is drawn in each bootstrap sample, RESAMPLES x prompts."""
    # Counts instead of indices: a resampled sum is then one matrix product.
    even = np.full(prompts, 1 / prompts)
    return np.random.default_rng(0).multinomial(prompts, even, RESAMPLES).astype(np.float64)


def ratio_interval(above: Floats, below: Floats, draws: Floats) -> tuple[float, float, float]:
    """Return the ratio of two sums over prompts with its 95 % percentile bootstrap interval."""
    drawn = draws @ below  # 0 where every prompt of a sample has none
    ratios = (draws @ above)[drawn > 0] / drawn[drawn > 0]
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(above.sum() / below.sum()), float(low), float(high)


class Table:
    """The sums of M matrices over P prompts, and what masks have in them.

    Args:
        sums: P x M x GROUPS x BINS, of the squared gradients of a prompt's completions.
        counts: M x GROUPS x BINS, entries of each cell.
        squares: M x GROUPS x BINS, sums of the squared estimate of the diagonal.
        shuffled: M x SHUFFLES x GROUPS, from ``shuffled_sums`` of that estimate.
        tokens: P, completion tokens of each prompt.
    """

    def __init__(
        self, sums: Floats, counts: Floats, squares: Floats, shuffled: Floats, tokens: Floats
    ) -> None:
        self.sums, self.counts, self.squares, self.shuffled = sums, counts, squares, shuffled
        self.total = sums.sum(0) / tokens.sum()
        self.draws = resample(len(tokens))

    def row(self, mask: str, matrices: Sequence[int]) -> dict[str, Any]:
        """Return the numbers of one mask on some matrices together; ``None`` where undefined."""
        groups, chosen = list(MASKS[mask]), list(matrices)
        counts, total = self.counts[chosen], self.total[chosen]
        held, entries = counts[:, groups].sum(), counts.sum()
        everywhere = total.sum() / entries
        row: dict[str, Any] = {
            "density": held / entries,
            "mean_curvature": total[:, groups].sum() / held if held else None,
            "mean_curvature_all": everywhere,
        }
        squares, by_size = self.squares[chosen], _by_size(counts, groups)
        # First against masks of the same size, then of the same size in every bin of magnitudes.
        deviation = np.sqrt(_variance(counts, total, squares, groups))
        row |= self._against("ratio", "z_random", chosen, groups, by_size, deviation)
        row["z_shuffled"] = self._z_shuffled(chosen, groups)
        by_bin = _by_magnitude(counts, groups)
        deviation = np.sqrt(_variance_in_bins(counts, total, squares, groups))
        row |= self._against("ratio_magnitude", "z_magnitude", chosen, groups, by_bin, deviation)
        return row

    def _against(
        self,
        key: str,
        z_key: str,
        chosen: list[int],
        groups: list[int],
        expect: Expect,
        deviation: float,
    ) -> dict[str, Any]:
        """Return the ratio to what ``expect`` says of random masks, its interval, and z."""
        total = self.total[chosen]
        observed, expected = total[:, groups].sum(), expect(total)
        keys = (key, f"{key}_low", f"{key}_high")
        if not expected > 0 or deviation <= _ROUNDING * expected:
            return {**dict.fromkeys(keys), z_key: None}  # no random masks, or they cannot differ
        sums = self.sums[:, chosen]
        values = ratio_interval(sums[:, :, groups].sum((1, 2, 3)), expect(sums), self.draws)
        row: dict[str, Any] = dict(zip(keys, values, strict=True))
        row[z_key] = float((observed - expected) / deviation)
        return row

    def _z_shuffled(self, chosen: list[int], groups: list[int]) -> float | None:
        observed = self.total[chosen][:, groups].sum()
        draws = self.shuffled[chosen][:, :, groups].sum((0, 2))
        mean, deviation = draws.mean(), draws.std(ddof=1)
        return float((observed - mean) / deviation) if deviation > _ROUNDING * mean else None


def _by_size(counts: Floats, groups: list[int]) -> Expect:
    """Return the function from sums to what random masks of the same size hold on average."""
    density = counts[:, groups].sum((1, 2)) / counts.sum((1, 2))
    return lambda sums: (sums.sum((-2, -1)) * density).sum(-1)


def _by_magnitude(counts: Floats, groups: list[int]) -> Expect:
    """Return the same for random masks with the same size in every bin of magnitudes."""
    density = counts[:, groups].sum(1) / np.maximum(counts.sum(1), 1)
    return lambda sums: (sums.sum(-2) * density).sum((-2, -1))


def _without_replacement(count: Floats, held: Floats, total: Floats, squares: Floats) -> Floats:
    """Return the variance of the sum of ``held`` entries, drawn at random out of ``count``."""
    safe = np.maximum(count, 1)
    spread = np.maximum(squares / safe - (total / safe) ** 2, 0.0)
    # held (count - held) / (count - 1) is the finite population correction times held.
    return spread * held * (count - held) / np.maximum(count - 1, 1)


def _variance(counts: Floats, total: Floats, squares: Floats, groups: list[int]) -> float:
    n, held = counts.sum((1, 2)), counts[:, groups].sum((1, 2))
    return _without_replacement(n, held, total.sum((1, 2)), squares.sum((1, 2))).sum()


def _variance_in_bins(counts: Floats, total: Floats, squares: Floats, groups: list[int]) -> float:
    n, held = counts.sum(1), counts[:, groups].sum(1)
    return _without_replacement(n, held, total.sum(1), squares.sum(1)).sum()


COLUMNS: dict[str, tuple[str, str]] = {
    "mask": ("", "principal: top density of |W0^(k)|; low: bottom low-density of |W0|; "
             "off_principal: not principal; safe: low or not principal; principal_not_low"),
    "density": ("share", "|M| / n"),
    "mean_curvature": ("nats / (token weight^2)", "mean over M of the Fisher diagonal estimate"),
    "mean_curvature_all": ("nats / (token weight^2)", "the same over the whole matrix"),
    "ratio": ("", "mean_curvature / mean of random masks of the same size; 1 is random"),
    "ratio_low": ("", "lower end of the 95 % bootstrap interval over prompts"),
    "ratio_high": ("", "upper end of it"),
    "z_random": ("", "(ratio - 1) / s.d. over random masks of the same size, exact"),
    "z_shuffled": ("", f"distance to the mean of {SHUFFLES} masks with rows and columns shuffled, "
                   "in their s.d."),
    "ratio_magnitude": ("", "mean_curvature / mean of random masks with the same size in each of "
                        f"up to {BINS} equally full bins of |W0|; 1 is random at equal magnitude"),
    "ratio_magnitude_low": ("", "lower end of the 95 % bootstrap interval over prompts"),
    "ratio_magnitude_high": ("", "upper end of it"),
    "z_magnitude": ("", "as z_random, with those masks; empty where they cannot differ"),
}  # fmt: skip
EMPTY = (
    "An empty cell is an undefined number: a ratio where the curvature is zero everywhere, or "
    "where random masks cannot differ from the mask."
)


def summarise(table: Table, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return each mask over all matrices, and in how many of them it is sharper than random."""
    by_mask = {}
    for mask in MASKS:
        own = [row for row in rows if row["mask"] == mask and row["ratio"] is not None]
        by_mask[mask] = table.row(mask, range(len(table.counts))) | {
            "median_ratio": float(np.median([row["ratio"] for row in own])) if own else None,
            "matrices": len(own),
            "matrices_sharper": sum(row["ratio_low"] > 1 for row in own),
            "matrices_flatter": sum(row["ratio_high"] < 1 for row in own),
        }
    return by_mask


def probe_ratios(sums: Floats, counts: Floats) -> dict[str, dict[str, float | None]]:
    r"""Return the ratio of each mask from Hutchinson probes, with its standard error over them.

    The ratio is of means over K probes; its error is to first order (the delta method).

    Args:
        sums: K x M x GROUPS x BINS, of :math:`v \circ F v`.
        counts: M x GROUPS x BINS.
    """
    ratios: dict[str, dict[str, float | None]] = {}
    for mask, chosen in MASKS.items():
        groups = list(chosen)
        held, expected = sums[:, :, groups].sum((1, 2, 3)), _by_size(counts, groups)(sums)
        ratio = held.sum() / expected.sum() if expected.sum() > 0 else None
        error = None
        if ratio is not None and len(sums) > 1:
            rest = (held - ratio * expected) / expected.mean()
            error = float(rest.std(ddof=1) / np.sqrt(len(sums)))
        ratios[mask] = {"ratio": None if ratio is None else float(ratio), "standard_error": error}
    return ratios
