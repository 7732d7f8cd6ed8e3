"""Evaluation: sampling, accuracy with intervals, divergence from the base policy."""

from rlvr.eval.evaluate import EvalResult, evaluate, token_kl
from rlvr.eval.metrics import Estimate
from rlvr.eval.sampling import Completion, SamplingSettings, sample

__all__ = [
    "Completion",
    "Estimate",
    "EvalResult",
    "SamplingSettings",
    "evaluate",
    "sample",
    "token_kl",
]
