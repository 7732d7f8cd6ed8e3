"""Evaluate a policy on problems with a verifier: sample, judge, count, and keep every completion.

Correct means a reward above 0. A completion that the verifier could not judge counts as wrong, and
is also counted by itself, so that a failing verifier cannot raise a rate.

The problems are cut into shards, which the processes of a launch share. A shard is written when it
is judged, and is not drawn again. Each completion has a random stream of its own, of (seed, id of
the problem, sample); so the file depends neither on the processes nor on the order of the problems,
but for the rounding of a batch of another shape.
"""

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlvr import runtime
from rlvr.config import EvalSettings
from rlvr.eval.metrics import bayes_avg, maj_at_k, pass_at_k
from rlvr.eval.records import ProblemResult, Shards, line_of, read_lines, result_of
from rlvr.eval.sampling import Completion, Message, prompt_token_ids, sample
from rlvr.files import read_json, write_json
from rlvr.intervals import Estimate, problem_interval
from rlvr.schema import RecipeError
from rlvr.verdict import Verdict

Rows = Sequence[Mapping[str, Any]]
Render = Callable[[str], Sequence[Message]]
# From one row for each completion, the completions, and which were cut off, to verdicts.
# ``None`` where a completion was not judged.
Judge = Callable[[Rows, list[str], list[bool]], Sequence[Verdict | None]]
FILLS = 4  # times that the completions of a shard fill the slots of the decoder


@dataclass(frozen=True)
class EvalResult:
    """The problems with what became of their completions, and what follows from them.

    ``speed``: tokens per second over all processes, sampling and verifier together; ``None`` where
    nothing was drawn.
    """

    settings: EvalSettings
    problems: tuple[ProblemResult, ...]
    speed: float | None = dataclasses.field(default=None, compare=False)

    @cached_property
    def counts(self) -> list[int]:
        """Correct completions of each problem."""
        return [problem.correct for problem in self.problems]

    @cached_property
    def accuracy(self) -> Estimate:
        """avg@samples with its interval over problems."""
        return problem_interval([count / self.settings.samples for count in self.counts])

    @cached_property
    def pass_at_k(self) -> dict[int, Estimate]:
        """Unbiased pass@k, intervals over problems, for every k up to ``samples``."""
        n = self.settings.samples
        return {k: problem_interval(pass_at_k(n, self.counts, k)) for k in range(1, n + 1)}

    @cached_property
    def maj_at_k(self) -> Estimate | None:
        """maj@samples, interval over problems; ``None`` where nobody can vote: one sample."""
        if self.settings.samples < 2:
            return None
        return problem_interval([maj_at_k(one.answers, one.right) for one in self.problems])

    @cached_property
    def bayes(self) -> Estimate:
        """Bayesian avg@samples; the interval holds for these problems."""
        return bayes_avg(self.settings.samples, self.counts)

    @cached_property
    def truncated(self) -> float:
        """Share of completions without an end token."""
        return _mean(flag for problem in self.problems for flag in problem.truncated)

    @cached_property
    def mean_length(self) -> float:
        """Tokens in a completion."""
        return _mean(length for problem in self.problems for length in problem.lengths)

    @cached_property
    def statuses(self) -> Counter[str]:
        """Completions by what the verifier said of them."""
        return Counter(status for problem in self.problems for status in problem.statuses)

    @cached_property
    def unjudged(self) -> int:
        """Completions without a reward; they count as wrong."""
        return sum(reward is None for problem in self.problems for reward in problem.rewards)

    def summary(self) -> dict[str, Any]:
        """Return the numbers that ``<name>.json`` holds."""
        passes = {str(k): dataclasses.asdict(value) for k, value in self.pass_at_k.items()}
        majority = self.maj_at_k
        return {
            "settings": dataclasses.asdict(self.settings),
            "versions": runtime.versions(),
            "problems": len(self.problems),
            "accuracy": dataclasses.asdict(self.accuracy),
            "bayes": dataclasses.asdict(self.bayes),
            "pass_at_k": passes,
            "maj_at_k": None if majority is None else dataclasses.asdict(majority),
            "truncated": self.truncated,
            "mean_length": self.mean_length,
            "statuses": dict(sorted(self.statuses.items())),
            "unjudged": self.unjudged,
            "tokens_per_second": self.speed,
        }


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return float(sum(values) / len(values))


def read_result(path: Path) -> EvalResult:
    """Read ``<name>.json`` and ``<name>.jsonl``; rates are recomputed from the rows.

    Raises:
        RecipeError: a file is damaged, or the rows are not those that the ``.json`` counted.
    """
    content = read_json(path, "evaluate again")
    problems = tuple(result_of(line) for line in read_lines(path.with_suffix(".jsonl")))
    if len(problems) != content["problems"]:
        raise RecipeError(
            f"{path.with_suffix('.jsonl')} holds {len(problems)} problems and {path.name} counted "
            f"{content['problems']}; evaluate again"
        )
    settings = EvalSettings(**content["settings"])
    return EvalResult(settings, problems, content["tokens_per_second"])


@dataclass(frozen=True)
class Task:
    """Problems, how a prompt is made of one, and who judges completions.

    ``rows`` have the keys ``id``, ``problem`` and ``answer``; ids are distinct.
    """

    rows: Rows
    render: Render
    judge: Judge


def evaluate(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    settings: EvalSettings,
    file: Path,
    *,
    about: Mapping[str, Any] | None = None,
    any_busy: Callable[[bool], bool] | None = None,
    keep: dict[str, list[Completion]] | None = None,
) -> EvalResult:
    """Draw and judge what ``file`` and its shards do not hold yet; write ``file`` and ``.json``.

    Every process of a launch calls it and gets the result.

    Args:
        policy: a causal LM; it is left as it was.
        tokenizer: with a chat template.
        task: what is evaluated.
        settings: how completions are drawn; ``samples`` of each problem in all.
        file: the ``.jsonl``, one line a problem.
        about: what the completions are of; a file of something else is refused.
        any_busy: of ``decode``, where the processes share one sharded policy.
        keep: gets this process's completions by id, with their token ids. Everything is then drawn
            anew, since the files hold no token ids.

    Raises:
        RecipeError: the files there are of something else, or damaged.
        DiskError: a shard could not be written; the others are kept.
    """
    if not task.rows:
        raise ValueError("rows is empty; there is nothing to evaluate")
    shards = Shards(file)
    # Neither the number of samples nor the size of a batch makes a completion another one.
    drawing = dataclasses.asdict(settings)
    facts = {key: drawing[key] for key in drawing if key not in ("samples", "batch_size")}
    facts |= about or {}

    def start() -> int:
        if keep is not None:
            shards.clear()
        shards.open(facts)
        return shards.finished()

    first = runtime.from_main(start)
    last, rank = settings.samples, runtime.place_in_group()[0]
    began, tokens = time.monotonic(), 0
    if first < last:
        parts = _own_parts(task, tokenizer, settings, shards, first, any_busy is not None)
        # Without a terminal there is no bar; a shard may take an hour.
        for part in tqdm(parts, file.stem, unit=" shards", disable=None if rank == 0 else True):
            lines = _draw(policy, tokenizer, task, part, settings, first, any_busy, keep)
            tokens += sum(one["length"] for line in lines for one in line["completions"])
            if lines:
                shards.write(first, last, lines)
    total = sum(runtime.gathered(tokens))  # also waits until every shard is written
    speed = total / (time.monotonic() - began) if total else None
    return runtime.from_main(lambda: _finish(shards, settings, facts, first, speed))


def _finish(
    shards: Shards,
    settings: EvalSettings,
    facts: Mapping[str, Any],
    first: int,
    speed: float | None,
) -> EvalResult:
    path = shards.file.with_suffix(".json")
    if first < settings.samples:
        shards.merge(first, settings.samples)
    elif speed is None and path.is_file():
        speed = read_json(path, "evaluate again").get("tokens_per_second")
    problems = tuple(map(result_of, read_lines(shards.file)))
    settings = dataclasses.replace(settings, samples=max(first, settings.samples))
    result = EvalResult(settings, problems, speed)
    # The .json last: a reader that finds it finds whole rows.
    write_json(path, {"about": facts, **result.summary()})
    shards.remove()
    return result


def _own_parts(
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    settings: EvalSettings,
    shards: Shards,
    first: int,
    in_step: bool,
) -> list[Rows]:
    """Return the shards of this process, without the problems that are there already.

    ``in_step``: all processes get equally many, the last ones perhaps empty.
    """
    held = shards.held(first, settings.samples)
    # What is held must be read by all before anyone writes.
    runtime.gathered(0)
    heads = prompt_token_ids(tokenizer, [task.render(row["problem"]) for row in task.rows])
    pairs = zip(heads, task.rows, strict=True)
    # Prompts of one length share a shard. The order of the rows does not matter.
    rows = [row for _, row in sorted(pairs, key=lambda pair: (len(pair[0]), str(pair[1]["id"])))]
    size = max(1, FILLS * settings.batch_size // (settings.samples - first))
    # Cut before what is held is left out, so that a resumed call has the shards of the first.
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    rank, count = runtime.place_in_group()
    own: list[Rows] = [
        [row for row in part if str(row["id"]) not in held] for part in parts[rank::count]
    ]
    if not in_step:
        return [part for part in own if part]
    return own + [[]] * (math.ceil(len(parts) / count) - len(own))


def _draw(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    rows: Rows,
    settings: EvalSettings,
    first: int,
    any_busy: Callable[[bool], bool] | None,
    keep: dict[str, list[Completion]] | None,
) -> list[dict[str, Any]]:
    """Return the lines of the samples from ``first`` on of ``rows``."""
    groups = sample(
        policy,
        tokenizer,
        [task.render(row["problem"]) for row in rows],
        names=[str(row["id"]) for row in rows],
        first=first,
        any_busy=any_busy or bool,
        **dataclasses.asdict(settings),
    )
    if keep is not None:
        keep.update({str(row["id"]): group for row, group in zip(rows, groups, strict=True)})
    drawn = [completion for group in groups for completion in group]
    repeated = [row for row, group in zip(rows, groups, strict=True) for _ in group]
    texts, cut = [one.text for one in drawn], [one.truncated for one in drawn]
    verdicts = list(task.judge(repeated, texts, cut)) if drawn else []
    if len(verdicts) != len(drawn):
        raise ValueError(f"the verifier gave {len(verdicts)} verdicts for {len(drawn)} completions")
    left = iter(verdicts)
    return [
        line_of(row, group, [next(left) for _ in group])
        for row, group in zip(rows, groups, strict=True)
    ]
