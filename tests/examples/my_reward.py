"""A reward of one's own: a number for each completion.

plugins: [my_reward]
rewards: [{name: math}, {name: near_miss, weight: 0.2, scale: 10.0}]
"""

import re

from rlvr.registry import reward


@reward
def near_miss(
    completions: list[str], answer: list[str], *, scale: float = 5.0
) -> list[float | None]:
    """Return 1 for the right last number, less for one that is off, 0 without a number.

    ``answer`` is a column of the dataset, with one value for each completion. A gold answer that is
    no integer cannot be judged: None.
    """
    return [closeness(*pair, scale) for pair in zip(completions, answer, strict=True)]


def closeness(completion: str, answer: str, scale: float) -> float | None:
    if not re.fullmatch(r"-?\d+", answer):
        return None
    numbers = re.findall(r"-?\d+", completion)
    if not numbers:
        return 0.0
    return 1 / (1 + abs(int(numbers[-1]) - int(answer)) / scale)
