"""Two finished evaluations, problem by problem."""

from pathlib import Path

from rlvr.benchmarks.evaluation import SUMMARY
from rlvr.eval import Comparison, Outcome, compare
from rlvr.eval.records import FIX, read_lines, result_of
from rlvr.files import read_json
from rlvr.schema import RecipeError

# What two evaluations must share, or their difference is not one of policies.
SAME = ("preset", "temperature", "top_p", "max_new_tokens", "rows_sha256", "prompt", "verifier")


def compare_folders(a: Path, b: Path) -> str:
    """Return the paired difference B - A on each benchmark that both have, as text.

    Args:
        a: a run, a folder of ``rlvr evaluate``, or one ``.jsonl`` of it.
        b: likewise.

    Raises:
        RecipeError: they share no benchmark, or were made under different settings.
    """
    first, second = _files(a), _files(b)
    if a.is_file() and b.is_file():
        # Two files are meant to be compared, whatever their names are.
        second = {next(iter(first)): next(iter(second.values()))}
    names = sorted(first.keys() & second.keys())
    if not names:
        raise RecipeError(
            f"--compare: {a} has {', '.join(first) or 'no benchmark'} and {b} has "
            f"{', '.join(second) or 'none'}; evaluate both on one benchmark"
        )
    lines = [f"A {a}", f"B {b}", "B - A in points, paired by problem, 95 % t-interval"]
    for name in names:
        _require_same(first[name], second[name])
        outcomes = [
            {one.id: Outcome(len(one.rewards), one.correct) for one in map(result_of, lines_)}
            for lines_ in (read_lines(first[name]), read_lines(second[name]))
        ]
        try:
            between = compare(*outcomes)
        except ValueError as error:
            raise RecipeError(f"--compare: {name}: {error}") from error
        lines += [f"{name}: {described(between)}"]
    return "\n".join(lines)


def _files(path: Path) -> dict[str, Path]:
    if path.is_file():
        return {path.stem: path}
    path = path / "eval" if (path / "eval" / SUMMARY).is_file() else path
    if not (path / SUMMARY).is_file():
        raise RecipeError(f"--compare: {path} is no folder of rlvr evaluate: it has no {SUMMARY}")
    return {name: path / f"{name}.jsonl" for name in read_json(path / SUMMARY, FIX)["benchmarks"]}


def _require_same(a: Path, b: Path) -> None:
    about = [read_json(path.with_suffix(".json"), FIX).get("about", {}) for path in (a, b)]
    for key in SAME:
        if about[0].get(key) != about[1].get(key):
            raise RecipeError(
                f"--compare: {a} is of {key} {about[0].get(key)} and {b} of {about[1].get(key)}; "
                "evaluate both in one way"
            )


def described(between: Comparison) -> str:
    """Return a comparison as a sentence or two."""
    d = between.difference
    text = f"{100 * d.mean:+.2f} [{100 * d.low:+.2f}, {100 * d.high:+.2f}] over {d.n} problems"
    missing = len(between.only_a) + len(between.only_b)
    if missing:
        text += f" ({missing} are in one of the two only)"
    if between.is_settled:
        return f"{text}; {'B' if d.mean > 0 else 'A'} is better by more than chance"
    samples, problems = between.samples_needed, between.problems_needed
    more = [f"{samples} samples of each problem"] if samples else []
    more += [f"{problems} such problems"] if problems else []
    if not more:
        return f"{text}; may be chance, and no number of samples would show so small a difference"
    return f"{text}; may be chance. If it is as large as it looks, {' or '.join(more)} settle it"
