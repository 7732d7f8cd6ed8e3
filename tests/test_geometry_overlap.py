"""Chance, beside which the places of an update are read: updates that do not know the weights."""

import math

import pytest
import torch

from rlvr.geometry import overlap as ov
from rlvr.geometry.matrix import measure
from rlvr.geometry.settings import Settings
from rlvr.geometry.sparsity import update_mask_bf16

CPU = torch.device("cpu")


def weights(rows: int = 384, columns: int = 384) -> torch.Tensor:
    """Return bf16 weights whose rows are of different size, as those of trained matrices are."""
    generator = torch.Generator().manual_seed(0)
    scale = 0.04 * torch.exp(0.5 * torch.randn(rows, 1, generator=generator))
    return (torch.randn(rows, columns, generator=generator) * scale).bfloat16()


def update(kind: str, size: float, like: torch.Tensor, seed: int = 1) -> torch.Tensor:
    """Return an update that is independent of the weights; ``even``: of Adam's first few steps."""
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(like.shape, generator=generator) for _ in range(2))
    even = first.sign() * (0.8 + 0.4 * torch.rand(like.shape, generator=generator))
    return size * {"normal": first, "product": first * second, "even": even}[kind]


@pytest.mark.parametrize("kind", ["normal", "product", "even"])
@pytest.mark.parametrize("size", [1e-5, 3e-5, 1e-4, 3e-4, 1e-3])
def test_rounding_makes_no_update_look_as_if_it_knew_the_weights(kind, size):
    """bf16(W + D) of any D that is independent of W: nothing beyond rounding may be found."""
    base = weights()
    tuned = (base.float() + update(kind, size, base)).bfloat16()
    row = measure("w", base, tuned, Settings(rank=32, angle_rank=32, exact=False), CPU).row
    for mask in ("principal", "low", "principal_not_low"):
        assert row[f"overlap_{mask}"] == pytest.approx(row[f"overlap_{mask}_null"], abs=0.01), mask
    assert row["sparsity_bf16"] == pytest.approx(row["sparsity_null"], abs=0.01)


def test_to_shuffle_and_round_what_was_rounded_would_find_a_preference():
    base = weights()
    tuned = (base.float() + update("normal", 1e-4, base)).bfloat16()
    low = base.abs() <= base.abs().float().median()
    twice = ov.random_update(tuned.double() - base.double(), torch.Generator().manual_seed(2))
    found = ov.overlap(low, update_mask_bf16(base, tuned))
    assert found - ov.overlap(low, update_mask_bf16(base, twice + base)) > 0.05


def test_an_update_that_does_know_the_weights_is_found():
    base = weights()
    change = update("normal", 3e-4, base)
    change[base.abs() > base.abs().float().median()] /= 8
    row = measure("w", base, (base.float() + change).bfloat16(),
                  Settings(rank=32, angle_rank=32, exact=False), CPU).row  # fmt: skip
    assert row["overlap_low"] - row["overlap_low_null"] > 0.1


def test_independent_runs_share_what_bf16_shows_of_them():
    """Two updates that know neither the weights nor each other still move the same weights."""
    base = weights()
    masks = [
        update_mask_bf16(base, (base.float() + change).bfloat16())
        for change in (update("normal", 1e-4, base), update("product", 2e-4, base, 5))
    ]
    found, chance = ov.pairwise_jaccard(masks)
    assert found - chance > 0.05
    assert found == pytest.approx(ov.pairwise_jaccard_rounding(base, masks)[0], abs=0.01)


def test_runs_that_have_more_than_rounding_in_common_share_more():
    base = weights()
    common = update("normal", 1e-4, base)
    masks = [
        update_mask_bf16(base, (base.float() + common + own).bfloat16())
        for own in (update("even", 3e-5, base, 5), update("product", 3e-5, base, 6))
    ]
    found, _ = ov.pairwise_jaccard(masks)
    assert found - ov.pairwise_jaccard_rounding(base, masks)[0] > 0.1
    nothing = torch.zeros_like(masks[0])
    assert math.isnan(ov.pairwise_jaccard_rounding(base, [nothing, nothing])[0])


def test_jaccard_of_rounding_class_by_class():
    base = torch.tensor([[1.0, 1.05, -1.1, 2.0, 2.1, 4.1]]).bfloat16()
    masks = [torch.tensor([[1, 1, 0, 1, 0, 0]]).bool(), torch.tensor([[1, 0, 0, 1, 1, 0]]).bool()]
    (p, q), (r, s) = (2 / 3, 1 / 3), (1 / 2, 1.0)
    expected = (3 * p * q + 2 * r * s) / (3 * (p + q - p * q) + 2 * (r + s - r * s))
    assert ov.pairwise_jaccard_rounding(base, masks)[0] == pytest.approx(expected)
