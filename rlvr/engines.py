"""What differs between the engines: where a whole parameter is, and who restricts the gradient.

One process and DDP hold whole parameters, and the masked optimizer does the rest. DeepSpeed puts
its own flat optimizer around each step, in which states of single entries have no place: there the
gradient is restricted by a hook before DeepSpeed reduces it, and the dense AdamW leaves an entry
alone whose gradient and moments are zero. Weight decay would still move it and is refused.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from rlvr.masks import Mask
from rlvr.masks.bits import unpack_bits


def engine_name(args: Any) -> str:
    """Return the engine that really runs, for provenance."""
    if args.deepspeed_plugin is not None:
        return f"DeepSpeed ZeRO-{args.deepspeed_plugin.zero_stage}"
    if args.distributed_state.distributed_type == DistributedType.FSDP:
        return "FSDP"
    return "DDP" if args.world_size > 1 else "one process"


def engine_dtype(args: Any) -> torch.dtype:
    """Return the dtype in which the engine keeps weights that are loaded in float32."""
    mixed = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
    return torch.float32 if args.deepspeed_plugin is None else mixed


@contextmanager
def whole(parameter: Tensor) -> Iterator[Tensor]:
    """Yield all of ``parameter`` on every rank; every rank must ask, in the same order."""
    if isinstance(parameter, DTensor):
        yield parameter.full_tensor()
        return
    if not hasattr(parameter, "ds_id"):
        yield parameter
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        yield parameter


@contextmanager
def loading_whole(args: Any) -> Iterator[torch.device | None]:
    """Load every matrix whole in the body, on the device that is yielded.

    Masks and base values need whole matrices. Under ZeRO-3 transformers would scatter the weights
    while it loads them; here DeepSpeed scatters them afterwards, from the CPU.
    """
    if args.deepspeed_plugin is None:
        yield args.device
        return
    from transformers.integrations import deepspeed as integration

    integration.unset_hf_deepspeed_config()
    try:
        yield None
    finally:
        integration.set_hf_deepspeed_config(args.deepspeed_plugin.dschf)


def restrict_gradients(model: nn.Module, mask: Mask) -> None:
    """Restrict each gradient to its mask before an engine reduces it, with accumulation or not."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.register_hook(_restriction(mask, name))


def _restriction(mask: Mask, name: str) -> Callable[[Tensor], Tensor]:
    bits, shape = mask.bits[name], mask.shapes[name]

    def restrict(gradient: Tensor) -> Tensor:
        nonlocal bits
        bits = bits.to(gradient.device)
        # A product would let NaN and infinity of frozen entries through.
        return torch.where(unpack_bits(bits, shape), gradient, torch.zeros_like(gradient))

    return restrict
