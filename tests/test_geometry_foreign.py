"""Every kind of checkpoint is measured as what it is, or refused in one line; see its folders."""

import os
from pathlib import Path

import pytest
import torch
from foreign_folders import READ, REFUSED, Q, adapter, save

from rlvr.cli import main
from rlvr.geometry.settings import Settings
from rlvr.verbs.geometry import measure

NAMES = (Q, "model.layers.0.mlp.up_proj.weight")


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    base = {name: 0.03 * torch.randn(64, 64, generator=generator) for name in NAMES}
    return {n: w.bfloat16() for n, w in base.items()}


def moved() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    noise = {n: 2e-4 * torch.randn(w.shape, generator=generator) for n, w in weights().items()}
    return {n: (w.float() + noise[n]).bfloat16() for n, w in weights().items()}


def compare(base: Path, tuned: Path, out: Path) -> int:
    words = ["geometry", str(base), str(tuned), "--out", str(out), "--rank", "4", "--fast"]
    return main(words)


def numbers(base: Path, tuned: Path) -> dict:
    """Return the summary of two checkpoints; without the page, which takes longer than all else."""
    settings = Settings(rank=4, exact=False)
    return measure(base, tuned, settings, ["linear"])[1]["all"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A base, a tuned checkpoint, and the numbers that every way of storing them must give."""
    root = tmp_path_factory.mktemp("plain")
    for name, tensors in (("base", weights()), ("tuned", moved())):
        (root / name).mkdir()
        save(root / name, tensors)
    return root, numbers(root / "base", root / "tuned")


@pytest.mark.parametrize("kind", READ)
def test_what_is_read_gives_the_numbers_of_plain_files(kind, plain, tmp_path):
    root, expected = plain
    path = tmp_path / "other"
    path.mkdir()
    path = READ[kind](path, moved()) or path
    assert numbers(root / "base", path) == expected
    # In the place of BASE too, where its names decide.
    assert numbers(path, root / "tuned")["sparsity_exact"] == 1


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_is_one_clear_line(kind, plain, tmp_path, capsys):
    root, _ = plain
    write, words = REFUSED[kind]
    path = tmp_path / "other"
    path.mkdir()
    path = write(path, moved()) or path
    for pair in ((root / "base", path), (path, root / "tuned")):
        assert compare(*pair, tmp_path / "out") == 2
        error = capsys.readouterr().err.split("error: ")[-1].strip()
        assert "\n" not in error and len(error) < 600, error
        assert str(path) in error or pair[0] == path, error
        if pair[1] == path:
            assert words in error, error
    assert not (tmp_path / "out" / "report.html").exists()
    assert not Path("/tmp/unpickled-by-rlvr").exists()


@pytest.mark.parametrize("stated", ["folder", "hub"])
def test_an_adapter_is_merged_only_into_the_base_it_names(stated, tmp_path, capsys, monkeypatch):
    own, other = tmp_path / "own", tmp_path / "other"
    if stated == "hub":
        # As the hub's cache holds a repository.
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        repository = tmp_path / "cache" / "models--maker--model"
        own = repository / "snapshots" / "0123abc"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0123abc")
    for path, seed in ((own, 0), (other, 1)):
        path.mkdir(parents=True)
        save(path, weights(seed))
    lora = tmp_path / "lora"
    lora.mkdir()
    name = "maker/model" if stated == "hub" else str(own)
    adapter(base_model_name_or_path=name)(lora, weights())
    assert numbers(own, lora)["moved"] == 0.5  # one of two matrices
    capsys.readouterr()
    assert compare(other, lora, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "says it was trained on" in error and name in error


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_files_that_may_not_be_read_are_one_line(plain, tmp_path, capsys):
    root, _ = plain
    save(tmp_path, moved())
    (tmp_path / "model.safetensors").chmod(0)
    assert compare(root / "base", tmp_path, tmp_path / "out") in (1, 2)
    assert capsys.readouterr().err.count("error: ") == 1
