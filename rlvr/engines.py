"""What differs between the engines: where a parameter is, and who restricts its gradient.

One process and DDP hold whole parameters, and the masked optimizer does the rest. FSDP2 replaces
each parameter by a shard of its rows once the optimizer is made; a rank restricts and updates the
rows that it holds. DeepSpeed puts its own flat optimizer around each step, in which states of
single entries have no place: there the gradient is restricted by a hook before DeepSpeed reduces
it. The dense AdamW does not move an entry with zero gradient and zero moments. Weight decay would
still move it and is refused.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from rlvr import runtime
from rlvr.masks import Mask
from rlvr.masks.bits import unpack_bits
from rlvr.precision import precision_of
from rlvr.schema import RecipeError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import TrainingArguments

FSDP2 = "FSDP2"


def engine_name(args: "TrainingArguments") -> str:
    """Return the engine that the launcher asked for; ``require_engine`` makes it true."""
    if args.deepspeed_plugin is not None:
        return f"DeepSpeed ZeRO-{args.deepspeed_plugin.zero_stage}"
    if runtime.launched_fsdp():
        return FSDP2
    return "DDP" if args.world_size > 1 else "one process"


def require_engine(accelerator: "Accelerator") -> None:
    """Raise where accelerate runs another engine than its launch file names.

    accelerate runs FSDP only on accelerators; on CPUs it silently runs plain DDP instead.
    """
    if runtime.launched_fsdp() and not accelerator.is_fsdp2:
        raise RecipeError(
            f"the launch file asks for FSDP, and accelerate runs {accelerator.distributed_type}, "
            "as it does without GPUs; launch with launch/ddp_cpu.yaml here"
        )


def local(tensor: Tensor) -> Tensor:
    """Return what this rank holds of ``tensor``, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def local_rows(parameter: Tensor) -> slice:
    """Return the rows of dimension 0 that this rank holds.

    Raises:
        ValueError: the parameter is divided in another way than by rows.
    """
    if not isinstance(parameter, DTensor):
        # A scalar counts as one row.
        return slice(0, parameter.shape[0] if parameter.ndim else 1)
    if not all(isinstance(p, Replicate) or p == Shard(0) for p in parameter.placements):
        raise ValueError(f"parameter is placed as {parameter.placements}; shard it by rows")
    shape, offset = compute_local_shape_and_global_offset(
        parameter.shape, parameter.device_mesh, parameter.placements
    )
    return slice(offset[0], offset[0] + shape[0])


def local_mask(mask: Mask, name: str, parameter: Tensor) -> tuple[Mask, int]:
    """Return the mask of this rank's rows, and how many moving entries come before them."""
    if not isinstance(parameter, DTensor):
        return mask, 0
    whole, rows = mask[name], local_rows(parameter)
    # Compact state is numbered by moving entries, so a shard starts at this number.
    before = int(whole[: rows.start].sum())
    return Mask.from_bools({name: whole[rows]}), before


@contextmanager
def whole(parameter: Tensor) -> Iterator[Tensor]:
    """Yield all of ``parameter`` on every rank; every rank must ask, in the same order."""
    if isinstance(parameter, DTensor):
        # A copy: writes to it do not reach the shards.
        yield parameter.full_tensor()
        return
    # ds_id is the mark of a parameter that ZeRO-3 has scattered.
    if not hasattr(parameter, "ds_id"):
        yield parameter
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        yield parameter


@contextmanager
def held(parameter: Tensor) -> Iterator[Tensor]:
    """Yield the rows that this rank holds, or all where an engine can only give all (ZeRO-3)."""
    if isinstance(parameter, DTensor):
        yield parameter.to_local()
        return
    with whole(parameter) as gathered:
        yield gathered


def reshard(model: nn.Module) -> None:
    """Make the shards of FSDP2 the parameters again, where a forward has left them gathered.

    The last units of a model stay gathered: their parameters are then plain copies, which hide the
    shards from a reader and outlive a write to them.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def total(count: int, parameters: Iterable[Tensor]) -> int:
    """Return the sum of ``count`` over the ranks that hold the shards; ``count`` without shards."""
    shard = next((p for p in parameters if isinstance(p, DTensor)), None)
    if shard is None:
        return count
    counts = torch.tensor(count, device=shard.device_mesh.device_type)
    for dimension, placement in enumerate(shard.placements):
        # Replicas hold the same entries, which must be counted once.
        if placement.is_shard():
            distributed.all_reduce(counts, group=shard.device_mesh.get_group(dimension))
    return int(counts)


def load_shards(model: nn.Module, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Write whole weights into the shards that this rank holds.

    Raises:
        RecipeError: a name that the model does not have.
    """
    reshard(model)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in weights:
            if name not in parameters:
                raise RecipeError(f"checkpoint: holds {name!r}, which this model does not have")
            local(parameters[name]).copy_(weight[local_rows(parameters[name])])


@contextmanager
def loading_whole(args: "TrainingArguments") -> Iterator[torch.device | None]:
    """Load every matrix whole in the body, on the device that is yielded.

    Masks and base values need whole matrices. Under ZeRO-3 transformers would scatter the weights
    while it loads them; here DeepSpeed scatters them afterwards, from the CPU. Under FSDP2 they
    are sharded from the CPU too; where the launch file lets only rank 0 load them, the other
    ranks hold no values until then.
    """
    if args.deepspeed_plugin is None:
        yield None if runtime.launched_fsdp() else args.device
        return
    import deepspeed
    from transformers.integrations import deepspeed as integration

    # On CPUs accelerate leaves this out, and DeepSpeed takes the world for one process when a
    # second model, the reference, is loaded before its engine starts.
    deepspeed.init_distributed(dist_backend=distributed.get_backend())
    integration.unset_hf_deepspeed_config()
    try:
        yield None
    finally:
        integration.set_hf_deepspeed_config(args.deepspeed_plugin.dschf)


def forget_engine(args: "TrainingArguments") -> None:
    """Load models whole from here on: transformers would scatter each one as ZeRO-3 did the first.

    After training only the main process loads any, and there is no group to scatter among.
    """
    if args.deepspeed_plugin is not None:
        from transformers.integrations import deepspeed as integration

        integration.unset_hf_deepspeed_config()


def require_exact_base(args: "TrainingArguments", weights: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse a base that DeepSpeed would round when it makes its own half-precision weights.

    Its float32 masters start from the rounded values, so every entry would seem to have moved.

    Raises:
        RecipeError: names the first tensor with a value that the engine's dtype lacks.
    """
    dtype = precision_of(args, torch.float32).weights
    if dtype == torch.float32:
        return
    for name, weight in weights:
        if not torch.equal(weight, weight.to(dtype).to(weight.dtype)):
            raise RecipeError(
                f"model.path: {name!r} holds values that {dtype} lacks, to which DeepSpeed would "
                "round the base before the first step; launch with DDP or FSDP2, or set "
                "trainer.bf16 to false"
            )


def restrict_gradients(model: nn.Module, mask: Mask) -> None:
    """Restrict each gradient to its mask before an engine reduces it, with accumulation or not."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # A tensor hook runs before DeepSpeed sees the gradient; hooks on .grad come too late.
            parameter.register_hook(_restriction(mask, name))


def _restriction(mask: Mask, name: str) -> Callable[[Tensor], Tensor]:
    bits, shape = mask.bits[name], mask.shapes[name]

    def restrict(gradient: Tensor) -> Tensor:
        nonlocal bits
        # Moved once, at the first gradient; afterwards this is free.
        bits = bits.to(gradient.device)
        # A product would let NaN and infinity of frozen entries through.
        return torch.where(unpack_bits(bits, shape), gradient, torch.zeros_like(gradient))

    return restrict
