"""A base of every make trains to its summary."""

import json
from pathlib import Path

import pytest
import tables
import torch
from test_bases import WEIGHTS, write

from rlvr.cli import main as cli_main
from rlvr.geometry.settings import Settings
from rlvr.masks import Mask
from rlvr.train import main as train_main


def stored_head(base: Path) -> None:
    write(base, {**WEIGHTS, "lm_head.weight": WEIGHTS["model.embed_tokens.weight"].clone()})


def only_the_head(base: Path) -> None:
    rest = {name: w for name, w in WEIGHTS.items() if name != "model.embed_tokens.weight"}
    write(base, {**rest, "lm_head.weight": WEIGHTS["model.embed_tokens.weight"]})


def whole_bin(base: Path) -> None:
    (base / "model.safetensors").unlink()
    torch.save({**WEIGHTS, "lm_head.weight": WEIGHTS["model.embed_tokens.weight"]}, base / BIN)


def sharded_bin(base: Path) -> None:
    (base / "model.safetensors").unlink()
    places = {}
    for index in range(2):
        part = {name: WEIGHTS[name] for name in sorted(WEIGHTS)[index::2]}
        torch.save(part, base / f"pytorch_model-{index}.bin")
        places |= dict.fromkeys(part, f"pytorch_model-{index}.bin")
    (base / f"{BIN}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def bare_names(base: Path) -> None:
    write(base, {name.removeprefix("model."): weight for name, weight in WEIGHTS.items()})


BIN = "pytorch_model.bin"
WHOLE = [stored_head, only_the_head, whole_bin, sharded_bin, bare_names]


@pytest.mark.parametrize("make", WHOLE, ids=lambda make: make.__name__)
def test_every_make_of_a_base_trains_to_its_summary(make, base, train, tmp_path):
    make(base)
    mask = {"builder": "random", "density": 0.2}
    run = train(model={"path": str(base)}, mask=mask, trainer={"max_steps": 1})
    summary = json.loads((run / "summary.json").read_text())
    assert summary["mask_leak"] == 0 and 0 < summary["sparsity_bf16"] < 1
    assert len(tables.steps(run)) == 1
    settings = Settings(rank=4, angle_rank=4)
    assert len(tables.matrices(base, run, tmp_path, settings)) == 28
    # A mask that was built from the files is one of the loaded policy.
    words = ["--builder", "random", "density=0.2", "--out", str(tmp_path / "mask.safetensors")]
    assert cli_main(["mask", "build", str(base), *words]) == 0
    built = Mask.load(tmp_path / "mask.safetensors").provenance["base_weights"]
    assert built == json.loads((run / "provenance.json").read_text())["base_weights"]


def test_a_tied_head_with_other_values_is_refused_before_training(base, write_recipe, capsys):
    """transformers unties the two with a warning, and other engines keep them tied."""
    write(base, {**WEIGHTS, "lm_head.weight": WEIGHTS["model.embed_tokens.weight"] * 1.5})
    assert train_main([str(write_recipe(model={"path": str(base)}))]) == 2
    error = capsys.readouterr().err
    assert "lm_head.weight" in error and "tie_word_embeddings" in error and error.count("\n") == 1
