"""Evaluation: sampling, avg@k and pass@k with intervals, and the KL to the base policy."""

from rlvr.eval.divergence import KLEstimate, token_kl
from rlvr.eval.evaluate import EvalResult, EvalSettings, evaluate, read_result
from rlvr.eval.metrics import avg_at_k, pass_at_k
from rlvr.eval.sampling import Completion, sample
from rlvr.intervals import (
    Estimate,
    bootstrap_interval,
    paired_bootstrap_difference,
    wilson_interval,
)

__all__ = [
    "Completion",
    "EvalResult",
    "EvalSettings",
    "Estimate",
    "KLEstimate",
    "avg_at_k",
    "bootstrap_interval",
    "evaluate",
    "paired_bootstrap_difference",
    "pass_at_k",
    "read_result",
    "sample",
    "token_kl",
    "wilson_interval",
]
