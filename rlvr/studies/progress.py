"""How far each run of a study is, and what the rest will cost."""

import json
import math
import statistics

from rlvr.checkpoints.runs import newest_checkpoint, step_of
from rlvr.config import resolve_recipe
from rlvr.run_dir import differences, has_steps, is_summarised, read_summary
from rlvr.schema import RecipeError
from rlvr.studies.spec import GeometrySettings, Run, Study


def state_of(run: Run) -> str:
    """Return ``finished``, ``at step N`` or ``not started``.

    Raises:
        RecipeError: the folder holds the run of another recipe.
    """
    if not (run.folder / "recipe.json").is_file():
        return "not started"
    recipe = resolve_recipe(run.recipe, "")
    changed = differences(run.folder, recipe)
    if changed and not has_steps(run.folder):
        return "not started"
    if changed:
        raise RecipeError(
            f"{run.folder} holds a run of another recipe (they differ in {', '.join(changed)}); "
            "give the arm another name, the study another dir, or move the folder away"
        )
    # If only its evaluation changed, a run keeps its steps and gets another summary.
    summary = read_summary(run.folder) if is_summarised(run.folder, recipe) else None
    # A study with a larger max_steps goes on with the run.
    if summary is not None and summary["step"] >= run.recipe["trainer"].get("max_steps", -1):
        return "finished"
    newest = newest_checkpoint(run.folder)
    return f"at step {0 if newest is None else step_of(newest)}"


def geometry_is_due(run: Run, wanted: GeometrySettings) -> bool:
    """Return whether a finished run has no measurement, an older one, or one of other settings."""
    measured, trained = run.folder / "geometry" / "summary.json", run.folder / "summary.json"
    # Older than the summary: the run went on after it was measured.
    if not measured.is_file() or measured.stat().st_mtime_ns < trained.stat().st_mtime_ns:
        return True
    settings = json.loads(measured.read_text(encoding="utf-8"))["settings"]
    stated = {"rank": wanted.rank, "density": wanted.density, "exact": wanted.mode == "exact"}
    return any(settings[key] != value for key, value in stated.items())


def describe(study: Study, at_once: int, processes: int) -> str:
    """Return every run with its state and what is left of it, and the sum."""
    states = {run.name: state_of(run) for run in study.runs}
    rates = {
        run.name: summary["seconds_per_step"]
        for run in study.runs
        if states[run.name] == "finished" and (summary := read_summary(run.folder)) is not None
    }
    lines, total, tokens = [], 0.0, 0.0
    width = max(len(run.name) for run in study.runs)
    for run in study.runs:
        left = _steps_left(run, states[run.name])
        seconds = left * _rate(study, run, rates)
        total += seconds
        # Not of a finished run: 0 times infinity is no number.
        tokens += left and left * _tokens_per_step(run, processes)
        cost = "" if not left else f"{left} steps"
        if seconds:
            cost += f", about {_time(seconds)}"
        lines.append(f"{run.name:<{width}}  {states[run.name]:<12}  {cost}".rstrip())
    finished = sum(state == "finished" for state in states.values())
    lines.append(f"\n{finished} of {len(study.runs)} runs are finished; {at_once} at once")
    if tokens:
        lines.append(_sampling_left(tokens))
    if total:
        lines.append(
            f"left: about {_time(total / at_once)} of training, by the step times of the finished "
            "runs; starts and evaluations come on top"
        )
    elif finished < len(study.runs):
        lines.append("how long that takes is known once a run is finished")
    return "\n".join(lines)


def _steps_left(run: Run, state: str) -> int:
    if state == "finished":
        return 0
    reached = int(state.rsplit(" ", 1)[-1]) if state.startswith("at step") else 0
    return max(0, run.recipe["trainer"].get("max_steps", -1) - reached)


def _rate(study: Study, run: Run, rates: dict[str, float | None]) -> float:
    """Return seconds a step: of the arm's finished runs, else of any, else 0."""
    own = [rates[other.name] for other in study.runs_of(run.arm, run.value) if other.name in rates]
    # A run killed within its first step has no rate.
    known = [rate for rate in own or rates.values() if rate is not None]
    return statistics.median(known) if known else 0.0


def _sampling_left(tokens: float) -> str:
    if math.isinf(tokens):
        return "left: sampled tokens without a bound, as trainer.max_completion_length is null"
    return f"left: at most {tokens:,.0f} sampled tokens"


def _tokens_per_step(run: Run, processes: int) -> float:
    """Return the most tokens that a step samples; 0 under sft, infinite without a longest."""
    recipe, trainer = resolve_recipe(run.recipe, ""), run.recipe["trainer"]
    longest = trainer.get("max_completion_length", 256)
    if recipe.supervised:
        return 0
    if longest is None:
        return math.inf
    # TRL's defaults stand where the recipe is silent.
    completions = trainer.get("per_device_train_batch_size", 8) * processes
    completions *= trainer.get("gradient_accumulation_steps", 1)
    return completions * longest


def _time(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
