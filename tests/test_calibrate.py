"""The rank of a safe mask of a given density: what building the mask at every rank would find."""

import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlvr.cli import main as cli_main
from rlvr.masks import Mask, build_mask, parse_spec
from rlvr.masks.calibrate import REFINED, between, calibrate, crossings, grid
from rlvr.schema import RecipeError

POLICY = Path(__file__).parent.parent / "recipes" / "pocket" / "policy"
HALVES = {"principal_density": 0.5, "low_density": 0.5}


def matrices(*shapes: tuple[int, int]) -> list[tuple[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(f"w{i}", torch.randn(*s, generator=generator)) for i, s in enumerate(shapes)]


def brute_force(weights, rank: int, **densities) -> Mask:
    spec = {"builder": "safe", "rank": rank, "svd": "exact", **densities}
    return build_mask(parse_spec(spec), weights)


@pytest.mark.parametrize("densities", [HALVES, {"principal_density": 0.3, "low_density": 0.5859}])
def test_every_density_of_the_table_is_that_of_the_mask_built(densities):
    weights = matrices((24, 40), (40, 24), (64, 32))
    found = calibrate(lambda: weights, 24, 0.7, **densities)
    for rank, density in found.densities.items():
        assert density == brute_force(weights, rank, **densities).density()


@pytest.mark.parametrize("target", [0.52, 0.6, 0.7, 0.7402])
def test_the_rank_is_the_nearest_of_all_ranks(target):
    weights = matrices((90, 100), (100, 90))
    found = calibrate(lambda: weights, 90, target, **HALVES)
    every = {rank: brute_force(weights, rank, **HALVES).density() for rank in range(1, 91)}
    least = min(abs(density - target) for density in every.values())
    assert abs(found.error) == least == abs(every[found.rank] - target)
    assert found.reached and len(found.densities) < 60


def test_each_pass_reads_and_decomposes_each_matrix_once():
    passes = []

    def weights():
        passes.append(0)
        for item in matrices((80, 80), (80, 80)):
            passes[-1] += 1
            yield item

    calibrate(weights, 80, 0.6, **HALVES)
    assert passes == [2, 2]  # the grid, and the up to 31 ranks inside its bracket


def test_a_target_that_no_rank_reaches_is_said_so():
    weights = matrices((32, 32))
    found = calibrate(lambda: weights, 32, 0.9, **HALVES)
    assert not found.reached and list(found.densities) == grid(32)
    assert found.rank == max(found.densities, key=lambda rank: found.densities[rank])
    with pytest.raises(RecipeError, match="outside"):
        calibrate(lambda: weights, 32, 1.0, **HALVES)
    with pytest.raises(RecipeError, match="no matrix"):
        calibrate(lambda: [], 32, 0.7, **HALVES)


def test_several_crossings_are_all_bracketed():
    densities = {1: 0.75, 2: 0.7, 4: 0.76, 8: 0.6, 16: 0.61}
    assert crossings(densities, 0.74) == [(1, 2), (2, 4), (4, 8)]
    assert crossings(densities, 0.61) == [(4, 8), (8, 16)]


@pytest.mark.parametrize(("low", "high"), [(1, 2), (8, 16), (32, 64), (512, 1024), (64, 1536)])
def test_a_bracket_is_divided_until_its_ends_are_neighbours(low, high):
    inside = between(low, high)
    assert len(inside) == min(REFINED, high - low - 1)
    assert all(low < rank < high for rank in inside)
    steps = [b - a for a, b in zip([low, *inside], [*inside, high], strict=True)]
    assert max(steps) <= -(-(high - low) // (len(inside) + 1)) + 1


def test_the_command_finds_the_rank_of_a_mask_built_by_the_other(tmp_path, capsys):
    """The safe mask of rank 8 of the pocket policy has the density that leads back to rank 8."""
    built, table = tmp_path / "mask.safetensors", tmp_path / "table.json"
    words = ["rank=8", "principal_density=0.5", "low_density=0.5", "--out", str(built)]
    assert cli_main(["mask", "build", str(POLICY), "--builder", "safe", *words]) == 0
    density = Mask.load(built).density()
    capsys.readouterr()
    words = ["--builder", "safe", "--target", str(density), "--out", str(table)]
    assert cli_main(["mask", "calibrate", str(POLICY), *words]) == 0
    output = capsys.readouterr().out
    assert "rank 8: density" in output and "more than once" not in output
    answer = json.loads(table.read_text())
    # A handful of the 790,000 entries lie on the threshold of one method only.
    assert answer["rank"] == 8 and abs(answer["error"]) < 1e-5
    assert answer["densities"]["8"] == pytest.approx(density, abs=1e-5)
    assert set(grid(64)) <= set(map(int, answer["densities"]))  # 64: the keys and values


def test_the_table_as_csv(tmp_path):
    out = tmp_path / "table.csv"
    words = ["--targets", "layers.0.*", "--target", "0.6", "--out", str(out)]
    assert cli_main(["mask", "calibrate", str(POLICY), *words]) == 0
    with open(out, newline="") as file:
        table = {int(row["rank"]): float(row["density"]) for row in csv.DictReader(file)}
    assert list(table) == sorted(table) and table[1] > 0.6 > table[64] > 0.5
    kept = out.read_bytes()
    assert cli_main(["mask", "calibrate", str(POLICY), *words]) == 2
    assert out.read_bytes() == kept


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "74.02"], "outside (0, 1)"),
        (["--low-density", "1.5"], "low_density"),
        (["--targets", "nothing"], "matches no parameter"),
        (["--out", "table.txt"], "neither .csv nor .json"),
    ],
)
def test_a_mistake_is_named(words, message, capsys):
    assert cli_main(["mask", "calibrate", str(POLICY), *words]) == 2
    assert message in capsys.readouterr().err


def test_weights_that_are_not_finite_are_named(tmp_path, capsys):
    (tmp_path / "config.json").write_text((POLICY / "config.json").read_text())
    weights = load_file(POLICY / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert cli_main(["mask", "calibrate", str(tmp_path)]) == 2
    assert "model.layers.1.mlp.up_proj.weight" in capsys.readouterr().err
