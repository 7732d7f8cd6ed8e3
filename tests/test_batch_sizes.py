"""The batch that a plan prints is the one that TRL runs, and what TRL refuses is refused before."""

import dataclasses
from pathlib import Path

import pytest
from trl import GRPOConfig

from rlvr.schema import RecipeError
from rlvr.training.batch_sizes import describe_sizes, resolve_sizes
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
