"""RLVR with update masks: an adapter changes what the policy is, a mask how it may move."""

__version__ = "0.1.0"
