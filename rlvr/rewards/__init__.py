"""Verifiable rewards. Importing this package registers them."""

import rlvr.rewards.math  # noqa: F401  (registers it; its name stays the module's)
from rlvr.isolation.pool import restarts
from rlvr.rewards.calls import (
    Judgement,
    RewardCall,
    check_columns,
    parse_reward,
    parse_rewards,
)
from rlvr.rewards.choice import choice
from rlvr.rewards.countdown import countdown
from rlvr.rewards.json_schema import json_schema
from rlvr.rewards.lengths import length, overlong, repetition
from rlvr.rewards.limit import UnverifiedLimit
from rlvr.rewards.python_tests import python_tests
from rlvr.rewards.reasoning_gym import reasoning_gym
from rlvr.rewards.structure import format
from rlvr.verdict import Status, Verdict

__all__ = [
    "Judgement",
    "RewardCall",
    "Status",
    "UnverifiedLimit",
    "Verdict",
    "check_columns",
    "choice",
    "countdown",
    "format",
    "json_schema",
    "length",
    "overlong",
    "parse_reward",
    "parse_rewards",
    "python_tests",
    "reasoning_gym",
    "repetition",
    "restarts",
]
