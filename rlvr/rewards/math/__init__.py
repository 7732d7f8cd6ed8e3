"""The verifier of mathematical answers; importing it registers the reward ``math``."""

from rlvr.rewards.math.reward import math
from rlvr.rewards.math.verify import verify, verify_batch

__all__ = ["math", "verify", "verify_batch"]
