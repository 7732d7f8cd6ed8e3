"""What an engine, its launch file or its DeepSpeed file rules out is refused by the check."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from test_refusals import refusal

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
