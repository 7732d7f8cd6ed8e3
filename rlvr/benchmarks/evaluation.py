"""One policy on some benchmarks: what is drawn, how long it goes on, the files and the table."""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr import __version__, runtime
from rlvr.benchmarks.policies import PolicySource
from rlvr.benchmarks.problems import LoadedBenchmark
from rlvr.checkpoints.fingerprints import fingerprint_values
from rlvr.eval import EvalResult, evaluate
from rlvr.eval.records import FIX
from rlvr.files import read_json, write_json
from rlvr.intervals import student_quantile
from rlvr.policy import load_tokenizer
from rlvr.schema import RecipeError

if TYPE_CHECKING:
    pass

SUMMARY = "summary.json"
TITLES = (
    *("n", "avg@n (%)", "95 %", "pass@n", "maj@n", "bayes", "truncated", "length"),
    *("unparsable", "time-outs", "tokens/s"),
)
MOST_SAMPLES = 4096  # of one problem, for --until-width


@contextmanager
def joined() -> Iterator[None]:
    """Let the processes of ``accelerate launch`` find each other; one process needs nothing."""
    import torch

    if runtime.world_size() == 1:
        yield
        return
    # Long: a process may wait for the shards of another for hours. gloo: only objects are sent.
    torch.distributed.init_process_group("gloo", timeout=timedelta(days=7))
    if torch.cuda.is_available():
        torch.cuda.set_device(int(runtime.launcher_setting("LOCAL_RANK")))
    try:
        yield
        runtime.leave_group()
    finally:
        # After an error the others may be waiting: no barrier.
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def evaluate_policy(
    source: PolicySource,
    benchmarks: Sequence[LoadedBenchmark],
    preset: str,
    out: Path,
    *,
    more_samples: int = 0,
    until_width: float | None = None,
) -> dict[str, EvalResult]:
    """Evaluate a policy on each benchmark; write ``NAME.jsonl``, ``NAME.json``, ``summary.json``.

    Args:
        source: the policy.
        benchmarks: loaded and checked.
        preset: its name, with the settings that replace some of it, for the files.
        out: the folder of the files; what is there already is not drawn again.
        more_samples: of each problem, beyond those in the files.
        until_width: double the samples until the interval over problems is that wide, in points.

    Raises:
        RecipeError: ``out`` holds numbers of another policy, preset or setting.
    """
    runtime.from_main(lambda: _require_preset(out, preset))
    tokenizer = load_tokenizer(source.model)
    results = {}
    with source.load() as policy:
        weights = fingerprint_values(policy.named_parameters())
        dtype = str(next(policy.parameters()).dtype).removeprefix("torch.")
        for one in benchmarks:
            own = one.tokenizer(tokenizer, source.template_kwargs)
            about = {"preset": preset, "weights": weights, "dtype": dtype, **one.facts(own)}
            settings = one.settings
            if more_samples:
                samples = _samples_there(out / f"{one.name}.json") + more_samples
                settings = dataclasses.replace(settings, samples=samples)

            def draw(
                samples: int,
                one: LoadedBenchmark = one,
                about: Mapping[str, Any] = about,
                settings: Any = settings,
                own: Any = own,
            ) -> EvalResult:
                wanted = dataclasses.replace(settings, samples=samples)
                file = out / f"{one.name}.jsonl"
                return evaluate(policy, own, one.task, wanted, file, about=about)

            result = draw(settings.samples)
            if until_width is not None:
                result = _until_narrow(result, draw, one.name, until_width)
            results[one.name] = result
            about_all = {"model": source.label, "preset": preset, "weights": weights}
            runtime.from_main(lambda about_all=about_all: _write_summary(out, about_all))
    return results


def _require_preset(out: Path, preset: str) -> None:
    if not (out / SUMMARY).is_file():
        return
    before = read_json(out / SUMMARY, FIX).get("preset")
    if before != preset:
        raise RecipeError(
            f"{out / SUMMARY}: holds numbers of preset {before}, and those of {preset} do not "
            "belong in one table with them; name another --out"
        )


def _samples_there(file: Path) -> int:
    if not file.is_file():
        raise RecipeError(f"--more-samples: there is no {file}; evaluate without it first")
    return int(read_json(file, FIX)["settings"]["samples"])


def _until_narrow(result: EvalResult, draw: Any, name: str, width: float) -> EvalResult:
    """Draw more samples until the interval over problems is at most ``width`` points wide."""
    while (now := 100 * (result.accuracy.high - result.accuracy.low)) > width:
        samples = result.settings.samples
        floor = 100 * narrowest(result)
        if floor > width or 2 * samples > MOST_SAMPLES:
            runtime.say(
                f"{name}: the interval stays {now:.1f} points wide; these problems differ so much "
                f"that samples bring it down to about {floor:.1f} only: use more problems"
            )
            break
        result = draw(2 * samples)
    return result


def narrowest(result: EvalResult) -> float:
    r"""Return the width that the interval over problems would have with endless samples.

    :math:`2 t \sqrt{\beta^2/P}` with :math:`\beta^2` the variance of the problems' true rates: the
    variance of the observed ones minus what sampling adds, :math:`p(1 - p)/(n - 1)`.
    """
    import numpy as np

    n = result.settings.samples
    shares = np.array(result.counts) / n
    if n < 2 or len(shares) < 2:
        return 0.0
    between = max(0.0, float(shares.var(ddof=1)) - float((shares * (1 - shares)).mean()) / (n - 1))
    return 2 * student_quantile(len(shares) - 1) * (between / len(shares)) ** 0.5


def _write_summary(out: Path, about: Mapping[str, Any]) -> None:
    """Write ``summary.json`` from the ``.json`` of every benchmark in ``out``."""
    benchmarks = {}
    for path in sorted(out.glob("*.json")):
        content = read_json(path, FIX)
        if path.name != SUMMARY and content.get("about", {}).get("weights") == about["weights"]:
            benchmarks[path.stem] = content
    engine = {
        "name": "transformers",
        "tensor_parallel": 1,
        "processes": runtime.place_in_group()[1],
    }
    means = [one["accuracy"]["mean"] for one in benchmarks.values()]
    write_json(
        out / SUMMARY,
        {
            **about,
            "rlvr": __version__,
            "git_commit": runtime.git_commit(),
            "versions": runtime.versions(),
            "engine": engine,
            "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "average": sum(means) / len(means),
            "benchmarks": benchmarks,
        },
    )


def table(label: str, preset: str, results: Mapping[str, EvalResult]) -> str:
    """Return the numbers of one policy as a table on a screen."""
    wide = max([9, *map(len, results)])
    lines = [f"{label}, preset {preset}"]
    lines.append(f"{'benchmark':<{wide}}" + "".join(f"{title:>12}" for title in TITLES))
    for name, result in results.items():
        lines.append(f"{name:<{wide}}" + "".join(f"{cell:>12}" for cell in cells(result)))
    if len(results) > 1:
        mean = sum(result.accuracy.mean for result in results.values()) / len(results)
        lines.append(f"{'average':<{wide}}{'':>12}{100 * mean:>12.2f}")
    return "\n".join(lines)


def cells(result: EvalResult) -> list[str]:
    """Return a result's cells: n, score, interval, pass@n, maj@n, Bayes, and what stands beside."""
    score, n, majority = result.accuracy, result.settings.samples, result.maj_at_k
    total = sum(result.statuses.values())
    unread = result.statuses["unparsable"] / total
    return [
        f"{len(result.problems)}x{n}",
        f"{100 * score.mean:.2f}",
        f"{100 * score.low:.1f}-{100 * score.high:.1f}",
        f"{100 * result.pass_at_k[n].mean:.1f}",
        "-" if majority is None else f"{100 * majority.mean:.1f}",
        f"{100 * result.bayes.mean:.1f}",
        f"{result.truncated:.1%}",
        f"{result.mean_length:.0f}",
        f"{unread:.1%}",
        str(result.statuses["timeout"]),
        "-" if result.speed is None else f"{result.speed:.0f}",
    ]
