"""``rlvr geometry``: checkpoints compared, tables and reports written."""

import dataclasses
import json
import os
import shlex
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlvr import __version__, runtime
from rlvr.checkpoints.folders import (
    ADAPTER,
    EXPORT,
    LORA,
    base_of_run,
    is_local,
    is_run,
    model_folder,
)
from rlvr.checkpoints.plain import Checkpoint
from rlvr.checkpoints.quantised import dequantised, unstacked
from rlvr.checkpoints.reader import open_checkpoint
from rlvr.checkpoints.runs import checkpoints, damage, exported_step, step_of
from rlvr.files import write_bytes, write_json
from rlvr.geometry import consistency
from rlvr.geometry.compare import measure_pairs, summarise
from rlvr.geometry.matrix import Measured
from rlvr.geometry.names import left_out_of, left_out_words, pair_up
from rlvr.geometry.settings import Settings
from rlvr.geometry.storage import parse_history, recorded_history
from rlvr.geometry.table import COLUMNS, write_table
from rlvr.schema import RecipeError, RunError

OUT = Path("geometry")
SUMMARY = "summary.json"


def run(options: Namespace) -> int:
    """Compare, write and return the exit code."""
    settings = Settings(
        rank=options.rank,
        density=options.density,
        low_density=options.low_density,
        angle_rank=options.angle_rank,
        exact=not options.fast,
        history=parse_history(options.history),
    )
    words, targets, out = options.paths, options.targets, options.out
    try:
        if options.gallery:
            if words or options.runs:
                raise RecipeError("--gallery: takes results only, no BASE, TUNED or --runs")
            write_gallery(options.gallery, out or OUT)
        elif options.runs and len(words) <= 1:
            compare_runs(words, options.runs, out or OUT, targets)
        elif len(words) == 2 and not options.runs:
            paths = model_folder(words[0]), model_folder(words[1])
            compare(paths, words, out or OUT, settings, targets)
        elif len(words) == 1:
            look_at_run(Path(words[0]), out, settings, targets)
        else:
            raise RecipeError(
                "geometry: give BASE and TUNED, or one run directory, or [BASE] --runs A B …"
            )
    except OSError as error:
        raise RunError(f"{error}; the files of before are untouched") from error
    return 0


def measure(
    base: Path, tuned: Path, settings: Settings, targets: list[str]
) -> tuple[list[Measured], dict[str, Any]]:
    """Return the measurements of every target matrix, and their summary."""
    settings = dataclasses.replace(settings, history=settings.history or recorded_history(tuned))
    first = matrices_of(base)
    # `first` is the base of an adapter in TUNED.
    second = matrices_of(tuned, first)
    pairs = pair_up(first, second, (base, tuned), targets)
    measured = measure_pairs(pairs, (base, tuned), settings, runtime.default_device())
    rows = [item.row for item in measured]
    described = dataclasses.asdict(settings) | {"targets": targets}
    return measured, {
        "base": str(base),
        "tuned": str(tuned),
        "settings": described,
        "dtypes": sorted({row["dtype"] for row in rows}),
        "angle_ranks": sorted({row["angle_rank"] for row in rows}),
        "storage": sorted({row["storage"] for row in rows}),
        "left_out": len(first) - len(pairs),
        "left_out_kinds": left_out_of(first, pairs),
        "rlvr": __version__,
        **summarise(rows),
    }


def _named(word: str, folder: Path) -> str:
    """Return the user's word for a checkpoint; a hub id with the commit that was read."""
    return word if is_local(word) else f"{word} at {folder.name[:12]}"


def _command(words: Sequence[str], settings: Settings, targets: list[str]) -> str:
    """Return the command that repeats a comparison, with every flag that is not the default."""
    parts = ["rlvr", "geometry", *words]
    for key, default in dataclasses.asdict(Settings()).items():
        value = getattr(settings, key)
        if value != default:
            parts += ["--fast"] if key == "exact" else [f"--{key.replace('_', '-')}", str(value)]
    if targets != ["linear"]:
        parts += ["--targets", *targets]
    return shlex.join(parts)


def compare(
    paths: tuple[Path, Path],
    words: Sequence[str],
    out: Path,
    settings: Settings,
    targets: list[str],
    steps: Sequence[dict[str, Any]] = (),
) -> None:
    """Measure every target matrix of two checkpoints and write everything to ``out``.

    ``words`` are what the user named: BASE and TUNED, or one run directory.
    """
    measured, summary = measure(*paths, settings, targets)
    summary |= {
        "base": _named(words[0], paths[0]) if len(words) == 2 else str(paths[0]),
        "tuned": _named(words[-1], paths[1]),
        "command": _command(words, settings, targets),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    if steps:
        summary["steps"] = list(steps)
    from rlvr.reports.geometry import build, figures, steps_part  # imports matplotlib
    from rlvr.reports.geometry_words import verdict

    images = figures(measured, summary)
    page = build(measured, summary, images, steps_part(steps))
    rows = [item.row for item in measured]
    with _published(out) as folder:
        if steps:
            about = {"targets": targets}
            write_table(folder / "steps.csv", steps, consistency.STEP_COLUMNS, about)
        write_table(folder / "matrices.csv", rows, COLUMNS, summary["settings"])
        _write(folder, images, page, summary)
    left_out = left_out_words(summary["left_out_kinds"])
    runtime.say(f"{verdict(summary)}\n{left_out}\n{out / 'report.html'}")


def matrices_of(path: Path, base: Checkpoint | None = None) -> Checkpoint:
    """Return a checkpoint whose FP8 weights are scaled and whose experts are single matrices."""
    return unstacked(dequantised(open_checkpoint(path, base), path))


@contextmanager
def _published(out: Path) -> Iterator[Path]:
    """Yield a folder whose files replace those of ``out`` when all are written, and not before."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=out) as stage:
        yield Path(stage)
        # The summary last: who finds it finds the rest.
        for file in sorted(Path(stage).iterdir(), key=lambda file: file.name == SUMMARY):
            os.replace(file, out / file.name)


def _write(folder: Path, images: dict, page: str, summary: dict[str, Any]) -> None:
    for name, themes in images.items():
        write_bytes(folder / f"{name}.png", themes["light"])
    write_bytes(folder / "report.html", page.encode())
    write_json(folder / SUMMARY, summary)


def look_at_run(run_dir: Path, out: Path | None, settings: Settings, targets: list[str]) -> None:
    """Compare the newest checkpoint of a run with its base, and all of them with one another."""
    base, out = base_of_run(run_dir), out or run_dir / OUT
    steps = measure_steps(base, run_dir, targets)
    compare((base, run_dir), [str(run_dir)], out, settings, targets, steps)


def measure_steps(base: Path, run_dir: Path, targets: list[str]) -> list[dict[str, Any]]:
    """Return the sparsity of each checkpoint of a run, from the base and from the one before."""
    # Headers only: tensors are read pair by pair.
    first = before = matrices_of(base)
    before_path, rows = base, []
    device = runtime.default_device()
    for step, folder in _policies(run_dir):
        now = matrices_of(folder, first)
        from_base = consistency.measure_step(
            pair_up(first, now, (base, folder), targets), (base, folder), device
        )
        # The first checkpoint has none before it but the base.
        since = from_base
        if rows:
            pairs = pair_up(before, now, (before_path, folder), targets)
            since = consistency.measure_step(pairs, (before_path, folder), device)
        rows.append(
            {
                "step": step,
                "sparsity_bf16": from_base[0],
                "sparsity_exact": from_base[1],
                "previous_step": rows[-1]["step"] if rows else None,
                "sparsity_bf16_from_previous": since[0],
                "sparsity_exact_from_previous": since[1],
            }
        )
        before, before_path = now, folder
    return rows


def _policies(run_dir: Path) -> list[tuple[int, Path]]:
    """Return the step and the folder of each checkpoint of a run that can be measured."""
    folders = []
    for folder in checkpoints(run_dir):
        step, reason = step_of(folder), damage(folder)
        if (folder / ADAPTER).is_dir() and not (folder / LORA).is_dir():
            # The export has dense weights of the last step only.
            if step == exported_step(run_dir):
                folder = run_dir / EXPORT
            else:
                reason = "its adapter cannot be merged here"
        if reason is None:
            folders.append((step, folder))
        else:
            runtime.say(f"{folder}: left out of steps.csv ({reason})")
    return folders


def compare_runs(words: list[str], runs: list[str], out: Path, targets: list[str]) -> None:
    """Write the agreement of runs from one base, matrix by matrix, with figures and a report."""
    if len(runs) < 2:
        raise RecipeError("--runs: consistency is between runs; name at least two")
    folders = [Path(run) for run in runs]
    if words:
        base = model_folder(words[0])
    else:
        bases = [base_of_run(folder) for folder in folders]
        base = bases[0]
        # Agreement of runs is of their updates, which need one starting point.
        if len(set(bases)) > 1:
            raise RecipeError(
                f"--runs: {runs[0]} starts from {bases[0]} and another from "
                f"{next(b for b in bases if b != base)}; only runs from one base can agree"
            )
    # A run, or a plain checkpoint folder or hub name.
    tuned = [_tuned_of(folder) for folder in folders]
    first = matrices_of(base)
    opened: list[Checkpoint] = [matrices_of(path, first) for path in tuned]
    pairs = [pair_up(first, o, (base, p), targets) for o, p in zip(opened, tuned, strict=True)]
    measured = consistency.measure_runs(pairs, base, tuned, runtime.default_device())
    rows = [item.row for item in measured]
    summary = {
        "base": str(base),
        "runs": runs,
        "settings": {"targets": targets},
        "rlvr": __version__,
        **consistency.summarise_runs(rows),
    }
    from rlvr.reports.consistency import build, figures, verdict

    images = figures(measured, summary)
    page = build(measured, summary, images)
    with _published(out) as folder:
        write_table(folder / "consistency.csv", rows, consistency.COLUMNS, summary["settings"])
        _write(folder, images, page, summary)
    runtime.say(f"{verdict(summary['all'])}\n{out / 'report.html'}")


def write_gallery(results: Sequence[str], out: Path) -> None:
    """Write one page of several results: the four numbers of each, with a link to its report.

    Raises:
        RecipeError: a folder holds no result of this verb.
    """
    summaries = {}
    for result in map(Path, results):
        try:
            content = json.loads((result / SUMMARY).read_text(encoding="utf-8"))
            summaries[os.path.relpath(result, out)] = content
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecipeError(
                f"--gallery: {result / SUMMARY} is no result of rlvr geometry ({error}); name the "
                "folders that it wrote"
            ) from error
    from rlvr.reports.gallery import build

    out.mkdir(parents=True, exist_ok=True)
    write_bytes(out / "gallery.html", build(summaries).encode())
    runtime.say(f"{out / 'gallery.html'}")


def _tuned_of(folder: Path) -> Path:
    return folder if is_run(folder) else model_folder(str(folder))
