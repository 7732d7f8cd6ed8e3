"""``rlvr study STUDY``: a base recipe and its arms into runs, one table and figures.

Each arm is a recipe that states only its difference from the base, and runs as a process of its
own. A finished arm is kept, an interrupted one resumed, a failed one reported beside the others.
"""

import argparse
import csv
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rlvr import runtime
from rlvr.checkpoint import read_jsonl
from rlvr.config import apply_overrides, merge, read_recipe, read_yaml, resolve_recipe
from rlvr.schema import RecipeError, check_value, unknown_key

KEYS = ("base", "arms", "seeds", "dir")
CURVES = {
    "reward": "reward, mean over completions",
    "kl_to_base": "KL to base (nats per token)",
    "entropy": "entropy (nats per token)",
}
# Quantiles of Student's t for 95 % at 1, 2, ... degrees of freedom; the last for any more.
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
COLUMNS = {
    "arm": "arm",
    "density": "density",
    "before": "accuracy before (95 %)",
    "after": "accuracy after (95 %)",
    "kl": "KL to base",
    "sparsity": "update sparsity (bf16)",
    "leak": "mask leak",
    "seconds": "s / step",
}


@dataclass(frozen=True)
class Study:
    """A study file, checked: ``arms`` maps each run's name to its whole recipe.

    An arm under several seeds is one run for each; ``seeds`` maps such an arm to its runs.
    """

    folder: Path
    arms: dict[str, dict[str, Any]]
    seeds: dict[str, list[str]] = field(default_factory=dict)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", help="YAML study: base, arms, optionally seeds and dir")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--report-only", action="store_true", help="train nothing; table and plots")


def load_study(path: Path, overrides: list[str]) -> Study:
    """Read a study and check that every arm of it is a recipe."""
    content = read_yaml(path)
    for key in content:
        if key not in KEYS:
            raise unknown_key(str(key), KEYS, str(path))
    arms = check_value(content.get("arms"), dict[str, dict], f"{path}: arms")
    if not arms:
        raise RecipeError(f"{path}: arms is empty; name at least one")
    base = read_recipe(path.parent / check_value(content.get("base"), str, f"{path}: base"))
    folder = Path(content.get("dir", f"runs/{path.resolve().parent.name}/{path.stem}"))
    seeds = check_value(content.get("seeds", []), list[int], f"{path}: seeds")
    runs = {name: [f"{name}, seed {seed}" for seed in seeds] for name in arms}
    if seeds:
        arms = {
            run: merge(change, {"trainer": {"seed": seed}})
            for name, change in arms.items()
            for run, seed in zip(runs[name], seeds, strict=True)
        }
    recipes = {}
    for name, change in arms.items():
        recipe = apply_overrides(merge(base, change), overrides)
        recipe["run"] = {**recipe.get("run", {}), "dir": str(folder / name)}
        try:
            resolve_recipe(recipe, "")
        except RecipeError as error:
            raise RecipeError(f"{path}: arm {name!r}: {error}") from error
        recipes[name] = recipe
    return Study(folder, recipes, runs if seeds else {})


def run(options: argparse.Namespace) -> int:
    """Run or report a study and return the exit code: 1 where an arm failed."""
    study = load_study(Path(options.study), options.overrides)
    failed = [] if options.report_only else run_arms(study)
    print(report(study))
    for name in failed:
        print(f"arm {name!r} failed; its output is {log_path(study, name)}", file=sys.stderr)
    return 1 if failed else 0


def log_path(study: Study, name: str) -> Path:
    return study.folder / "logs" / f"{name}.log"


def run_arms(study: Study) -> list[str]:
    """Run each arm that is not finished and return the names of those that failed.

    Raises:
        KeyboardInterrupt: the user stopped an arm; the next run of the study goes on from there.
    """
    failed = []
    for index, name in enumerate(study.arms, 1):
        runtime.say(f"[{index}/{len(study.arms)}] {name}")
        if (study.folder / name / "summary.json").is_file():
            runtime.say("  finished before; kept")
            continue
        code = run_arm(study, name)
        if code == runtime.INTERRUPTED:
            runtime.say("interrupted; run the same command again to go on from here")
            raise KeyboardInterrupt
        if code != 0:
            failed.append(name)
    return failed


def run_arm(study: Study, name: str) -> int:
    """Run one arm as a process of its own and return its exit code."""
    recipe = study.folder / "recipes" / f"{name}.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(yaml.safe_dump(study.arms[name], sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "rlvr.train", str(recipe)]
    if (study.folder / name / "recipe.json").is_file():
        command.append("--resume")
    log = log_path(study, name)
    log.parent.mkdir(parents=True, exist_ok=True)
    # The progress bar and errors go to the terminal, the arm's own story to its log.
    with open(log, "a", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output)
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                # The terminal sent Ctrl-C to the arm too, which saves a checkpoint and ends.
                continue


def _interval(estimate: dict[str, Any]) -> str:
    low, high = 100 * estimate["low"], 100 * estimate["high"]
    return f"{100 * estimate['mean']:.1f} [{low:.1f}, {high:.1f}]"


def table_row(name: str, summary: dict[str, Any]) -> dict[str, str]:
    """Return one arm's row of the table as text."""
    row = {
        "arm": name,
        "density": "-" if summary["density"] is None else f"{summary['density']:.1%}",
        "sparsity": f"{summary['sparsity_bf16']:.1%}",
        "leak": "-" if summary["mask_leak"] is None else str(summary["mask_leak"]),
        "seconds": f"{summary['seconds_per_step']:.2f}",
    }
    if "accuracy_after" in summary:
        row["before"] = _interval(summary["accuracy_before"])
        row["after"] = _interval(summary["accuracy_after"])
        row["kl"] = f"{summary['kl_to_base']['mean']:.4f}"
    return row


def report(study: Study) -> str:
    """Write ``summary.csv``, ``table.md`` and the figures; return the table."""
    from rlvr.eval import Estimate
    from rlvr.plots import plot_accuracy, plot_curves
    from rlvr.run_dir import read_summary

    found = {name: read_summary(study.folder / name) for name in study.arms}
    summaries = {name: summary for name, summary in found.items() if summary is not None}
    if not summaries:
        raise RecipeError(f"{study.folder}: no arm is finished; run the study first")
    rows = [table_row(name, summary) for name, summary in summaries.items()]
    with open(study.folder / "summary.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(COLUMNS), restval="")
        writer.writeheader()
        writer.writerows(rows)
    table = markdown_table(rows)
    (study.folder / "table.md").write_text(table + "\n", encoding="utf-8")
    curves = {name: read_jsonl(study.folder / name / "metrics.jsonl") for name in summaries}
    plot_curves(curves, CURVES, study.folder / "curves.png", title=study.folder.name)
    accuracies = {
        name: (Estimate(**summary["accuracy_before"]), Estimate(**summary["accuracy_after"]))
        for name, summary in summaries.items()
        if "accuracy_after" in summary
    }
    if accuracies:
        plot_accuracy(accuracies, study.folder / "accuracy.png", title=study.folder.name)
    if study.seeds:
        table += "\n\n" + over_seeds(study, summaries)
        (study.folder / "table.md").write_text(table + "\n", encoding="utf-8")
    return f"\n{table}\n\ntable and figures: {study.folder}"


def over_seeds(study: Study, summaries: dict[str, dict[str, Any]]) -> str:
    """Return the table of arms: the mean over the finished seeds and its 95 % t-interval."""
    rows = []
    for arm, runs in study.seeds.items():
        done = [summaries[run] for run in runs if "accuracy_after" in summaries.get(run, {})]
        row = {"arm": arm, "seeds": f"{len(done)} of {len(runs)}"}
        if done:
            after = [100 * summary["accuracy_after"]["mean"] for summary in done]
            row["after"] = mean_over_seeds(after, 1)
            row["kl"] = mean_over_seeds([summary["kl_to_base"]["mean"] for summary in done], 4)
        rows.append(row)
    columns = {"arm": "arm", "seeds": "seeds", "after": "accuracy after (95 %, t)", "kl": "KL"}
    return markdown_table(rows, columns)


def mean_over_seeds(values: list[float], digits: int) -> str:
    """Return mean and 95 % Student t-interval of one value per seed, as text."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.{digits}f} [-]"
    quantile = T_95[min(len(values) - 1, len(T_95)) - 1]
    half = quantile * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.{digits}f} [{mean - half:.{digits}f}, {mean + half:.{digits}f}]"


def markdown_table(rows: list[dict[str, str]], columns: dict[str, str] = COLUMNS) -> str:
    """Return ``rows`` under the titles of ``columns`` as an aligned Markdown table."""
    cells = [list(columns.values())]
    cells += [[row.get(key, "-") for key in columns] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(columns))]
    lines = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
