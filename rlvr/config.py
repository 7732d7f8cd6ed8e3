"""Recipes: strict YAML with one level of inheritance and ``section.key=value`` overrides.

A path that starts with ``./``, ``../`` or ``~/`` is seen from the folder of its own file, under
whatever key; any other is a hub id, or seen from the working directory.

A recipe is its difference from its base. Mappings are merged key by key, except one that states
its ``builder`` or ``name``: it is another thing than the base's and replaces it whole.
"""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import yaml

from rlvr.algorithms import AlgorithmSection, with_settings
from rlvr.schema import (
    Count,
    CountOrZero,
    NonNegative,
    PositiveShare,
    RecipeError,
    Share,
    check_value,
    refuse_not_finite,
    unknown_key,
)


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: ``1e-6`` is a float and ``no`` a string, unlike in PyYAML's YAML 1.1."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise RecipeError(f"line {line}: key {key!r} is written twice; keep one")
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$", re.IGNORECASE), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$|^[-+]?\.inf$|^\.nan$"),
    list("-+.0123456789"),
)


@dataclass(frozen=True)
class ModelSection:
    """The base policy and which of its parameters are trained.

    ``path`` is a hub id or a folder; ``./`` is the folder of the recipe.
    ``targets`` are patterns of target matrices, ``linear`` standing for every linear layer of the
    blocks. ``also_train`` adds whole parameters (embeddings, norms, biases), outside any mask.
    """

    path: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    targets: list[str] = field(default_factory=lambda: ["linear"])
    also_train: list[str] = field(default_factory=list)
    attn_implementation: str | None = None


@dataclass(frozen=True)
class OptimizerSection:
    """How a masked run keeps its weights and gradients.

    ``bf16_update``: bfloat16 weights are rounded from float32 masters of the entries that may move,
    or are updated by stochastic rounding, without masters.
    ``free_gradients``: only the entries of a gradient that may move are kept, from its backward on.
    """

    bf16_update: Literal["master", "stochastic"] = "master"
    free_gradients: bool = False


@dataclass(frozen=True)
class EvalSettings:
    """How completions are drawn; ``samples`` of each problem, greedily at temperature 0."""

    samples: Count = 1
    temperature: NonNegative = 1.0
    top_p: PositiveShare = 1.0
    max_new_tokens: Count = 4096
    batch_size: Count = 256
    seed: CountOrZero = 0


@dataclass(frozen=True, kw_only=True)
class EvalSection(EvalSettings):
    """The evaluation before and after training; ``verifier`` is a reward, correct when > 0.

    ``checkpoints``: evaluate the last one alone, or every one that the run keeps on the way.
    """

    data: dict[str, Any]
    verifier: dict[str, Any]
    checkpoints: Literal["last", "every"] = "last"


@dataclass(frozen=True)
class GeometrySection:
    """Update sparsity during training, measured each ``every`` steps (0: never).

    Costs two bf16 copies of the target matrices in CPU memory.
    """

    every: CountOrZero = 0


@dataclass(frozen=True)
class RunSection:
    """Where a run lives and what it records beside TRL's metrics.

    ``kl_every``: steps between two measurements of the KL to the base policy (0: never), on the
    completions of the step: ``kl_to_base``, and under sft, whose completions the policy did not
    draw, ``kl_to_base_on_data``; and of the KL of the step beside the bound of ratio clipping.
    ``rollouts``: rollouts of each step that are written to ``rollouts.jsonl``.
    ``deterministic``: the same recipe on the same machine ends in the same bits.
    ``checkpoint``: a checkpoint holds the weights, or the entries that differ from the base policy.
    ``max_unverified``: share of the latest verdicts that may be time-outs or crashes; beyond it
    the run stops.
    """

    dir: str | None = None
    kl_every: CountOrZero = 10
    rollouts: CountOrZero = 8
    deterministic: bool = False
    checkpoint: Literal["full", "delta"] = "full"
    max_unverified: Share = 0.2


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe. ``mask`` and ``adapter`` exclude each other; both null trains densely.

    ``trainer`` holds the settings of ``algorithm`` too; null leaves TRL's own defaults.
    """

    model: ModelSection
    data: dict[str, Any]
    trainer: dict[str, Any]
    rewards: list[dict[str, Any]] = field(default_factory=list)
    algorithm: AlgorithmSection | None = None
    mask: dict[str, Any] | None = None
    adapter: dict[str, Any] | None = None
    optimizer: OptimizerSection = field(default_factory=OptimizerSection)
    eval: EvalSection | None = None
    geometry: GeometrySection = field(default_factory=GeometrySection)
    run: RunSection = field(default_factory=RunSection)
    plugins: list[str] = field(default_factory=list)

    @property
    def supervised(self) -> bool:
        """Whether the policy imitates the data's solutions, instead of being rewarded."""
        return self.algorithm is not None and self.algorithm.name == "sft"

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """Arguments of the policy's chat template."""
        return self.trainer.get("chat_template_kwargs") or {}

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping; the error names the file and, where known, the line."""
    if not path.is_file():
        raise RecipeError(f"recipe {path} does not exist; check the path")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, RecipeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: expected a mapping of sections, got {type(content).__name__}")
    return content


def named(value: object) -> Any:
    """Return ``{name: word}`` for a word, as whose shorthand a recipe may write it."""
    return {"name": value} if isinstance(value, str) else value


def merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``change`` laid over it (see the module's docstring for the rule)."""
    merged = dict(base)
    for key, value in change.items():
        old = named(merged.get(key)) if key == "algorithm" else merged.get(key)
        replaces = isinstance(value, dict) and ("builder" in value or "name" in value)
        if isinstance(old, dict) and isinstance(value, dict) and not replaces:
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def apply_overrides(content: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply ``section.key=value`` words; the value is read as YAML."""
    for word in overrides:
        dotted, separator, text = word.partition("=")
        keys = dotted.split(".")
        if not separator or not all(keys):
            raise RecipeError(f"override {word!r}: write section.key=value")
        try:
            change: Any = yaml.load(text, Loader=_Loader) if text else None
        except yaml.YAMLError as error:
            raise RecipeError(f"override {word!r}: {text!r} is not a YAML value") from error
        for key in reversed(keys):
            change = {key: change}
        content = merge(content, absolute_paths(change, Path.cwd()))
    return content


def absolute_paths(content: object, folder: Path) -> Any:
    """Return ``content`` with each text in it that starts with ./, ../ or ~/ as an absolute path.

    ``folder`` is that of the file which states it, or the working directory for an override. A
    recipe means the same files wherever it is started.
    """
    if isinstance(content, dict):
        return {key: absolute_paths(value, folder) for key, value in content.items()}
    if isinstance(content, list):
        return [absolute_paths(item, folder) for item in content]
    if isinstance(content, str) and content.startswith(("./", "../", "~/")):
        return str((folder / Path(content).expanduser()).resolve())
    return content


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe file with its base, unchecked; see ``absolute_paths`` for the paths in them."""
    content = absolute_paths(read_yaml(path), path.parent)
    base_name = content.pop("base", None)
    if base_name is None:
        return content
    base_path = path.parent / str(base_name)
    base = absolute_paths(read_yaml(base_path), base_path.parent)
    if "base" in base:
        raise RecipeError(f"{base_path}: a base cannot have a base; inheritance is one level")
    return merge(base, content)


def check_section(section: type, value: object, where: str) -> Any:
    """Return the dataclass ``section`` that a mapping states, with every key and type checked."""
    if not isinstance(value, dict):
        raise RecipeError(f"{where}: expected a mapping, got {value!r}")
    fields = {field.name: field for field in dataclasses.fields(section)}
    hints = get_type_hints(section, include_extras=True)
    for key in value:
        if key not in fields:
            raise unknown_key(str(key), fields, where)
    for name, spec in fields.items():
        required = spec.default is dataclasses.MISSING
        required = required and spec.default_factory is dataclasses.MISSING
        if required and name not in value:
            raise RecipeError(f"{where}: {name!r} is missing; add it")
    kinds = {kind for hint in hints.values() for kind in (hint, *get_args(hint))}
    sections: dict[Any, Any] = {
        kind: lambda item, at, kind=kind: check_section(kind, item, at)
        for kind in kinds
        if isinstance(kind, type) and dataclasses.is_dataclass(kind)
    }
    sections[AlgorithmSection] = lambda item, at: check_section(AlgorithmSection, named(item), at)
    checked = {
        key: check_value(item, hints[key], f"{where}.{key}".removeprefix("recipe."), sections)
        for key, item in value.items()
    }
    return section(**checked)


def resolve_recipe(content: dict[str, Any], default_dir: str) -> Recipe:
    """Check a merged mapping and return the recipe; ``default_dir`` stands where none is given."""
    for name, section in content.items():
        refuse_not_finite(section, str(name))
    recipe = check_section(Recipe, content, "recipe")
    if recipe.mask and recipe.adapter:
        raise RecipeError(
            "mask and adapter are both given; a mask restricts the base weights and an adapter "
            "freezes them: set one of the two to null"
        )
    if not recipe.rewards and not recipe.supervised:
        raise RecipeError("rewards: the list is empty; name at least one reward")
    if recipe.rewards and recipe.supervised:
        raise RecipeError(
            "rewards: algorithm sft reads none; remove them, or write rewards: [] over those of a "
            "base (eval.verifier judges what was learnt)"
        )
    if recipe.algorithm is not None:
        algorithm, trainer = with_settings(recipe.algorithm, recipe.trainer)
        recipe = dataclasses.replace(recipe, algorithm=algorithm, trainer=trainer)
    if recipe.run.dir is None:
        recipe = dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, dir=default_dir))
    return recipe


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, merge, override and check the recipe at ``path``."""
    path = Path(path)
    content = apply_overrides(read_recipe(path), overrides)
    try:
        return resolve_recipe(content, f"runs/{path.resolve().parent.name}/{path.stem}")
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def pop_name(spec: dict[str, Any], key: str, where: str) -> tuple[str, dict[str, Any]]:
    """Split ``{key: name, **options}`` into the registered name and its options."""
    name = spec.get(key)
    if not isinstance(name, str):
        raise RecipeError(f"{where}: {key!r} is missing or no string; add {where}.{key}")
    return name, {option: value for option, value in spec.items() if option != key}
