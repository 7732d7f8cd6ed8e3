"""The batch that a plan prints is the one that TRL runs, and what TRL refuses is refused before."""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from trl import GRPOConfig
from trl.trainer.utils import RepeatSampler

from rlvr.schema import RecipeError
from rlvr.train import main as train_main
from rlvr.training.batch_sizes import describe_sizes, require_rows, resolve_sizes
from rlvr.training.inputs import Arguments

DEFAULTS = {field.name: field.default for field in dataclasses.fields(GRPOConfig)}


def settings(group: int, per_device: int, accumulated: int, **more: int) -> dict:
    return {
        "num_generations": group,
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": accumulated,
        **more,
    }


@pytest.mark.parametrize(
    "given",
    [
        settings(8, 16, 1),
        settings(8, 4, 6),
        settings(12, 4, 24, generation_batch_size=3072),
        settings(4, 2, 2, steps_per_generation=8),
        settings(4, 2, 4, steps_per_generation=2),
    ],
)
def test_the_sizes_are_those_of_trl(given, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(Arguments, "world_size", property(lambda self: 8))
    args = Arguments(output_dir=str(tmp_path), use_cpu=True, bf16=False, **given)
    sizes = resolve_sizes({**DEFAULTS, **given}, 8)
    assert sizes.generation == args.generation_batch_size
    assert sizes.generation == sizes.forward * args.steps_per_generation
    assert sizes.step == args.per_device_train_batch_size * 8 * args.gradient_accumulation_steps
    assert sizes.updates == args.steps_per_generation / args.gradient_accumulation_steps


def test_the_line_of_the_plan():
    sizes = resolve_sizes({**DEFAULTS, **settings(12, 4, 24, generation_batch_size=3072)}, 8)
    assert describe_sizes(sizes, 8) == (
        "batch    256 prompts x 12 completions a generation, for 4 optimizer steps of 768 on 8 "
        "processes"
    )


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (settings(1, 8, 1), "at least 2"),
        (settings(3, 1, 1), "does not divide the 8 completions"),
        (settings(8, 4, 1, generation_batch_size=48), "48 completions are no multiple of the 32"),
        (settings(8, 4, 1, generation_batch_size=16), "no multiple of the 32"),
        (settings(8, 4, 1, generation_batch_size=64, steps_per_generation=2), "remove one"),
    ],
)
def test_what_trl_refuses_is_refused(given, word, tmp_path, monkeypatch):
    monkeypatch.setattr(Arguments, "world_size", property(lambda self: 8))
    with pytest.raises(RecipeError, match=word):
        resolve_sizes({**DEFAULTS, **given}, 8)
    with pytest.raises(ValueError):
        Arguments(output_dir=str(tmp_path), use_cpu=True, bf16=False, **given)


def rows(count: int, **more: object) -> dict:
    return {"name": "pocket", "split": "train", "size": count, **more}


SFT = {
    "rewards": [],
    "algorithm": "sft",
    "trainer": {
        **dict.fromkeys(("num_generations", "max_completion_length")),
        "per_device_train_batch_size": 4,
    },
}
DAPO = {"algorithm": {"name": "grpo", "dynamic_sampling": True}}
TOO_FEW = {
    "one row for two prompts": ({"data": rows(1)}, "has 1 row to train on, and one generation"),
    "several steps a generation": (
        {"data": rows(7), "trainer": {"steps_per_generation": 4}},
        "has 7 rows to train on, and one generation needs 8",
    ),
    "a generation of its own size": (
        {"data": rows(3), "trainer": {"generation_batch_size": 32}},
        "has 3 rows to train on, and one generation needs 4",
    ),
    "dynamic sampling": ({"data": rows(1), **DAPO}, "has 1 row to train on"),
    "a limit": ({"data": rows(64, limit=1)}, "has 1 row to train on, and one generation needs 2"),
    "demonstrations": (
        {**SFT, "data": rows(3, solutions="expert")},
        "has 3 rows to train on, and one optimizer step takes 4",
    ),
    "accumulated demonstrations": (
        {
            **SFT,
            "data": rows(7, solutions="expert"),
            "trainer": {**SFT["trainer"], "gradient_accumulation_steps": 2},
        },
        "one optimizer step takes 8; add rows",
    ),
}


@pytest.mark.parametrize("dynamic", [False, True])
def test_rows_that_the_filters_leave_must_fill_a_generation(
    write_recipe, tmp_path, capsys, dynamic
):
    lines = [{"id": n, "problem": "1+1" * (n + 1), "answer": "2"} for n in range(5)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = {"name": "jsonl", "path": str(path), "max_chars": 3}
    recipe = write_recipe(data=None, **(DAPO if dynamic else {}))
    content = yaml.safe_load(recipe.read_text()) | {"data": data}
    recipe.write_text(yaml.safe_dump(content))
    assert train_main([str(recipe)]) == 2
    error = capsys.readouterr().err
    assert "has 1 row to train on (4 more were dropped), and one generation needs 2" in error


@pytest.mark.parametrize(("sections", "words"), TOO_FEW.values(), ids=TOO_FEW)
def test_rows_that_fill_no_generation_are_refused_before_training(
    write_recipe, tmp_path, capsys, sections, words
):
    path = write_recipe(**sections)
    content = yaml.safe_load(path.read_text())
    content["trainer"] = {k: v for k, v in content["trainer"].items() if v is not None}
    path.write_text(yaml.safe_dump(content))
    assert train_main([str(path)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and "per_device_train_batch_size" in error
    assert not (tmp_path / "recipe" / "metrics.jsonl").exists()


@pytest.mark.parametrize("short", [0, 1])
@pytest.mark.parametrize(
    "given", [settings(8, 16, 1), settings(8, 4, 6), settings(4, 2, 2, steps_per_generation=8)]
)
def test_as_many_rows_as_one_generation_needs_are_enough(given, short, tmp_path, monkeypatch):
    monkeypatch.setattr(Arguments, "world_size", property(lambda self: 8))
    args = Arguments(output_dir=str(tmp_path), use_cpu=True, bf16=False, **given)
    count = resolve_sizes({**DEFAULTS, **given}, 8).prompts - short
    batch = RepeatSampler(
        range(count),
        given["num_generations"],
        args.generation_batch_size // given["num_generations"],
        repeat_count=args.steps_per_generation,
    )
    assert bool(list(batch)) is not bool(short)  # TRL's own sampler draws none of too few
    if not short:
        require_rows(count, args, supervised=False, dropped=0)
        return
    with pytest.raises(RecipeError, match=f"and one generation needs {count + 1}"):
        require_rows(count, args, supervised=False, dropped=0)
