"""Contract C2 and the exports of adapters on every engine that accelerate starts."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from conftest import VARIED
from peft import PeftModel
from ranks import run_ranks
from safetensors.torch import load_file
from test_engines import ENGINES, PLUGINS, TRAINER, train_with
from torch import distributed
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM

from rlvr.adapters import adapters_off, attach_adapter, base_weights, policy_weights
from rlvr.checkpoints.fingerprints import fingerprint_values
from rlvr.checkpoints.runs import step_folder
from rlvr.config import ModelSection
from rlvr.files import read_jsonl
from rlvr.policy import load_policy
from rlvr.targets import linear_weights

ROOT = Path(__file__).parent.parent
POLICY = ROOT / "recipes" / "pocket" / "policy"
TOKENS = torch.arange(5, 21).view(2, 8)
CASES = [
    pytest.param(engine, builder, marks=[] if (engine, builder) == DEFAULT else pytest.mark.slow)
    for DEFAULT in [("ddp", "pissa")]
    for engine in ENGINES
    for builder in ("lora", "pissa", "dora", "mica")
]


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(input_ids=TOKENS).logits


@pytest.mark.parametrize(("engine", "builder"), CASES)
def test_an_adapter_starts_at_the_base_and_exports_its_policy(
    write_recipe, tmp_path, engine, builder
):
    adapter = {"builder": builder, "rank": 8, "alpha": 16.0}
    trainer = {**TRAINER, "beta": 0.05, "max_steps": 2}
    sections = {"adapter": adapter, "rewards": VARIED, "trainer": trainer, "plugins": PLUGINS}
    train_with(engine, write_recipe(**sections))
    run_dir = tmp_path / "recipe"
    provenance = json.loads((run_dir / "provenance.json").read_text())
    assert (provenance["processes"], provenance["engine"]) == (2, ENGINES[engine][0])
    assert provenance["start_logit_gap"] <= 1e-5
    assert provenance["base_weights_after"] == provenance["base_weights"]
    rows = read_jsonl(run_dir / "metrics.jsonl")
    assert abs(rows[0]["kl"]) <= 1e-6 and rows[1]["kl"] > 0
    folder = step_folder(run_dir, 2)
    dense = AutoModelForCausalLM.from_pretrained(run_dir / "policy")
    base = AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32)
    before, wanted = logits(base), logits(dense)
    loaded = PeftModel.from_pretrained(base, folder / ("adapter" if builder == "dora" else "lora"))
    assert float((logits(loaded) - wanted).abs().max() / wanted.abs().max()) < 1e-5
    assert float((before - wanted).abs().max()) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp2", "zero2", "zero3"])
@pytest.mark.parametrize("builder", ["lora", "pissa"])
def test_resuming_is_never_having_stopped(write_recipe, tmp_path, engine, builder):
    trainer = {**TRAINER, "beta": 0.05, "max_steps": 2, "save_steps": 1}
    adapter = {"builder": builder, "rank": 4}
    train_with(engine, write_recipe("whole", adapter=adapter, trainer=trainer, plugins=PLUGINS))
    path = write_recipe("halved", adapter=adapter, trainer=trainer, plugins=PLUGINS)
    train_with(engine, path, "trainer.max_steps=1")
    train_with(engine, path, "--resume")
    first, second = (
        load_file(tmp_path / name / "policy" / "model.safetensors") for name in ("whole", "halved")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["zero2", "zero3"])
def test_an_engine_that_keeps_weights_in_bf16_leaves_the_start_alone(
    write_recipe, tmp_path, engine
):
    trainer = {**TRAINER, "beta": 0.05, "max_steps": 2, "bf16": True}
    path = write_recipe(adapter={"builder": "pissa", "rank": 8}, trainer=trainer)
    train_with(engine, path)
    provenance = json.loads((tmp_path / "recipe" / "provenance.json").read_text())
    assert provenance["base_weights_after"] == provenance["base_weights"]
    rows = read_jsonl(tmp_path / "recipe" / "metrics.jsonl")
    # the rounding of bf16 arithmetic, in which W0 x + d - d is not W0 x
    assert abs(rows[0]["kl"]) < 1e-4


def shard_adapters(rank: int, meeting: str) -> None:
    """Train adapters on one of two FSDP2 ranks, and compare with the base and the dense export."""
    distributed.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    for builder in ("pissa", "dora"):
        policy = load_policy(ModelSection(str(POLICY))).eval()
        before = logits(policy)
        clean = fingerprint_values(policy.named_parameters())
        spec = {"builder": builder, "rank": 8}
        model = attach_adapter(policy, spec, list(linear_weights(policy))).model
        for block in policy.model.layers:
            fully_shard(block)
        fully_shard(policy)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-3)
        for _ in range(2):
            model(input_ids=TOKENS, labels=TOKENS).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        after = logits(model)
        with adapters_off(model):
            off = logits(model)
        assert (after - before).abs().max() > 1e-3 and torch.allclose(off, before, atol=1e-5)
        assert fingerprint_values(base_weights(model)) == clean
        plain = load_policy(ModelSection(str(POLICY))).eval()
        state = {name: weight.clone() for name, weight in policy_weights(model)}
        missing, unexpected = plain.load_state_dict(state, strict=False)
        assert not unexpected and missing in ([], ["lm_head.weight"])
        gap = (logits(plain) - after).abs().max() / after.abs().max()
        assert gap < 1e-5, gap
    distributed.barrier()
    distributed.destroy_process_group()


def test_a_fully_sharded_policy_has_the_same_reference_and_dense_weights(tmp_path):
    run_ranks(shard_adapters, f"file://{tmp_path}/meeting")
