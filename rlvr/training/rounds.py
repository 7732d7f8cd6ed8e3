"""The sums of dynamic sampling: useful groups, how many to try, and metrics over several rounds."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor


def total_rewards(rewards: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sums (N,) of ``rewards`` (N, functions); NaN where nothing was judged."""
    totals = (rewards * weights.to(rewards.device)).nansum(dim=1)
    return totals.masked_fill(rewards.isnan().all(dim=1), float("nan"))


def useful_groups(totals: Tensor, size: int) -> Tensor:
    """Tell which groups teach something: all ``size`` rewards are judged and at least two differ.

    Compared exactly: a standard deviation of equal float32 numbers need not be 0.
    """
    groups = totals.view(-1, size)
    return groups.isfinite().all(dim=1) & (groups.amax(dim=1) > groups.amin(dim=1))


def groups_to_try(missing: int, useful: int, generated: int) -> int:
    """Return how many groups to generate for ``missing`` useful ones, after the share so far.

    Let p be the share of useful groups and m the missing ones. The number of groups it takes is
    negative binomial: mean m / p, standard deviation sqrt(m (1 - p)) / p. Half a standard deviation
    is added, because one more round costs more than a few more groups.
    """
    # Smoothed (Jeffreys prior): no useful group so far must not give an infinite estimate.
    share = (useful + 0.5) / (generated + 1)
    return math.ceil((missing + 0.5 * math.sqrt(missing * (1 - share))) / share)


def join_lengths(metrics: Mapping[str, list[float]], rows: Sequence[int]) -> None:
    """Replace TRL's length metrics of the single rounds by those of all rounds together.

    The last ``len(rows)`` values of each metric become one; ``rows`` counts the completions of
    each round.
    """
    count = len(rows)
    clipped = metrics["completions/clipped_ratio"][-count:]
    # Means over terminated completions weigh a round by how many it has of those.
    ended = [number * (1 - share) for number, share in zip(rows, clipped, strict=True)]
    for key, values in metrics.items():
        if not key.startswith("completions/"):
            continue
        weights = ended if "_terminated_" in key else rows
        weighted = [pair for pair in zip(values[-count:], weights, strict=True) if pair[1] > 0]
        values[-count:] = [_joined(key.removeprefix("completions/"), weighted)]


def _joined(name: str, weighted: list[tuple[float, float]]) -> float:
    values = [value for value, _ in weighted]
    if name.startswith(("min_", "max_")):
        return (min if name.startswith("min_") else max)(values, default=0.0)
    total = sum(weight for _, weight in weighted)
    return sum(value * weight for value, weight in weighted) / total if weighted else 0.0


def join_pending(pending: Mapping[str, list[float]], rows: Sequence[int]) -> None:
    """Make what rewards logged in each round one value: a sum of seconds and counts, else a mean.

    Restarts of workers are counted from the start of the run, so the last value holds them all.
    """
    for key, values in pending.items():
        if key.endswith(("/seconds", "/unjudged")):
            values[:] = [sum(values)]
        elif key.endswith("restarts"):
            values[:] = values[-1:]
        else:
            weights = rows[-len(values) :]
            total = sum(value * weight for value, weight in zip(values, weights, strict=True))
            values[:] = [total / sum(weights)]
