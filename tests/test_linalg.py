"""The truncated SVD: right on known spectra, reproducible, apart from the global random state."""

import pytest
import torch
from rounding import assert_within, unit

from rlvr import linalg
from rlvr.linalg import low_rank, top_singular
from rlvr.masks.builders import largest


@pytest.fixture
def sketched(monkeypatch):
    """Sketch small matrices too, which are decomposed exactly otherwise."""
    monkeypatch.setattr(linalg, "SMALL", 0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrix(rows: int, columns: int, power: float, dtype=torch.float32) -> torch.Tensor:
    """Return a random matrix whose i-th singular value is i^-power."""
    size = min(rows, columns)
    left = torch.linalg.qr(torch.randn(rows, size, generator=seeded(1), dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(columns, size, generator=seeded(2), dtype=torch.float64)).Q
    values = torch.arange(1, size + 1, dtype=torch.float64) ** -power
    return ((left * values) @ right.T).to(dtype)


@pytest.mark.parametrize("shape", [(96, 64), (64, 96), (64, 64)])
def test_exact_triplets_are_those_of_the_full_decomposition(shape):
    weight = matrix(*shape, power=1.0, dtype=torch.float64)
    left, values, right = top_singular(weight, 5, svd="exact")
    assert left.shape == (shape[0], 5) and right.shape == (shape[1], 5)
    bound = 2 * sum(shape) * unit(torch.float64) * float(values[0])
    assert_within(values, torch.linalg.svdvals(weight)[:5], bound)
    assert_within(weight @ right, left * values, bound)


@pytest.mark.parametrize("shape", [(200, 120), (120, 200)])
def test_randomised_triplets_are_near_the_exact_ones(shape, sketched):
    weight = matrix(*shape, power=0.6)
    left, values, right = top_singular(weight, 16, svd="randomized", generator=seeded())
    identity = torch.eye(16)
    for vectors in (left, right):
        assert_within(vectors.T @ vectors, identity, 2 * len(vectors) * unit())
    # The flat spectrum is the hard one: sigma_16 / sigma_33 is only 1.5.
    torch.testing.assert_close(values, torch.linalg.svdvals(weight)[:16], rtol=1e-2, atol=0)


def test_a_matrix_of_low_rank_is_reconstructed(sketched):
    factors = torch.randn(100, 4, generator=seeded(3)), torch.randn(4, 80, generator=seeded(4))
    weight = factors[0] @ factors[1]
    rebuilt = low_rank(weight, 4, svd="randomized", generator=seeded())
    largest = float(torch.linalg.matrix_norm(weight, 2))
    assert_within(rebuilt, weight, sum(weight.shape) * unit() * largest)


def test_the_mask_of_the_randomised_reconstruction_is_nearly_the_exact_one(sketched):
    weight = matrix(256, 192, power=0.6)
    tops = []
    for svd in ("exact", "randomized"):
        magnitude = low_rank(weight, 16, svd=svd, generator=seeded()).abs().view(-1)
        tops.append(set(magnitude.topk(magnitude.numel() // 2).indices.tolist()))
    assert len(tops[0] & tops[1]) / len(tops[0] | tops[1]) > 0.95  # two random ones: 0.33


@pytest.mark.parametrize("power", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("shape", [(640, 576), (576, 800)])
def test_the_default_mask_is_the_exact_one_on_the_flat_spectra_of_trained_matrices(shape, power):
    weight = matrix(*shape, power=power)
    count = weight.numel() // 2
    rebuilt = [low_rank(w, 64, svd=s) for w, s in ((weight.double(), "exact"), (weight, "gram"))]
    exact, default = (largest(part.abs(), count) for part in rebuilt)
    assert float((exact & default).sum() / (exact | default).sum()) >= 0.999


@pytest.mark.parametrize("shape", [(96, 64), (64, 96), (8, 8), (1, 5)])
def test_gram_triplets_rebuild_and_are_orthonormal(shape):
    weight = matrix(*shape, power=1.0)
    rank = min(shape[0], shape[1], 5)
    left, values, right = top_singular(weight, rank, svd="gram")
    bound = 2 * sum(shape) * unit() * float(values[0])
    assert_within(values, torch.linalg.svdvals(weight)[:rank], bound)
    assert_within(weight @ right, left * values, bound)
    for vectors in (left, right):
        assert_within(vectors.T @ vectors, torch.eye(rank), 2 * len(vectors) * unit())


def test_a_zero_matrix_has_a_zero_reconstruction():
    assert not low_rank(torch.zeros(7, 4), 2, svd="gram").any()


def test_a_wide_sketch_falls_back_to_the_exact_decomposition(sketched):
    weight = matrix(40, 32, power=0.5)
    exact = top_singular(weight, 16, svd="exact")
    for mine, its in zip(top_singular(weight, 16, svd="randomized"), exact, strict=True):
        assert mine.equal(its)


def test_the_generator_alone_decides_and_the_global_state_is_left_alone(sketched):
    weight = matrix(90, 70, power=0.3)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = low_rank(weight, 4, svd="randomized", generator=seeded(1))
    unseeded = low_rank(weight, 4, svd="randomized")
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(6)
    assert low_rank(weight, 4, svd="randomized").equal(unseeded)
    assert low_rank(weight, 4, svd="randomized", generator=seeded(1)).equal(first)
    assert not low_rank(weight, 4, svd="randomized", generator=seeded(2)).equal(first)


def test_float64_stays_float64():
    weight = matrix(60, 50, power=1.0, dtype=torch.float64)
    for part in top_singular(weight, 3, svd="randomized", generator=seeded()):
        assert part.dtype == torch.float64
