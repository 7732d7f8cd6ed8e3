"""Curvature on masks against plain NumPy and drawn random masks; the Fisher length of an update."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rlvr.geometry import curvature as cv
from rlvr.geometry.settings import Settings
from rlvr.masks import builders

POLICY = Path(__file__).parent.parent / "recipes" / "pocket" / "policy"
DATA = {"name": "pocket", "split": "test", "size": 64}
SETTINGS = Settings(rank=4, density=0.5, low_density=0.4)
SHAPES = ((24, 16), (20, 30))


def weights_of(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"w{i}": torch.randn(s, generator=generator) for i, s in enumerate(SHAPES)}


def table_of(
    squares: list[list[Tensor]], weights: dict[str, Tensor]
) -> tuple[cv.Table, dict[str, np.ndarray]]:
    """Return the table of squared gradients (prompt by matrix, one token each), and the masks."""
    cells = {n: cv.cells_of(n, w, SETTINGS) for n, w in weights.items()}
    sums = np.stack(
        [[cv.sum_cells(s, cells[n]).numpy() for s, n in zip(own, cells, strict=True)]
         for own in squares]
    )  # fmt: skip
    diagonals = [sum(own) / len(squares) for own in zip(*squares, strict=True)]
    table = cv.Table(
        sums,
        np.stack([cv.sum_cells(torch.ones_like(weights[n]), cells[n]).numpy() for n in cells]),
        np.stack([cv.sum_cells(d.double() ** 2, cells[n]).numpy()
                  for d, n in zip(diagonals, cells, strict=True)]),
        np.stack([cv.shuffled_sums(n, d, cells[n]) for d, n in zip(diagonals, cells, strict=True)]),
        np.ones(len(squares)),
    )  # fmt: skip
    return table, {n: d.double().numpy() for n, d in zip(cells, diagonals, strict=True)}


def masks_of(name: str, weight: Tensor) -> dict[str, np.ndarray]:
    principal = builders.principal(weight, name, rank=4, density=0.5)
    low = builders.low_magnitude(weight, name, density=0.4)
    safe = builders.safe(weight, name, rank=4, principal_density=0.5, low_density=0.4)
    off = builders.off_principal(weight, name, rank=4, density=0.5)
    found = {"principal": principal, "off_principal": off, "low": low, "safe": safe}
    found["principal_not_low"] = principal & ~low
    return {mask: value.numpy() for mask, value in found.items()}


def random_squares(prompts: int, seed: int = 1) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [[torch.rand(s, generator=generator) ** 4 for s in SHAPES] for _ in range(prompts)]


def test_cells_are_the_builders_masks_and_equally_full_bins():
    for name, weight in weights_of().items():
        cells = cv.cells_of(name, weight, SETTINGS).numpy()
        for mask, expected in masks_of(name, weight).items():
            assert (np.isin(cells // cv.BINS, cv.MASKS[mask]) == expected).all(), mask
        sizes = np.bincount((cells % cv.BINS).ravel())
        assert len(sizes) == weight.numel() // 16 and sizes.max() - sizes.min() <= 1
        magnitude = weight.abs().numpy()
        tops = [magnitude[cells % cv.BINS == b].max() for b in range(len(sizes))]
        assert (np.diff(tops) > 0).all()


def test_means_and_ratios_are_those_of_plain_numpy():
    weights = weights_of()
    table, diagonals = table_of(random_squares(5), weights)
    for mask in cv.MASKS:
        held, expected, size = 0.0, 0.0, 0
        for index, (name, weight) in enumerate(weights.items()):
            own, d = masks_of(name, weight)[mask], diagonals[name]
            row = table.row(mask, [index])
            assert row["mean_curvature"] == pytest.approx(d[own].mean(), rel=1e-6)
            assert row["mean_curvature_all"] == pytest.approx(d.mean(), rel=1e-6)
            assert row["ratio"] == pytest.approx(d[own].mean() / d.mean(), rel=1e-6)
            assert row["density"] == own.mean()
            held, size = held + d[own].sum(), size + own.sum()
            expected += d.mean() * own.sum()
        row = table.row(mask, range(len(weights)))
        assert row["ratio"] == pytest.approx(held / expected, rel=1e-6)
        assert row["mean_curvature"] == pytest.approx(held / size, rel=1e-6)


def drawn_sums(d: np.ndarray, own: np.ndarray, strata: np.ndarray, draws: int) -> np.ndarray:
    """Return sums over random masks with as many entries as ``own`` in every stratum."""
    generator, found = np.random.default_rng(0), np.zeros(draws)
    for stratum in np.unique(strata):
        values, count = d[strata == stratum], int(own[strata == stratum].sum())
        found += [generator.permutation(values)[:count].sum() for _ in range(draws)]
    return found


@pytest.mark.parametrize(
    ("key", "z_key"), [("ratio", "z_random"), ("ratio_magnitude", "z_magnitude")]
)
def test_closed_forms_are_those_of_drawn_masks(key: str, z_key: str):
    weights = weights_of()
    table, diagonals = table_of(random_squares(2), weights)
    draws = 3000
    sums, found = np.zeros(draws), 0.0
    for name, weight in weights.items():
        own, d = masks_of(name, weight)["principal"], diagonals[name]
        bins = cv.cells_of(name, weight, SETTINGS).numpy() % cv.BINS
        sums += drawn_sums(d, own, bins if "magnitude" in key else np.zeros_like(bins), draws)
        found += d[own].sum()
    row = table.row("principal", range(len(weights)))
    error = sums.std() / draws**0.5
    assert found / row[key] == pytest.approx(sums.mean(), abs=5 * error)
    z = (found - sums.mean()) / sums.std()
    assert row[z_key] == pytest.approx(z, abs=5 * (1 + abs(z)) / draws**0.5)


def test_shuffled_curvature_has_a_mean_z_of_zero():
    """Entries in random places: z is standard normal, against entries, stripes and magnitudes."""
    weights = weights_of()
    fixed = random_squares(1)[0]
    generator = torch.Generator().manual_seed(3)
    found: dict[str, list[float]] = {"z_random": [], "z_shuffled": [], "z_magnitude": []}
    for _ in range(100):
        squares = [
            s.reshape(-1)[torch.randperm(s.numel(), generator=generator)].view(s.shape)
            for s in fixed
        ]
        row = table_of([squares], weights)[0].row("principal", range(2))
        for key, values in found.items():
            values.append(row[key])
    for values in found.values():
        assert abs(np.mean(values)) < 5 / 100**0.5
        assert 0.75 < np.std(values) < 1.3


def test_stripes_fool_entries_and_not_shuffled_rows_and_columns():
    """Curvature that differs by row alone, on a mask of the same rows' entries, by chance."""
    generator = torch.Generator().manual_seed(0)
    z_random, z_shuffled = [], []
    for seed in range(60):
        left = torch.randn(SHAPES[0][0], 1, generator=generator)
        weights = {"w0": left.abs() * torch.randn(SHAPES[0], generator=generator),
                   "w1": weights_of(seed)["w1"]}  # fmt: skip
        rows = torch.rand(SHAPES[0][0], 1, generator=generator) ** 3
        squares = [rows.expand(SHAPES[0]).clone(), torch.ones(SHAPES[1])]
        row = table_of([squares], weights)[0].row("low", [0])
        z_random.append(row["z_random"])
        z_shuffled.append(row["z_shuffled"])
    assert np.std(z_random) > 2
    assert np.std(z_shuffled) < 1.5


def test_curvature_that_follows_magnitude_is_explained_by_it():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(200, 160, generator=generator)
    cells = {"w": cv.cells_of("w", weight, Settings(rank=80, density=0.5, low_density=0.4))}
    noise = torch.rand(weight.shape, generator=generator)
    steps = (cells["w"] % cv.BINS).float() * noise  # curvature grows with the magnitude
    table = cv.Table(
        np.stack([[cv.sum_cells(steps, cells["w"]).numpy()]] * 3),
        cv.sum_cells(torch.ones_like(weight), cells["w"]).numpy()[None],
        cv.sum_cells(steps.double() ** 2, cells["w"]).numpy()[None],
        cv.shuffled_sums("w", steps, cells["w"])[None],
        np.ones(3),
    )
    row = table.row("principal", [0])
    assert row["ratio"] > 1.02 and row["z_random"] > 5
    assert row["ratio_magnitude"] == pytest.approx(1, abs=0.01) and abs(row["z_magnitude"]) < 4
    low = table.row("low", [0])
    assert low["ratio"] < 0.6
    # All but one bin are inside or outside as a whole: there is next to nothing to compare with.
    assert low["ratio_magnitude"] == pytest.approx(1, abs=0.01)


def test_interval_is_over_prompts():
    weights = weights_of()
    equal = random_squares(1) * 8
    row = table_of(equal, weights)[0].row("principal", range(2))
    assert row["ratio_high"] - row["ratio_low"] < 1e-9
    squares = random_squares(12, seed=5)
    table, _ = table_of(squares, weights)
    row = table.row("principal", range(2))
    generator, ratios = np.random.default_rng(9), []
    for _ in range(400):
        drawn = generator.integers(12, size=12)
        held = expected = 0.0
        for index, (name, weight) in enumerate(weights.items()):
            own = masks_of(name, weight)["principal"]
            d = np.mean([squares[i][index].double().numpy() for i in drawn], axis=0)
            held, expected = held + d[own].sum(), expected + d.mean() * own.sum()
        ratios.append(held / expected)
    low, high = np.quantile(ratios, (0.025, 0.975))
    width = high - low
    assert row["ratio_low"] == pytest.approx(low, abs=0.2 * width)
    assert row["ratio_high"] == pytest.approx(high, abs=0.2 * width)


def test_zero_curvature_is_undefined_and_no_error():
    weights = weights_of()
    zeros = [[torch.zeros(s) for s in SHAPES]] * 2
    row = table_of(zeros, weights)[0].row("principal", range(2))
    assert row["ratio"] is None and row["z_random"] is None and row["z_shuffled"] is None
    assert row["mean_curvature"] == 0
