"""From the ``rewards:`` list of a recipe to functions of completions and dataset columns."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rlvr.config import pop_name
from rlvr.registry import reward
from rlvr.schema import RecipeError, check_value


@dataclass(frozen=True)
class RewardCall:
    """One registered reward with its options bound and its weight in the sum."""

    name: str
    options: dict[str, Any]
    weight: float = 1.0

    @property
    def columns(self) -> list[str]:
        """Names of the dataset columns that the function reads."""
        parameters = inspect.signature(reward.functions[self.name]).parameters.values()
        positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        return positional[1:]

    def __call__(
        self, completions: list[str], columns: Mapping[str, list[Any]]
    ) -> list[float | None]:
        """Judge ``completions``; ``None`` means not judged."""
        function = reward.functions[self.name]
        arguments = [columns[name] for name in self.columns]
        return function(completions, *arguments, **self.options)


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
