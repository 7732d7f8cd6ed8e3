"""What a run would refuse, its check refuses: its own ranges, and what the libraries refuse."""

import dataclasses
import shutil
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from trl import GRPOConfig, SFTConfig

from rlvr import policy
from rlvr.cli import main as cli_main
from rlvr.engines import require_exact_base
from rlvr.schema import RecipeError
from rlvr.studies.launch_file import as_launched, launch_environment
from rlvr.train import main as train_main
from rlvr.training.limits import BOUNDS, CHOICES
from rlvr.training.reserved import GRPO_RESERVED, SFT_RESERVED

ROOT = Path(__file__).parent.parent
POLICY = ROOT / "recipes" / "pocket" / "policy"
SAFE = {"builder": "safe", "rank": 8, "principal_density": 0.5, "low_density": 0.5}
EVAL = {"data": {"name": "pocket", "split": "test", "size": 8}, "verifier": {"name": "math"}}
INF, NAN = float("inf"), float("nan")


@pytest.fixture(autouse=True)
def no_model_is_loaded(monkeypatch):
    load = policy.AutoModelForCausalLM.from_pretrained

    def refuse(*args, **kwargs):
        assert kwargs.get("device_map") == "meta", "weights were loaded"
        return load(*args, **kwargs)

    monkeypatch.setattr(policy.AutoModelForCausalLM, "from_pretrained", refuse)


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


@pytest.mark.parametrize("exact", [True, False])
def test_a_base_that_deepspeed_would_round_is_refused(exact):
    weight = torch.tensor([1.0, 0.5 if exact else 1 / 3])
    args = SimpleNamespace(deepspeed_plugin=object(), bf16=True, fp16=False)
    with nullcontext() if exact else pytest.raises(RecipeError, match="'w' holds values"):
        require_exact_base(args, [("w", weight)])
    for other in ({"bf16": False}, {"deepspeed_plugin": None}):  # nothing is rounded
        require_exact_base(SimpleNamespace(**{**vars(args), **other}), [("w", weight)])


# --- engines: the launch file beside the recipe ---

LAUNCH = sorted((ROOT / "launch").glob("*.yaml"))


@pytest.mark.parametrize("file", LAUNCH, ids=lambda file: file.stem)
def test_a_launch_file_is_read_as_accelerate_reads_it(file):
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    arguments = launch_command_parser().parse_args(["--config_file", str(file), "script.py"])
    arguments, _, _ = _validate_launch_command(arguments)
    arguments.main_process_port, arguments.deepspeed_fields_from_accelerate_config = 0, []
    if arguments.use_deepspeed:
        _, environment = prepare_deepspeed_cmd_env(arguments)
    else:
        environment = prepare_multi_gpu_env(arguments)
    environment["WORLD_SIZE"] = str(arguments.num_processes)  # torch's launcher adds it
    ours = launch_environment(file)
    assert {name: environment.get(name) for name in ours} == ours


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("file", LAUNCH, ids=lambda file: file.stem)
def test_the_recipe_decides_the_precision_under_every_launch_file(write_recipe, capsys, file, bf16):
    sizes = {"per_device_train_batch_size": 8, "bf16": bf16}
    path = write_recipe(mask=SAFE, trainer=sizes)
    with as_launched(file):
        assert train_main([str(path), "--check"]) == 0


@pytest.mark.parametrize(("launched", "bf16"), [("bf16", False), ("fp16", True), ("fp8", True)])
def test_a_launch_file_of_another_precision_is_refused(
    write_recipe, capsys, monkeypatch, launched, bf16
):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    error = refusal(write_recipe(trainer={"bf16": bf16}), capsys)
    assert "mixed_precision" in error and launched in error and "trainer.bf16" in error


@pytest.mark.parametrize("content", [None, "{", '{"zero_optimization": 3}'])
def test_a_deepspeed_file_that_cannot_be_read_is_refused(
    write_recipe, tmp_path, capsys, monkeypatch, content
):
    file = tmp_path / "deepspeed.json"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    assert "deepspeed_config_file" in refusal(write_recipe(mask=SAFE), capsys)


STUDIES = {
    "decay under ZeRO": ("zero2", {"mask": SAFE, "trainer": {"weight_decay": 0.1}}, "weight_decay"),
    "bf16 masters under ZeRO": ("zero3", {"mask": SAFE, "model": {"dtype": "bfloat16"}}, "dtype"),
    "deltas under ZeRO": ("zero1", {"mask": SAFE, "run": {"checkpoint": "delta"}}, "checkpoint"),
    "freed gradients under DDP": (
        "ddp_cpu",
        {"mask": SAFE, "optimizer": {"free_gradients": True}},
        "free_gradients",
    ),
    "a group that does not divide": ("ddp_cpu", {"trainer": {"num_generations": 12}}, "12"),
}


@pytest.mark.parametrize(("launch", "arm", "word"), STUDIES.values(), ids=STUDIES)
def test_a_dry_run_checks_an_arm_for_the_engine_of_its_launch_file(
    write_recipe, tmp_path, capsys, launch, arm, word
):
    base = write_recipe(trainer={"per_device_train_batch_size": 8})
    study = {
        "base": str(base),
        "dir": str(tmp_path / "study"),
        "launch": str(ROOT / f"launch/{launch}.yaml"),
        "arms": {"plain": {}, "odd": arm},
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    assert cli_main(["study", str(path), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: arm 'odd': ") and word in error and error.count("\n") == 1
    path.write_text(yaml.safe_dump({**study, "arms": {"plain": {}}}))
    assert cli_main(["study", str(path), "--dry-run"]) == 0
