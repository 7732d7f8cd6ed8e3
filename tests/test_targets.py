import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)

from rlvr.schema import RecipeError
from rlvr.targets import resolve_also_train, resolve_targets

SIZE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 32}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}
LINEARS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def skeleton(config) -> nn.Module:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def kinds(names) -> set[str]:
    return {name.split(".")[-2] for name in names}


@pytest.mark.parametrize("config", [LlamaConfig, Qwen2Config, Qwen3Config])
def test_targets_are_the_linear_layers_of_the_blocks(config):
    targets = resolve_targets(skeleton(config(**SIZE, **HEADS)), ["linear"])
    assert kinds(targets) == LINEARS
    assert len(targets) == 14
    assert targets["model.layers.0.mlp.down_proj.weight"] == (16, 32)


def test_targets_of_an_architecture_without_nn_linear():
    model = skeleton(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=32))
    assert kinds(resolve_targets(model, ["linear"])) == {"c_attn", "c_proj", "c_fc"}


@pytest.mark.parametrize(
    ("patterns", "count"),
    [
        (["q_proj"], 2),
        (["mlp.*"], 6),
        (["layers.1.*"], 7),
        (["*.0.self_attn.[qk]_proj"], 2),
        (["q_proj", "linear"], 14),
    ],
)
def test_patterns_select_by_name(patterns, count):
    assert len(resolve_targets(skeleton(Qwen3Config(**SIZE, **HEADS)), patterns)) == count


@pytest.mark.parametrize("pattern", ["lm_head", "embed_tokens", "norm", "qproj"])
def test_a_pattern_that_matches_no_target_is_an_error_that_names_what_there_is(pattern):
    with pytest.raises(RecipeError, match=rf"{pattern}.*matches no parameter.*down_proj"):
        resolve_targets(skeleton(Qwen3Config(**SIZE, **HEADS)), [pattern])


def test_also_train_adds_whole_parameters_outside_the_targets():
    model = skeleton(Qwen2Config(**SIZE, **HEADS))
    targets = resolve_targets(model, ["linear"])
    extra = resolve_also_train(model, ["norm", "q_proj.bias"], targets)
    assert set(extra) == {"model.norm.weight"} | {
        f"model.layers.{i}.self_attn.q_proj.bias" for i in range(2)
    }
    assert not set(extra) & set(targets)
