"""Every mistake is one message with the fix, exit code 2, before a model is loaded."""

import subprocess
import sys

import pytest
import torch

from rlvr import policy
from rlvr.train import main as train_main

SAFE = {"builder": "safe", "rank": 8, "principal_density": 0.5, "low_density": 0.5}


@pytest.fixture(autouse=True)
def no_model_is_loaded(monkeypatch):
    load = policy.AutoModelForCausalLM.from_pretrained

    def refuse(*args, **kwargs):
        assert kwargs.get("device_map") == "meta", "weights were loaded"
        return load(*args, **kwargs)

    monkeypatch.setattr(policy.AutoModelForCausalLM, "from_pretrained", refuse)


CASES = {
    "unknown section": ({"maks": {}}, ["maks", "did you mean 'mask'"]),
    "misspelt trainer key": (
        {"trainer": {"learning_rte": 1e-6}},
        ["trainer", "learning_rte", "learning_rate"],
    ),
    "wrong type": (
        {"trainer": {"max_steps": "ten"}},
        ["trainer.max_steps", "expected int", "'ten'"],
    ),
    "bool for a number": ({"mask": {**SAFE, "rank": True}}, ["mask.rank", "expected int"]),
    "text for a rank": ({"mask": {**SAFE, "rank": "64"}}, ["mask.rank", "expected int", "'64'"]),
    "unknown builder": ({"mask": {"builder": "safer"}}, ["mask", "safer", "did you mean 'safe'"]),
    "missing option": ({"mask": {"builder": "principal", "rank": 4}}, ["mask", "density"]),
    "unknown option": ({"mask": {"builder": "dense", "denisty": 1}}, ["mask", "denisty"]),
    "unknown reward": (
        {"rewards": [{"name": "maths"}]},
        ["rewards[0]", "did you mean 'math'"],
    ),
    "reward twice": ({"rewards": [{"name": "math"}] * 2}, ["rewards", "twice"]),
    "unknown adapter": (
        {"adapter": {"builder": "lorra", "rank": 4}},
        ["adapter", "did you mean 'lora'"],
    ),
    "density above 1": ({"mask": {"builder": "random", "density": 1.5}}, ["mask.density", "1.5"]),
    "density 0": ({"mask": {"builder": "low_magnitude", "density": 0.0}}, ["mask.density", "0"]),
    "density of no entry": (
        {"mask": {"builder": "random", "density": 1e-9}},
        ["mask.density", "proj"],
    ),
    "rank too high": ({"mask": {**SAFE, "rank": 65}}, ["mask.rank", "65", "64", "k_proj"]),
    "rank too high inside": (
        {"mask": {"builder": "complement", "of": {**SAFE, "rank": 999}}},
        ["mask.of.rank", "999"],
    ),
    "adapter rank too high": (
        {"adapter": {"builder": "lora", "rank": 65}},
        ["adapter.rank", "65", "k_proj"],
    ),
    "adapter rank 0": ({"adapter": {"builder": "pissa", "rank": 0}}, ["adapter.rank", "0"]),
    "adapter rank 0 of PEFT's": (
        {"adapter": {"builder": "peft", "method": "LoraConfig", "options": {"r": 0}}},
        ["adapter.options.r", "0"],
    ),
    "dropout of a start that is not 0": (
        {"adapter": {"builder": "pissa", "rank": 4, "dropout": 0.05}},
        ["adapter.dropout", "pissa", "another policy than the base"],
    ),
    "dropout above 1": (
        {"adapter": {"builder": "lora", "rank": 4, "dropout": 1.5}},
        ["adapter.dropout", "1.5"],
    ),
    "alpha below 0": (
        {"adapter": {"builder": "lora", "rank": 4, "alpha": -1}},
        ["adapter.alpha", "-1"],
    ),
    "ratio 0": ({"adapter": {"builder": "lora_plus", "rank": 4, "ratio": 0}}, ["adapter.ratio"]),
    "GeoRA of everything": (
        {"adapter": {"builder": "geora", "rank": 4, "density": 1.0}},
        ["adapter.density", "1.0"],
    ),
    "adapter on the head": (
        {"adapter": {"builder": "lora", "rank": 4}, "model": {"targets": ["linear", "lm_head"]}},
        ["model.targets", "lm_head", "never be trained"],
    ),
    "adapter on an unknown target": (
        {"adapter": {"builder": "lora", "rank": 4}, "model": {"targets": ["qkv_proj"]}},
        ["model.targets", "qkv_proj", "q_proj"],
    ),
    "adapter and whole parameters": (
        {"adapter": {"builder": "lora", "rank": 4}, "model": {"also_train": ["norm"]}},
        ["model.also_train", "base weights"],
    ),
    "unknown method of PEFT": (
        {"adapter": {"builder": "peft", "method": "VerraConfig"}},
        ["adapter.method", "did you mean 'VeraConfig'"],
    ),
    "method that needs calls": (
        {"adapter": {"builder": "peft", "method": "AdaLoraConfig"}},
        ["adapter.method", "AdaLoraConfig", "training loop"],
    ),
    "unknown option of PEFT": (
        {"adapter": {"builder": "peft", "method": "LoraConfig", "options": {"rank": 4}}},
        ["adapter.options", "rank"],
    ),
    "wrong type for PEFT": (
        {"adapter": {"builder": "peft", "method": "LoraConfig", "options": {"r": "4"}}},
        ["adapter.options.r", "expected int"],
    ),
    "targets through a side door": (
        {
            "adapter": {
                "builder": "peft",
                "method": "LoraConfig",
                "options": {"target_modules": ["lm_head"]},
            }
        },
        ["adapter.options.target_modules", "model.targets"],
    ),
    "biases through a side door": (
        {"adapter": {"builder": "peft", "method": "LoraConfig", "options": {"bias": "all"}}},
        ["adapter.options.bias", "'none'"],
    ),
    "blocks that do not fit": (
        {
            "adapter": {
                "builder": "peft",
                "method": "BOFTConfig",
                "options": {"boft_block_size": 7, "boft_block_num": 0},
            }
        },
        ["adapter", "does not fit"],
    ),
    "a reference that erodes": (
        {
            "adapter": {"builder": "peft", "method": "LoraConfig", "sync": "merge_unmerge"},
            "trainer": {"beta": 0.1},
        },
        ["trainer.beta", "merge_unmerge"],
    ),
    "no target": ({"model": {"targets": ["qkv_proj"]}}, ["model.targets", "qkv_proj", "q_proj"]),
    "missing model": (
        {"model": {"path": "/nowhere/model"}},
        ["model.path", "/nowhere/model", "does not exist"],
    ),
    "mask and adapter": (
        {"mask": SAFE, "adapter": {"builder": "lora", "rank": 4}},
        ["mask and adapter"],
    ),
    "group does not divide": (
        {"trainer": {"num_generations": 7}},
        ["trainer.num_generations", "7", "16"],
    ),
    "group of one": (
        {"trainer": {"num_generations": 1}},
        ["trainer.num_generations", "at least 2"],
    ),
    "top_p": ({"trainer": {"top_p": 0.9}}, ["trainer.top_p", "0.9", "importance ratio"]),
    "top_k": ({"trainer": {"top_k": 50}}, ["trainer.top_k", "50"]),
    "min_p": ({"trainer": {"min_p": 0.1}}, ["trainer.min_p", "0.1"]),
    "top_p through a side door": (
        {"trainer": {"generation_kwargs": {"top_p": 0.5}}},
        ["generation_kwargs.top_p"],
    ),
    "optimizer that mixes": (
        {"mask": SAFE, "trainer": {"optim": "adafactor"}},
        ["trainer.optim", "adafactor"],
    ),
    "fp16 weights": ({"mask": SAFE, "model": {"dtype": "float16"}}, ["model.dtype", "bfloat16"]),
    "stochastic rounding of fp32": (
        {"mask": SAFE, "optimizer": {"bf16_update": "stochastic"}},
        ["optimizer.bf16_update", "model.dtype", "float32"],
    ),
    "an unknown rounding": (
        {"mask": SAFE, "optimizer": {"bf16_update": "kahan"}},
        ["optimizer.bf16_update", "'master' or 'stochastic'"],
    ),
    "optimizer options without a mask": (
        {"optimizer": {"free_gradients": True}},
        ["optimizer", "{builder: dense}"],
    ),
    # With a GPU the loss scaler does not go with freed gradients, without one there is none.
    "freed gradients and a loss scaler": (
        {"mask": SAFE, "optimizer": {"free_gradients": True}, "trainer": {"fp16": True}},
        ["trainer.fp16" if not torch.cuda.is_available() else "optimizer.free_gradients", "bf16"],
    ),
    "weights beside the rewards": (
        {"trainer": {"reward_weights": [2.0]}},
        ["trainer.reward_weights", "the weight of each entry"],
    ),
    "the run's own key": ({"trainer": {"output_dir": "x"}}, ["trainer.output_dir", "run.dir"]),
    "absent reporter": (
        {"trainer": {"report_to": ["neptune"]}},
        ["trainer.report_to", "pip install neptune"],
    ),
    "unknown dataset": ({"data": {"name": "pockets"}}, ["data", "did you mean 'pocket'"]),
    "wrong split": (
        {"data": {"name": "pocket", "split": "dev", "size": 3}},
        ["data.split", "'dev'"],
    ),
    "no plugin": ({"plugins": ["no_such_module_here"]}, ["plugins", "no_such_module_here"]),
}


@pytest.mark.parametrize(("sections", "words"), CASES.values(), ids=CASES)
def test_a_mistake_is_one_message_and_exit_code_2(write_recipe, tmp_path, capsys, sections, words):
    path = write_recipe(**sections)
    assert train_main([str(path)]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ") and output.err.count("\n") == 1
    for word in words:
        assert word in output.err
    assert not (tmp_path / "recipe").exists()


def test_the_command_line_prints_no_traceback(tmp_path):
    command = [sys.executable, "-m", "rlvr.cli", "train", str(tmp_path / "absent.yaml")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert "absent.yaml does not exist" in result.stderr and "Traceback" not in result.stderr


def test_freed_gradients_on_two_processes_are_refused(write_recipe, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    path = write_recipe(mask=SAFE, optimizer={"free_gradients": True})
    assert train_main([str(path)]) == 2
    assert "optimizer.free_gradients: on several processes" in capsys.readouterr().err


def test_check_prints_the_plan_and_loads_nothing(write_recipe, tmp_path, capsys):
    assert train_main([str(write_recipe(mask=SAFE)), "--check"]) == 0
    plan = capsys.readouterr().out
    for word in ("28 matrices", "q_proj", "safe", "50.00% to 100.00%", "optimizer state"):
        assert word in plan
    assert not (tmp_path / "recipe").exists()
