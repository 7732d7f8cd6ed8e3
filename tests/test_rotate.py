"""Rotated and permuted checkpoints are other weights of the same policy."""

import json
from pathlib import Path

import pytest
import torch
from rounding import assert_within, unit
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from rlvr.cli import main
from rlvr.rotation import Heads, random_rotation, rotate

POLICY = Path(__file__).parent.parent / "recipes" / "pocket" / "policy"
SHAPE = {
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
CONFIGS = {
    "qwen2": lambda: Qwen2Config(**SHAPE),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=16),
    "llama": lambda: LlamaConfig(**SHAPE, attention_bias=True, tie_word_embeddings=True),
}


@pytest.fixture(params=CONFIGS)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Save a float64 policy whose every parameter is random, biases and norms included."""
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS[request.param]()).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def float64_norm(module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
    """Replace what transformers computes in float32 at any dtype, in steps of 1e-7."""
    return module.weight * torch.nn.functional.rms_norm(
        inputs[0], inputs[0].shape[-1:], eps=module.variance_epsilon
    )


def logits(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    for module in model.modules():
        if "RMSNorm" in type(module).__name__:
            module.register_forward_hook(float64_norm)
    tokens = torch.randint(64, (2, 24), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return model.eval()(input_ids=tokens).logits


def changed(first: Path, second: Path) -> set[str]:
    before, after = (load_file(path / "model.safetensors") for path in (first, second))
    assert before.keys() == after.keys()
    names = {name for name in before if not torch.equal(before[name], after[name])}
    return {name.removeprefix("model.layers.").replace("self_attn.", "") for name in names}


def test_logits_stay_and_weights_change(checkpoint: Path, tmp_path: Path):
    out = tmp_path / "out"
    words = ["rotate", str(checkpoint), str(out), "--layers", "0", "1", "--permute", "1", "2"]
    assert main([*words, "--seed", "1"]) == 0
    assert (logits(checkpoint) - logits(out)).abs().max() < 1e-10 * logits(checkpoint).abs().max()
    moved = {name for name in changed(checkpoint, out) if name.endswith("weight")}
    whole = {f"{layer}.{part}_proj.weight" for layer in (1, 2) for part in "qkvo"}
    assert moved == whole | {"0.v_proj.weight", "0.o_proj.weight"}
    gaps = json.loads((out / "rotation.json").read_text())["relative_logit_gap"]
    assert gaps["float64"] < 1e-12 and gaps["stored"] < 1e-12


def test_the_files_keep_the_dtypes_and_all_other_bits(tmp_path: Path):
    out = tmp_path / "out"
    assert main(["rotate", str(POLICY), "--layers", "2", str(out)]) == 0
    assert changed(POLICY, out) == {"2.v_proj.weight", "2.o_proj.weight"}
    assert {w.dtype for w in load_file(out / "model.safetensors").values()} == {torch.bfloat16}
    assert (out / "tokenizer.json").read_bytes() == (POLICY / "tokenizer.json").read_bytes()
    gaps = json.loads((out / "rotation.json").read_text())["relative_logit_gap"]
    assert gaps["float64"] < 1e-10 < gaps["stored"] < 0.05


def test_a_wider_dtype_keeps_the_function(tmp_path: Path):
    out = tmp_path / "out"
    assert main(["rotate", str(POLICY), str(out), "--layers", "all", "--dtype", "float64"]) == 0
    assert json.loads((out / "config.json").read_text())["dtype"] == "float64"
    assert json.loads((out / "rotation.json").read_text())["relative_logit_gap"]["stored"] < 1e-10


def test_a_wrong_formula_is_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(
        "rlvr.verbs.rotate.random_rotation", lambda d, g: 1.1 * random_rotation(d, g)
    )
    assert main(["rotate", str(POLICY), str(tmp_path / "out"), "--layers", "1"]) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layers", "7"], "block 7 is not in the model"),
        (["--layers", "one"], "no block index"),
        ([], "nothing to do"),
    ],
)
def test_mistakes_name_the_fix(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    assert main(["rotate", str(POLICY), str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_rotation_is_orthogonal_and_seeded():
    first, second = (random_rotation(16, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, second)
    assert_within(first @ first.T, torch.eye(16), 16 * 16 * unit(torch.float64))


def test_rotating_back_restores_the_weights():
    model = AutoModelForCausalLM.from_config(CONFIGS["qwen2"]()).double()
    attention = model.model.layers[0].self_attn
    before = attention.v_proj.weight.detach().clone()
    rotation = random_rotation(8, torch.Generator().manual_seed(0))
    for turn in (rotation, rotation.T):
        rotate(attention, Heads(6, 2, 8), turn)
        assert torch.equal(attention.v_proj.weight, before) is False
    # Two rotations of heads of 8: sums of 8 products, of rows no longer than the largest.
    bound = 4 * 8 * unit(torch.float64) * float(before.norm(dim=0).max())
    assert_within(attention.v_proj.weight.detach(), before, bound)
