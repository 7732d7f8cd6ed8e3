"""What a user types wrong is answered before the libraries that take seconds are imported."""

import dataclasses
import inspect
import json
import subprocess
import sys

import pytest
import yaml

from rlvr.cli import VERBS
from rlvr.training.names import GRPO_CONFIG, SFT_CONFIG, fields_of, options_of

SLOW = ("torch", "transformers", "trl", "peft", "datasets", "matplotlib", "scipy")
# Runs each line of words through the command; prints its exit code and what it imported.
SCRIPT = """
import contextlib, io, json, sys
from rlvr.cli import main
for line in sys.stdin:
    errors, words = io.StringIO(), json.loads(line)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            code = main(words)
        except SystemExit as stopped:
            code = stopped.code
    imported = [name for name in %r if name in sys.modules]
    print(json.dumps([code, errors.getvalue(), imported]), flush=True)
"""
MISSPELT = {
    "section": {"maks": {}},
    "key of a section": {"model": {"path": "x", "dtyp": "float32"}},
    "key of trainer": {"trainer": {"learning_rte": 1e-3}},
    "key of trainer under sft": {"algorithm": "sft", "rewards": [], "trainer": {"max_lenth": 9}},
    "mask builder": {"mask": {"builder": "safer"}},
    "option of a mask": {"mask": {"builder": "random", "denisty": 0.1}},
    "option of a nested mask": {"mask": {"builder": "complement", "of": {"builder": "densee"}}},
    "adapter": {"adapter": {"builder": "lorra", "rank": 4}},
    "option of an adapter": {"adapter": {"builder": "lora", "rnk": 4}},
    "reward": {"rewards": [{"name": "maths"}]},
    "option of a reward": {"rewards": [{"name": "math", "corect": 1.0}]},
    "dataset": {"data": {"name": "pockets"}},
    "option of a dataset": {"data": {"name": "pocket", "splt": "train"}},
    "key of eval": {"eval": {"data": {"name": "pocket"}, "verifier": {"name": "math"}, "topp": 1}},
    "option of eval.data": {"eval": {"data": {"name": "poket"}, "verifier": {"name": "math"}}},
    "type of a value": {"run": {"kl_every": "often"}},
    "type of a reward's option": {"rewards": [{"name": "math", "correct": "one"}]},
}


def answers(calls: list[list[str]]) -> list[list]:
    lines = "".join(json.dumps(words) + "\n" for words in calls)
    command = [sys.executable, "-c", SCRIPT % (SLOW,)]
    result = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=120)
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_help_imports_no_large_library():
    calls = [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)]
    found = answers(calls)
    assert [code for code, _, _ in found] == [0] * len(calls)
    assert all(imported == [] for _, _, imported in found)


def test_a_misspelt_name_is_refused_before_any_large_import(write_recipe, write_sft, tmp_path):
    calls = []
    for name, sections in MISSPELT.items():
        write = write_sft if "algorithm" in sections else write_recipe
        calls.append(["train", str(write(name, **sections))])
    study = tmp_path / "study.yaml"
    arms = {"one": {}, "two": {"trainer": {"betaa": 0.1}}}
    study.write_text(yaml.safe_dump({"base": str(write_recipe("good")), "arms": arms}))
    calls += [["study", str(study)], ["study", str(tmp_path / "absent.yaml")]]
    for (code, message, imported), words in zip(answers(calls), calls, strict=True):
        assert (code, imported) == (2, []), (words, message)
        assert message.startswith("error: ") and message.count("\n") == 1, message


@pytest.mark.parametrize("supervised", [False, True])
def test_the_names_read_from_source_are_those_of_the_classes(supervised):
    from trl import GRPOConfig, SFTConfig

    config = SFTConfig if supervised else GRPOConfig
    names = {field.name for field in dataclasses.fields(config)}
    assert fields_of(SFT_CONFIG if supervised else GRPO_CONFIG) == names


@pytest.mark.parametrize("section", ["mask", "adapter"])
def test_the_options_read_from_source_are_those_of_the_builders(section):
    from rlvr import adapters, masks, registry  # noqa: F401  (register the builders)

    registered = registry.mask_builder if section == "mask" else registry.adapter
    shipped = {k: f for k, f in registered.functions.items() if f.__module__.startswith("rlvr.")}
    assert options_of(section) == {
        name: {
            key
            for key, parameter in inspect.signature(function).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }
        for name, function in shipped.items()
    }
