"""``rlvr curvature``: policies measured, tables and figures written."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlvr import __version__, runtime
from rlvr.config import ModelSection, Recipe, resolve_recipe
from rlvr.data import parse_dataset
from rlvr.delta import discard_applied, exported_policy
from rlvr.files import write_bytes, write_json
from rlvr.geometry.curvature import COLUMNS, EMPTY
from rlvr.geometry.settings import Settings
from rlvr.geometry.table import PLACE, write_table
from rlvr.recipe_file import apply_overrides
from rlvr.registry import import_plugins
from rlvr.run_dir import recorded_recipe
from rlvr.schema import RecipeError, RunError
from rlvr.targets import resolve_targets

OUT = Path("curvature")
LEAST = {"prompts": 2, "samples": 1, "max_new_tokens": 1, "probes": 0, "lanczos": 0}


def run(options: Namespace) -> int:
    """Measure, write and return the exit code."""
    settings = Settings(options.rank, options.density, options.low_density)
    for name, least in LEAST.items():
        if (value := getattr(options, name)) < least:
            raise RecipeError(f"--{name.replace('_', '-')}: {value} is below {least}")
    sources = find_sources(options.paths, options.data, options.out)
    runtime.prepare_environment()
    try:
        rows, summary = _measure(sources, settings, options)
    except NotImplementedError as error:
        raise RunError(
            f"{sources.base.path}: a layer of this architecture has no forward-mode derivative "
            f"({str(error).splitlines()[0]}); measure only the masks: BASE without TUNED, "
            "--probes 0 --lanczos 0"
        ) from error
    finally:
        for path in options.paths:
            discard_applied(Path(path))
    write(sources.out, rows, summary)
    return 0


def _measure(
    sources: "Sources", settings: Settings, options: Namespace
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    from rlvr.curvature import draw_prompts, load, measure_curvature, measure_length

    policy = load(sources.base)
    tuned = None if sources.tuned is None else load(sources.tuned, like=policy)
    names = list(resolve_targets(policy, options.targets))
    prompts = draw_prompts(
        sources.base,
        policy,
        sources.data,
        template_kwargs=sources.template_kwargs,
        prompts=options.prompts,
        samples=options.samples,
        max_new_tokens=options.max_new_tokens,
        seed=options.seed,
    )
    measured = measure_curvature(
        policy,
        prompts,
        names,
        settings,
        probes=options.probes,
        steps=options.lanczos,
        seed=options.seed,
    )
    summary = _describe(sources, options, settings)
    summary |= {"prompts": len(prompts.heads), "completions": len(prompts.owners)}
    summary |= {"truncated": prompts.truncated, "tokens": int(prompts.tokens.sum())}
    summary |= measured.summary
    if tuned is not None:
        summary["length"] = measure_length(policy, tuned, prompts, measured.cells)
    return measured.rows, summary


def _describe(sources: "Sources", options: Namespace, settings: Settings) -> dict:
    chosen = {name: getattr(options, name) for name in (*LEAST, "seed", "targets")}
    masks = {name: asdict(settings)[name] for name in ("rank", "density", "low_density")}
    return {
        "base": sources.base.path,
        "tuned": None if sources.tuned is None else sources.tuned.path,
        "data": sources.data,
        "settings": masks | chosen,
        "rlvr": __version__,
    }


def write(out: Path, rows: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Write the table, the figures and the summary, and print what they say."""
    from rlvr.reports.curvature import figures, text  # imports matplotlib

    try:
        columns = {**PLACE, **COLUMNS}
        write_table(out / "curvature.csv", rows, columns, summary["settings"], EMPTY)
        for name, image in figures(rows, summary).items():
            write_bytes(out / f"{name}.png", image)
        write_json(out / "curvature.json", summary)
    except OSError as error:
        raise RunError(f"{error}; the files of before are untouched") from error
    runtime.say(f"{text(summary)}\n{out / 'curvature.json'}")


@dataclass(frozen=True)
class Sources:
    """Whose curvature, on which prompts; ``tuned`` is ``None`` where there is no update."""

    base: ModelSection
    tuned: ModelSection | None
    data: dict[str, Any]
    out: Path
    template_kwargs: dict[str, Any]


def find_sources(paths: Sequence[str], data: str | None, out: Path | None) -> Sources:
    """Return what the words of the command line name; nothing is loaded."""
    if len(paths) > 2:
        raise RecipeError("curvature: give one run directory, or BASE, or BASE and TUNED")
    last = Path(paths[-1])
    base = ModelSection(paths[0])
    tuned = ModelSection(paths[1]) if len(paths) == 2 else None
    content: Any = None
    template_kwargs: dict[str, Any] = {}
    if (last / "recipe.json").is_file():
        recipe = _recipe_of(last)
        import_plugins(recipe.plugins)
        template_kwargs = recipe.template_kwargs
        content, tuned = recipe.data, ModelSection(str(exported_policy(last)))
        base, out = (recipe.model if len(paths) == 1 else base), out or last / OUT
    if data is not None:
        content = apply_overrides({}, [f"data={data}"])["data"]
    if not isinstance(content, dict):
        raise RecipeError(
            f"--data: {data!r} names no prompts, and {last} is no run directory that would (it has "
            "no recipe.json); write for example --data '{name: math500}'"
        )
    parse_dataset(content, "data")
    return Sources(base, tuned, content, out or OUT, template_kwargs)


def _recipe_of(run_dir: Path) -> Recipe:
    file = run_dir / "recipe.json"
    try:
        return resolve_recipe(recorded_recipe(run_dir), str(run_dir))
    except ValueError as error:
        raise RecipeError(f"{file}: is no recipe of a run: {error}") from error
