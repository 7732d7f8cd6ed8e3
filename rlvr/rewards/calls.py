"""From the ``rewards:`` list of a recipe to functions of completions and dataset columns."""

import inspect
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rlvr.config import pop_name
from rlvr.registry import place, reward, shortened
from rlvr.rewards.returned import EXPECTED, Result, as_list, as_result
from rlvr.schema import RecipeError, check_value
from rlvr.verdict import Verdict

Columns = Mapping[str, Sequence[Any]]
OnError = Literal["stop", "count"]
COUNT_THEM = "let such rows count as not judged with on_error: count"


@dataclass(frozen=True)
class Judgement:
    """The rewards of some completions, and how often each status occurred (none for numbers).

    ``failures``: one message for each completion on which the function failed; its reward is None.
    """

    rewards: list[float | None]
    statuses: Counter[str]
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RewardCall:
    """One registered reward with its options bound and its weight in the sum.

    The function returns numbers, or verdicts; its options ``correct`` and ``wrong`` turn a verdict
    into a number. ``on_error`` says what a completion does on which the function raises, or returns
    something else: stop the run, or count as not judged.
    """

    name: str
    options: dict[str, Any]
    weight: float = 1.0
    on_error: OnError = "stop"

    @property
    def columns(self) -> list[str]:
        """Names of the dataset columns that the function needs; one with a default it may have."""
        return [p.name for p in self._parameters() if p.default is p.empty]

    @property
    def reads(self) -> list[str]:
        """Names of all dataset columns that the function reads where they are there."""
        return [p.name for p in self._parameters()]

    def _parameters(self) -> list[inspect.Parameter]:
        parameters = inspect.signature(reward.functions[self.name]).parameters.values()
        # The first positional parameter is `completions`; the others name columns.
        return [p for p in parameters if p.kind is not p.KEYWORD_ONLY][1:]

    def apply(self, completions: list[str], columns: Columns) -> list[Result]:
        """Return a number, a verdict or None for each completion.

        Raises:
            RecipeError: the function fails; the message names its line and the row.
        """
        results = self._results(completions, columns, stop=True)
        return [result for result in results if not isinstance(result, RecipeError)]

    def _results(
        self, completions: list[str], columns: Columns, *, stop: bool
    ) -> list[Result | RecipeError]:
        """Return what the function says of each completion, or the error where it fails."""
        read = {name: columns[name] for name in self.reads if name in columns}
        try:
            values = self._values(completions, read, f"{len(completions)} completions")
        except RecipeError as error:
            # guarded_call chains the exception of the function; without a cause it returned.
            if stop and error.__cause__ is None:
                raise  # it returned no list of rewards, whatever the row
            # Only after a failure: one call for all is what lets a reward use its workers.
            values = self._one_by_one(completions, read, columns, stop, error)
        results: list[Result | RecipeError] = []
        for index, value in enumerate(values):
            try:
                results.append(value if isinstance(value, RecipeError) else as_result(value))
            except ValueError as wrong:
                error = RecipeError(
                    f"{self._what()}: returned {wrong} for {_row(completions, columns, index)}; "
                    f"return {EXPECTED}, or {COUNT_THEM}"
                )
                if stop:
                    raise error from wrong
                results.append(error)
        return results

    def _what(self) -> str:
        return f"reward {self.name!r}, {place(reward.functions[self.name])}"

    def _values(self, completions: list[str], read: Columns, what: str) -> list[object]:
        # Copies: a function that changes its lists must not change the others' columns.
        copies = {name: list(values) for name, values in read.items()}
        returned = reward.call(
            self.name, f" on {what}", list(completions), **copies, **self.options
        )
        return as_list(returned, len(completions), self._what())

    def _one_by_one(
        self,
        completions: list[str],
        read: Columns,
        columns: Columns,
        stop: bool,
        error: RecipeError,
    ) -> list[object]:
        """Ask about each completion by itself, to learn on which the function fails.

        Raises:
            RecipeError: the first failure where ``stop``; ``error``, that of all completions
                together, where the function fails on none by itself.
        """
        values: list[object] = []
        for index, completion in enumerate(completions):
            one = {name: [column[index]] for name, column in read.items()}
            try:
                values += self._values([completion], one, _row(completions, columns, index))
            except RecipeError as failure:
                if stop:
                    raise RecipeError(
                        f"{failure}, or let such rows count with on_error: count"
                    ) from error
                values.append(failure)
        if not any(isinstance(value, RecipeError) for value in values):
            raise error
        return values

    def judge(
        self,
        completions: list[str],
        columns: Columns,
        truncated: Sequence[bool] | None = None,
    ) -> Judgement:
        """Judge ``completions``; ``None`` means not judged.

        Args:
            completions: texts of the policy.
            columns: dataset columns, one entry per completion.
            truncated: which completions were cut off; such a one counts as truncated unless it is
                correct as far as it goes.

        Raises:
            RecipeError: the function fails, and ``on_error`` is stop.
        """
        results = self._results(completions, columns, stop=self.on_error == "stop")
        cut = truncated or [False] * len(results)
        judgement = Judgement([], Counter())
        for result, is_cut in zip(results, cut, strict=True):
            if isinstance(result, RecipeError):
                judgement.failures.append(str(result))
                result = None
            if isinstance(result, Verdict):
                # A gold answer that cannot be read is a fault of the data, cut off or not.
                kept = result.status in ("correct", "gold_unparsable")
                judgement.statuses["truncated" if is_cut and not kept else result.status] += 1
                result = self._number(result)
            judgement.rewards.append(result)
        return judgement

    def _number(self, verdict: Verdict) -> float | None:
        """Return a verdict's reward; a gold answer that cannot be read rewards nobody."""
        if verdict.reward is not None:
            return verdict.reward
        if verdict.status == "gold_unparsable":
            return None
        key, default = ("correct", 1.0) if verdict.status == "correct" else ("wrong", 0.0)
        return self.options.get(key, default)

    def __call__(self, completions: list[str], columns: Columns) -> list[float | None]:
        return self.judge(completions, columns).rewards


def _row(completions: list[str], columns: Columns, index: int) -> str:
    """Name one of the completions: its row's id where that is known, and how it begins."""
    ids = columns.get("id")
    row = f"completion {index + 1}" if ids is None else f"the row {ids[index]!r}"
    return f"{row}, completion {shortened(completions[index])}"


def check_columns(calls: Iterable[RewardCall], row: Mapping[str, Any]) -> None:
    """Raise where a reward reads a column that the rows of the dataset do not have."""
    for call in calls:
        for column in call.columns:
            if column not in row:
                raise RecipeError(
                    f"rewards: {call.name!r} reads the column {column!r}, which the dataset does "
                    f"not have; it has {', '.join(row)}"
                )


def parse_reward(spec: dict[str, Any], where: str) -> RewardCall:
    """Return the reward of a recipe's entry; ``weight`` and ``on_error`` are keys of all."""
    name, options = pop_name(spec, "name", where)
    weight = check_value(options.pop("weight", 1.0), float, f"{where}.weight")
    # Popped, since the function itself takes neither key.
    on_error = check_value(options.pop("on_error", "stop"), OnError, f"{where}.on_error")
    checked = reward.check(name, options, where)
    for key, value in {"weight": weight, **checked}.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise RecipeError(f"{where}.{key}: must be a finite number, got {value}")
    return RewardCall(name, checked, weight, on_error)


def parse_rewards(specs: Iterable[dict[str, Any]]) -> list[RewardCall]:
    """Return the reward calls of a recipe; two calls of one function are an error."""
    calls = [parse_reward(spec, f"rewards[{index}]") for index, spec in enumerate(specs)]
    names = [call.name for call in calls]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"rewards: {name!r} stands there twice; keep one and set its weight")
    return calls
