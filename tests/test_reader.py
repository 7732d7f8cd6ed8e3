"""One reader: deltas, revisions, runs and mask files are what they stand for, read once."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hub_models import cache_files
from safetensors.torch import load_file, save_file
from tables import matrices, read_table, steps
from torch import Tensor

from rlvr.checkpoints.folders import base_of_run, model_folder
from rlvr.checkpoints.reader import counterpart, open_checkpoint, read_weights
from rlvr.checkpoints.runs import MANIFEST, checkpoints, publish_checkpoint, step_folder
from rlvr.cli import main as cli_main
from rlvr.delta import store_delta
from rlvr.geometry.settings import Settings
from rlvr.masks import Mask, build_mask, mask, parse_spec
from rlvr.schema import RecipeError

POLICY = Path(__file__).parent.parent / "recipes" / "pocket" / "policy"
FLAGS = ("--rank", "4", "--angle-rank", "4")
SETTINGS = Settings(rank=4, angle_rank=4)


def moved(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return the pocket policy with a twentieth of its entries moved, NaN payloads left alone."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, weight in load_file(POLICY / "model.safetensors").items():
        moves = torch.rand(weight.shape, generator=generator) < 0.05
        tensors[name] = torch.where(moves, weight.float() * 1.01, weight.float()).to(dtype)
    return tensors


def make_run(run: Path, model: dict[str, str | None], dtype: torch.dtype = torch.float32) -> Path:
    """Write a run directory with two published checkpoints."""
    for step in (2, 4):
        temporary = run / "checkpoints" / f"checkpoint-{step}"
        temporary.mkdir(parents=True)
        save_file(moved(step, dtype), temporary / "model.safetensors", metadata={"format": "pt"})
        shutil.copy(POLICY / "config.json", temporary)
        # A run's own files beside the weights, which are no weights.
        torch.save({"metrics": torch.ones(2)}, temporary / "generation-00000-of-00001.pt")
        (temporary / "trainer_state.json").write_text("{}")
        publish_checkpoint(temporary, step_folder(run, step), keep=None)
    (run / "recipe.json").write_text(json.dumps({"model": model}))
    return run


def as_deltas(run: Path, out: Path, base: Path, model: dict[str, str | None]) -> Path:
    """Copy a run, with each checkpoint as its delta against ``base``."""
    shutil.copytree(run, out)
    for folder in checkpoints(out):
        temporary = folder.with_name(f"checkpoint-{folder.name[-1]}")
        folder.rename(temporary)
        (temporary / MANIFEST).unlink()
        store_delta(temporary, base, model)
        publish_checkpoint(temporary, folder, keep=None)
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_delta_is_the_checkpoint_it_stands_for_bit_for_bit(tmp_path, dtype):
    model = {"path": str(POLICY), "revision": None}
    run = make_run(tmp_path / "run", model, dtype)
    sparse = as_deltas(run, tmp_path / "sparse", POLICY, model)
    for step in (2, 4):
        whole = dict(read_weights(step_folder(run, step)))
        lazily = open_checkpoint(step_folder(sparse, step))
        assert lazily.keys() == whole.keys()
        for name, stored in lazily.items():
            assert stored.shape == tuple(whole[name].shape)
            assert stored.dtype == str(dtype).removeprefix("torch.")
            assert torch.equal(stored.load(), whole[name])
    assert dict(open_checkpoint(sparse)).keys() == whole.keys()


def test_geometry_of_a_run_of_deltas_is_that_of_whole_checkpoints(tmp_path):
    model = {"path": str(POLICY), "revision": None}
    run = make_run(tmp_path / "run", model)
    sparse = as_deltas(run, tmp_path / "sparse", POLICY, model)
    before = sorted(path for path in sparse.rglob("*") if path.is_file())
    whole, packed = (
        (steps(folder), matrices(POLICY, folder, tmp_path / "out", SETTINGS))
        for folder in (run, sparse)
    )
    assert whole == packed
    # Nothing was made whole on disk.
    assert before == sorted(path for path in sparse.rglob("*") if path.is_file())


@pytest.mark.parametrize("change", ["moved away", "another", "cut"])
def test_a_delta_without_its_base_says_so(tmp_path, change):
    base = Path(shutil.copytree(POLICY, tmp_path / "base"))
    model: dict[str, str | None] = {"path": str(base), "revision": None}
    run = as_deltas(make_run(tmp_path / "run", model), tmp_path / "sparse", base, model)
    file = base / "model.safetensors"
    if change == "moved away":
        shutil.rmtree(base)
        words = "which is not here"
    elif change == "another":
        save_file(moved(7, torch.bfloat16), file, metadata={"format": "pt"})
        words = "not the base checkpoint"
    else:
        file.write_bytes(file.read_bytes()[:-9])
        words = "cut short"
    with pytest.raises(RecipeError, match=words):
        open_checkpoint(step_folder(run, 2))


def test_geometry_compares_with_the_revision_that_the_run_took(tmp_path):
    config = (POLICY / "config.json").read_text()
    for revision, seed in (("main", 1), ("v2", 2)):
        folder = cache_files("org/policy", {"config.json": config}, revision)
        save_file(moved(seed), folder / "model.safetensors", metadata={"format": "pt"})
    shares = {}
    for revision in ("main", "v2", None):
        run = make_run(tmp_path / str(revision), {"path": "org/policy", "revision": revision})
        assert base_of_run(run) == model_folder("org/policy", revision)
        shares[revision] = [row["sparsity_exact"] for row in steps(run)]
    # The checkpoint of step 2 holds the weights of revision v2.
    assert shares["v2"][0] == 1 and shares["main"][0] < 1
    assert shares[None] == shares["main"]


@pytest.mark.parametrize(("path", "revision"), [("org/nothing", None), ("org/policy", "v9")])
def test_what_the_hub_does_not_have_is_one_message(path, revision):
    cache_files("org/policy", {"config.json": "{}"})
    with pytest.raises(RecipeError, match="nor on the hub"):
        model_folder(path, revision)


def test_a_damaged_checkpoint_is_left_out_of_the_steps_by_name(tmp_path, capsys):
    run = make_run(tmp_path / "run", {"path": str(POLICY), "revision": None})
    file = step_folder(run, 2) / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    assert cli_main(["geometry", str(run), *FLAGS]) == 0
    assert "step-000002: left out of steps.csv (model.safetensors" in capsys.readouterr().out
    assert [row["step"] for row in read_table(run / "geometry" / "steps.csv")] == ["4"]


def test_a_head_and_its_embedding_stand_for_each_other_where_one_is_stored():
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    names = {"embed_tokens.weight": embedding}
    assert counterpart(head, names) == counterpart(embedding, names) == embedding
    assert counterpart(f"module.{embedding}", names) == embedding
    assert counterpart(embedding, {head: head}) == head
    assert counterpart(head, {**names, head: head}) == head
    assert counterpart("model.norm.weight", names) is None


def test_a_mask_over_many_files_reads_each_of_them_once(tmp_path, monkeypatch):
    weights = {f"layers.{i}.q.weight": torch.randn(6, 4) for i in range(5)}
    paths = [str(tmp_path / f"{seed}.safetensors") for seed in range(4)]
    for path in paths:
        Mask.from_bools({name: torch.rand(6, 4) < 0.3 for name in weights}).save(path)
    read, opened = mask.safe_open, []

    def counting(path, **options):
        opened.append(str(path))
        return read(path, **options)

    monkeypatch.setattr(mask, "safe_open", counting)
    files = [{"builder": "file", "path": path} for path in paths]
    build_mask(parse_spec({"builder": "union", "of": files}), weights.items(), {})
    assert sorted(opened) == sorted(paths)
