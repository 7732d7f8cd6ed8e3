"""Masks as files: built and shown from the command line, taken by a recipe, refused elsewhere."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlvr.cli import main as cli_main
from rlvr.masks import Mask, load_mask
from rlvr.train import main as train_main

POLICY = Path(__file__).parent.parent / "recipes" / "pocket" / "policy"
SAFE = ["rank=8", "principal_density=0.5", "low_density=0.5"]


@pytest.fixture
def mask_file(tmp_path) -> Path:
    out = tmp_path / "mask.safetensors"
    words = ["mask", "build", str(POLICY), "--builder", "safe", "--out", str(out), "--measure-svd"]
    assert cli_main([*words, *SAFE]) == 0
    return out


def test_a_file_trains_as_its_builder_does(train, mask_file):
    built = train(
        "built", mask={"builder": "safe", "rank": 8, "principal_density": 0.5, "low_density": 0.5}
    )
    filed = train("filed", mask={"builder": "file", "path": str(mask_file)})
    first, second = (Mask.load(run_dir / "mask.safetensors") for run_dir in (built, filed))
    assert first.fingerprint() == second.fingerprint() == Mask.load(mask_file).fingerprint()
    weights = [
        load_file(run_dir / "checkpoints/step-000003/model.safetensors")
        for run_dir in (built, filed)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_show_says_densities_and_provenance(mask_file, capsys):
    assert cli_main(["mask", "show", str(mask_file)]) == 0
    output = capsys.readouterr().out
    for word in ("q_proj", "down_proj", "66.", "principal_density", "base_weights", "fingerprint"):
        assert word in output


def test_the_default_svd_is_near_the_exact_one(mask_file):
    overlap = Mask.load(mask_file).provenance["iou_with_exact_svd"]
    assert overlap["min"] >= 0.999
    assert Mask.load(mask_file).provenance["spec"]["svd"] == "gram"


def test_load_mask_maps_names_to_bools(mask_file):
    masks = load_mask(mask_file)
    assert len(masks) == 28
    assert masks["model.layers.0.mlp.up_proj.weight"].shape == (512, 128)
    assert masks["model.layers.0.mlp.up_proj.weight"].dtype == torch.bool


def broken_copy(folder: Path, change) -> Path:
    shutil.copytree(POLICY, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_mask_of_other_weights_is_refused(write_recipe, mask_file, tmp_path, capsys):
    def change(weights):
        weights["model.norm.weight"][0] += 1

    other = broken_copy(tmp_path / "other", change)
    path = write_recipe(
        model={"path": str(other)}, mask={"builder": "file", "path": str(mask_file)}
    )
    assert train_main([str(path)]) == 2
    assert "was built from weights" in capsys.readouterr().err


def test_nan_in_the_base_weights_is_refused_by_name(write_recipe, tmp_path, capsys):
    def change(weights):
        weights["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")

    other = broken_copy(tmp_path / "nan", change)
    path = write_recipe(
        model={"path": str(other)}, mask={"builder": "low_magnitude", "density": 0.5}
    )
    assert train_main([str(path)]) == 2
    assert "model.layers.1.mlp.up_proj.weight" in capsys.readouterr().err


def test_a_mask_of_another_model_is_refused_before_loading(
    write_recipe, mask_file, tmp_path, capsys
):
    small = Mask.load(mask_file)
    name = "model.layers.0.mlp.up_proj.weight"
    half = Mask.from_bools({name: small[name][:256]}, {})
    half.save(tmp_path / "half.safetensors")
    path = write_recipe(mask={"builder": "file", "path": str(tmp_path / "half.safetensors")})
    assert train_main([str(path), "--check"]) == 2
    assert "another model's mask" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--builder", "saef"], "did you mean 'safe'"),
        (["--builder", "random", "density=2"], "density"),
        (["--builder", "principal", "rank=99", "density=0.5"], "99"),
        (["--builder", "dense", "--targets", "nothing"], "matches no parameter"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_written(tmp_path, capsys, words, message):
    out = tmp_path / "mask.safetensors"
    assert cli_main(["mask", "build", str(POLICY), "--out", str(out), *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_kept(mask_file, capsys):
    before = mask_file.read_bytes()
    words = ["mask", "build", str(POLICY), "--builder", "dense", "--out", str(mask_file)]
    assert cli_main(words) == 2
    assert mask_file.read_bytes() == before
