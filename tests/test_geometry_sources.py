"""Checkpoints of every make are read as the same weights, and broken ones are refused by name."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from tables import Table, matrices, read_table
from torch import Tensor
from transformers import AutoModelForCausalLM

from rlvr.cli import main
from rlvr.geometry.settings import Settings

POLICY = Path(__file__).parent.parent / "recipes" / "pocket" / "policy"
FLAGS = ("--rank", "4", "--angle-rank", "8")
SETTINGS = Settings(rank=4, angle_rank=8)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Return two blocks of the pocket policy, with what stands around them."""
    whole = load_file(POLICY / "model.safetensors")
    return {name: w for name, w in whole.items() if ".2." not in name and ".3." not in name}


def moved(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: (w.float() + 1e-3 * torch.randn(w.shape, generator=generator)).to(w.dtype)
        for name, w in weights.items()
    }


def geometry(base: Path, tuned: Path, out: Path, *flags: str) -> Table:
    assert main(["geometry", str(base), str(tuned), "--out", str(out), *FLAGS, *flags]) == 0
    return read_table(out / "matrices.csv")


def refused(base: Path, tuned: Path, capsys: pytest.CaptureFixture, *flags: str) -> str:
    """Return the message that the verb ends with, without a traceback and without files."""
    out = base.parent / "refused"
    assert main(["geometry", str(base), str(tuned), "--out", str(out), *FLAGS, *flags]) in (1, 2)
    assert not out.exists()
    return capsys.readouterr().err.split("error: ")[-1]


def as_bin(folder: Path, weights: dict[str, Tensor]) -> None:
    torch.save(weights, folder / "pytorch_model.bin")


def as_old_bin(folder: Path, weights: dict[str, Tensor]) -> None:
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def as_sharded_bin(folder: Path, weights: dict[str, Tensor]) -> None:
    places = {}
    for shard in range(2):
        part = {name: weights[name] for name in list(weights)[shard::2]}
        torch.save(part, folder / f"pytorch_model-{shard}.bin")
        places |= dict.fromkeys(part, f"pytorch_model-{shard}.bin")
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": places}))


def as_wrapped(folder: Path, weights: dict[str, Tensor]) -> None:
    save_file({f"_orig_mod.module.{n}": w for n, w in weights.items()}, folder / "x.safetensors")


def as_auto_model(folder: Path, weights: dict[str, Tensor]) -> None:
    bare = {name.removeprefix("model."): w for name, w in weights.items()}
    torch.save({"module": bare, "step": 3}, folder / "mp.pt")


def as_fsdp(folder: Path, weights: dict[str, Tensor]) -> None:
    state = {f"model.{name}": w for name, w in weights.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=folder / "pytorch_model_fsdp_0", no_dist=True)


@pytest.mark.parametrize(
    "write", [as_bin, as_old_bin, as_sharded_bin, as_wrapped, as_auto_model, as_fsdp]
)
def test_every_format_gives_the_same_rows(
    write: Callable, weights: dict, save_checkpoint: Callable[..., Path], tmp_path: Path
):
    tuned = moved(weights)
    base = save_checkpoint("base", weights, 3)
    other = tmp_path / "other"
    other.mkdir()
    write(other, tuned)
    plain = matrices(base, save_checkpoint("plain", tuned), tmp_path / "a", SETTINGS)
    assert matrices(base, other, tmp_path / "b", SETTINGS) == plain
    assert len(plain) == 14


@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True, "alpha_pattern": {"q_proj": 2}}, {"use_dora": True}]
)
def test_an_adapter_is_its_merged_policy(
    options: dict, save_checkpoint: Callable[..., Path], tmp_path: Path
):
    model = AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32)
    base = tmp_path / "base"
    model.save_pretrained(base)
    config = peft.LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "up_proj"], **options)
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.02)
    wrapped.save_pretrained(tmp_path / "adapter")
    wrapped.merge_and_unload().save_pretrained(tmp_path / "merged")
    rows = matrices(base, tmp_path / "adapter", tmp_path / "a", SETTINGS)
    expected = matrices(base, tmp_path / "merged", tmp_path / "b", SETTINGS)
    assert {row["kind"] for row in rows if float(row["sparsity_exact"]) < 1} == {
        "q_proj",
        "up_proj",
    }
    for row, other in zip(rows, expected, strict=True):
        # The last bit of a float32 sum depends on the order of its terms.
        for key in ("nss", "update_norm", "max_angle_left_deg", "sparsity_bf16"):
            assert float(row[key]) == pytest.approx(float(other[key]), rel=1e-3, abs=1e-7), key
        assert row["kind"] not in ("q_proj",) or float(row["update_norm"]) > 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"use_qalora": True}, "use_qalora"),
        ({"init_lora_weights": "pissa_niter_4"}, "changed the base"),
    ],
)
def test_other_adapters_are_refused_by_name(
    change: dict, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, **change}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file({"x": torch.ones(2)}, folder / "adapter_model.safetensors")
    assert message in refused(POLICY, folder, capsys)


def test_damaged_checkpoints_are_refused_by_name(
    weights: dict, save_checkpoint: Callable[..., Path], tmp_path: Path, capsys
):
    good = save_checkpoint("good", weights)
    empty = save_checkpoint("empty", weights, 2)
    shard = empty / "model-00002-of-00002.safetensors"
    shard.write_bytes(b"")
    assert f"{shard}: is empty (0 bytes)" in refused(good, empty, capsys)
    shard.unlink()
    assert f"{shard.name} is missing" in refused(good, empty, capsys)
    cut = save_checkpoint("cut", weights) / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-100])
    assert f"{cut}: is cut short" in refused(good, cut.parent, capsys)
    as_bin(tmp_path, weights)
    cut = tmp_path / "pytorch_model.bin"
    cut.write_bytes(cut.read_bytes()[:-1000])
    assert f"{cut}: is cut short" in refused(good, cut, capsys)
    assert "does not exist" in refused(good, tmp_path / "nowhere", capsys)
    raw = tmp_path / "zero"
    (raw / "global_step3").mkdir(parents=True)
    assert "zero_to_fp32.py" in refused(good, raw, capsys)


def test_checkpoints_of_other_models_are_refused(
    weights: dict, save_checkpoint: Callable[..., Path], capsys: pytest.CaptureFixture
):
    base = save_checkpoint("base", weights)
    name = "model.layers.1.self_attn.k_proj.weight"
    less = save_checkpoint("less", {n: w for n, w in weights.items() if n != name})
    assert f"lacks '{name}'" in refused(base, less, capsys)
    assert f"lacks '{name}'" in refused(less, base, capsys)
    other = save_checkpoint("other", weights | {name: torch.zeros(32, 128)})
    assert f"'{name}' has the shape [64, 128]" in refused(base, other, capsys)
    broken = weights[name].clone()
    broken[3, 5] = float("nan")
    nan = save_checkpoint("nan", weights | {name: broken})
    assert f"{nan}: '{name}' holds NaN" in refused(base, nan, capsys)
    assert f"{nan}: '{name}' holds NaN" in refused(nan, base, capsys)
    assert "matches no matrix" in refused(base, base, capsys, "--targets", "c_attn")
    assert "--density: 1.5" in refused(base, base, capsys, "--density", "1.5")


@pytest.mark.filterwarnings("error")
def test_identical_checkpoints_have_defined_numbers(tmp_path: Path):
    for flags in ((), ("--fast",)):
        for row in geometry(POLICY, POLICY, tmp_path / "out", *flags):
            assert float(row["sparsity_bf16"]) == float(row["sparsity_exact"]) == 1
            for key in ("nss", "max_angle_left_deg", "max_angle_right_deg", "update_norm"):
                assert float(row[key]) == 0
            assert row["overlap_principal"] == row["energy_off_principal"] == ""
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["all"]["overlap_low"] is None
    assert "identical" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.filterwarnings("error")
def test_a_row_a_zero_matrix_and_one_entry_have_defined_numbers(
    save_checkpoint: Callable[..., Path], tmp_path: Path
):
    shapes = {"a": (1, 7), "b": (5, 1), "c": (1, 1), "d": (4, 6)}
    base = {f"layers.0.{n}.weight": torch.ones(shape) for n, shape in shapes.items()}
    base["layers.0.d.weight"].zero_()
    tuned = {name: w + torch.arange(float(w.numel())).view(w.shape) for name, w in base.items()}
    folders = save_checkpoint("base", base), save_checkpoint("tuned", tuned)
    rows = {row["kind"]: row for row in geometry(*folders, tmp_path / "out")}
    row = rows["a"]
    assert float(row["sparsity_bf16"]) == pytest.approx(1 / 7)
    norms = [float(w["layers.0.a.weight"].norm()) for w in (base, tuned)]
    assert float(row["nss"]) == pytest.approx(norms[1] / norms[0] - 1)
    # The one row that there is cannot turn; the one direction of the other side can.
    assert row["max_angle_left_deg"] == "" and float(row["max_angle_right_deg"]) > 0
    assert rows["d"]["nss"] == "" and float(rows["c"]["sparsity_exact"]) == 1


def test_tied_heads_and_patterns(
    weights: dict, save_checkpoint: Callable[..., Path], tmp_path: Path
):
    embedding = weights["model.embed_tokens.weight"]
    base = save_checkpoint("base", weights | {"lm_head.weight": embedding.clone()})
    tuned = save_checkpoint("tuned", moved(weights))
    rows = geometry(base, tuned, tmp_path / "out", "--targets", "lm_head", "embed_tokens", "0.*q*")
    assert [row["name"] for row in rows] == [
        "lm_head.weight",
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
    ]
    assert rows[0]["nss"] == rows[1]["nss"] and rows[0]["layer"] == ""
