"""Verifiable rewards. Importing this package registers them."""

from rlvr.rewards.arithmetic import arithmetic
from rlvr.rewards.calls import RewardCall, check_columns, parse_reward, parse_rewards

__all__ = ["RewardCall", "arithmetic", "check_columns", "parse_reward", "parse_rewards"]
