"""The report of an evaluation: scores with intervals, pass@k, lengths, and every completion."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlvr.benchmarks.evaluation import SUMMARY, TITLES, cells
from rlvr.eval import EvalResult, read_result
from rlvr.eval.records import FIX, read_lines
from rlvr.files import read_json, read_jsonl, write_bytes
from rlvr.plots.evaluation import histogram_figure, pass_figure
from rlvr.plots.theme import THEMES, png
from rlvr.reports import pages
from rlvr.reports.browser import bounded, browser
from rlvr.schema import RecipeError

READING = {
    "pass": {
        "What you see": "The chance that k samples of a problem hold a correct one, unbiased from "
        "the n that were drawn; bands are 95 % intervals over problems.",
        "What to look for": "A curve that rises steeply: the policy can solve more than it solves "
        "at its first try.",
        "By chance": "Overlapping bands. The right end, where k is near n, rests on few samples.",
    },
    "histograms": {
        "What you see": "Above: how long completions are, by outcome. Below: how many problems "
        "were solved in which share of their samples.",
        "What to look for": "A stack at the right edge: completions were cut off, and the score is "
        "that of a shorter length. Problems at 0 and at 100 % decide nothing between two models.",
        "By chance": "Lengths of wrong completions reach further than those of correct ones.",
    },
}
TITLES_OF = {"pass": "What do more samples find?", "histograms": "How long, and how hard?"}
NOTE = (
    "avg@n is the mean over problems of the share of correct samples. Its interval holds for "
    "problems of this kind: Student's t over problems in Wilson's form. bayes is the mean of the "
    "posteriors under a uniform prior. pass@n and maj@n are over the n samples. Numbers of another "
    "preset, length or verifier cannot be compared with these."
)


def write_report(out: Path) -> Path:
    """Write ``report.html`` from the files of an evaluation and return its path."""
    summary = read_json(out / SUMMARY, FIX)
    results = {name: read_result(out / f"{name}.json") for name in summary["benchmarks"]}
    images = {}
    for name, make in (("pass", pass_figure), ("histograms", histogram_figure)):
        draw, size = make(results)
        images[name] = {theme: png(draw, size, colors) for theme, colors in THEMES.items()}
    parts = [pages.paragraph(_lead(summary, results), "lead"), pages.heading("Scores")]
    rows = [[(name, None), *_numbers(result)] for name, result in results.items()]
    parts += [pages.table(["benchmark", *TITLES], rows), pages.paragraph(NOTE)]
    entries, left_out = bounded(_entries(out, results))
    parts += [pages.heading("Completions"), browser(entries, left_out)]
    for name, reading in READING.items():
        parts += [pages.heading(TITLES_OF[name])]
        parts += [pages.figure(images[name], TITLES_OF[name], reading)]
    facts = [[(key, None), (str(value), None)] for key, value in _facts(summary).items()]
    parts.append(pages.details("What was evaluated, and by what", pages.table(
        ["fact", "value"], facts, kind="text")))  # fmt: skip
    subtitle = f"{summary['model']}, preset {summary['preset']}"
    path = out / "report.html"
    write_bytes(path, pages.page("Evaluation", subtitle, parts).encode(errors="replace"))
    return path


def _lead(summary: Mapping[str, Any], results: Mapping[str, EvalResult]) -> str:
    best = ", ".join(
        f"{name} {100 * one.accuracy.mean:.1f} % [{100 * one.accuracy.low:.1f}, "
        f"{100 * one.accuracy.high:.1f}]"
        for name, one in results.items()
    )
    cut = max(one.truncated for one in results.values())
    length = f"Up to {cut:.1%} of the completions of a benchmark were" if cut else "None was"
    average = f" Average {100 * summary['average']:.2f} %." if len(results) > 1 else ""
    return f"{best}.{average} {length} cut off."


def _numbers(result: EvalResult) -> list[tuple[str, float | None]]:
    numbers = []
    for cell in cells(result):
        try:
            numbers.append((cell, float(cell.rstrip("%"))))
        except ValueError:
            numbers.append((cell, None))
    return numbers


def _facts(summary: Mapping[str, Any]) -> dict[str, Any]:
    facts = {key: summary[key] for key in ("model", "weights", "preset", "rlvr", "engine")}
    facts |= {"versions": summary["versions"], "written": summary["written"]}
    for name, one in summary["benchmarks"].items():
        facts[name] = {**one["settings"], **one["about"]}
    return facts


def _entries(out: Path, results: Mapping[str, EvalResult]) -> Iterator[dict[str, Any]]:
    for name in results:
        for line in read_lines(out / f"{name}.jsonl"):
            for number, one in enumerate(line["completions"], 1):
                yield {
                    "group": name,
                    "id": f"{line['id']}, sample {number}",
                    "kind": one["status"],
                    "about": f"{one['status']}, {one['length']} tokens",
                    "problem": line["problem"],
                    "answer": line["answer"],
                    "extracted": one["extracted"],
                    "detail": one["detail"],
                    "text": one["text"],
                }


def write_rollouts(run_dir: Path) -> Path:
    """Write ``rollouts.html``, the browser of a run's ``rollouts.jsonl``, and return its path."""
    file = run_dir / "rollouts.jsonl"
    rows = read_jsonl(file)
    if not rows:
        raise RecipeError(f"{file}: holds no rollouts; set run.rollouts above 0 and train")
    entries, left_out = bounded(_rollout(row, place) for place, row in enumerate(rows, 1))
    parts = [browser(entries, left_out)]
    path = run_dir / "rollouts.html"
    page = pages.page("Rollouts", f"{run_dir}, {len(rows)} rollouts", parts)
    write_bytes(path, page.encode(errors="replace"))
    return path


def _rollout(row: Mapping[str, Any], place: int) -> dict[str, Any]:
    rewards = ", ".join(f"{name} {value}" for name, value in row["rewards"].items())
    values = [value for value in row["rewards"].values() if value is not None]
    # The run writes rewards and no verdicts.
    kind = "unjudged" if not values else "rewarded" if sum(values) > 0 else "not rewarded"
    return {
        "group": f"step {row['step']}",
        "id": f"step {row['step']}, rollout {place}",
        "kind": kind,
        "about": f"{rewards}; advantage {row['advantage']}",
        "problem": row["prompt"],
        "answer": None,
        "extracted": None,
        "detail": None,
        "text": row["completion"],
    }
