"""Packed bits are those of NumPy, and come back as the mask that was packed."""

import numpy as np
import pytest
import torch

from rlvr.masks.bits import count_bits, pack_bits, set_positions, unpack_bits

SHAPES = [(0,), (1,), (7,), (8,), (9,), (3, 5), (16, 8), (33, 31), ()]


def random_mask(shape: tuple[int, ...], density: float = 0.4) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(len(shape))) < density


@pytest.mark.parametrize("shape", SHAPES)
def test_bits_are_those_of_numpy(shape):
    mask = random_mask(shape)
    expected = np.packbits(mask.numpy(), bitorder="little")
    bits = pack_bits(mask)
    assert bits.dtype == torch.uint8 and np.array_equal(bits.numpy(), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mask_survives_packing(shape):
    mask = random_mask(shape)
    assert unpack_bits(pack_bits(mask), shape).equal(mask)
    assert count_bits(pack_bits(mask)) == int(mask.sum())


@pytest.mark.parametrize("density", [0.0, 0.01, 0.4, 0.95, 2.0])
def test_positions_are_those_of_the_set_bits(density):
    mask = random_mask((1003,), density)
    positions = set_positions(pack_bits(mask), int(mask.sum()))
    assert positions.dtype == torch.int64 and positions.equal(mask.nonzero().view(-1))


def test_a_transposed_mask_is_packed_row_major():
    mask = random_mask((6, 10)).T
    assert not mask.is_contiguous()
    assert unpack_bits(pack_bits(mask), mask.shape).equal(mask)
