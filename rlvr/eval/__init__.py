"""Evaluation: sampling, verdicts, rates with intervals, and the KL to the base policy."""

from rlvr.eval.comparison import Comparison, Outcome, compare
from rlvr.eval.divergence import KLEstimate, token_kl
from rlvr.eval.evaluate import EvalResult, EvalSettings, Task, evaluate, read_result
from rlvr.eval.metrics import avg_at_k, bayes_avg, maj_at_k, pass_at_k
from rlvr.eval.sampling import Completion, sample
from rlvr.intervals import (
    Estimate,
    paired_difference,
    problem_interval,
    wilson_interval,
)

__all__ = [
    "Comparison",
    "Completion",
    "EvalResult",
    "EvalSettings",
    "Estimate",
    "KLEstimate",
    "Outcome",
    "Task",
    "avg_at_k",
    "bayes_avg",
    "compare",
    "evaluate",
    "maj_at_k",
    "paired_difference",
    "pass_at_k",
    "problem_interval",
    "read_result",
    "sample",
    "token_kl",
    "wilson_interval",
]
