"""A fault: the sampler keeps the weights that it was loaded with."""

from rlvr.training.vllm import PolicySampler

PolicySampler.sync_weights = lambda self: None
