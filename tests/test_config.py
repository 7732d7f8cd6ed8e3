from pathlib import Path

import pytest

from rlvr.config import load_recipe
from rlvr.recipe_file import apply_overrides, merge, read_yaml
from rlvr.schema import RecipeError

MINIMAL = """
model: {path: ./policy}
data: {name: pocket, split: train, size: 8}
rewards: [{name: math}]
trainer: {learning_rate: 1e-6, save_strategy: no}
"""


def write(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def refusal(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(folder, text), overrides)
    return str(caught.value)


def test_yaml_1_2_numbers_and_words(tmp_path):
    text = "a: 1e-6\nb: no\nc: true\nd: 3\ne: -.5\nf: 1.5e3\ng: on\nh: null\ni: 12_000\n"
    content = read_yaml(write(tmp_path, text))
    assert content["a"] == 1e-6 and isinstance(content["a"], float)
    assert (content["b"], content["c"], content["d"]) == ("no", True, 3)
    assert (content["e"], content["f"], content["g"], content["h"]) == (-0.5, 1500.0, "on", None)


def test_a_recipe_is_its_difference_from_its_base(tmp_path):
    write(
        tmp_path,
        MINIMAL + "mask: {builder: safe, rank: 8, principal_density: 0.5, low_density: 0.5}\n",
        "base.yaml",
    )
    path = write(
        tmp_path,
        "base: base.yaml\nmask: {builder: random, density: 0.1}\ntrainer: {max_steps: 3}\n",
    )
    recipe = load_recipe(path)
    assert recipe.mask == {"builder": "random", "density": 0.1}
    assert recipe.trainer == {"learning_rate": 1e-6, "save_strategy": "no", "max_steps": 3}
    assert recipe.model.path == str(tmp_path / "policy")
    assert recipe.run.dir == f"runs/{tmp_path.name}/recipe"


def test_a_base_of_a_base_is_refused(tmp_path):
    write(tmp_path, MINIMAL, "first.yaml")
    write(tmp_path, "base: first.yaml\n", "second.yaml")
    assert "one level" in refusal(tmp_path, "base: second.yaml\n")


def test_overrides_reach_any_depth_and_are_read_as_yaml():
    content = apply_overrides(
        {"mask": {"builder": "safe", "rank": 8}}, ["mask.rank=4", "run.dir=x", "adapter=null"]
    )
    assert content == {"mask": {"builder": "safe", "rank": 4}, "run": {"dir": "x"}, "adapter": None}


def test_merge_keeps_its_arguments_unchanged():
    base = {"trainer": {"a": 1}}
    assert merge(base, {"trainer": {"b": 2}}) == {"trainer": {"a": 1, "b": 2}}
    assert base == {"trainer": {"a": 1}}


@pytest.mark.parametrize(
    ("text", "override", "words"),
    [
        (MINIMAL + "trianer: {}\n", None, ["trianer", "did you mean 'trainer'"]),
        (MINIMAL, "model.dtyp=float32", ["model", "dtyp", "did you mean 'dtype'"]),
        (MINIMAL, "model.dtype=float16", ["model.dtype", "float16", "'float32' or 'bfloat16'"]),
        (MINIMAL, "run.kl_every=true", ["run.kl_every", "expected int", "True"]),
        (MINIMAL, "run.kl_every=ten", ["run.kl_every", "expected int", "'ten'"]),
        (MINIMAL, "model.targets=q_proj", ["model.targets", "list[str]", "'q_proj'"]),
        (MINIMAL, "eval.samples=2", ["eval", "'data' is missing"]),
        (MINIMAL, "rewards=[]", ["rewards", "at least one"]),
        (MINIMAL, "model=3", ["model", "expected a mapping"]),
        (MINIMAL, "nonsense", ["nonsense", "section.key=value"]),
        ("data: {name: pocket}\n", None, ["'model' is missing"]),
        ("a: [1\n", None, ["not valid YAML"]),
        ("a: 1\na: 2\n", None, ["'a' is written twice", "line 2"]),
        ("- a\n", None, ["expected a mapping"]),
    ],
)
def test_a_mistake_is_named_with_its_fix(tmp_path, text, override, words):
    message = refusal(tmp_path, text, *([override] if override else []))
    for word in words:
        assert word in message


def test_mask_and_adapter_exclude_each_other(tmp_path):
    text = MINIMAL + "mask: {builder: dense}\nadapter: {builder: lora, rank: 4}\n"
    assert "mask and adapter are both given" in refusal(tmp_path, text)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(RecipeError, match="absent.yaml does not exist"):
        load_recipe(tmp_path / "absent.yaml")


PATHS = """
data: {name: mix, parts: [{name: jsonl, path: ./a.jsonl}, {name: hub, path: org/rows}]}
eval: {data: {name: jsonl, path: ../b.jsonl}, verifier: {name: math}}
mask: {builder: union, of: [{builder: file, path: ./m.safetensors}, {builder: dense}]}
rewards: [{name: mine, corpus: ~/words.txt}, {name: math}]
trainer: {deepspeed: ./zero.json}
run: {dir: ../runs/x}
"""


def test_every_path_of_a_recipe_is_seen_from_its_own_file(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write(tmp_path / "recipes", MINIMAL, "base.yaml")
    path = write(tmp_path, f"base: ./recipes/base.yaml\n{PATHS}")
    recipe = load_recipe(path, ["plugins=[./mine.py]"])
    parts = recipe.data["parts"]
    assert recipe.model.path == str(tmp_path / "recipes" / "policy")
    assert parts[0]["path"] == str(tmp_path / "a.jsonl") and parts[1]["path"] == "org/rows"
    assert recipe.eval is not None and recipe.mask is not None
    assert recipe.eval.data["path"] == str(tmp_path.parent / "b.jsonl")
    assert recipe.mask["of"][0]["path"] == str(tmp_path / "m.safetensors")
    assert recipe.rewards[0]["corpus"] == str(tmp_path / "home" / "words.txt")
    assert recipe.trainer["deepspeed"] == str(tmp_path / "zero.json")
    assert recipe.run.dir == str(tmp_path.parent / "runs" / "x")
    assert recipe.plugins == [str(tmp_path / "elsewhere" / "mine.py")]  # an override: from here
