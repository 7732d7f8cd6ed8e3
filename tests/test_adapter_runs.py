"""Runs with adapters through the real trainer: C2, exports that stock PEFT loads, resume."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from conftest import SHORT, SHORT_REWARDS, SMALL, VARIED
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from rlvr.adapters import policy_weights
from rlvr.checkpoints.runs import step_folder
from rlvr.config import resolve_recipe
from rlvr.files import file_digest, read_jsonl
from rlvr.registry import adapter as registry
from rlvr.train import main as train_main
from rlvr.training.export import write_policy
from rlvr.training.session import build_trainer
from rlvr.training.vllm import PolicySampler, Source

POLICY = Path(__file__).parent.parent / "recipes" / "pocket" / "policy"
TOKENS = torch.arange(5, 21).view(2, 8)
LOW_RANK = [name for name in registry.functions if name != "peft"]
NONZERO = ["pissa", "milora", "olora", "geora"]
CONTROL = {
    "builder": "peft",
    "method": "LoraConfig",
    "options": {"r": 8, "lora_alpha": 8, "init_lora_weights": "pissa"},
    "sync": "merge_unmerge",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Train every adapter for two steps from one seed, beta > 0, saving at each step."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    for builder in LOW_RANK:
        recipe = {
            **SMALL,
            "rewards": VARIED,
            "adapter": {"builder": builder, "rank": 8, "alpha": 16.0},
        }
        recipe["trainer"] = {**SMALL["trainer"], "beta": 0.05, "save_steps": 1, "max_steps": 2}
        recipe["run"] = {**SMALL["run"], "dir": str(folder / builder)}
        path = folder / f"{builder}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        assert train_main([str(path)]) == 0
        found[builder] = folder / builder
        write(found[builder], 1, folder / f"{builder}-1")
    return found


def write(run_dir: Path, step: int, out: Path) -> None:
    recipe = resolve_recipe(json.loads((run_dir / "recipe.json").read_text()), "")
    write_policy(recipe, run_dir, step_folder(run_dir, step), out)


def base_policy():
    return AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32).eval()


@torch.no_grad()
def logits(model) -> Tensor:
    return model(input_ids=TOKENS).logits


def relative(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max() / second.abs().max())


def dense(run_dir: Path, step: int) -> Path:
    return run_dir / "policy" if step == 2 else run_dir.with_name(f"{run_dir.name}-{step}")


@pytest.mark.parametrize("builder", LOW_RANK)
def test_a_run_starts_at_the_base_and_ends_with_the_base_weights_as_they_were(runs, builder):
    provenance = json.loads((runs[builder] / "provenance.json").read_text())
    assert provenance["start_logit_gap"] <= 1e-5
    assert provenance["base_weights_after"] == provenance["base_weights"]
    assert provenance["adapter"]["builder"] == builder
    assert set(provenance["adapter"]["matrices"]) >= {"q_proj", "down_proj"}
    rows = read_jsonl(runs[builder] / "metrics.jsonl")
    assert abs(rows[0]["kl"]) <= 1e-6 and abs(rows[0]["kl_to_base"]) <= 1e-6
    assert rows[1]["kl"] > 0 and all(row["mask_leak"] == 0 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.0, 0.05])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("builder", LOW_RANK)
def test_the_kl_at_the_first_step_is_0(train, builder, dtype, beta):
    adapter = {"builder": builder, "rank": 8, "alpha": 16.0}
    run_dir = train(adapter=adapter, model={"dtype": dtype}, trainer={"beta": beta, "max_steps": 1})
    provenance = json.loads((run_dir / "provenance.json").read_text())
    assert provenance["start_logit_gap"] <= (1e-5 if dtype == "float32" else 0.0)
    row = read_jsonl(run_dir / "metrics.jsonl")[0]
    assert abs(row["kl_to_base"]) <= 1e-6
    assert ("kl" in row) == (beta > 0) and abs(row.get("kl", 0.0)) <= 1e-6


def test_no_two_adapters_reach_the_same_weights(runs):
    digests = {file_digest(dense(run, 2) / "model.safetensors") for run in runs.values()}
    digests.add(file_digest(POLICY / "model.safetensors"))
    assert len(digests) == len(LOW_RANK) + 1
    up = "model.layers.0.mlp.up_proj.weight"
    weights = [load_file(dense(run, 2) / "model.safetensors")[up] for run in runs.values()]
    for index, weight in enumerate(weights):
        assert not any(torch.allclose(weight, other, atol=1e-6) for other in weights[:index])


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("builder", LOW_RANK)
def test_stock_peft_and_transformers_load_every_checkpoint(runs, builder, step):
    folder = step_folder(runs[builder], step)
    policy = AutoModelForCausalLM.from_pretrained(dense(runs[builder], step)).eval()
    wanted = logits(policy)
    assert relative(wanted, logits(base_policy())) > 1e-5
    if builder == "dora":
        assert not (folder / "lora").exists()
        assert (
            relative(logits(PeftModel.from_pretrained(base_policy(), folder / "adapter")), wanted)
            < 1e-5
        )
        return
    loaded = PeftModel.from_pretrained(base_policy(), folder / "lora")
    rank = 16 if builder in NONZERO else 8
    assert loaded.peft_config["default"].r == rank
    assert relative(logits(loaded), wanted) < 1e-5
    as_trained = PeftModel.from_pretrained(base_policy(), folder / "adapter")
    assert (folder / "adapter" / "start").is_dir() == (builder in NONZERO)
    if builder in NONZERO:
        as_trained.load_adapter(folder / "adapter" / "start", "start")
        as_trained.base_model.set_adapter(["default", "start"])
    assert relative(logits(as_trained.eval()), wanted) < 1e-5


@pytest.mark.parametrize(
    "builder",
    [
        name if name in ("pissa", "lora_plus") else pytest.param(name, marks=pytest.mark.slow)
        for name in LOW_RANK
    ],
)
def test_resuming_is_never_having_stopped(runs, write_recipe, tmp_path, builder):
    adapter = {"builder": builder, "rank": 8, "alpha": 16.0}
    trainer = {"beta": 0.05, "save_steps": 1, "max_steps": 2}
    path = write_recipe(adapter=adapter, rewards=VARIED, trainer=trainer)
    assert train_main([str(path), "trainer.max_steps=1"]) == 0
    assert train_main([str(path), "--resume"]) == 0
    adapter = f"{step_folder(Path(), 2)}/adapter/adapter_model.safetensors"
    for file in (adapter, "policy/model.safetensors"):
        first, second = (load_file(run / file) for run in (runs[builder], tmp_path / "recipe"))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first), file


def test_lora_plus_trains_b_at_its_own_rate(write_recipe, tmp_path):
    from rlvr.config import load_recipe
    from rlvr.training.plan import check_recipe

    path = write_recipe(adapter={"builder": "lora_plus", "rank": 4, "ratio": 8.0})
    trainer = build_trainer(check_recipe(load_recipe(path)), tmp_path / "recipe")
    optimizer = trainer.create_optimizer()
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    rates = {
        names[id(p)].split(".")[-3]: group["lr"]
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert rates == {"lora_A": 1e-3, "lora_B": 8e-3}


def test_trl_pushes_the_dense_weights_to_its_sampler(write_recipe, tmp_path):
    """TRL's own ``sync_weights`` with a stand-in for vLLM's engine, which only takes tensors."""
    from rlvr.config import load_recipe
    from rlvr.training.plan import check_recipe

    path = write_recipe(adapter={"builder": "pissa", "rank": 4}, model={"dtype": "bfloat16"})
    trainer = build_trainer(check_recipe(load_recipe(path)), tmp_path / "recipe")
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.1)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    received: dict[str, Tensor] = {}
    model = SimpleNamespace(
        load_weights=lambda pairs: received.update({n: w.clone() for n, w in pairs})
    )
    worker = SimpleNamespace(
        driver_worker=SimpleNamespace(model_runner=SimpleNamespace(model=model))
    )
    sampler: Any = PolicySampler.__new__(PolicySampler)
    sampler.source = Source(None, torch.float32, [1], dense=True)
    sampler.mode, sampler.enable_sleep_mode = "colocate", False
    sampler.model, sampler.accelerator = trainer.model, trainer.accelerator
    sampler.llm = SimpleNamespace(
        llm_engine=SimpleNamespace(model_executor=worker), reset_prefix_cache=lambda: None
    )
    sampler.sync_weights()
    after = trainer.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert trainer.adapter is not None
    exported = {name: w.clone() for name, w in policy_weights(trainer.adapter.model)}
    assert received.keys() == exported.keys()
    assert all(torch.equal(received[name], exported[name]) for name in exported)


def test_a_run_whose_adapter_was_frozen_stops_at_its_first_step(write_recipe, tmp_path):
    from rlvr.config import load_recipe
    from rlvr.schema import RunError
    from rlvr.training.plan import check_recipe

    path = write_recipe(adapter={"builder": "lora", "rank": 4})
    trainer = build_trainer(check_recipe(load_recipe(path)), tmp_path / "recipe")
    trainer.model.requires_grad_(False)
    with pytest.raises(RunError, match="do nothing"):
        trainer.train()


def test_a_bf16_base_keeps_its_bits_and_the_control_does_not(train):
    """PiSSA on a bf16 base: ours, and what TRL does to push weights to the sampler."""
    trainer = {**SHORT, "max_steps": 2}
    common = {"model": {"dtype": "bfloat16"}, "rewards": SHORT_REWARDS, "trainer": trainer}
    ours = train("ours", adapter={"builder": "pissa", "rank": 8}, **common)
    control = train("control", adapter=CONTROL, **common)
    kept, eroded = (json.loads((run / "provenance.json").read_text()) for run in (ours, control))
    assert kept["start_logit_gap"] == 0.0 and eroded["start_logit_gap"] > 1e-3
    assert kept["base_weights_after"] == kept["base_weights"]
    assert eroded["base_weights_after"] != eroded["base_weights"]
    assert "not for use" in eroded["adapter"]["control"]
    assert "kl_to_base" in read_jsonl(ours / "metrics.jsonl")[0]
    assert not {"kl_to_base", "mask_leak"} & read_jsonl(control / "metrics.jsonl")[0].keys()
