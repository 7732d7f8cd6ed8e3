"""From the ``rewards:`` list of a recipe to functions of completions and dataset columns."""

import inspect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.config import pop_name
from rlvr.registry import reward
from rlvr.rewards.verdict import Verdict
from rlvr.schema import RecipeError, check_value


@dataclass(frozen=True)
class Judgement:
    """The rewards of some completions, and how often each status occurred (none for numbers)."""

    rewards: list[float | None]
    statuses: Counter[str]


@dataclass(frozen=True)
class RewardCall:
    """One registered reward with its options bound and its weight in the sum.

    The function returns numbers, or verdicts, whose numbers its options ``correct`` and ``wrong``
    give.
    """

    name: str
    options: dict[str, Any]
    weight: float = 1.0

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
        return [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD][1:]

    def apply(self, completions: list[str], columns: Mapping[str, Any]) -> list[Any]:
        """Return what the function returns, numbers or verdicts."""
        arguments = {name: columns[name] for name in self.reads if name in columns}
        return list(reward.functions[self.name](completions, **arguments, **self.options))

    def judge(
        self,
        completions: list[str],
        columns: Mapping[str, list[Any]],
        truncated: Sequence[bool] | None = None,
    ) -> Judgement:
        """Judge ``completions``; ``None`` means not judged.

        Args:
            completions: texts of the policy.
            columns: dataset columns, one entry per completion.
            truncated: which completions were cut off; such a one counts as truncated unless it is
                correct as far as it goes.
        """
        results = self.apply(completions, columns)
        if len(results) != len(completions):
            raise RecipeError(
                f"rewards: {self.name!r} returned {len(results)} rewards for {len(completions)} "
                "completions; it must return one for each"
            )
        cut = truncated or [False] * len(results)
        statuses: Counter[str] = Counter()
        rewards = []
        for result, is_cut in zip(results, cut, strict=True):
            if isinstance(result, Verdict):
                kept = result.status in ("correct", "gold_unparsable")
                statuses["truncated" if is_cut and not kept else result.status] += 1
                rewards.append(self._number(result))
            else:
                rewards.append(result)
        return Judgement(rewards, statuses)

    def _number(self, verdict: Verdict) -> float | None:
        """Return a verdict's reward; a gold answer that cannot be read rewards nobody."""
        if verdict.reward is not None:
            return verdict.reward
        if verdict.status == "gold_unparsable":
            return None
        key, default = ("correct", 1.0) if verdict.status == "correct" else ("wrong", 0.0)
        return self.options.get(key, default)

    def __call__(
        self, completions: list[str], columns: Mapping[str, list[Any]]
    ) -> list[float | None]:
        return self.judge(completions, columns).rewards


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
    name, options = pop_name(spec, "name", where)
    weight = check_value(options.pop("weight", 1.0), float, f"{where}.weight")
    return RewardCall(name, reward.check(name, options, where), weight)


def parse_rewards(specs: Iterable[dict[str, Any]]) -> list[RewardCall]:
    """Return the reward calls of a recipe; two calls of one function are an error."""
    calls = [parse_reward(spec, f"rewards[{index}]") for index, spec in enumerate(specs)]
    names = [call.name for call in calls]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"rewards: {name!r} stands there twice; keep one and set its weight")
    return calls
