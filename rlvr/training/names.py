"""Misspelt names of a recipe, refused in tenths of a second.

TRL, PEFT and torch take seconds to import. The names of their settings, and of our builders that
need them, are read from the source files instead; types and values are checked later, by
``check_recipe``. Where a source file does not look as expected its names are left to that check.
"""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from rlvr.config import Recipe
from rlvr.data import parse_dataset
from rlvr.rewards import parse_reward, parse_rewards
from rlvr.schema import RecipeError, unknown_key

# A configuration of TRL's and its bases: the module that declares each class.
_BASES = (
    ("trl.trainer.base_config", "_BaseConfig"),
    ("transformers.training_args", "TrainingArguments"),
)
GRPO_CONFIG = (("trl.trainer.grpo_config", "GRPOConfig"), *_BASES)
SFT_CONFIG = (("trl.trainer.sft_config", "SFTConfig"), *_BASES)
BUILDERS = {
    "mask": ("rlvr.masks.builders", "rlvr.masks.mask"),
    "adapter": ("rlvr.adapters.methods",),
}


def check_names(recipe: Recipe) -> None:
    """Raise where a key of the recipe, or the name of a builder, reward or dataset, is unknown."""
    for key in recipe.trainer:
        check_setting(key, supervised=recipe.supervised)
    if recipe.plugins:
        return  # they may register further names
    for section in BUILDERS:
        _check_builder(getattr(recipe, section), section, section)
    parse_rewards(recipe.rewards)
    parse_dataset(recipe.data, "data")
    if recipe.eval is not None:
        parse_dataset(recipe.eval.data, "eval.data")
        parse_reward(recipe.eval.verifier, "eval.verifier")


def check_setting(key: str, *, supervised: bool) -> None:
    """Raise where ``key`` is no setting of the TRL trainer that reads the recipe."""
    settings = fields_of(SFT_CONFIG if supervised else GRPO_CONFIG)
    if not settings or key in settings:
        return
    if supervised and key in fields_of(GRPO_CONFIG):
        raise RecipeError(
            f"trainer.{key}: a setting of GRPO, and algorithm sft takes those of TRL's SFTConfig; "
            "remove it, or give this recipe another base"
        )
    raise unknown_key(key, settings, "trainer")


@cache
def fields_of(classes: tuple[tuple[str, str], ...]) -> frozenset[str]:
    """Return the annotated fields of a dataclass and its bases; none where one is not found."""
    fields = set()
    for module, name in classes:
        body = next(
            (n.body for n in _parse(module) if isinstance(n, ast.ClassDef) and n.name == name), None
        )
        if body is None:
            return frozenset()
        for node in body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                fields.add(node.target.id)
    return frozenset(name for name in fields if not name.startswith("_"))


@cache
def options_of(section: str) -> dict[str, frozenset[str]]:
    """Return the keyword-only parameters of each function that is registered as a builder."""
    decorator = "mask_builder" if section == "mask" else section
    return {
        node.name: frozenset(argument.arg for argument in node.args.kwonlyargs)
        for module in BUILDERS[section]
        for node in _parse(module)
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(d, ast.Name) and d.id == decorator for d in node.decorator_list)
    }


def _check_builder(spec: object, section: str, where: str) -> None:
    if not isinstance(spec, dict) or not isinstance(spec.get("builder"), str):
        return  # of another type: that is for ``check_recipe`` to say
    builders = options_of(section)
    if spec["builder"] not in builders:
        kind = "mask builder" if section == "mask" else section
        raise unknown_key(spec["builder"], builders, f"{where} ({kind})")
    allowed = builders[spec["builder"]]
    for key, value in spec.items():
        if key != "builder" and key not in allowed:
            raise unknown_key(str(key), allowed, where)
        for index, item in enumerate(value if isinstance(value, list) else []):
            _check_builder(item, section, f"{where}.{key}[{index}]")
        _check_builder(value, section, f"{where}.{key}")


@cache
def _parse(module: str) -> tuple[ast.stmt, ...]:
    """Return the statements of an installed module, without importing it or its package."""
    package, *rest = module.split(".")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return ()
    file = Path(spec.origin).parent.joinpath(*rest).with_suffix(".py")
    if not file.is_file():
        return ()
    return tuple(ast.parse(file.read_text(encoding="utf-8")).body)
