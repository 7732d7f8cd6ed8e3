"""``rlvr study``: the runs of a study, its tables and its report."""

import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlvr import runtime
from rlvr.config import resolve_recipe
from rlvr.files import write_bytes
from rlvr.locks import locked
from rlvr.schema import RecipeError
from rlvr.studies.launch_file import as_launched
from rlvr.studies.spec import Study, load_study
from rlvr.training.names import check_names


def run(options: Namespace) -> int:
    """Run or report a study and return the exit code: 1 where a run failed."""
    if options.jobs is not None and options.jobs < 1:
        raise RecipeError(f"--jobs: at least one run at a time, got {options.jobs}")
    study = load_study(Path(options.study), options.overrides)
    for arm in study.arms:
        with naming(arm):
            # Names first: they are read without trl, so a typo is told in tenths of a second.
            check_names(resolve_recipe(study.runs_of(arm, study.values[0])[0].recipe, ""))
    # These import torch: only once the study reads well.
    from rlvr.studies import launching
    from rlvr.studies.progress import describe

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
    # The lock covers the report too: it reads what the runs write.
    with locked(study.folder):
        failed = launching.run_study(study, options.jobs)
        runtime.say(report(study))
    for name in failed:
        log = study.folder / "logs" / f"{name}.log"
        # To stderr: the report on stdout stays a document.
        print(f"run {name!r} failed; its output is {log}", file=sys.stderr)
    return 1 if failed else 0


def check_arms(study: Study) -> None:
    """Refuse, before anything runs, what the first run of an arm would be refused for.

    Raises:
        RecipeError: with the name of the arm.
    """
    # As launched: precision and engine of the launch file decide what a run refuses.
    with runtime.importing(), as_launched(study.launch):
        runtime.prepare_environment()
        from rlvr.training.plan import check_recipe  # imports trl

        for arm in study.arms:
            for value in study.values:
                with naming(arm):
                    check_recipe(resolve_recipe(study.runs_of(arm, value)[0].recipe, ""))


@contextmanager
def naming(arm: str) -> Iterator[None]:
    """Put the name of the arm before the message of whatever the body refuses."""
    try:
        yield
    except RecipeError as error:
        raise RecipeError(f"arm {arm!r}: {error}") from error


def report(study: Study) -> str:
    """Write the tables, the figures and the page; return the tables as text."""
    # These import matplotlib and SciPy, which every verb's --help would wait for.
    from rlvr.reports.study import build, figures
    from rlvr.studies.findings import sentences
    from rlvr.studies.results import cells_of
    from rlvr.studies.summary_files import write_tables
    from rlvr.studies.tables import markdown, tables

    # Only finished runs: a report can be made while a study is running.
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
