"""What an engine, its launch file or its DeepSpeed file rules out is refused by the check."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from test_refusals import refusal

from rlvr import runtime
from rlvr.cli import main as cli_main
from rlvr.engines import require_exact_base
from rlvr.schema import RecipeError
from rlvr.studies.launch_file import as_launched, launch_environment
from rlvr.train import main as train_main

pytestmark = pytest.mark.usefixtures("no_model_is_loaded")

ROOT = Path(__file__).parent.parent
SAFE = {"builder": "safe", "rank": 8, "principal_density": 0.5, "low_density": 0.5}


@pytest.mark.parametrize("exact", [True, False])
def test_a_base_that_deepspeed_would_round_is_refused(exact):
    weight = torch.tensor([1.0, 0.5 if exact else 1 / 3])
    args = SimpleNamespace(deepspeed_plugin=object(), bf16=True, fp16=False)
    with nullcontext() if exact else pytest.raises(RecipeError, match="'w' holds values"):
        require_exact_base(args, [("w", weight)])
    for other in ({"bf16": False}, {"deepspeed_plugin": None}):  # nothing is rounded
        require_exact_base(SimpleNamespace(**{**vars(args), **other}), [("w", weight)])


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


DISAGREE = {
    "accumulation": ("zero2", "deepspeed_config.gradient_accumulation_steps", 4),
    "clipping": ("zero3", "deepspeed_config.gradient_clipping", 0.5),
    "checkpointing twice": ("fsdp2", "fsdp_config.fsdp_activation_checkpointing", True),
    "a compiler": ("ddp", "dynamo_backend", "inductor"),
    "another FSDP": ("fsdp2", "fsdp_config.fsdp_version", 1),
    "another precision": ("ddp", "mixed_precision", "bf16"),
}


def stated(content: dict, key: str, value: object) -> dict:
    """Return a launch file's mapping with another value at a dotted key."""
    first, _, rest = key.partition(".")
    return {**content, first: stated(content[first], rest, value) if rest else value}


@pytest.mark.parametrize(("launch", "key", "value"), DISAGREE.values(), ids=DISAGREE)
def test_a_launch_file_that_disagrees_with_the_recipe_is_refused(
    write_recipe, tmp_path, capsys, launch, key, value
):
    file = tmp_path / "launch.yaml"
    content = yaml.safe_load((ROOT / f"launch/{launch}.yaml").read_text())
    file.write_text(yaml.safe_dump(stated(content, key, value)))
    trainer = {"per_device_train_batch_size": 8, "gradient_checkpointing": True}
    path = write_recipe(mask=SAFE, trainer=trainer)
    with as_launched(file):
        error = refusal(path, capsys)
    assert key.rpartition(".")[2] in error and "launch file" in error
    # What the recipe says too is no disagreement.
    if launch.startswith("zero"):
        ours = {"gradient_accumulation_steps": 4, "gradient_clipping": 0.5}[key.rpartition(".")[2]]
        name = {"gradient_clipping": "max_grad_norm"}.get(key.rpartition(".")[2])
        name = name or "gradient_accumulation_steps"
        with as_launched(file):
            assert train_main([str(path), "--check", f"trainer.{name}={ours}"]) == 0


DEEPSPEED = {
    "a batch": {"train_micro_batch_size_per_gpu": 2},
    "a learning rate": {"optimizer": {"type": "AdamW", "params": {"lr": 0.1}}},
    "a precision": {"bf16": {"enabled": True}},
    "an optimizer that knows no mask": {"optimizer": {"type": "Muon"}},
}


@pytest.mark.parametrize("settings", DEEPSPEED.values(), ids=DEEPSPEED)
def test_a_deepspeed_file_that_disagrees_is_refused(
    write_recipe, tmp_path, capsys, monkeypatch, settings
):
    file = tmp_path / "deepspeed.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 2}, **settings}))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    assert "launch file" in refusal(write_recipe(mask=SAFE), capsys)


@pytest.mark.parametrize(
    "name", ["ACCELERATE_USE_MEGATRON_LM", "ACCELERATE_USE_PARALLELISM_CONFIG"]
)
def test_an_engine_that_no_run_knows_is_refused(write_recipe, capsys, monkeypatch, name):
    monkeypatch.setenv(name, "true")
    assert "DDP, FSDP2 and DeepSpeed" in refusal(write_recipe(), capsys)


@pytest.mark.parametrize(
    ("processes", "gpus", "cores", "word"),
    [
        (8, 2, 64, "has 2 GPUs; add --num_processes 2 (trainer.gradient_accumulation_steps x 4"),
        (2, 1, 64, "has 1 GPU; add --num_processes 1"),
        (8, 0, 4, "has no GPU and 4 CPU cores; use launch/ddp_cpu.yaml"),
        (8, 8, 4, None),
        (2, 0, 1, None),
        (1, 4, 1, None),
    ],
)
def test_more_processes_than_devices_are_refused_before_anything_is_imported(
    write_recipe, monkeypatch, capsys, processes, gpus, cores, word
):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(runtime, "cores", lambda: cores)
    if word is None:
        runtime.require_devices()
        return
    path = write_recipe(mask=SAFE)
    assert train_main([str(path)]) == 2
    out, error = capsys.readouterr()
    assert word in error and error.count("\n") == 1 and not out
    # The plan of a larger machine can be read on any.
    assert train_main([str(path), "--check"]) == 0


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the launch files fit the GPUs here")
@pytest.mark.parametrize("file", ["ddp", "fsdp2", "zero2", "zero3"])
def test_accelerate_with_a_file_for_more_gpus_says_so_within_half_a_minute(write_recipe, file):
    processes = 2 * max(2, runtime.cores())
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    command += [str(ROOT / f"launch/{file}.yaml"), "--num_processes", str(processes)]
    command += ["--main_process_port", "0", "-m", "rlvr.train", str(write_recipe(mask=SAFE))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and len(lines) == 1, done.stderr[-3000:]
    assert f"starts {processes} processes on this machine, which has no GPU" in lines[0]


STUDIES = {
    "decay under ZeRO": ("zero2", {"mask": SAFE, "trainer": {"weight_decay": 0.1}}, "weight_decay"),
    "bf16 masters under ZeRO": ("zero3", {"mask": SAFE, "model": {"dtype": "bfloat16"}}, "dtype"),
    "deltas under zero1": ("zero1", {"mask": SAFE, "run": {"checkpoint": "delta"}}, "checkpoint"),
    "deltas under zero2": ("zero2", {"mask": SAFE, "run": {"checkpoint": "delta"}}, "checkpoint"),
    "deltas under zero3": ("zero3", {"mask": SAFE, "run": {"checkpoint": "delta"}}, "checkpoint"),
    **{
        f"freed gradients under {launch}": (
            launch,
            {"mask": SAFE, "optimizer": {"free_gradients": True}},
            "free_gradients",
        )
        for launch in ("ddp", "fsdp2", "zero1", "zero2", "zero3")
    },
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
