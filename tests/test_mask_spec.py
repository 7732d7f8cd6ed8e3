"""The mask section of a recipe: every mistake names its key path, before any weight is loaded."""

import json

import pytest

from rlvr.masks import MaskSpec, check_spec, parse_spec
from rlvr.schema import RecipeError

SHAPES = {"layers.0.q_proj.weight": (64, 48), "layers.0.k_proj.weight": (16, 48)}
SAFE = {"builder": "safe", "rank": 8, "principal_density": 0.5, "low_density": 0.5}


def refuse(value: object) -> str:
    with pytest.raises(RecipeError) as error:
        check_spec(parse_spec(value), SHAPES)
    return str(error.value)


WRONG = {
    "no mapping": ("safe", "mask: expected a mapping", "'safe'"),
    "no builder": ({"rank": 64}, "mask:", "builder"),
    "builder no name": ({"builder": 3}, "mask:", "builder"),
    "unknown builder": ({"builder": "saef"}, "mask", "did you mean 'safe'"),
    "unknown option": ({**SAFE, "ranks": 2}, "'ranks'", "did you mean 'rank'"),
    "missing option": ({"builder": "principal", "rank": 2}, "mask", "'density'"),
    "text for a number": ({**SAFE, "rank": "8"}, "mask.rank", "'8'"),
    "bool for a density": ({**SAFE, "low_density": True}, "mask.low_density", "True"),
    "unknown svd": ({**SAFE, "svd": "fast"}, "mask.svd", "'gram' or 'exact' or 'randomized'"),
    "nested, wrong type": (
        {"builder": "random", "like": {**SAFE, "rank": "8"}},
        "mask.like.rank",
        "'8'",
    ),
    "nested, no mapping": ({"builder": "complement", "of": "safe"}, "mask.of", "mapping"),
    "nested in a list": (
        {"builder": "union", "of": [SAFE, {"builder": "dense", "rank": 2}]},
        "mask.of[1]",
        "'rank'",
    ),
    "list for one": ({"builder": "complement", "of": [SAFE]}, "mask.of", "mapping"),
    "one for a list": ({"builder": "union", "of": SAFE}, "mask.of", "list"),
    "density 0": ({"builder": "low_magnitude", "density": 0}, "mask.density", "(0, 1]"),
    "density above 1": ({**SAFE, "principal_density": 1.01}, "mask.principal_density", "1.01"),
    "density nan": (
        {"builder": "low_magnitude", "density": float("nan")},
        "mask.density",
        "nan",
    ),
    "density of no entry": (
        {"builder": "low_magnitude", "density": 5e-4},
        "mask.density",
        "layers.0.k_proj.weight",
    ),
    "rank 0": ({**SAFE, "rank": 0}, "mask.rank", "0 is below 1"),
    "rank too high": ({**SAFE, "rank": 17}, "mask.rank", "layers.0.k_proj.weight"),
    "rank too high, nested": (
        {"builder": "union", "of": [{"builder": "dense"}, {**SAFE, "rank": 99}]},
        "mask.of[1].rank",
        "99",
    ),
    "random with neither": ({"builder": "random"}, "exactly one", "mask.like"),
    "random with both": (
        {"builder": "random", "density": 0.5, "like": SAFE},
        "exactly one",
        "mask.density",
    ),
    "random nested with neither": (
        {"builder": "complement", "of": {"builder": "random"}},
        "mask.of.like",
        "exactly one",
    ),
    "empty union": ({"builder": "union", "of": []}, "mask.of", "empty"),
    "empty intersection": ({"builder": "intersection", "of": []}, "mask.of", "empty"),
}


@pytest.mark.parametrize(("value", "path", "reason"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_named_by_its_path(value, path, reason):
    message = refuse(value)
    assert path in message and reason in message


NESTED = {
    "builder": "union",
    "of": [{"builder": "complement", "of": SAFE}, {"builder": "random", "like": SAFE, "seed": 4}],
}


@pytest.mark.parametrize("value", [SAFE, NESTED, {"builder": "dense"}], ids=["safe", "nested", "d"])
def test_a_spec_survives_the_resolved_recipe(value):
    spec = parse_spec(value)
    check_spec(spec, SHAPES)
    written = json.loads(json.dumps(spec.to_dict()))
    assert parse_spec(written) == spec


def test_nested_masks_are_specs_and_defaults_are_filled_in():
    spec = parse_spec({"builder": "random", "like": {**SAFE, "low_density": 1}})
    like = spec.options["like"]
    assert isinstance(like, MaskSpec) and like.options["svd"] == "gram"
    assert like.options["low_density"] == 1.0 and spec.options["seed"] == 0
