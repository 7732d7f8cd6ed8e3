"""Verifiable rewards. Importing this package registers them."""

from rlvr.rewards.calls import (
    Judgement,
    RewardCall,
    check_columns,
    parse_reward,
    parse_rewards,
)
from rlvr.rewards.limit import UnverifiedLimit
from rlvr.rewards.math import math
from rlvr.rewards.pool import restarts
from rlvr.rewards.verdict import Status, Verdict

__all__ = [
    "Judgement",
    "RewardCall",
    "Status",
    "UnverifiedLimit",
    "Verdict",
    "check_columns",
    "math",
    "parse_reward",
    "parse_rewards",
    "restarts",
]
