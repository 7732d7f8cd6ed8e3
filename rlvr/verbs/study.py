"""``rlvr study STUDY``: a base recipe, arms, seeds and one swept field into runs and a report.

Each run is a process of its own, through accelerate where the study names a launch file, several
at once where there are GPUs or cores for them. A finished run is kept, an interrupted one resumed,
and a failed one reported without stopping the others. Writes ``report.html``, ``table.md``,
``summary.csv`` (one row an arm), ``runs.csv`` (one row a run) and the figures.
"""

import argparse
import os
import sys
from pathlib import Path

from rlvr import runtime
from rlvr.config import resolve_recipe
from rlvr.files import write_bytes
from rlvr.run_dir import locked
from rlvr.schema import RecipeError
from rlvr.studies import launching
from rlvr.studies.progress import describe
from rlvr.studies.spec import Study, load_study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", help="YAML study: base, arms, and what else a study may state")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--jobs", type=int, help="runs at once (default: as GPUs or cores allow)")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--dry-run", action="store_true", help="write the recipes, list the runs and what is left"
    )
    mode.add_argument("--report-only", action="store_true", help="train nothing; tables, figures")


def run(options: argparse.Namespace) -> int:
    """Run or report a study and return the exit code: 1 where a run failed."""
    if options.jobs is not None and options.jobs < 1:
        raise RecipeError(f"--jobs: at least one run at a time, got {options.jobs}")
    study = load_study(Path(options.study), options.overrides)
    if options.report_only:
        runtime.say(report(study))
        return 0
    check_arms(study)
    if options.dry_run:
        for one in study.runs:
            launching.write_recipe(study, one)
        at_once = len(launching.slots(study, options.jobs))
        runtime.say(describe(study, at_once, launching.processes_per_run(study)))
        return 0
    with locked(study.folder):
        failed = launching.run_study(study, options.jobs)
        runtime.say(report(study))
    for name in failed:
        log = study.folder / "logs" / f"{name}.log"
        print(f"run {name!r} failed; its output is {log}", file=sys.stderr)
    return 1 if failed else 0


def check_arms(study: Study) -> None:
    """Refuse, before anything runs, what the first run of an arm would be refused for.

    Raises:
        RecipeError: with the name of the arm.
    """
    from rlvr.training.plan import check_recipe  # imports trl

    before = os.environ.get("WORLD_SIZE")
    os.environ["WORLD_SIZE"] = str(launching.processes_per_run(study))
    try:
        for arm in study.arms:
            for value in study.values:
                first = study.runs_of(arm, value)[0]
                try:
                    check_recipe(resolve_recipe(first.recipe, ""))
                except RecipeError as error:
                    raise RecipeError(f"arm {arm!r}: {error}") from error
    finally:
        os.environ.pop("WORLD_SIZE")
        if before is not None:
            os.environ["WORLD_SIZE"] = before


def report(study: Study) -> str:
    """Write the tables, the figures and the page; return the tables as text."""
    # These import matplotlib and SciPy, which every verb's --help would wait for.
    from rlvr.reports.study import build, figures
    from rlvr.studies.findings import sentences
    from rlvr.studies.results import cells_of
    from rlvr.studies.summary_files import write_tables
    from rlvr.studies.tables import markdown, tables

    cells = cells_of(study)
    if not cells:
        raise RecipeError(f"{study.folder}: no run is finished; run the study first")
    write_tables(study, cells)
    shown = tables(study, cells)
    text = "\n\n".join(f"{title}:\n\n{markdown(rows)}" for title, rows in shown.items())
    lead = "\n".join(sentences(study, cells))
    write_bytes(study.folder / "table.md", f"{lead}\n\n{text}\n".encode())
    images = figures(study, cells)
    for name, themes in images.items():
        write_bytes(study.folder / f"{name}.png", themes["light"])
    write_bytes(study.folder / "report.html", build(study, cells, images, shown).encode())
    return f"\n{text}\n\n{lead}\n{study.folder / 'report.html'}"
