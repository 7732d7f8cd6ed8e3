"""What a run would refuse, its check refuses: its own ranges, and what the libraries refuse."""

import dataclasses
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from trl import GRPOConfig, SFTConfig

from rlvr.train import main as train_main
from rlvr.training.limits import BOUNDS, CHOICES
from rlvr.training.reserved import GRPO_RESERVED, SFT_RESERVED

ROOT = Path(__file__).parent.parent
POLICY = ROOT / "recipes" / "pocket" / "policy"
SAFE = {"builder": "safe", "rank": 8, "principal_density": 0.5, "low_density": 0.5}
EVAL = {"data": {"name": "pocket", "split": "test", "size": 8}, "verifier": {"name": "math"}}
INF, NAN = float("inf"), float("nan")


pytestmark = pytest.mark.usefixtures("no_model_is_loaded")


def refusal(path, capsys, *words) -> str:
    """Return the one line with which a check refuses the recipe."""
    assert train_main([str(path), "--check", *words]) == 2
    output = capsys.readouterr()
    lines = [line for line in output.err.splitlines() if line.startswith("error: ")]
    assert output.out == "" and len(lines) == 1 and output.err.count("\n") == 1, output.err
    return lines[0]


RANGES = {
    "run": {"kl_every": [-1], "rollouts": [-3], "max_unverified": [-0.1, 1.5, NAN]},
    "geometry": {"every": [-1]},
    "algorithm": {"max_rounds": [0, -1]},
    "eval": {
        "samples": [0],
        "temperature": [-0.5, INF],
        "top_p": [0.0, 1.5],
        "max_new_tokens": [0],
        "batch_size": [-1],
        "seed": [-1],
    },
    "trainer": {
        "learning_rate": [-1e-6, INF, NAN],
        "weight_decay": [-0.1, INF],
        "adam_beta1": [1.0, -0.1],
        "adam_beta2": [1.5],
        "adam_epsilon": [-1e-8],
        "max_grad_norm": [-1.0, NAN],
        "warmup_steps": [-1],
        "max_steps": [0, -2],
        "num_train_epochs": [0.0, -1.0, INF],
        "per_device_train_batch_size": [0, -4],
        "gradient_accumulation_steps": [0],
        "steps_per_generation": [0],
        "num_iterations": [0],
        "max_completion_length": [0],
        "temperature": [0.0, -1.0, INF],
        "beta": [-0.1, NAN],
        "epsilon": [-0.2],
        "top_entropy_quantile": [1.5],
        "logging_steps": [0, -1, 1.5],
        "save_steps": [0, -5, 2.5],
        "save_total_limit": [0, -1],
        "seed": [-1, 2**32],
        "data_seed": [-1],
        "dataloader_num_workers": [-1],
        "ddp_timeout": [0],
        "vllm_gpu_memory_utilization": [0.0, 1.2],
    },
}
CELLS = [
    (section, key, value)
    for section, keys in RANGES.items()
    for key, values in keys.items()
    for value in values
]


@pytest.mark.parametrize(("section", "key", "value"), CELLS)
def test_a_value_out_of_range_is_refused(write_recipe, capsys, section, key, value):
    base = {"eval": EVAL, "algorithm": {"name": "dapo"}}.get(section, {})
    error = refusal(write_recipe(**{section: {**base, key: value}}), capsys)
    assert f"{section}.{key}: " in error and str(value) in error


TRAINER = {
    "optim": {"adamw": "adamw_", "adamw_trch": "adamw_torch"},
    "lr_scheduler_type": {"cosin": "cosine"},
    "loss_type": {"dappo": "grpo"},
    "scale_rewards": {"grup": "batch"},
    "importance_sampling_level": {"tokn": "sequence"},
    "multi_objective_aggregation": {"sum": "sum_then_normalize"},
    "save_strategy": {"no": "steps", "best": "steps", "step": "epoch"},
    "vllm_mode": {"colocated": "server"},
    "log_level": {"loud": "debug"},
    "report_to": {"tensorbord": "tensorboard", "pytest": "wandb"},
    "debug": {"everything": "DebugOption"},
    "pad_to_multiple_of": {"many": "invalid literal"},
    "dataloader_multiprocessing_context": {"thread": "spawn"},
}


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [(key, value, word) for key, words in TRAINER.items() for value, word in words.items()],
)
def test_a_misspelt_choice_is_refused(write_recipe, capsys, key, value, word):
    error = refusal(write_recipe(trainer={key: value}), capsys)
    assert "trainer" in error and value in error and word in error


SETTINGS = {
    "two precisions": ({"fp16": True, "bf16": True}, ["trainer.fp16", "bf16"]),
    "a loss scaler without a GPU": ({"fp16": True, "bf16": False}, ["trainer.fp16", "GPU"]),
    "a schedule without its argument": (
        {"lr_scheduler_type": "cosine_with_min_lr"},
        ["trainer.lr_scheduler_type", "cosine_with_min_lr", "min_lr"],
    ),
    "another schedule without its argument": (
        {"lr_scheduler_type": "warmup_stable_decay"},
        ["warmup_stable_decay", "num_decay_steps"],
    ),
    "a schedule with another's argument": (
        {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"min_lr": 1e-7}},
        ["trainer.lr_scheduler_type", "min_lr"],
    ),
    "a schedule that leaves its argument aside": (
        {"lr_scheduler_kwargs": {"num_cycles": 2}},
        ["trainer.lr_scheduler_kwargs", "constant"],
    ),
    "a warmup that does not happen": (
        {"warmup_steps": 10},
        ["trainer.warmup_steps", "constant_with_warmup"],
    ),
    "a schedule that needs evaluations": (
        {"lr_scheduler_type": "reduce_lr_on_plateau"},
        ["reduce_lr_on_plateau", "eval"],
    ),
    "an optimizer whose package is missing": (
        {"optim": "galore_adamw", "optim_target_modules": ["mlp"]},
        ["trainer.optim", "galore"],
    ),
    "another optimizer whose package is missing": (
        {"optim": "apollo_adamw", "optim_target_modules": ["mlp"]},
        ["trainer.optim", "apollo"],
    ),
    "an optimizer's unknown argument": (
        {"optim": "sgd", "optim_args": "momentumm"},
        ["trainer.optim", "sgd"],
    ),
    "workers that cannot be kept": (
        {"dataloader_persistent_workers": True},
        ["dataloader_persistent_workers", "dataloader_num_workers"],
    ),
    "workers that fetch nothing": ({"dataloader_prefetch_factor": 2}, ["dataloader_num_workers"]),
    "checkpointing's unknown argument": (
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"reentrant": True}},
        ["gradient_checkpointing_kwargs", "reentrant", "use_reentrant"],
    ),
    "a kernel's package is missing": (
        {"use_liger_kernel": True},
        ["trainer.use_liger_kernel", "liger-kernel"],
    ),
    "a balance of experts that are not there": (
        {"router_aux_loss_coef": 0.1},
        ["trainer.router_aux_loss_coef", "Qwen3ForCausalLM"],
    ),
    "an unknown cache": ({"cache_implementation": "lru"}, ["trainer.cache_implementation", "lru"]),
    "a loss and a correction that do not fit": (
        {"loss_type": "vespo", "use_vllm": True},
        ["vllm_importance_sampling_mode", "token_mask", "sequence_mask"],
    ),
    "text for a mapping": (
        {"lr_scheduler_kwargs": '{"min_lr": 1e-7}'},
        ["trainer.lr_scheduler_kwargs", "mapping"],
    ),
    "NaN inside a mapping": (
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": NAN}},
        ["trainer.lr_scheduler_kwargs.min_lr", "nan"],
    ),
}


@pytest.mark.parametrize(("trainer", "words"), SETTINGS.values(), ids=SETTINGS)
def test_what_the_libraries_refuse_is_refused_by_the_check(write_recipe, capsys, trainer, words):
    error = refusal(write_recipe(trainer=trainer), capsys)
    for word in words:
        assert word in error


def test_no_optimizer_argument_of_a_masked_run_is_left_aside(write_recipe, capsys):
    path = write_recipe(mask=SAFE, trainer={"optim_args": "fused=True"})
    assert "trainer.optim_args" in refusal(path, capsys)


@pytest.mark.parametrize("supervised", [False, True])
def test_a_reserved_setting_is_refused_with_what_says_it(
    write_recipe, write_sft, capsys, supervised
):
    config = SFTConfig if supervised else GRPOConfig
    reserved = SFT_RESERVED if supervised else GRPO_RESERVED
    fields = {field.name for field in dataclasses.fields(config)}
    assert reserved.keys() <= fields, "a name that TRL does not have"
    assert not reserved.keys() & (BOUNDS.keys() - {"neftune_noise_alpha"} | CHOICES.keys())
    path = (write_sft if supervised else write_recipe)()
    for key in ("eval_strategy", "load_best_model_at_end", "push_to_hub", "hub_model_id") + (
        "auto_find_batch_size",
        "fsdp",
        "deepspeed",
        "torch_compile",
        "save_only_model",
    ):
        assert reserved[key] in refusal(path, capsys, f"trainer.{key}=true")


@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_3", "sdpaa"])
def test_an_attention_that_is_not_here_is_refused(write_recipe, capsys, name):
    error = refusal(write_recipe(model={"attn_implementation": name}), capsys)
    assert "model.attn_implementation: " in error


@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_an_attention_that_is_here_passes(write_recipe, name):
    assert train_main([str(write_recipe(model={"attn_implementation": name})), "--check"]) == 0


def test_a_missing_file_of_any_data_section_is_refused(write_recipe, capsys):
    absent = {"name": "jsonl", "path": "/nowhere/rows.jsonl"}
    pocket = {"name": "pocket", "split": "train", "size": 8}
    for where, sections in {
        "data.path": {"data": absent},
        "eval.data.path": {"eval": {**EVAL, "data": absent}},
        "data.parts[1].path": {"data": {"name": "mix", "parts": [pocket, absent]}},
        "data.decontaminate[0].path": {"data": {**pocket, "decontaminate": [absent]}},
        "data.pass_rates": {"data": {**pocket, "pass_rates": absent["path"], "min_pass_rate": 0.1}},
    }.items():
        path = write_recipe()
        content = yaml.safe_load(path.read_text()) | sections
        path.write_text(yaml.safe_dump(content))
        error = refusal(path, capsys)
        assert f"{where}: /nowhere/rows.jsonl does not exist" in error


def test_a_chat_template_that_refuses_the_system_message_is_refused(write_recipe, tmp_path, capsys):
    folder = tmp_path / "policy"
    shutil.copytree(POLICY, folder)
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    template = folder / "chat_template.jinja"
    template.write_text(refusing + template.read_text())
    model = {"path": str(folder)}
    assert train_main([str(write_recipe(model=model)), "--check"]) == 0
    capsys.readouterr()
    error = refusal(write_recipe(model=model, data={"system": "Be brief."}), capsys)
    assert "chat template refuses" in error and "no system" in error


def test_rows_of_the_evaluation_are_read_before_training(write_recipe, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"problem": "1+1"}\n')
    section = {**EVAL, "data": {"name": "jsonl", "path": str(rows)}}
    assert train_main([str(write_recipe(eval=section))]) == 2
    assert "line 1: no column 'answer'" in capsys.readouterr().err
    assert not list((tmp_path / "recipe").glob("checkpoints/*"))


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_a_recipe_for_vllm_is_checked_anywhere_and_refused_where_it_is_missing(
    write_recipe, tmp_path, capsys
):
    path = write_recipe(trainer={"use_vllm": True})
    assert train_main([str(path), "--check"]) == 0
    assert train_main([str(path)]) == 2
    assert "trainer.use_vllm: vLLM is not installed" in capsys.readouterr().err
    assert not (tmp_path / "recipe").exists()
