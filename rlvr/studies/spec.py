"""A study file: base x arms x values of one swept field x seeds, each a whole recipe."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rlvr.config import check_section, resolve_recipe
from rlvr.recipe_file import absolute_paths, apply_overrides, merge, read_recipe, read_yaml
from rlvr.schema import Count, CountOrZero, PositiveShare, RecipeError, check_value


@dataclass(frozen=True)
class GeometrySettings:
    """How each finished run is compared with its base: the options of ``rlvr geometry``."""

    mode: Literal["exact", "fast"] = "exact"
    rank: Count = 64
    density: PositiveShare = 0.5


@dataclass(frozen=True)
class StudyFile:
    """The keys of a study.

    ``recipe`` is laid over ``base`` in every arm, and the arm over that. An arm may hold ``seeds``
    of its own, or a ``base`` of its own that replaces both. ``sweep`` maps one dotted field to its
    values. ``control`` is the arm that the others are compared with; the first one by default.
    ``launch`` is the file that accelerate starts a run with; one that starts with ``./`` or ``../``
    is relative to the study. Without ``geometry`` no update is measured.
    """

    arms: dict[str, dict]
    base: str | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    seeds: list[CountOrZero] = field(default_factory=list)
    sweep: dict[str, list] = field(default_factory=dict)
    control: str | None = None
    geometry: GeometrySettings | None = None
    launch: str | None = None
    dir: str | None = None


@dataclass(frozen=True)
class Run:
    """One run of a study: its whole ``recipe``, and the ``value`` of the swept field."""

    name: str
    arm: str
    value: object
    seed: int | None
    recipe: dict[str, Any]
    folder: Path


@dataclass(frozen=True)
class Study:
    """A study, checked; ``values`` is ``[None]`` where nothing is swept."""

    folder: Path
    runs: list[Run]
    arms: list[str]
    control: str
    swept: str | None
    values: list[Any]
    geometry: GeometrySettings | None
    launch: Path | None

    def runs_of(self, arm: str, value: object = None) -> list[Run]:
        return [run for run in self.runs if run.arm == arm and run.value == value]


def load_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study and check that every run of it is a recipe.

    Raises:
        RecipeError: a key, an arm or a value is not what it should be; the message names it.
    """
    try:
        content = absolute_paths(read_yaml(path), path.parent)
        file = check_section(StudyFile, content, "study")
        study = _study(file, path)
        for arm, change in file.arms.items():
            # Runs need the folder and the values of the study, so it is made first and filled here.
            study.runs.extend(_runs_of_arm(file, study, path, arm, dict(change), overrides))
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error
    # Seed by seed: a study that is cut short has whole seeds, which can be compared.
    study.runs.sort(key=lambda run: file.seeds.index(run.seed) if run.seed in file.seeds else 0)
    return study


def _study(file: StudyFile, path: Path) -> Study:
    if not file.arms:
        raise RecipeError("arms is empty; name at least one")
    for name in file.arms:
        if "/" in name or name.startswith("."):
            raise RecipeError(f"arm {name!r} names a folder; leave out / and a leading dot")
    control = file.control or next(iter(file.arms))
    if control not in file.arms:
        raise RecipeError(f"control: {control!r} is no arm; the arms are {', '.join(file.arms)}")
    if len(file.sweep) > 1:
        raise RecipeError(
            f"sweep: {', '.join(file.sweep)} are {len(file.sweep)} fields; sweep one, and write "
            "the others as arms"
        )
    swept, values = next(iter(file.sweep.items()), (None, [None]))
    # Labels and not values: they name the folders of the runs.
    if not values or len({label(value) for value in values}) < len(values):
        raise RecipeError(f"sweep.{swept}: name at least one value, and each once")
    folder = Path(file.dir or f"runs/{path.resolve().parent.name}/{path.stem}")
    launch = None if file.launch is None else _launch(file.launch)
    return Study(folder, [], list(file.arms), control, swept, values, file.geometry, launch)


def _runs_of_arm(
    file: StudyFile,
    study: Study,
    path: Path,
    arm: str,
    change: dict[str, Any],
    overrides: Sequence[str],
) -> list[Run]:
    where = f"arms.{arm}"
    seeds = check_value(change.pop("seeds", file.seeds), list[CountOrZero], f"{where}.seeds")
    if len(set(seeds)) < len(seeds):
        raise RecipeError(f"{where}.seeds: a seed is written twice; keep one")
    base, common = file.base, file.recipe
    if "base" in change:
        # Another base is another experiment: what is common to the arms does not apply to it.
        base, common = check_value(change.pop("base"), str, f"{where}.base"), {}
    if base is None:
        raise RecipeError("base: is missing; name the recipe that the arms change")
    whole = merge(merge(read_recipe(path.parent / base), common), change)
    runs = []
    for seed in seeds or [None]:
        for value in study.values:
            recipe = apply_overrides(_at(whole, study.swept, value, seed), overrides)
            parts = [arm]
            if study.swept is not None:
                parts.append(f"{study.swept.rsplit('.', 1)[-1]}={label(value)}")
            if seed is not None:
                parts.append(f"seed={seed}")
            name = ", ".join(parts)  # also the folder, so that a finished run is found again
            folder = study.folder / name
            # Last, over any override: two runs must never share a folder.
            recipe["run"] = {**recipe.get("run", {}), "dir": str(folder)}
            # Checked here and thrown away: every mistake is named before the first run starts.
            try:
                resolve_recipe(recipe, "")
            except RecipeError as error:
                raise RecipeError(f"arm {arm!r}: {error}") from error
            runs.append(Run(name, arm, value, seed, recipe, folder))
    return runs


def _at(recipe: dict[str, Any], swept: str | None, value: Any, seed: int | None) -> dict[str, Any]:
    """Return the recipe of an arm at one value of the swept field and one seed."""
    if swept is not None:
        # "a.b.c" and a value become {a: {b: {c: value}}}, built from the inside out.
        change = value
        for key in reversed(swept.split(".")):
            change = {key: change}
        recipe = merge(recipe, change)
    if seed is not None:
        recipe = merge(recipe, {"trainer": {"seed": seed}})
        if "mask" in recipe:
            recipe = {**recipe, "mask": _redrawn(recipe["mask"], seed)}
    return recipe


def _redrawn(mask: object, seed: int) -> Any:
    """Return a mask section in which each random mask without a seed, however deep, has this one.

    Otherwise all seeds of an arm would share one draw.
    """
    if isinstance(mask, list):
        return [_redrawn(part, seed) for part in mask]
    if not isinstance(mask, dict):
        return mask
    inner = {key: _redrawn(value, seed) for key, value in mask.items()}
    return (
        {**inner, "seed": seed} if mask.get("builder") == "random" and "seed" not in mask else inner
    )


def label(value: object) -> str:
    """Return a swept value as it stands in names and tables: ``0.0003``."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _launch(stated: str) -> Path:
    file = Path(stated)
    if not file.is_file():
        raise RecipeError(f"launch: {file} does not exist; name a file such as launch/fsdp2.yaml")
    # A process on another machine would outlive the study, which can only signal its own.
    if read_yaml(file).get("num_machines", 1) != 1:
        raise RecipeError(
            f"launch: {file} is for several machines and a study runs on one; launch the recipes "
            "that --dry-run writes one by one"
        )
    return file
