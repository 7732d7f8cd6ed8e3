"""Rewards for the tests of verdicts in a run; a recipe names this module under ``plugins``."""

import os
import signal

from rlvr.registry import reward
from rlvr.rewards import Verdict
from rlvr.rewards.math import forget, pool, verify_batch

calls = [0]


@reward
def times_x(completions: list[str], answer: list[str]) -> list[Verdict]:
    """Judge the pocket answers times x, which needs workers; kill them in the second step."""
    calls[0] += 1
    if calls[0] == 2:
        for worker in pool()._workers:
            os.kill(worker.process.pid, signal.SIGKILL)
    forget()
    pairs = zip(answer, completions, strict=True)
    return verify_batch([(f"{gold}x", text.replace("}", "x}")) for gold, text in pairs])


@reward
def unreliable(
    completions: list[str], answer: list[str], *, every: int, correct: float = 1.0
) -> list[Verdict]:
    """Return a time-out or a crash for one completion in ``every``."""
    failures = ("timeout", "crashed")
    return [
        Verdict(failures[i // every % 2]) if i % every == 0 else Verdict("correct")
        for i in range(len(completions))
    ]


@reward
def alternating(completions: list[str]) -> list[float]:
    """Reward every other completion, so that every group has a gradient whatever it says."""
    return [float(i % 2) for i in range(len(completions))]
