"""Gemma, Mixtures of experts and gpt-oss, tiny and random: rotate and mask work, or say why not."""

from pathlib import Path

import pytest
import torch
import transformers

from rlvr.cli import main

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
CONFIGS = {
    "gemma3": ("Gemma3TextConfig", {}),
    "mixtral": ("MixtralConfig", EXPERTS),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 48},
    ),
    "gpt_oss": ("GptOssConfig", EXPERTS),
}


@pytest.fixture(params=CONFIGS)
def model(request, tmp_path) -> Path:
    name, extra = CONFIGS[request.param]
    torch.manual_seed(0)
    config = getattr(transformers, name)(**SIZES, **extra)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    "verb", [["rotate", "MODEL", "OUT", "--layers", "1"], ["mask", "build", "MODEL", "--out", "OUT",
             "--builder", "low_magnitude", "density=0.5"]], ids=["rotate", "mask"],
)  # fmt: skip
def test_a_verb_works_or_says_why_not_in_one_line(verb: list[str], model, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    names = {"MODEL": str(model), "OUT": str(out)}
    code = main([names.get(word, word) for word in verb])
    error = capsys.readouterr().err.split("error: ")
    assert code == 0 or (code in (1, 2) and len(error) == 2 and "\n" not in error[1].strip())
    assert out.exists() == (code == 0)
