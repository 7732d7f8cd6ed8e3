"""Families beside Qwen's: each trains under masks and adapters, or is refused by name."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rlvr.files import read_jsonl
from rlvr.train import main as train_main

POLICY = Path(__file__).parent.parent / "recipes" / "pocket" / "policy"
SAFE = {"builder": "safe", "rank": 8, "principal_density": 0.5, "low_density": 0.5}
LORA = {"builder": "lora", "rank": 4}
SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDE = {"intermediate_size": 64, "num_key_value_heads": 1, "head_dim": 16}
FAMILIES = {
    "gpt2": {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 2},
    "gpt_neox": {**SMALL, "intermediate_size": 64},
    "gemma": {**SMALL, **WIDE},
    "mixtral": {**SMALL, **WIDE, "num_local_experts": 8},
}


@pytest.fixture
def family(tmp_path):
    """Return a function that writes a random policy of a family, with the pocket's tokenizer."""

    def write(name: str) -> str:
        torch.manual_seed(0)
        folder = tmp_path / name
        shutil.copytree(POLICY, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        tokens = json.loads((POLICY / "config.json").read_text())["vocab_size"]
        settings = {**FAMILIES[name], "vocab_size": tokens, "eos_token_id": 1, "pad_token_id": 0}
        config = AutoConfig.for_model(name, **settings)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        return str(folder)

    return write


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_trains_under_a_mask(write_sft, tmp_path, family, name):
    # Supervised: a random policy earns no reward to learn from.
    path = write_sft(mask=SAFE, model={"path": family(name)}, trainer={"max_steps": 2})
    assert train_main([str(path)]) == 0
    rows = read_jsonl(tmp_path / "recipe" / "metrics.jsonl")
    assert [row["mask_leak"] for row in rows] == [0, 0]
    assert rows[-1]["moved"] > 0.9


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_takes_an_adapter_or_is_refused_by_name(write_recipe, family, capsys, name):
    refused = {"gpt2": "Conv1D", "mixtral": "MixtralTopKRouter"}
    path = write_recipe(adapter=LORA, model={"path": family(name)})
    assert train_main([str(path), "--check"]) == (2 if name in refused else 0)
    error = capsys.readouterr().err
    assert error.count("\n") == (name in refused) and refused.get(name, "") in error


def test_the_plan_says_that_stacked_experts_stay_frozen(write_recipe, family, capsys):
    path = write_recipe(mask=SAFE, model={"path": family("mixtral")})
    assert train_main([str(path), "--check"]) == 0
    assert "frozen   4 weights of three dimensions" in capsys.readouterr().out
