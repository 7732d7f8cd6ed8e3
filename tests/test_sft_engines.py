"""Supervised fine-tuning on the engines that accelerate starts, beside one process."""

import json

import pytest
import torch
from test_engines import ENGINES, PLUGINS, SAFE, require_no_leak, train_with, weights

from rlvr.files import read_jsonl
from rlvr.train import main as train_main

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ENGINES)
def test_two_processes_train_as_one_does_and_resume_in_the_same_bits(write_sft, tmp_path, name):
    engine, weight_decay = ENGINES[name]
    trainer = {
        "weight_decay": weight_decay,
        "max_grad_norm": 0.05,
        "gradient_accumulation_steps": 2,
    }
    trainer |= {"max_steps": 4, "save_steps": 2, "train_sampling_strategy": "sequential"}
    one = {**trainer, "per_device_train_batch_size": 8}
    two = {**trainer, "per_device_train_batch_size": 4}
    assert train_main([str(write_sft("one", mask=SAFE, trainer=one))]) == 0
    train_with(name, write_sft("two", mask=SAFE, trainer=two, plugins=PLUGINS))
    provenance = json.loads((tmp_path / "two" / "provenance.json").read_text())
    assert (provenance["processes"], provenance["engine"]) == (2, engine)
    require_no_leak(tmp_path / "two")
    rows = [read_jsonl(tmp_path / run / "metrics.jsonl") for run in ("one", "two")]
    names = ["loss", "grad_norm", "num_tokens", "mean_token_accuracy"]
    # The base values of a masked run cannot be swapped in where ZeRO-3 scattered the weights.
    names += ["kl_to_base_on_data"] if name != "zero3" else []
    assert ("kl_to_base_on_data" in rows[1][0]) == (name != "zero3")
    for first, second in zip(*rows, strict=True):
        for key in names:
            assert second[key] == pytest.approx(first[key], rel=2e-2, abs=1e-6), key
        assert second["mask_leak"] == 0
    path = write_sft("stopped", mask=SAFE, trainer=two, plugins=PLUGINS)
    train_with(name, path, "trainer.max_steps=2")
    train_with(name, path, "--resume")
    whole, stopped = weights(tmp_path / "two"), weights(tmp_path / "stopped")
    assert all(torch.equal(whole[key], stopped[key]) for key in whole)


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2", "zero3"])
def test_an_adapter_starts_at_the_base_policy(write_sft, tmp_path, name):
    adapter, trainer = {"builder": "pissa", "rank": 4}, {"max_steps": 2}
    train_with(name, write_sft(adapter=adapter, trainer=trainer, plugins=PLUGINS))
    first, second = read_jsonl(tmp_path / "recipe" / "metrics.jsonl")
    assert first["kl_to_base_on_data"] < 1e-9 < 1e-8 < second["kl_to_base_on_data"]
    provenance = json.loads((tmp_path / "recipe" / "provenance.json").read_text())
    assert provenance["base_weights_after"] == provenance["base_weights"]
