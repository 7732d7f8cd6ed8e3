"""Recipes: the sections of a run's settings, each key and value checked."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from rlvr.algorithms import AlgorithmSection, with_settings
from rlvr.recipe_file import apply_overrides, named, read_recipe
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

    ``checkpoints``: evaluate only the last one, or every one that the run keeps on the way.
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
    completions of the step: ``kl_to_base``. Under sft the completions come from the data, and it
    is ``kl_to_base_on_data``. The KL of the step is measured with it, against the bound of ratio
    clipping.
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
