"""Update sparsity on constructed changes of known bits."""

import pytest
import torch

from rlvr.geometry.sparsity import sparsity_exact, update_mask_bf16, update_sparsity


def weights() -> torch.Tensor:
    return torch.randn(40, 25, generator=torch.Generator().manual_seed(0)).bfloat16()


def next_up(values: torch.Tensor) -> torch.Tensor:
    """Return the bf16 neighbours farther from zero."""
    return (values.view(torch.int16) + 1).view(torch.bfloat16)


def test_exactly_the_flipped_entries_are_found():
    base = weights()
    flipped = torch.rand(base.shape, generator=torch.Generator().manual_seed(1)) < 0.13
    tuned = torch.where(flipped, next_up(base), base)
    assert torch.equal(update_mask_bf16(base, tuned), flipped)
    expected = 1 - int(flipped.sum()) / base.numel()
    assert update_sparsity(base, tuned) == sparsity_exact(base, tuned) == expected


def test_unchanged_weights_have_sparsity_one():
    assert update_sparsity(weights(), weights()) == sparsity_exact(weights(), weights()) == 1.0


def test_changes_below_bf16_resolution_are_no_changes():
    base = weights().float()
    tuned = base * (1 + 1e-3)  # half of a bf16 step is 2e-3 or more
    assert update_sparsity(base, tuned) == 1.0
    assert sparsity_exact(base, tuned) == 0.0


def test_the_tolerance_test_of_the_paper_gives_the_same_mask():
    base = weights()
    tuned = (base.float() * (1 + 4e-3 * torch.rand(base.shape))).bfloat16()
    a, b = base.double(), tuned.double()
    by_tolerance = (a - b).abs() > 1e-3 * torch.maximum(a.abs(), b.abs())
    assert 0 < by_tolerance.sum() < base.numel()
    assert torch.equal(update_mask_bf16(base, tuned), by_tolerance)


def test_the_examples_that_an_absolute_tolerance_gets_wrong():
    base, tuned = torch.tensor([1024.001, 1e-6]), torch.tensor([1024.002, 2e-6])
    assert update_mask_bf16(base, tuned).tolist() == [False, True]


def test_zeros_of_either_sign_are_equal():
    base, tuned = torch.tensor([0.0, -0.0, 0.0]), torch.tensor([-0.0, 0.0, 1e-30])
    assert update_mask_bf16(base, tuned).tolist() == [False, False, True]
    assert sparsity_exact(base, tuned) == pytest.approx(2 / 3)


def test_opposite_signs_differ():
    assert update_mask_bf16(torch.tensor([1.0]), torch.tensor([-1.0])).item()


def test_subnormals_count():
    base = torch.tensor([1, 2, 0], dtype=torch.int16).view(torch.bfloat16)
    tuned = torch.tensor([1, 3, 1], dtype=torch.int16).view(torch.bfloat16)
    assert update_mask_bf16(base, tuned).tolist() == [False, True, True]


@pytest.mark.parametrize("measure", [update_mask_bf16, update_sparsity, sparsity_exact])
def test_nan_and_unequal_shapes_are_refused(measure):
    good, broken = torch.ones(3), torch.tensor([1.0, float("nan"), 1.0])
    for pair in ((good, broken), (broken, good), (broken, broken)):
        with pytest.raises(ValueError, match="NaN"):
            measure(*pair)
    with pytest.raises(ValueError, match="shape"):
        measure(good, torch.ones(3, 1))


def test_transposed_views_are_read_in_place():
    base = weights().T
    tuned = base.clone()
    tuned[3, 7] += 1
    assert update_mask_bf16(base, tuned).nonzero().tolist() == [[3, 7]]
