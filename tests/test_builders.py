"""Mask builders against a sort in plain Python: exact counts, ties, complements, determinism."""

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from rlvr.linalg import low_rank
from rlvr.masks import build_mask, parse_spec
from rlvr.masks.builders import (
    largest,
    low_magnitude,
    off_principal,
    principal,
    random,
    safe,
)

# Odd counts put half-way cases in; the decimals have no exact double.
SHAPES = [(1, 5), (3, 5), (5, 5), (7, 9), (8, 8)]
DENSITIES = [0.1, 0.3, 0.35, 0.5, 0.58, 0.7, 0.9, 1.0]


def weights(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def rounded(density: float, numel: int) -> int:
    return math.floor(Fraction(str(density)) * numel + Fraction(1, 2))


def by_sorting(values: Tensor, count: int) -> Tensor:
    """Return the mask of the ``count`` smallest, ties to the lower index, by Python's own sort."""
    flat = values.view(-1).tolist()
    chosen = sorted(range(len(flat)), key=lambda index: (flat[index], index))[:count]
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[chosen] = True
    return mask.view(values.shape)


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_low_magnitude_is_the_head_of_the_sorted_magnitudes(shape, density):
    weight = weights(*shape)
    expected = by_sorting(weight.abs(), rounded(density, weight.numel()))
    assert low_magnitude(weight, "w", density=density).equal(expected)


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_principal_is_the_head_of_the_reconstruction_sorted_down(shape, density):
    weight = weights(*shape)
    magnitude = low_rank(weight, 1, svd="exact").abs()
    expected = by_sorting(-magnitude, rounded(density, weight.numel()))
    assert principal(weight, "w", rank=1, density=density, svd="exact").equal(expected)


@pytest.mark.parametrize("density", [0.1, 0.3, 0.35, 0.5, 0.58, 0.7, 0.9])
def test_off_principal_is_the_complement_of_principal_at_every_size(density):
    rest = float(1 - Fraction(str(density)))
    for columns in range(2, 40):
        weight = weights(3, columns)
        top = principal(weight, "w", rank=2, density=density)
        assert off_principal(weight, "w", rank=2, density=rest).equal(~top), columns


def test_ties_are_broken_by_index_and_counts_stay_exact():
    weight = torch.tensor([[1.0, -1.0, 0.0, 1.0], [-0.0, 2.0, -1.0, 1.0]])
    mask = low_magnitude(weight, "w", density=0.5)
    assert mask.int().tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert largest(weight.abs(), 4).int().tolist() == [[1, 1, 0, 1], [0, 1, 0, 0]]
    constant = torch.ones(4, 6)
    for density in (0.25, 0.5, 0.75):
        assert int(low_magnitude(constant, "w", density=density).sum()) == 24 * density
        assert int(principal(constant, "w", rank=1, density=density).sum()) == 24 * density


def test_safe_freezes_what_is_both_principal_and_large():
    weight = weights(24, 16)
    mask = safe(weight, "w", rank=4, principal_density=0.5, low_density=0.6)
    top = principal(weight, "w", rank=4, density=0.5)
    low = low_magnitude(weight, "w", density=0.6)
    assert (~mask).equal(top & ~low)
    # |A or B| = |A| + |B| - |A and B|: the arithmetic of the paper's 58.59 % and 74.02 %.
    assert int(mask.sum()) == int(low.sum()) + int((~top).sum()) - int((low & ~top).sum())


def test_safe_keeps_about_three_quarters_where_magnitude_and_subspace_are_independent():
    weight = weights(400, 300)  # white noise: its rank-1 reconstruction says little of an entry
    density = safe(weight, "w", rank=1, principal_density=0.5, low_density=0.5).float().mean()
    assert abs(float(density) - 0.75) < 0.01


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", DENSITIES)
def test_random_has_the_exact_count(shape, density):
    weight = weights(*shape)
    count = int(random(weight, "w", density=density).sum())
    assert count == rounded(density, weight.numel())


def test_random_like_has_the_count_of_the_other_mask():
    weight = weights(20, 30)
    other = safe(weight, "w", rank=3, principal_density=0.5, low_density=0.5)
    mask = random(weight, "w", like=other)
    assert int(mask.sum()) == int(other.sum()) and not mask.equal(other)


def test_random_wants_exactly_one_of_density_and_like():
    weight = weights(4, 4)
    for options in ({}, {"density": 0.5, "like": torch.ones(4, 4, dtype=torch.bool)}):
        with pytest.raises(ValueError, match="exactly one"):
            random(weight, "w", **options)


def test_random_differs_by_name_and_seed_and_in_nothing_else():
    weight = weights(20, 30)
    mask = random(weight, "a", density=0.5, seed=1)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert random(weights(20, 30, seed=9), "a", density=0.5, seed=1).equal(mask)
    assert torch.get_rng_state().equal(before)
    assert not random(weight, "b", density=0.5, seed=1).equal(mask)
    assert not random(weight, "a", density=0.5, seed=2).equal(mask)


def test_random_is_uniform_over_entries():
    weight = weights(4, 5)
    share = torch.stack([random(weight, f"w{i}", density=0.3) for i in range(2000)]).float().mean(0)
    # Standard error 0.0102 of each share; five of them.
    assert float((share - 0.3).abs().max()) < 0.051


def test_bfloat16_and_float32_of_the_same_values_have_the_same_mask():
    weight = weights(32, 24).bfloat16()
    for build in (low_magnitude, lambda w, n, density: principal(w, n, rank=3, density=density)):
        assert build(weight, "w", density=0.4).equal(build(weight.float(), "w", density=0.4))


def test_principal_does_not_depend_on_the_global_random_state():
    weight = weights(64, 48)
    torch.manual_seed(1)
    first = principal(weight, "w", rank=4, density=0.5)
    torch.manual_seed(2)
    assert principal(weight, "w", rank=4, density=0.5).equal(first)


LOW = {"builder": "low_magnitude", "density": 0.4}
TOP = {"builder": "principal", "rank": 2, "density": 0.5}


def build(value: dict, weight: Tensor) -> Tensor:
    return build_mask(parse_spec(value), [("w", weight)])["w"]


def test_set_algebra_of_a_recipe_is_that_of_its_parts():
    weight = weights(12, 10)
    low, top = build(LOW, weight), build(TOP, weight)
    assert build({"builder": "union", "of": [LOW, TOP]}, weight).equal(low | top)
    assert build({"builder": "intersection", "of": [LOW, TOP]}, weight).equal(low & top)
    assert build({"builder": "complement", "of": TOP}, weight).equal(~top)
    assert build({"builder": "dense"}, weight).all()


def test_the_safe_mask_can_be_written_as_a_union():
    weight = weights(12, 10)
    union = {"builder": "union", "of": [LOW, {"builder": "complement", "of": TOP}]}
    mask = {"builder": "safe", "rank": 2, "principal_density": 0.5, "low_density": 0.4}
    assert build(mask, weight).equal(build(union, weight))


def test_a_random_control_has_the_size_of_the_nested_mask_in_every_matrix():
    named = [("a", weights(12, 10)), ("b", weights(9, 31, seed=1))]
    like = {"builder": "safe", "rank": 2, "principal_density": 0.5, "low_density": 0.4}
    control = build_mask(parse_spec({"builder": "random", "like": like, "seed": 3}), named)
    shown = build_mask(parse_spec(like), named)
    assert [control.count(n) for n in control] == [shown.count(n) for n in shown]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_base_weight_that_is_not_finite_is_named(bad):
    weight = weights(4, 4)
    weight[1, 2] = bad
    with pytest.raises(ValueError, match="layers.0.weight.*NaN or infinity"):
        build_mask(parse_spec(LOW), [("layers.0.weight", weight)])


def test_a_mask_in_which_nothing_may_move_is_refused():
    with pytest.raises(ValueError, match="no entry"):
        build({"builder": "complement", "of": {"builder": "dense"}}, weights(4, 4))
