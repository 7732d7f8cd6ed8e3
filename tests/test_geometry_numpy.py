"""``matrices.csv`` against the formulas written once more in plain float64 NumPy."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rounding import unit
from safetensors.torch import load_file
from tables import Table, matrices
from torch import Tensor

from rlvr.geometry.settings import Settings

POLICY = Path(__file__).parent.parent / "recipes" / "pocket" / "policy"
RANK, ANGLE_RANK, DENSITY, LOW_DENSITY = 8, 16, 0.3, 0.4
TOLERANCE = 1e-8
WEIGHTS = load_file(POLICY / "model.safetensors")


def perturbed(weights: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Return a tuned copy: a third of the entries moved by some bf16 steps, and a rank-2 part."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    tuned = {}
    for name, weight in weights.items():
        if weight.ndim == 2:
            rows, columns = weight.shape
            keep = torch.rand(weight.shape, generator=generator) < 0.33
            low_rank = draw(rows, 2) @ draw(2, columns)
            update = keep * (1e-3 * draw(rows, columns) + 1e-3 * low_rank)
            tuned[name] = (weight.double() + update).to(weight.dtype)
        else:
            tuned[name] = weight
    return tuned


def rounded(values: np.ndarray) -> np.ndarray:
    """Return float32 values rounded to bf16, nearest even, written with integers alone."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    kept = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
    return kept.astype(np.uint32).view(np.float32)


def largest(values: np.ndarray, density: float) -> np.ndarray:
    count = math.floor(density * values.size + 0.5)
    mask = np.zeros(values.size, dtype=bool)
    mask[np.argsort(-values.reshape(-1), kind="stable")[:count]] = True
    return mask.reshape(values.shape)


def sine_angle(first: np.ndarray, second: np.ndarray) -> float:
    rest = second - first @ (first.T @ second)
    return math.degrees(math.asin(np.linalg.norm(rest, 2)))


def reference(base: np.ndarray, tuned: np.ndarray) -> dict[str, float]:
    """Return the columns of one matrix by their formulas in the paper."""
    (u0, s0, v0), (u1, s1, v1) = (np.linalg.svd(w, full_matrices=False) for w in (base, tuned))
    k, a = min(RANK, *base.shape), min(ANGLE_RANK, *base.shape)
    update = tuned - base
    spectrum = np.linalg.svd(update, compute_uv=False)
    moved = rounded(base) != rounded(tuned)
    principal = largest(np.abs((u0[:, :k] * s0[:k]) @ v0[:k]), DENSITY)
    low = largest(-np.abs(base), LOW_DENSITY)
    # frexp is exact; a vectorised log2 may round that of a power of two down.
    ulp = np.ldexp(1.0, np.frexp(rounded(base))[1] - 8)
    masks = {"principal": principal, "low": low, "principal_not_low": principal & ~low}
    found = {
        "sparsity_bf16": 1 - moved.mean(),
        "sparsity_exact": (base == tuned).mean(),
        "sparsity_atol": (np.abs(update) <= 1e-5).mean(),
        "below_half_ulp": (np.abs(update) < ulp / 2)[base != 0].sum() / base.size,
        "nss": np.linalg.norm(s1 - s0) / np.linalg.norm(s0),
        "max_angle_left_deg": sine_angle(u0[:, :a], u1[:, :a]),
        "max_angle_right_deg": sine_angle(v0[:a].T, v1[:a].T),
        "energy_off_principal": 1
        - np.linalg.norm(u0[:, :k].T @ update @ v0[:k].T) ** 2 / np.linalg.norm(update) ** 2,
        "energy_off_principal_random": 1 - k * k / base.size,
        "update_norm": np.linalg.norm(update),
        "relative_update": np.linalg.norm(update) / np.linalg.norm(base),
        "stable_rank_update": (spectrum**2).sum() / spectrum[0] ** 2,
        "numerical_rank_update": np.linalg.matrix_rank(update),
        "top_energy_base": (s0[:k] ** 2).sum() / (s0**2).sum(),
        "top_energy_tuned": (s1[:k] ** 2).sum() / (s1**2).sum(),
    }
    share = moved.mean()
    for axis, over in (("row", 1), ("col", 0)):
        profile = moved.mean(axis=over)
        chance = math.sqrt(share * (1 - share) / base.shape[over])
        found[f"{axis}_spread"] = profile.std() / chance
    for name, mask in masks.items():
        found[f"overlap_{name}"] = (mask & moved).sum() / moved.sum()
        found[f"density_{name}"] = mask.mean()
    return found


def measured(base: Path, tuned: Path, out: Path, exact: bool = True) -> Table:
    return matrices(base, tuned, out, Settings(RANK, DENSITY, LOW_DENSITY, ANGLE_RANK, exact))


@pytest.mark.parametrize(
    ("dtype", "tuned_dtype"),
    [(None, None), (torch.float32, torch.bfloat16), (torch.float16, torch.float32)],
)
def test_every_column_is_its_formula_in_float64(
    dtype: torch.dtype | None,
    tuned_dtype: torch.dtype | None,
    save_checkpoint: Callable[..., Path],
    tmp_path: Path,
):
    tuned = perturbed(WEIGHTS)
    weights = {name: w.to(dtype or w.dtype) for name, w in WEIGHTS.items()}
    tuned = {name: w.to(tuned_dtype or w.dtype) for name, w in tuned.items()}
    base_folder = save_checkpoint("base", weights)
    rows = measured(base_folder, save_checkpoint("tuned", tuned, 3), tmp_path / "out")
    assert [row["name"] for row in rows] == sorted(
        name for name, w in weights.items() if w.ndim == 2 and "layers" in name
    )
    for row in rows:
        assert row["dtype"] == str(tuned[row["name"]].dtype).removeprefix("torch.")
        pair = (w[row["name"]].double().numpy() for w in (weights, tuned))
        expected = reference(*pair)
        for key, value in expected.items():
            assert float(row[key]) == pytest.approx(value, rel=TOLERANCE, abs=1e-13), (row, key)


def test_the_fast_way_is_within_its_stated_error(
    save_checkpoint: Callable[..., Path], tmp_path: Path
):
    folder = save_checkpoint("tuned", perturbed(WEIGHTS))
    exact = measured(POLICY, folder, tmp_path / "exact")
    fast = measured(POLICY, folder, tmp_path / "fast", exact=False)
    for one, other in zip(exact, fast, strict=True):
        for key, error in {
            "nss": "nss_error",
            "max_angle_left_deg": "max_angle_error_deg",
            "max_angle_right_deg": "max_angle_error_deg",
        }.items():
            bound = float(other[error]) + float(one[error])
            assert abs(float(one[key]) - float(other[key])) <= bound < 1e-3 * float(one[key])
        for key in ("overlap_low", "sparsity_bf16"):
            assert float(one[key]) == float(other[key])
        energy = "energy_off_principal"  # float32 sums of up to 512 products over a total
        assert float(one[energy]) == pytest.approx(float(other[energy]), abs=512 * unit())
        # In float32 an entry may change sides that lies within about 2^-20 of the threshold of the
        # mask: less than one of 65,536 on average, and 20 among the thousands that moved are not.
        moved = (1 - float(one["sparsity_bf16"])) * WEIGHTS[one["name"]].numel()
        assert float(one["overlap_principal"]) == pytest.approx(
            float(other["overlap_principal"]), abs=20 / moved
        )
        assert other["stable_rank_update"] == ""
