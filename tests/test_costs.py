"""The plan of a run: bytes by hand, by what autograd keeps, and what --check prints of it."""

import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MixtralConfig,
    Qwen2Config,
    Qwen3Config,
)
from trl.trainer.utils import add_fused_lm_head

from rlvr.costs.fit import Deployment, cheapest_change, largest_completion, largest_rows
from rlvr.costs.hardware import H100
from rlvr.costs.memory import (
    ENGINES,
    Setting,
    activation_bytes,
    block_bytes,
    memory,
    one_process,
)
from rlvr.costs.sampler import Sampler, cache_bytes, cache_rows
from rlvr.costs.shapes import PUBLISHED, adapter, dense, masked, shape_of
from rlvr.costs.time import Batch, optimizer_bytes, step_seconds
from rlvr.targets import linear_weights
from rlvr.train import main as train_main

ROOT = Path(__file__).parent.parent
SMALL = PUBLISHED["Qwen2.5-1.5B"]
KINDS = {
    "qwen2": (Qwen2Config, 16),
    "qwen3": (Qwen3Config, 24),
    "llama": (LlamaConfig, 24),
    "gemma": (Gemma3TextConfig, 24),
}
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}
ROWS, LENGTH = 2, 64


def make(kind: str, layers: int, dtype: torch.dtype = torch.float32):
    config, head_dim = KINDS[kind]
    torch.manual_seed(0)
    settings = {**SIZES, "head_dim": head_dim, "num_hidden_layers": layers}
    model = AutoModelForCausalLM.from_config(config(**settings), dtype=dtype)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    return model


@pytest.mark.parametrize(
    ("name", "parameters"),
    # The totals on the cards of the checkpoints.
    [("Qwen2.5-0.5B", 494_032_768), ("Qwen2.5-1.5B", 1_543_714_304), ("Qwen2.5-7B", 7_615_616_512)],
)
def test_a_published_shape_has_the_published_parameters(name, parameters):
    assert PUBLISHED[name].parameters == parameters


@pytest.mark.parametrize("kind", KINDS)
def test_the_shape_of_a_model_counts_all_of_its_entries(kind):
    model = make(kind, 3)
    shape = shape_of(model)
    assert shape is not None and shape.layers == 3
    assert shape.matrices == sum(rows * columns for rows, columns in linear_weights(model).values())


def test_a_model_of_other_blocks_has_no_shape():
    config = MixtralConfig(**SIZES, num_hidden_layers=2, num_local_experts=2)
    with torch.device("meta"):
        assert shape_of(AutoModelForCausalLM.from_config(config)) is None


def test_an_adapter_counts_both_sides_of_every_layer():
    shape = PUBLISHED["Qwen2.5-0.5B"]
    # q, k, v, o of 896 x 896 and 896 x 128; gate, up, down of 896 x 4864.
    sides = 2 * (896 + 896) + 2 * (896 + 128) + 3 * (896 + 4864)
    assert shape.adapter(32) == 32 * 24 * sides


def saved_bytes(kind, dtype, autocast, arm, layers):
    """Return the bytes that autograd keeps of a forward pass, parameters left out."""
    model = make(kind, layers, dtype)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(arm == "dense" and name in linear_weights(model))
    if arm == "adapter":
        import peft

        config = peft.LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
        model = peft.get_peft_model(model, config)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, or its place is reused
        return tensor

    ids = torch.randint(5, 500, (ROWS, LENGTH))
    attended = torch.ones_like(ids)
    attended[0, :10] = 0
    context = torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), context:
        model(input_ids=ids, attention_mask=attended, labels=ids, fused_lm_head=True)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("arm", ["dense", "adapter"])
@pytest.mark.parametrize(
    ("dtype", "autocast"),
    [(torch.float32, False), (torch.bfloat16, False), (torch.float32, True)],
    ids=["float32", "bfloat16", "autocast"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_block_keeps_what_autograd_keeps(kind, dtype, autocast, arm):
    shape = shape_of(make(kind, 1))
    assert shape is not None
    few, many = (saved_bytes(kind, dtype, autocast, arm, layers) for layers in (2, 4))
    setting = Setting(
        shape,
        dense(shape) if arm == "dense" else adapter(shape, 8),
        width=dtype.itemsize,
        rows=ROWS,
        length=LENGTH,
        completion=LENGTH - 1,
        bf16=autocast or dtype == torch.bfloat16,
        checkpointing=False,
    )
    one_more = replace(setting, shape=replace(shape, layers=2))
    predicted = activation_bytes(one_more) - activation_bytes(
        replace(setting, shape=replace(shape, layers=1))
    )
    # Left out: an adapter's own casts, vectors of norms; below 5 % at these small sizes.
    assert predicted == pytest.approx((many - few) / 2, rel=0.05)


def setting(**changes) -> Setting:
    shape = changes.pop("shape", SMALL)
    defaults = {"width": 4, "rows": 4, "length": 9216, "completion": 8192, "bf16": True}
    return Setting(shape, changes.pop("trained", masked(shape, 0.05)), **{**defaults, **changes})


def test_the_bytes_of_a_masked_run_are_those_of_hand_arithmetic():
    held = one_process(setting(width=2, free_gradients=True))
    entries, moving = 1_310_195_712, 65_509_786
    assert held.weights == 2 * 1_543_714_304
    assert held.states == 12 * moving  # two moments and a master
    assert held.masks == 2 * entries / 8
    assert held.base == 2 * moving
    assert held.gradients == 4 * moving + 2 * 1536 * 8960
    assert one_process(setting(width=2, masters=False)).states == 8 * moving
    assert one_process(setting()).gradients == 4 * entries


def test_the_bytes_of_lora_and_of_dense_training_are_those_of_hand_arithmetic():
    held = one_process(setting(width=2, trained=adapter(SMALL, 32)))
    assert held.weights == 2 * 1_543_714_304 + 4 * 36_929_536
    assert (held.gradients, held.states) == (4 * 36_929_536, 8 * 36_929_536)
    held = one_process(setting(trained=dense(SMALL)))
    assert held.states == held.gradients * 2 == 8 * 1_310_195_712


def test_checkpointing_keeps_one_block_and_the_inputs_of_all():
    long = setting()
    inputs = 28 * long.tokens * 1536 * 4
    scored = 4 * 8192 * (2 * 1536 + 16)
    casts = 2 * SMALL.block_matrices
    assert activation_bytes(long) == inputs + scored + casts + long.tokens * block_bytes(long)
    kept = activation_bytes(replace(long, checkpointing=False))
    assert kept > 10 * activation_bytes(long)


@pytest.mark.parametrize("processes", [2, 8, 64])
def test_an_engine_divides_what_it_says(processes):
    run = setting()
    alone = one_process(run)
    held = {engine: memory(run, engine, processes) for engine in ENGINES[1:]}
    assert held["DDP"].weights == alone.weights and held["DDP"].states == alone.states
    assert held["FSDP2"].states == alone.states / processes
    assert held["FSDP2"].masks == alone.masks / processes
    # DeepSpeed's states are dense: two moments and a master of every entry.
    assert held["ZeRO-1"].states == 12 * 1_310_195_712 / processes
    assert held["ZeRO-1"].gradients == processes * held["ZeRO-2"].gradients
    assert held["ZeRO-3"].weights == held["ZeRO-2"].weights / processes
    assert held["ZeRO-3 offload"].host > 0 == held["ZeRO-3 offload"].states


def test_a_peak_is_the_largest_of_three_moments():
    held = one_process(setting(checkpointing=False))
    assert held.peak == held.resident + held.activations + held.logits
    small = one_process(setting(rows=1, length=16, completion=8))
    assert small.peak == small.resident + small.gradients + small.working
    first = one_process(setting(checkpointing=False, accumulates=True))
    assert first.peak == pytest.approx(held.peak + held.gradients)


def test_the_cache_of_a_token_is_keys_and_values_of_every_block():
    assert cache_bytes(SMALL) == 2 * 2 * 28 * 2 * 128
    sampler = Sampler("colocate", share=0.3)
    rows = cache_rows(SMALL, sampler, 9216, 80e9)
    assert rows == pytest.approx((24e9 - 2 * 1_543_714_304 - 2e9) / (28672 * 9216))
    assert cache_rows(SMALL, Sampler("colocate", share=0.05), 9216, 80e9) == 0


def run(**changes) -> Deployment:
    batch = changes.pop("batch", Batch(768, 3072))
    own = {key: changes.pop(key) for key in list(changes) if key in Setting.__annotations__}
    sampler = changes.pop("sampler", Sampler("colocate", 0.3))
    settings = {"engine": "FSDP2", "processes": 8, "device_bytes": 80e9, **changes}
    return Deployment(setting(**own), sampler=sampler, batch=batch, **settings)


def test_forward_and_backward_take_six_operations_an_entry_and_token():
    shape = replace(SMALL, layers=28)
    short = setting(shape=shape, length=2, completion=1, checkpointing=False)
    seconds = step_seconds(short, "one process", 1, Batch(1, 1, mean=1.0), H100)
    operations = 3 * 2 * 2 * (shape.matrices + shape.head)
    # Attention over two positions is nothing beside it.
    assert seconds.passes == pytest.approx(operations / (989e12 * 0.4), rel=1e-3)


def test_work_is_divided_by_the_devices_and_the_push_by_the_updates():
    one, eight = (
        step_seconds(setting(), "DDP", processes, Batch(768, 768), H100) for processes in (1, 8)
    )
    assert one.passes == pytest.approx(8 * eight.passes)
    assert one.verification == pytest.approx(8 * eight.verification)
    assert one.rollout > 2 * eight.rollout
    assert eight.sync > one.sync


@pytest.mark.parametrize("width", [2, 4])
def test_a_sparse_step_moves_fewer_bytes_and_never_more_than_a_dense_one_by_half(width):
    moved = [
        optimizer_bytes(setting(width=width, trained=masked(SMALL, d), free_gradients=True))
        for d in (0.01, 0.05, 0.5)
    ]
    whole = optimizer_bytes(setting(width=4, trained=dense(SMALL)))
    assert moved == sorted(moved) and moved[0] < 0.25 * whole and moved[2] < 1.5 * whole


def test_the_largest_run_fits_and_one_more_does_not():
    found = run()
    assert found.fits
    rows, tokens = largest_rows(found), largest_completion(found)
    for fits, changes in (
        (True, {"rows": rows}),
        (False, {"rows": rows + 1}),
        (True, {"length": 1024 + tokens, "completion": tokens}),
        (False, {"length": 1025 + tokens, "completion": tokens + 1}),
    ):
        assert replace(found, setting=replace(found.setting, **changes)).fits == fits


def test_the_cheapest_change_fits_and_costs_no_more_than_any_other():
    engines = ("DDP", "FSDP2")
    tight = run(engine="DDP", shape=PUBLISHED["Qwen2.5-7B"], trained=dense(PUBLISHED["Qwen2.5-7B"]))
    assert not tight.fits
    words, found = cheapest_change(tight, engines)
    assert found.fits and words
    assert found.setting.trained == tight.setting.trained  # the experiment stays the same
    assert found.setting.rows * (4 // found.setting.rows) == 4
    small = run(device_bytes=2e9)
    assert cheapest_change(small, engines) is None


@pytest.mark.usefixtures("no_model_is_loaded")
@pytest.mark.parametrize("gpus", [1, 2, 8])
def test_the_check_prints_the_plan_of_every_engine(write_recipe, capsys, gpus):
    path = write_recipe(mask={"builder": "random", "density": 0.05})
    assert train_main([str(path), "--check", "--gpus", str(gpus), "--gpu-memory", "40"]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()]
    names = {row[0] for row in rows if row and row[-1] in ("yes", "no")}
    assert names >= ({"one"} if gpus == 1 else {"DDP", "FSDP2", "ZeRO-1", "ZeRO-2"})
    assert f"{gpus} GPU" in out and "of 40 GB" in out
    for word in ("rollout", "verification", "optimizer", "sync", "largest", "assumed", "public"):
        assert word in out, word


@pytest.mark.usefixtures("no_model_is_loaded")
def test_what_does_not_fit_comes_with_a_change_that_does(write_recipe, capsys):
    path = write_recipe(trainer={"per_device_train_batch_size": 1024, "num_generations": 8})
    assert train_main([str(path), "--check", "--gpus", "1", "--gpu-memory", "6"]) == 0
    out = capsys.readouterr().out
    assert "the cheapest change that does: " in out and "per_device_train_batch_size=" in out


@pytest.mark.usefixtures("no_model_is_loaded")
def test_the_sampler_is_planned_with_its_longest_sequence(write_recipe, capsys):
    vllm = {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 40}
    path = write_recipe(data={"max_prompt_tokens": 16}, trainer=vllm)
    assert train_main([str(path), "--check", "--gpus", "1"]) == 0
    out = capsys.readouterr().out
    assert "prompt and completion 48 tokens" in out and "8 too few" in out
    assert "its cache holds" in out and "colocate" in out


def test_scaling_is_what_the_formulas_say():
    command = [sys.executable, str(ROOT / "scripts" / "scaling.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_gpus_without_a_check_are_refused(write_recipe, capsys):
    assert train_main([str(write_recipe()), "--gpus", "8"]) == 2
    assert "add --check" in capsys.readouterr().err


def test_a_batch_that_does_not_divide_among_the_gpus_is_refused(write_recipe, capsys):
    path = write_recipe(trainer={"per_device_train_batch_size": 3, "num_generations": 8})
    assert train_main([str(path), "--check", "--gpus", "3"]) == 2
    assert "num_generations" in capsys.readouterr().err
