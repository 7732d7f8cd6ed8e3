"""Evaluate a policy on problems with a verifier: sample, judge, count, and keep every completion.

Correct means a reward above 0. A completion that the verifier could not judge counts as wrong, and
is also counted by itself, so that a failing verifier cannot raise a rate.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlvr import runtime
from rlvr.config import EvalSettings
from rlvr.eval.metrics import pass_at_k
from rlvr.eval.sampling import Completion, Message, sample
from rlvr.files import read_jsonl, write_bytes, write_json
from rlvr.intervals import Estimate, bootstrap_interval

Render = Callable[[str], Sequence[Message]]
Verifier = Callable[[list[str], list[str]], Sequence[float | None]]


@dataclass(frozen=True)
class ProblemResult:
    """One problem with its completions, judged; ``lengths`` in tokens, end token included."""

    id: str
    problem: str
    answer: str
    completions: tuple[str, ...]
    rewards: tuple[float | None, ...]
    lengths: tuple[int, ...]
    truncated: tuple[bool, ...]

    @property
    def correct(self) -> int:
        """Number of correct completions."""
        return sum(reward is not None and reward > 0 for reward in self.rewards)


@dataclass(frozen=True)
class EvalResult:
    """The problems with their completions, and what follows from them.

    ``completions`` holds the token ids too, for ``token_kl``; they are not written to files, so a
    result that was read back has none.
    """

    settings: EvalSettings
    problems: tuple[ProblemResult, ...]
    completions: list[list[Completion]] = field(default_factory=list, compare=False, repr=False)

    @cached_property
    def counts(self) -> list[int]:
        """Correct completions of each problem."""
        return [problem.correct for problem in self.problems]

    @cached_property
    def accuracy(self) -> Estimate:
        """avg@samples with the bootstrap interval over problems."""
        return bootstrap_interval([count / self.settings.samples for count in self.counts])

    @cached_property
    def pass_at_k(self) -> dict[int, Estimate]:
        """Unbiased pass@k, intervals over problems, for k in powers of two up to ``samples``."""
        n = self.settings.samples
        # bit_length n gives exactly the powers of two up to n.
        powers = [2**exponent for exponent in range(n.bit_length())]
        return {k: bootstrap_interval(pass_at_k(n, self.counts, k)) for k in powers}

    @cached_property
    def truncated(self) -> float:
        """Share of completions without an end token."""
        return _mean(flag for problem in self.problems for flag in problem.truncated)

    @cached_property
    def mean_length(self) -> float:
        """Tokens in a completion."""
        return _mean(length for problem in self.problems for length in problem.lengths)

    @cached_property
    def unjudged(self) -> int:
        """Completions without a reward; they count as wrong."""
        return sum(reward is None for problem in self.problems for reward in problem.rewards)

    def write(self, directory: Path, name: str) -> Path:
        """Write ``<name>.jsonl``, one line per problem, and ``<name>.json``, which is returned."""
        lines = [json.dumps(_to_line(problem), ensure_ascii=False) for problem in self.problems]
        text = "".join(line + "\n" for line in lines)
        write_bytes(directory / f"{name}.jsonl", text.encode())
        # The .json last: a reader that finds it finds whole rows.
        path = directory / f"{name}.json"
        write_json(path, self.summary())
        return path

    def summary(self) -> dict[str, Any]:
        """Return what ``<name>.json`` holds."""
        passes = {str(k): dataclasses.asdict(value) for k, value in self.pass_at_k.items()}
        return {
            "settings": dataclasses.asdict(self.settings),
            "versions": runtime.versions(),
            "problems": len(self.problems),
            "accuracy": dataclasses.asdict(self.accuracy),
            "pass_at_k": passes,
            "truncated": self.truncated,
            "mean_length": self.mean_length,
            "unjudged": self.unjudged,
        }


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return float(sum(values) / len(values))


def _to_line(problem: ProblemResult) -> dict[str, Any]:
    columns = zip(
        problem.completions, problem.rewards, problem.lengths, problem.truncated, strict=True
    )
    keys = ("text", "reward", "length", "truncated")
    return {
        "id": problem.id,
        "problem": problem.problem,
        "answer": problem.answer,
        "correct": problem.correct,
        "completions": [dict(zip(keys, column, strict=True)) for column in columns],
    }


def _from_line(line: Mapping[str, Any]) -> ProblemResult:
    rows = line["completions"]
    return ProblemResult(
        id=line["id"],
        problem=line["problem"],
        answer=line["answer"],
        completions=tuple(row["text"] for row in rows),
        rewards=tuple(row["reward"] for row in rows),
        lengths=tuple(row["length"] for row in rows),
        truncated=tuple(row["truncated"] for row in rows),
    )


def read_result(path: Path) -> EvalResult:
    """Read ``<name>.json`` and ``<name>.jsonl``; rates are recomputed from the rows.

    Raises:
        ValueError: where the rows are not those that the ``.json`` counted.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    problems = tuple(_from_line(line) for line in read_jsonl(path.with_suffix(".jsonl")))
    if len(problems) != content["problems"]:
        raise ValueError(
            f"{path.with_suffix('.jsonl')} holds {len(problems)} problems and {path.name} counted "
            f"{content['problems']}; evaluate again"
        )
    return EvalResult(EvalSettings(**content["settings"]), problems)


def _judge(
    rows: Sequence[Mapping[str, Any]], completions: list[list[Completion]], verifier: Verifier
) -> list[float | None]:
    """Return the rewards of all completions in one flat list; NaN is not judged either."""
    texts = [completion.text for group in completions for completion in group]
    pairs = zip(rows, completions, strict=True)
    answers = [str(row["answer"]) for row, group in pairs for _ in group]
    rewards = list(verifier(texts, answers))
    if len(rewards) != len(texts):
        raise ValueError(f"the verifier gave {len(rewards)} rewards for {len(texts)} completions")
    return [None if value is None or math.isnan(value) else float(value) for value in rewards]


def evaluate(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, Any]],
    *,
    render: Render,
    verifier: Verifier,
    settings: EvalSettings,
) -> EvalResult:
    """Sample completions of every problem and judge them.

    Args:
        policy: a causal LM; it is left as it was.
        tokenizer: with a chat template.
        rows: with the keys ``id``, ``problem`` and ``answer``.
        render: from a problem to the chat messages of its prompt.
        verifier: from completions and their answers to rewards; called once.
        settings: how completions are drawn.
    """
    if not rows:
        raise ValueError("rows is empty; there is nothing to evaluate")
    prompts = [render(row["problem"]) for row in rows]
    names = [str(row["id"]) for row in rows]
    completions = sample(policy, tokenizer, prompts, names=names, **dataclasses.asdict(settings))
    rewards = _judge(rows, completions, verifier)
    problems = []
    for index, (row, group) in enumerate(zip(rows, completions, strict=True)):
        # `rewards` is flat, the samples of a problem in a row.
        first = index * settings.samples
        problems.append(
            ProblemResult(
                id=str(row["id"]),
                problem=row["problem"],
                answer=str(row["answer"]),
                completions=tuple(completion.text for completion in group),
                rewards=tuple(rewards[first : first + settings.samples]),
                lengths=tuple(len(completion.token_ids) for completion in group),
                truncated=tuple(completion.truncated for completion in group),
            )
        )
    return EvalResult(settings, tuple(problems), completions)
