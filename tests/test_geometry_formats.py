"""Checkpoints of other makers: read as what they mean, or refused in one line by their name."""

import csv
import json
import os
import pickle
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import Tensor

from rlvr.cli import main

SIZE = 160


def matrices(seed: int = 0, *, experts: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"self_attn.q_proj.weight": (SIZE, SIZE), "mlp.up_proj.weight": (SIZE + 40, SIZE)}
    if experts:
        shapes = {
            "mlp.experts.gate_up_proj": (experts, 32, 48),
            "self_attn.q_proj.weight": (32, 32),
        }
    return {
        f"model.layers.{layer}.{name}": 0.03 * torch.randn(shape, generator=generator)
        for layer in range(2)
        for name, shape in shapes.items()
    }


def moved(weights: dict[str, Tensor], size: float = 2e-4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {n: w + size * torch.randn(w.shape, generator=generator) for n, w in weights.items()}


def folder(path: Path, weights: dict[str, Tensor], config: dict | None = None) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    save_file({n: w.contiguous() for n, w in weights.items()}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config or {}))
    return path


def rows_of(base: Path, tuned: Path, out: Path) -> list[dict[str, str]]:
    words = ["geometry", str(base), str(tuned), "--out", str(out), "--rank", "4", "--fast"]
    assert main(words) == 0
    with open(out / "matrices.csv", newline="") as file:
        return list(csv.DictReader(file))


def quantise(weights: dict[str, Tensor], end: str, block: int) -> dict[str, Tensor]:
    """Return FP8 codes and their scales, as DeepSeek and compressed-tensors store them."""
    stored = {}
    for name, weight in weights.items():
        if block:
            rows, columns = (-(-size // block) for size in weight.shape)
            parts = [
                [
                    weight[i * block : (i + 1) * block, j * block : (j + 1) * block].abs().max()
                    for j in range(columns)
                ]
                for i in range(rows)
            ]
            scale = torch.tensor(parts) / 400
            wide = scale.repeat_interleave(block, 0)[: weight.shape[0]]
            wide = wide.repeat_interleave(block, 1)[:, : weight.shape[1]]
        else:
            scale = wide = weight.abs().amax(1, keepdim=True) / 400
        stored[name] = (weight / wide).to(torch.float8_e4m3fn)
        stored[f"{name}{end}"] = scale
    return stored


def restored(stored: dict[str, Tensor], end: str, block: int) -> dict[str, Tensor]:
    whole = {}
    for name, codes in stored.items():
        if not name.endswith(end):
            scale = stored[f"{name}{end}"]
            for axis in (0, 1) if block else ():
                scale = scale.repeat_interleave(block, axis).narrow(axis, 0, codes.shape[axis])
            whole[name] = codes.float() * scale
    return whole


@pytest.mark.parametrize(("end", "block"), [("_scale_inv", 128), ("_scale_inv", 64), ("_scale", 0)])
def test_fp8_weights_are_measured_with_their_scales(end, block, tmp_path):
    base, tuned = (quantise(w, end, block) for w in (matrices(), moved(matrices(), 3e-3)))
    rows = rows_of(folder(tmp_path / "base", base), folder(tmp_path / "t", tuned), tmp_path / "a")
    plain = [
        folder(tmp_path / name, restored(stored, end, block))
        for name, stored in (("b", base), ("u", tuned))
    ]
    expected = rows_of(plain[0], plain[1], tmp_path / "out")
    assert [row["name"] for row in rows] == [row["name"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        for key in ("sparsity_bf16", "update_norm", "overlap_low"):
            assert row[key] == other[key], key
        assert "fewer bits" in row["storage"] and row["verdict"] == ""


def test_stacked_experts_are_single_matrices(tmp_path, capsys):
    base = matrices(experts=3) | {"model.embed_tokens.weight": torch.ones(9, 32)}
    tuned = moved(base)
    rows = rows_of(folder(tmp_path / "base", base), folder(tmp_path / "t", tuned), tmp_path / "a")
    assert len(rows) == 8
    assert rows[0]["name"] == "model.layers.0.mlp.experts.0.gate_up_proj.weight"
    first = "model.layers.0.mlp.experts.gate_up_proj"
    change = float((tuned[first][0] - base[first][0]).norm())
    assert float(rows[0]["update_norm"]) == pytest.approx(change, rel=1e-5)
    assert "not measured: 1 embed_tokens" in capsys.readouterr().out


@pytest.mark.parametrize("prefix", ["model.language_model.", "language_model.model.", "", "model."])
def test_prefixes_of_models_that_also_see_are_one_name(prefix, tmp_path):
    tuned = {prefix + n.removeprefix("model."): w for n, w in moved(matrices()).items()}
    base = folder(tmp_path / "base", matrices())
    assert len(rows_of(base, folder(tmp_path / "t", tuned), tmp_path / "out")) == 4


def test_distributed_and_lightning_checkpoints_are_read_without_their_optimizer(tmp_path):
    base, tuned = folder(tmp_path / "base", matrices()), moved(matrices())
    expected = rows_of(base, folder(tmp_path / "plain", tuned), tmp_path / "a")
    state = {f"optimizer.state.{n}.exp_avg": w for n, w in tuned.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(tuned | state, checkpoint_id=tmp_path / "step-10", no_dist=True)
    assert rows_of(base, tmp_path / "step-10", tmp_path / "b") == expected
    (tmp_path / "lightning").mkdir()
    torch.save({"state_dict": tuned, "epoch": 3}, tmp_path / "lightning" / "last.ckpt")
    assert rows_of(base, tmp_path / "lightning", tmp_path / "c") == expected


def gguf(path: Path) -> None:
    (path / "model-Q4_K_M.gguf").write_bytes(b"GGUF" + bytes(100))


def gptq(path: Path) -> None:
    codes = {"model.layers.0.self_attn.q_proj.qweight": torch.zeros(8, 8, dtype=torch.int32)}
    folder(path, codes, {"quantization_config": {"quant_method": "gptq", "bits": 4}})


def awq_without_config(path: Path) -> None:
    folder(path, {"model.layers.0.self_attn.q_proj.qzeros": torch.zeros(8, 8, dtype=torch.int32)})


def bitsandbytes(path: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    codes = {name: torch.zeros(8, 1, dtype=torch.uint8), f"{name}.absmax": torch.zeros(4)}
    folder(path, codes)


def mxfp4(path: Path) -> None:
    folder(path, matrices(), {"quantization_config": {"quant_method": "mxfp4"}})


def verl(path: Path) -> None:
    (path / "actor").mkdir()
    for rank in range(2):
        (path / "actor" / f"model_world_size_2_rank_{rank}.pt").write_bytes(b"x")


def megatron(path: Path) -> None:
    (path / "iter_0000100").mkdir()


class Payload:
    """Would make a folder when unpickled."""

    def __reduce__(self):
        return os.mkdir, ("/tmp/unpickled-by-rlvr",)


def code_in_a_pickle(path: Path) -> None:
    with open(path / "pytorch_model.bin", "wb") as file:
        pickle.dump({"w": Payload()}, file)


def torch_pickle(path: Path) -> None:
    torch.save({"w": Payload()}, path / "pytorch_model.bin")


def empty_folder(path: Path) -> None:
    pass


def cut_short(path: Path) -> None:
    file = folder(path, matrices()) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-64])


def no_safetensors(path: Path) -> None:
    (path / "model.safetensors").write_bytes(os.urandom(200))


def html_page(path: Path) -> None:
    (path / "model.safetensors").write_text("<!doctype html><title>404</title>")


def bad_index(path: Path) -> None:
    (path / "model.safetensors.index.json").write_text('{"weight_map": [1]}')


def lfs_pointer(path: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (path / "model.safetensors").write_text(text)


def integers_only(path: Path) -> None:
    folder(path, {"model.layers.0.a.weight": torch.zeros(4, 4, dtype=torch.int64)})


def other_model(path: Path) -> None:
    folder(path, {"encoder.block.0.dense.weight": torch.ones(4, 4)})


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (gguf, "GGUF"),
        (gptq, "gptq"),
        (awq_without_config, "GPTQ or AWQ"),
        (bitsandbytes, "bitsandbytes"),
        (mxfp4, "mxfp4"),
        (verl, "verl.model_merger"),
        (megatron, "Megatron"),
        (code_in_a_pickle, "could run code"),
        (torch_pickle, "could run code"),
        (empty_folder, "holds no weights"),
        (cut_short, "cut short"),
        (no_safetensors, "damaged"),
        (html_page, "damaged"),
        (bad_index, "no index of weights"),
        (lfs_pointer, "git lfs pull"),
        (integers_only, "no matrix of numbers with a fraction"),
        (other_model, "lacks"),
    ],
)
def test_what_is_not_read_is_one_line_and_leaves_the_old_report(write, words, tmp_path, capsys):
    base, other = folder(tmp_path / "base", matrices()), tmp_path / "other"
    other.mkdir()
    write(other)
    out = tmp_path / "out"
    rows_of(base, base, out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    capsys.readouterr()
    for pair in ((base, other), (other, base)):
        assert main(["geometry", *map(str, pair), "--out", str(out)]) == 2
        error = capsys.readouterr().err.split("error: ")[-1]
        assert "Traceback" not in error
        assert words in error or (words == "lacks" and pair[0] == other), error
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert not Path("/tmp/unpickled-by-rlvr").exists()


def test_a_head_is_compared_with_an_embedding_only_where_they_are_tied(tmp_path, capsys):
    embedding, head = torch.randn(12, SIZE), torch.randn(12, SIZE)
    base = matrices() | {"model.embed_tokens.weight": embedding, "lm_head.weight": head}
    tuned = matrices() | {"model.embed_tokens.weight": embedding}
    folders = folder(tmp_path / "base", base), folder(tmp_path / "tuned", tuned)
    words = ["geometry", *map(str, folders), "--out", str(tmp_path / "out"), "--targets", "lm_head"]
    assert main(words) == 2
    assert "head and its embedding differ" in capsys.readouterr().err


def test_equal_values_are_identical_only_bit_for_bit(tmp_path, capsys):
    weights = {n: w.bfloat16() for n, w in matrices().items()}
    base = folder(tmp_path / "base", weights)
    wide = folder(tmp_path / "wide", {n: w.float() for n, w in weights.items()})
    rows_of(base, wide, tmp_path / "out")
    output = capsys.readouterr().out
    assert "equal values in other bits" in output and "identical" not in output
    rows_of(base, folder(tmp_path / "copy", weights), tmp_path / "out")
    assert "identical, bit for bit" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    base = folder(tmp_path / "base", matrices())
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"
    assert main(["geometry", str(base), str(base), "--out", str(out), "--fast"]) in (1, 2)
    error = capsys.readouterr().err.split("error: ")[-1]
    assert error.count("\n") == 1 and str(out.parent) in error
