"""Spectral metrics and overlaps against closed forms."""

import math
import threading
import time

import numpy as np
import pytest
import torch
from rounding import unit
from torch import Tensor

from rlvr.geometry import overlap, sparsity, spectra
from rlvr.lapack import leading_eigenvectors


def orthonormal(rows: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64)).Q


def matrix(left: Tensor, values: Tensor, right: Tensor) -> Tensor:
    return (left * values) @ right.T


VALUES = torch.tensor([5.0, 4.0, 3.0, 0.5, 0.4, 0.3], dtype=torch.float64)


@pytest.mark.parametrize("angle", [1e-7, 1e-4, 0.1, 0.7, 1.5, math.pi / 2])
def test_a_known_rotation_is_recovered(angle: float):
    basis = orthonormal(40, 8)
    turned = basis[:, :4].clone()
    turned[:, 2] = math.cos(angle) * basis[:, 2] + math.sin(angle) * basis[:, 6]
    found = spectra.principal_angles(basis[:, :4], turned)
    bound = basis.numel() * unit(torch.float64)
    assert found[-1] == pytest.approx(angle, rel=0, abs=bound)
    assert found[:3].abs().max() < bound


@pytest.mark.parametrize("angle", [1e-7, 1e-3])
@pytest.mark.parametrize("method", ["exact", "gram"])
def test_a_rotated_matrix_turns_one_side_alone(angle: float, method: spectra.Method):
    left, right = orthonormal(60, 7), orthonormal(20, 6, seed=1)
    turned = left[:, :6].clone()
    turned[:, 0] = math.cos(angle) * left[:, 0] + math.sin(angle) * left[:, 6]
    pairs = [spectra.decompose(matrix(u, VALUES, right), 3, method) for u in (left[:, :6], turned)]
    angles = [float(spectra.principal_angles(a, b)[-1]) for a, b in zip(
        (pairs[0].left, pairs[0].right), (pairs[1].left, pairs[1].right), strict=True)]  # fmt: skip
    # The longer side is float32 where it comes from the Gram matrix; the gap is half of sigma_1.
    bound = 2 * 60 * unit(torch.float32 if method == "gram" else torch.float64) * 2
    assert angles[0] == pytest.approx(angle, rel=0, abs=bound)
    assert angles[1] < bound
    assert all(abs(a - b) <= sum(p.angle_error(3) for p in pairs)
               for a, b in zip(angles, (angle, 0.0), strict=True))  # fmt: skip
    assert spectra.spectral_shift(pairs[0].values, pairs[1].values) < 1e-7


@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (12, 12), (1, 9), (9, 1)])
@pytest.mark.parametrize("method", ["exact", "gram"])
def test_decompositions_rebuild_the_matrix(shape: tuple[int, int], method: spectra.Method):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    keep = min(shape)
    found = spectra.decompose(weight, keep, method)
    rebuilt = matrix(found.left.double(), found.values, found.right.double())
    known = torch.linalg.svdvals(weight)
    rounding = sum(shape) * unit(torch.float64 if method == "exact" else torch.float32)
    assert (rebuilt - weight).abs().max() < 2 * rounding * known[0]
    known_error = 2 * max(shape) * unit(torch.float64) * known[0]
    assert ((found.values - known).abs() <= found.value_error + known_error).all()


def test_scaling_shifts_the_spectrum_by_its_factor():
    assert spectra.spectral_shift(VALUES, 1.03 * VALUES) == pytest.approx(0.03)
    assert spectra.spectral_shift(VALUES, VALUES) == 0
    assert math.isnan(spectra.spectral_shift(0 * VALUES, VALUES))


def test_the_rank_of_a_known_update():
    update = matrix(orthonormal(30, 6), VALUES, orthonormal(20, 6, seed=1))
    values = spectra.singular_values(update)
    assert spectra.numerical_rank(values, update.shape) == 6
    assert spectra.stable_rank(values) == pytest.approx(float((VALUES**2).sum()) / 25)
    assert spectra.top_energy(values, 2) == pytest.approx(41 / float((VALUES**2).sum()))


def test_energy_inside_and_outside_of_the_principal_subspace():
    left, right = orthonormal(30, 30), orthonormal(20, 20, seed=1)
    inside = left[:, :1] @ right[:, 1:2].T
    outside = left[:, 5:6] @ right[:, :1].T
    for update, share in ((inside, 0), (outside, 1), (inside + 2 * outside, 0.8)):
        found = spectra.energy_off_principal(update, left[:, :3], right[:, :3])
        assert found == pytest.approx(share, abs=30 * 20 * unit(torch.float64))
    random = torch.randn(30, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = spectra.energy_off_principal(random, left[:, :10], right[:, :10])
    assert found == pytest.approx(1 - 100 / 600, abs=0.06)


def test_a_shuffled_update_keeps_spectrum_and_magnitudes():
    update = torch.randn(40, 25, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shuffled = overlap.random_update(update, torch.Generator().manual_seed(1))
    assert not torch.equal(shuffled, update)
    known = spectra.singular_values(update)
    error = 2 * sum(update.shape) * unit(torch.float64) * known[0]
    assert (spectra.singular_values(shuffled) - known).abs().max() < error
    flat = [values.abs().reshape(-1).sort().values for values in (update, shuffled)]
    assert torch.equal(*flat)


def test_jaccard_and_consensus_of_known_masks():
    masks = [torch.tensor([[1, 1, 0, 0]]).bool(), torch.tensor([[1, 0, 1, 0]]).bool()]
    assert overlap.pairwise_jaccard(masks) == (1 / 3, 0.25 / 0.75)
    assert overlap.consensus(masks).tolist() == [[1, 0.5, 0.5, 0]]
    empty = torch.zeros(1, 4, dtype=torch.bool)
    assert math.isnan(overlap.pairwise_jaccard([empty, empty])[0])
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.rand(400, 400, generator=generator) < p for p in (0.3, 0.6, 0.6)]
    found, chance = overlap.pairwise_jaccard(drawn)
    assert found == pytest.approx(chance, abs=0.005)


def test_half_a_step_of_bf16_is_the_threshold():
    base = torch.tensor([1.0, 1.5, -4.0, 1e-40, 0.0], dtype=torch.float32)
    half = sparsity.half_ulp_bf16(base)
    assert half.tolist() == [2**-8, 2**-8, 2**-6, 2**-134, 2**-134]
    for factor, share in ((0.49, 1.0), (1.01, 0.0)):
        wide = base.double()
        assert sparsity.below_half_ulp(wide, wide + factor * half) == share


def test_profiles_find_a_stripe():
    moved = torch.zeros(4, 5, dtype=torch.bool)
    moved[2] = True
    rows, columns = sparsity.update_profiles(moved)
    assert rows.tolist() == [0, 0, 1, 0] and columns.tolist() == [0.25] * 5


def test_the_absolute_tolerance_is_inclusive():
    base = torch.zeros(3)
    assert sparsity.sparsity_atol(base, torch.tensor([0.0, 1e-5, 2e-5]), atol=2e-5) == 1
    assert sparsity.sparsity_atol(base, torch.tensor([0.0, 1e-6, 2e-5])) == pytest.approx(2 / 3)


@pytest.mark.parametrize(("size", "count"), [(1, 1), (5, 2), (96, 24), (200, 7)])
def test_leading_eigenvectors_are_numpys(size, count):
    root = np.random.default_rng(size).standard_normal((size, size))
    found = leading_eigenvectors(root @ root.T, count)
    expected = np.linalg.eigh(root @ root.T)[1][:, -count:]
    np.testing.assert_allclose(np.abs((found * expected).sum(0)), 1, rtol=1e-10)
    np.testing.assert_allclose(found.T @ found, np.eye(count), atol=1e-12)


def test_leading_eigenvectors_leave_the_interpreter_to_other_threads():
    """A solver that held the lock would let no Python run for the time it takes.

    A busy machine may stop this thread as well, but hardly for most of the time in each of three.
    """
    root = np.random.default_rng(0).standard_normal((800, 800))

    def longest_pause() -> float:
        solver = threading.Thread(target=leading_eigenvectors, args=(root @ root.T, 32))
        solver.start()
        pauses, before = [0.0], time.perf_counter()
        while solver.is_alive():
            now = time.perf_counter()
            pauses.append(now - before)
            before = now
        return max(pauses) / max(sum(pauses), 1e-9)

    assert any(longest_pause() < 0.5 for _ in range(3))


@pytest.mark.parametrize("given", [np.zeros((3, 2)), np.zeros((3, 3), np.float32)])
def test_leading_eigenvectors_refuse_what_lapack_would_misread(given):
    with pytest.raises(ValueError, match="square float64"):
        leading_eigenvectors(given, 1)
