"""Coded chunks: exact both ways, and near the entropy of the changes given the exponents."""

from pathlib import Path

import numpy as np
import pytest
import torch
from delta_pairs import small_pair
from safetensors.torch import load_file

from rlvr.checkpoints.delta_codec import Coded, encode, turn
from rlvr.delta import apply, pack, revert

DENSITIES = [0.001, 0.01, 0.2]
ENTRIES = 1 << 22


def random_update(entries: int, density: float, dtype: type = np.uint16) -> np.ndarray:
    random = np.random.default_rng(entries)
    bits = random.integers(1, np.iinfo(dtype).max, entries, dtype=dtype, endpoint=True)
    return np.where(random.random(entries) < density, bits, dtype(0))


def index_bound(update: np.ndarray) -> float:
    """Return n H(d) / 8: the bytes that random positions of this density need."""
    density = np.count_nonzero(update) / update.size
    entropy = -density * np.log2(density) - (1 - density) * np.log2(1 - density)
    return update.size * entropy / 8


def turned_both_ways(base: np.ndarray, tuned: np.ndarray) -> Coded:
    coded = encode(base, tuned)
    assert coded is not None and coded.changed == np.count_nonzero(base != tuned)
    np.testing.assert_array_equal(turn(base.copy(), coded, to_tuned=True), tuned)
    np.testing.assert_array_equal(turn(tuned.copy(), coded, to_tuned=False), base)
    return coded


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
@pytest.mark.parametrize("density", [1e-4, 0.01, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("entries", [1, 7, 8, 1000, 65537])
def test_either_side_gives_the_other_back(entries, density, dtype):
    """Any bits at all: infinities, NaNs, zeros of both signs, changes of sign and exponent."""
    base = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, entries, dtype, endpoint=True)
    update = random_update(entries, density, dtype)
    update[-1] = 1
    turned_both_ways(base, base ^ update)
    # Steps of the lowest bits, as training makes them, and of higher ones only.
    turned_both_ways(base, base + (update != 0).astype(dtype))
    turned_both_ways(base, base ^ (update & dtype(0xF0)) ^ dtype(0x80))


@pytest.mark.parametrize("value", [0, 0x8000, 0x7F80, 0xFFFF, 0x0001])
def test_a_matrix_of_one_value_and_a_matrix_that_becomes_one(value):
    base = np.full(5000, value, np.uint16)
    tuned = np.random.default_rng(0).integers(0, 1 << 16, 5000, dtype=np.uint16)
    turned_both_ways(base, tuned)
    turned_both_ways(tuned, base)
    assert len(turned_both_ways(base, base ^ np.uint16(1)).values) < 60


@pytest.mark.parametrize(
    "positions", [[0], [99_999], [0, 99_999], range(5000, 6000), range(0, 100_000, 7)]
)
def test_clustered_and_regular_positions_come_back(positions):
    base = np.full(100_000, 0x3C00, np.uint16)
    tuned = base.copy()
    tuned[list(positions)] += 3
    # Worst: a Rice code of 18 bits and a direction each, and one zstd frame.
    assert len(turned_both_ways(base, tuned).values) <= 60 + 3 * len(positions)


def test_no_change_is_no_chunk():
    assert encode(np.zeros(100, np.uint32), np.zeros(100, np.uint32)) is None


def conditional_bound(base: np.ndarray, tuned: np.ndarray) -> float:
    """Return the bytes of the steps at their entropy, given the exponent of the base."""
    exponents, steps = base >> 7 & 0xFF, tuned.astype(np.int64) - base
    total = 0.0
    for exponent in np.unique(exponents):
        counts = np.unique(steps[exponents == exponent], return_counts=True)[1]
        total += float((counts * np.log2(counts.sum() / counts)).sum())
    return total / 8


def bf16_bits(values: torch.Tensor) -> np.ndarray:
    return values.bfloat16().view(torch.int16).numpy().view(np.uint16).ravel()


@pytest.mark.parametrize("size", [1e-5, 1e-4, 1e-3])
@pytest.mark.parametrize("kind", ["normal", "even", "masked", "zeros"])
def test_updates_of_trained_weights_are_within_a_tenth_of_their_bound(kind, size):
    """Measured: 1.01 to 1.094; files of version 1 took 1.2 to 3.9.

    Larger updates take more (1.12 at 3e-3): to go both ways from one file costs something wherever
    an exponent changes, and this bound knows one way only.
    """
    generator = torch.Generator().manual_seed(0)
    scale = torch.exp(0.3 * torch.randn(1024, 1, generator=generator))
    weights = (0.03 * scale * torch.randn(1024, 1024, generator=generator)).bfloat16()
    update = torch.randn(1024, 1024, generator=generator)
    if kind == "even":
        update = update.sign() * (0.5 + torch.rand(1024, 1024, generator=generator))
    elif kind == "masked":
        update *= torch.rand(1024, 1024, generator=generator) < 0.2
    elif kind == "zeros":
        weights[weights.abs() < 0.005] = 0
    base, tuned = bf16_bits(weights), bf16_bits(weights.float() + size * update)
    bound = conditional_bound(base, tuned)
    assert len(turned_both_ways(base, tuned).values) <= 1.1 * bound


def test_files_of_version_1_are_still_read(save_checkpoint, tmp_path):
    base, tuned = small_pair()
    folders = save_checkpoint("base", base), save_checkpoint("tuned", tuned)
    file = Path(__file__).parent / "data" / "version_1.delta"
    for turned, start, expected in ((apply, 0, tuned), (revert, 1, base)):
        out = tmp_path / turned.__name__
        turned(folders[start], file, out)
        found = load_file(out / "model.safetensors")
        assert all(found[name].equal(expected[name]) for name in expected)
        assert {name: w.dtype for name, w in found.items()} == {
            name: w.dtype for name, w in expected.items()
        }


def pack_update(save_checkpoint, tmp_path, update: np.ndarray) -> int:
    """Return the size in bytes of the delta file of a bf16 tensor with this update."""
    base = np.random.default_rng(0).integers(0, 1 << 16, update.size, dtype=np.uint16)
    for name, bits in (("base", base), ("tuned", base ^ update)):
        tensor = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)
        save_checkpoint(name, {"weight": tensor})
    return pack(tmp_path / "base", tmp_path / "tuned", tmp_path / "delta").file_bytes


@pytest.mark.parametrize("density", DENSITIES)
def test_a_file_of_random_xors_is_within_ten_per_cent_of_its_bound(
    save_checkpoint, tmp_path, density
):
    """Measured: 6.2 %, 0.8 % and 0.4 %; the header's 600 bytes are most of the first."""
    update = random_update(ENTRIES, density)
    bound = 2 * np.count_nonzero(update) + index_bound(update)
    assert bound < pack_update(save_checkpoint, tmp_path, update) <= 1.10 * bound
