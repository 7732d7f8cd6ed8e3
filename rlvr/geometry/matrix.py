"""Everything that is measured of one target matrix, as one row of the table."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlvr.geometry import overlap as ov
from rlvr.geometry import sparsity, spectra
from rlvr.geometry.evidence import Counts, count, excess
from rlvr.geometry.nulls import overlaps_by_null, top_binade
from rlvr.geometry.settings import Settings
from rlvr.geometry.sparsity import grid_of
from rlvr.geometry.storage import NULLS, Storage
from rlvr.masks.builders import count_of, exact_density, generator_for, largest, smallest

MASKS = ("principal", "low", "principal_not_low")
_NULL_SEED = 0


@dataclass(frozen=True)
class Measured:
    """One matrix: its row, and the vectors that figures are drawn from, on the CPU."""

    row: dict[str, Any]
    vectors: dict[str, Tensor]


def measure(
    name: str,
    base: Tensor,
    tuned: Tensor,
    settings: Settings,
    device: torch.device,
    *,
    quantised: bool = False,
) -> Measured:
    """Measure one pair of matrices; the formulas are in ``rlvr.geometry.table.COLUMNS``.

    Args:
        name: seeds the random update of the null, and nothing else.
        base, tuned: m x n, as stored.
        settings: ranks and densities.
        device: of all computation but the exact decompositions, which run on the CPU.
        quantised: one of them was stored in fewer bits than bf16.
    """
    base, tuned = base.to(device), tuned.to(device)
    moved = sparsity.update_mask_bf16(base, tuned)
    row = {
        "sparsity_bf16": sparsity.share_unchanged(moved),
        "sparsity_exact": sparsity.sparsity_exact(base, tuned),
        "same_bits": sparsity.same_bits(base, tuned),
        "sparsity_atol": sparsity.sparsity_atol(base, tuned),
        "below_half_ulp": sparsity.below_half_ulp(base, tuned),
    }
    # A small matrix has fewer directions than the flags ask for; the row says what was used.
    rank, angle_rank = min(settings.rank, *base.shape), settings.angle_rank_of(base.shape)
    row |= {"rank": rank, "angle_rank": angle_rank}
    row["energy_off_principal_random"] = 1 - rank**2 / base.numel()
    row_profile, col_profile = sparsity.update_profiles(moved)
    profiles: dict[str, Tensor] = {"row_profile": row_profile, "col_profile": col_profile}
    for axis, length in (("row", base.shape[1]), ("col", base.shape[0])):
        row[f"{axis}_spread"] = _spread(profiles[f"{axis}_profile"], length)
    method = "exact" if settings.exact else "gram"
    # One decomposition of the base serves the masks (rank) and the angles (angle_rank).
    before = spectra.decompose(base, max(rank, angle_rank), method)
    masks = _masks(base, before, rank, settings)
    # Differences of bf16 numbers fit float32 to all but their last bits, at half the time.
    dtype = torch.float64 if settings.exact else torch.float32
    update = tuned.to(dtype) - base.to(dtype)
    # The stored values are subtracted, so that bf16 files are measured as they are.
    row |= _update_size(update, base.to(dtype), settings.exact)
    left, right = before.left[:, :rank].to(dtype), before.right[:, :rank].to(dtype)
    row["energy_off_principal"] = spectra.energy_off_principal(update, left, right)
    storage = Storage(grid_of(base), grid_of(tuned), settings.history or "unknown", quantised)
    counts = count(base, (masks["principal"], masks["low"]), moved, top_binade(base))
    row |= _overlaps(masks, counts) | _nulls(base, tuned, storage, counts)
    # An unchanged matrix has no drift at all; a second decomposition would show its own rounding.
    after = before
    if row["sparsity_exact"] < 1:
        after = spectra.decompose(tuned, angle_rank, method)
    angles = _rotation(before, after, angle_rank)
    row |= _drift(before, after, rank, angle_rank, angles)
    shuffled = None
    if settings.exact:  # with --fast the null spectrum is left out
        shuffled = ov.random_update(update, generator_for(name, _NULL_SEED)).add_(base)
    null, null_values = _null_spectrum(update, shuffled, before, angle_rank)
    row |= null
    vectors = {"before": before.values, "after": after.values, **angles, **profiles}
    if null_values is not None:
        vectors["null"] = null_values
    return Measured(row, {key: value.cpu() for key, value in vectors.items()})


def _spread(profile: Tensor, length: int) -> float:
    """Return the standard deviation of a profile, divided by that of independent entries."""
    # p (1 - p) / n: the variance of a mean of n independent entries of density p.
    share = float(profile.mean())
    chance = math.sqrt(max(0.0, share * (1 - share)) / length)
    return float(profile.std(correction=0)) / chance if chance else math.nan


def _masks(
    base: Tensor, spectrum: spectra.Spectrum, rank: int, settings: Settings
) -> dict[str, Tensor]:
    """Return the masks by name: the builders' definitions on this decomposition."""
    # Float32 decides all but a handful of entries in the same way, at half the time.
    dtype = torch.float64 if settings.exact else torch.float32
    left, right = spectrum.left[:, :rank].to(dtype), spectrum.right[:, :rank].to(dtype)
    magnitude = ((left * spectrum.values[:rank].to(dtype)) @ right.T).abs_()
    count = count_of(exact_density(settings.density), base.numel())
    principal = largest(magnitude, count)
    del magnitude  # as large as the matrix, and the masks below need the room
    # The magnitudes as training's own builder sees them: float32, or wider where stored wider.
    wide = base if base.dtype == torch.float64 else base.float()
    low = smallest(wide.abs(), count_of(exact_density(settings.low_density), base.numel()))
    return {"principal": principal, "low": low, "principal_not_low": principal & ~low}


def _overlaps(masks: dict[str, Tensor], counts: Counts) -> dict[str, Any]:
    """Return each overlap with its interval, and its excess over entries of the same size."""
    row: dict[str, Any] = {"groups": min(len(counts.rows), len(counts.columns))}
    for key, mask in masks.items():
        found = excess(counts, key)
        row[f"overlap_{key}"] = found.overlap
        row[f"overlap_{key}_from"], row[f"overlap_{key}_to"] = found.interval
        row[f"overlap_{key}_error"] = found.error
        row[f"density_{key}"] = ov.density(mask)
        if key != "low":  # small weights are a size class: nothing is left to compare them with
            row[f"overlap_{key}_excess"] = found.excess
            row[f"overlap_{key}_excess_error"] = found.excess_error
    return row


def _nulls(base: Tensor, tuned: Tensor, storage: Storage, counts: Counts) -> dict[str, Any]:
    """Return where an update that does not know the weights would have moved entries."""
    overlaps, relative = overlaps_by_null(base, tuned, storage, counts.total)
    row: dict[str, Any] = {"storage": storage.words, "relative": relative}
    for mask in MASKS:
        known = {null: overlaps[null][mask] for null in NULLS if null in overlaps}
        for null in NULLS:
            row[f"overlap_{mask}_null_{null}"] = known.get(null, math.nan)
        # The likeliest way of storing; the verdict needs all of them.
        row[f"overlap_{mask}_null"] = next(iter(known.values()), math.nan)
    likeliest = next(iter(overlaps))
    return row | {"sparsity_null": overlaps[likeliest]["sparsity"]}


def _update_size(update: Tensor, weight: Tensor, exact: bool) -> dict[str, Any]:
    norm, base_norm = float(update.norm()), float(weight.norm())
    relative = norm / base_norm if base_norm else (math.inf if norm else 0.0)
    sizes = {"update_norm": norm, "relative_update": relative}
    if not exact:
        return sizes | {"stable_rank_update": None, "numerical_rank_update": None}
    values = spectra.singular_values(update) if norm else update.new_zeros(1)
    sizes["stable_rank_update"] = spectra.stable_rank(values)
    sizes["numerical_rank_update"] = spectra.numerical_rank(values, update.shape)
    return sizes


def _rotation(before: spectra.Spectrum, after: spectra.Spectrum, rank: int) -> dict[str, Tensor]:
    """Return the principal angles of each side in degrees, ascending; 0 where both are the same."""
    angles_of = {}
    for side in ("left", "right"):
        first, second = (getattr(s, side)[:, :rank] for s in (before, after))
        same = after is before
        angles = first.new_zeros(rank) if same else spectra.principal_angles(first, second)
        angles_of[f"angles_{side}"] = torch.rad2deg(angles)
    return angles_of


def _drift(
    before: spectra.Spectrum,
    after: spectra.Spectrum,
    rank: int,
    angle_rank: int,
    angles: dict[str, Tensor],
) -> dict[str, float | None]:
    # Each decomposition turns its own subspace a little; the two errors may add up.
    error = before.angle_error(angle_rank) + after.angle_error(angle_rank)
    same = after is before
    return {
        "nss": spectra.spectral_shift(before.values, after.values),
        "nss_error": 0.0 if same else spectra.spectral_shift_error(before, after),
        **_largest_angles(before, angles, ""),
        "max_angle_error_deg": 0.0 if same else min(90.0, math.degrees(error)),
        "top_energy_base": spectra.top_energy(before.values, rank),
        "top_energy_tuned": spectra.top_energy(after.values, rank),
    }


def _null_spectrum(
    update: Tensor, shuffled: Tensor | None, before: spectra.Spectrum, angle_rank: int
) -> tuple[dict[str, float | None], Tensor | None]:
    """Return the drift and angles of the shuffled update, and the singular values it leaves."""
    keys = ("nss_null", "max_angle_left_null_deg", "max_angle_right_null_deg")
    if shuffled is None:
        return dict.fromkeys(keys), None
    if not update.any():
        return dict.fromkeys(keys, 0.0), before.values
    after = spectra.decompose(shuffled, angle_rank)
    angles = _rotation(before, after, angle_rank)
    shift = spectra.spectral_shift(before.values, after.values)
    return {"nss_null": shift, **_largest_angles(before, angles, "_null")}, after.values


def _largest_angles(
    before: spectra.Spectrum, angles: dict[str, Tensor], end: str
) -> dict[str, float | None]:
    """Return the largest angle of each side; NaN where the subspace is the whole space."""
    largest = {}
    for side in ("left", "right"):
        found = angles[f"angles_{side}"]
        whole = len(getattr(before, side)) == len(found)
        largest[f"max_angle_{side}{end}_deg"] = math.nan if whole else float(found[-1])
    return largest
