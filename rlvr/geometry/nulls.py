r"""How often an entry would move if the update did not know the weights, by the size of the weight.

Small weights have close neighbours in bf16, so *any* update moves them first, and how much sooner
depends on how the numbers were stored (``rlvr.geometry.storage``). With :math:`\delta` the update
of an entry before any rounding, :math:`U_b` the ULP of its bf16 binade and :math:`h_b = U_b / 2`:

- ``nearest``: :math:`p(b) = P(|\delta| > h_b)`. The weight lay on the bf16 grid and was rounded
  once.
- ``dithered``: :math:`p(b) = E \min(1, |\delta| / U_b)`. The rounding point lies anywhere in the
  cell: the base has an offset in its cell, or the rounding is stochastic.
- ``size``: p is the share of the entries of one size class that did move. A class is an eighth of
  a binade, within which the format treats all entries alike.

The distribution of :math:`\delta` comes from the stored changes. Where the file is float32 they are
exact. Otherwise those of finer entries serve, known to 1/32 of :math:`h_b`. The numbers of a
float16 file lie at most :math:`r` from the true ones, which widens or narrows a cell by r.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from rlvr.geometry.sparsity import HALF_ULP
from rlvr.geometry.storage import Null, Storage

BINADES = 64  # that are told apart, downwards from the largest entry's; the rest count as the last
EIGHTHS = 8  # size classes of a binade
CLASSES = BINADES * EIGHTHS
_LEAST = 256  # changes that a distribution is estimated from
_VISIBLE = 0.02
_PLACES = 8  # numbers of float16 in a cell of bf16
_FLOAT_FRACTION, _FLOAT_BIAS = 23, 127
# Binades by which an entry must be finer: its change is then known to 1/32 of the half ULP.
_FINER = {"bfloat16": 5, "float16": 2}
_FLOAT16_FRACTION, _FLOAT16_LEAST = 10, -14

Floats = NDArray[np.float64]


def top_binade(base: Tensor) -> int:
    """Return the biased exponent of the largest entry, at least ``BINADES``."""
    largest = base.abs().max().to(torch.bfloat16).float().view(torch.int32)
    return max(BINADES, int(largest) >> _FLOAT_FRACTION)


def size_class(base: Float[Tensor, "*shape"], top: int) -> Int64[Tensor, "*shape"]:
    """Return the size class of each entry, 0 .. ``CLASSES`` - 1, ascending with its magnitude."""
    bits = base.to(torch.bfloat16).contiguous().view(torch.int16)
    # Bits 4 .. 14 of a bf16: the exponent and three bits of the fraction.
    classes = (bits.long() & 0x7FFF) >> 4
    return classes.sub_((top - BINADES + 1) * EIGHTHS).clamp_(min=0)


def ulp_of_rows(top: int) -> Floats:
    """Return the bf16 ULP of each of the ``BINADES`` binades, ascending."""
    exponents = np.arange(top - BINADES + 1, top + 1, dtype=np.float64)
    return np.exp2(exponents - HALF_ULP + 1)


@dataclass(frozen=True)
class Changes:
    """Magnitudes of changes in ascending order, with what sums of them need."""

    values: Floats
    sums: Floats

    @classmethod
    def of(cls, magnitudes: Floats) -> "Changes":
        values = np.sort(magnitudes)
        return cls(values, np.concatenate([[0.0], np.cumsum(values)]))

    def above(self, bound: float) -> float:
        """Return the share above ``bound``; changes of exactly ``bound`` count half.

        Rounding makes a change of exactly half a ULP from smaller and from larger ones.
        """
        if bound < 0:
            return 1.0
        first, last = (np.searchsorted(self.values, bound, side) for side in ("left", "right"))
        return 1 - float(first + last) / (2 * len(self.values))

    def clipped(self, bound: float) -> float:
        """Return the mean of min(change, ``bound``): the integral of ``above`` from 0."""
        place = int(np.searchsorted(self.values, bound))
        return (self.sums[place] + bound * (len(self.values) - place)) / len(self.values)


def overlaps_by_null(
    base: Tensor, tuned: Tensor, storage: Storage, table: Floats
) -> tuple[dict[Null, dict[str, float]], bool]:
    """Return the overlaps that each plausible null expects, and whether the update is relative.

    Overlaps are by mask, with the expected ``sparsity``; the likeliest null comes first. ``table``
    counts entries by size class and (principal, low, moved). An update whose moved share does not
    fall with the size of the weights, where rounding makes that of any absolute update fall, scales
    with the weights: only ``size`` is left then.
    """
    by_binade = table.reshape(BINADES, EIGHTHS, 2, 2, 2).sum(1)
    own = _share(by_binade[..., 1].sum((1, 2)), by_binade.sum((1, 2, 3)))
    top = top_binade(base)
    chances: dict[Null, Floats] = {}
    for null in storage.nulls:
        if null != "size":
            chance = chance_by_binade(null, base, tuned, storage, own, top)
            chances[null] = np.repeat(chance, EIGHTHS)
    moved = table[..., 1].sum((1, 2))
    chances["size"] = _share(moved, table.sum((1, 2, 3)))
    relative = any(_scales(table, chance) for null, chance in chances.items() if null != "size")
    kept: dict[Null, Floats] = {"size": chances["size"]} if relative else chances
    return {null: _expected(null, table, chance) for null, chance in kept.items()}, relative


def _share(part: Floats, whole: Floats) -> Floats:
    return part / np.maximum(whole, 1)


def _expected(null: Null, table: Floats, chance: Floats) -> dict[str, float]:
    """Return the overlap with each mask, and the sparsity, of entries that move with ``chance``."""
    entries = table.sum(3)
    weight = chance[:, None, None] * entries
    total = float(weight.sum())
    inside = {
        "principal": weight[:, 1].sum(),
        "low": weight[:, :, 1].sum(),
        "principal_not_low": weight[:, 1, 0].sum(),
    }
    overlaps = {mask: float(part) / total if total else math.nan for mask, part in inside.items()}
    if null == "size":
        overlaps["low"] = math.nan  # small weights are size classes: the null is the observation
    return overlaps | {"sparsity": 1 - total / float(entries.sum())}


def _scales(table: Floats, chance: Floats) -> bool:
    """Whether the moved share falls by less than a quarter of what ``chance`` predicts.

    Inside the principal mask as outside: a run that may move only principal weights, which are
    large, would look relative as a whole.
    """
    verdicts = []
    for part in (table[:, 0], table[:, 1]):
        entries, moved = part.sum(2), part[..., 1]
        expected = chance[:, None] * entries
        if moved.sum() < _LEAST or not expected.sum():
            continue
        chance_low = entries[:, 1].sum() / entries.sum()
        predicted = expected[:, 1].sum() / expected.sum() - chance_low
        seen = moved[:, 1].sum() / moved.sum() - chance_low
        # Predictions below a point cannot be told from none.
        verdicts.append(bool(predicted > _VISIBLE and seen < predicted / 4))
    return bool(verdicts) and all(verdicts)


def chance_by_binade(
    null: Null, base: Tensor, tuned: Tensor, storage: Storage, own: Floats, top: int
) -> Floats:
    """Return p for each of the ``BINADES`` binades; ``own`` is the share of each that moved.

    ``own`` also stands in where fewer than 256 entries are fine enough.
    """
    chance = own.copy()
    steps = ulp_of_rows(top)
    known = _finer_changes(base, tuned, storage, top)
    alive = _nonzero_share(base, tuned) if storage.base == "float16" else 1.0
    for row in range(BINADES):
        changes = known(row)
        if changes is not None:
            chance[row] = _moves(null, changes, float(steps[row]), storage, alive)
    return chance


def _nonzero_share(base: Tensor, tuned: Tensor) -> float:
    """Return the share of entries with any change at all, however small.

    A sixteenth of all float16 numbers lie halfway between two bf16 numbers. The smallest change in
    one of its two directions moves such an entry.
    """
    halfway = (base.float().view(torch.int32) & 0xFFFF) == 0x8000
    count = int(halfway.count_nonzero())
    if count < _LEAST:
        return 1.0
    moved = base[halfway].to(torch.bfloat16) != tuned[halfway].to(torch.bfloat16)
    return min(1.0, 2 * int(moved.count_nonzero()) / count)


def _moves(null: Null, changes: Changes, ulp: float, storage: Storage, alive: float) -> float:
    """Return the chance of an entry with this ULP to move."""
    half, error = ulp / 2, _rounding_error(ulp) if storage.tuned == "float16" else 0.0
    if null == "nearest":
        return (changes.above(half - error) + changes.above(half + error)) / 2
    if storage.base == "float16" and storage.tuned != "float16":
        step = ulp / _PLACES
        # Of 16 neighbouring numbers nine round to the even cell, two of them from its very edges.
        shares = [changes.above(k * step) for k in range(1, _PLACES)]
        return (alive + 2 * sum(shares) + changes.above(ulp)) / (2 * _PLACES)
    if error and storage.base == "float16":
        # Eight places in a cell, and a change of k steps crosses from k of them.
        step = 2 * error
        places = max(1, round(ulp / step))
        return sum(changes.above((k + 0.5) * step) for k in range(places)) / places
    # The cell of an even number is wider by the error on both sides, that of an odd one narrower.
    even = changes.clipped(ulp + error) - changes.clipped(error)
    odd = error + changes.clipped(ulp - error)
    return (even + odd) / (2 * ulp)


def _rounding_error(ulp: float) -> float:
    """Return half the spacing of float16 in the binade with this bf16 ULP."""
    exponent = max(np.log2(ulp) + 7, _FLOAT16_LEAST)
    return float(np.exp2(exponent - _FLOAT16_FRACTION - 1))


def _finer_changes(
    base: Tensor, tuned: Tensor, storage: Storage, top: int
) -> Callable[[int], Changes | None]:
    """Return a function from a binade's row to the changes it is judged by, or ``None``."""
    first = base.detach().reshape(-1)
    second = tuned.detach().reshape(-1)
    if storage.tuned == "float32":
        changes = Changes.of(_magnitudes(first, second, storage))
        return lambda row: changes
    finer = _FINER[storage.tuned]
    rows = size_class(first, top) // EIGHTHS
    chosen = (rows < BINADES - finer).nonzero().squeeze(1)
    rows_of = rows[chosen].cpu().numpy()
    magnitudes = _magnitudes(first[chosen], second[chosen], storage)
    order = np.argsort(rows_of, kind="stable")
    ends = np.searchsorted(rows_of[order], np.arange(BINADES + 1))
    magnitudes = magnitudes[order]
    least = _FLOAT16_LEAST + _FLOAT_BIAS + finer - (top - BINADES + 1)

    def known(row: int) -> Changes | None:
        # Subnormal float16 numbers are no finer than the smallest normal ones.
        if row < finer or (storage.tuned == "float16" and row < least):
            return None
        end = ends[row - finer + 1]
        return Changes.of(magnitudes[:end]) if end >= _LEAST else None

    return known


def _magnitudes(base: Tensor, tuned: Tensor, storage: Storage) -> Floats:
    """Return |change|; of a rounded file, between two numbers of its own grid.

    An entry that did not move then counts as 0, and not as its base's offset in the cell. For an
    offset that is even over the cell the mean of the rounded changes is the mean of the true ones.
    """
    if storage.tuned != "float32":
        base = base.to(getattr(torch, storage.tuned))
    return (tuned.double() - base.double()).abs_().cpu().numpy()
