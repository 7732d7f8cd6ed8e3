"""A mask file: comes back as it was, and is refused by name where it is not a whole mask."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlvr.masks import Mask, load_mask
from rlvr.schema import RecipeError


def make(seed: int = 0) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"b.weight": (7, 9), "a.weight": (16, 3), "norm.weight": (5,)}
    bools = {name: torch.rand(shape, generator=generator) < 0.4 for name, shape in shapes.items()}
    return Mask.from_bools(bools, {"spec": {"builder": "random"}, "base": "abc"})


def test_a_mask_survives_its_file(tmp_path):
    mask = make()
    mask.save(tmp_path / "run" / "mask.safetensors")
    loaded = Mask.load(tmp_path / "run" / "mask.safetensors")
    assert loaded.shapes == mask.shapes and loaded.provenance == mask.provenance
    assert all(loaded[name].equal(mask[name]) for name in mask)
    assert loaded.fingerprint() == mask.fingerprint()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mask.safetensors"]
    bools = load_mask(tmp_path / "run" / "mask.safetensors")
    assert all(bools[name].equal(mask[name]) for name in mask.names)


def test_a_file_holds_one_bit_per_entry(tmp_path):
    bools = {"w": torch.rand(1000, 800) < 0.5}
    Mask.from_bools(bools).save(tmp_path / "mask.safetensors")
    assert (tmp_path / "mask.safetensors").stat().st_size < 100_000 + 1000


def test_counts_and_densities_are_those_of_the_bools():
    mask = make()
    counts = {name: int(mask[name].sum()) for name in mask}
    assert {name: mask.count(name) for name in mask} == counts
    assert mask.density("b.weight") == counts["b.weight"] / 63
    assert mask.density() == sum(counts.values()) / (63 + 48 + 5)


def test_the_fingerprint_sees_names_shapes_and_bits_and_not_their_order():
    bools = dict(make())
    fingerprint = make().fingerprint()
    assert Mask.from_bools(dict(reversed(bools.items()))).fingerprint() == fingerprint
    changed = bools["a.weight"].clone()
    changed[3, 1] ^= True
    others = [
        bools | {"a.weight": changed},
        bools | {"a.weight": bools["a.weight"].T.reshape(3, 16)},
        bools | {"a.weight": bools["a.weight"].reshape(3, 16)},
        {("c.weight" if name == "a.weight" else name): value for name, value in bools.items()},
    ]
    prints = {Mask.from_bools(other).fingerprint() for other in others}
    assert len(prints | {fingerprint}) == 5


def test_dense_entries_are_added_and_never_twice():
    mask = make().with_dense({"head.weight": (3, 4)})
    assert mask["head.weight"].all() and mask["a.weight"].equal(make()["a.weight"])
    with pytest.raises(ValueError, match="a.weight"):
        make().with_dense({"a.weight": (16, 3)})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"nowhere\.safetensors: no such mask file"):
        Mask.load(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("kept", [0, 5, 40, -1])
def test_a_file_cut_short_is_refused(tmp_path, kept):
    path = tmp_path / "mask.safetensors"
    make().save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(RecipeError, match=r"mask\.safetensors: cut short"):
        Mask.load(path)


def test_another_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a.weight": torch.zeros(2, 2)}, path, metadata={"format": "pt"})
    with pytest.raises(RecipeError, match="not of an update mask"):
        Mask.load(path)


def test_changed_bits_are_refused(tmp_path):
    path = tmp_path / "mask.safetensors"
    make().save(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(RecipeError, match="not those that were saved"):
        Mask.load(path)


def test_a_failed_save_keeps_the_old_file(tmp_path):
    path = tmp_path / "mask.safetensors"
    make().save(path)
    unwritable = Mask(make(1).bits, make(1).shapes, {"not": {"json"}})
    with pytest.raises(TypeError):
        unwritable.save(path)
    assert Mask.load(path).fingerprint() == make().fingerprint()
    assert set(load_file(path)) == set(make())
    assert json.dumps(Mask.load(path).provenance)
