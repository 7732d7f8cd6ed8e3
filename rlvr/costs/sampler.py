"""The memory of the sampler beside the policy: weights and cached keys and values."""

from dataclasses import dataclass

from rlvr.costs.shapes import Shape

# What vLLM keeps beside weights and cache: activations of its longest batch, graphs, NCCL.
VLLM_BYTES = 2e9
VLLM_SOURCE = "assumed until measured: 2 GB of vLLM beside its weights and cache"


@dataclass(frozen=True)
class Sampler:
    """vLLM in the same process, or none: then the policy itself draws with ``slots`` rows.

    ``share`` of the device's memory is vLLM's while it is awake, on ``ranks`` devices an engine.
    """

    mode: str  # colocate, server or none
    share: float = 0.0
    sleeps: bool = False
    ranks: int = 1
    slots: int = 0


def cache_bytes(shape: Shape, width: int = 2) -> int:
    """Return the bytes of one token's keys and values in all blocks."""
    return 2 * width * shape.layers * shape.keys


def cache_rows(shape: Shape, sampler: Sampler, length: int, device_bytes: float) -> float:
    """Return how many sequences of ``length`` tokens the cache of one engine holds at a time."""
    room = sampler.share * device_bytes - 2 * shape.parameters / sampler.ranks - VLLM_BYTES
    return max(0.0, room * sampler.ranks) / (cache_bytes(shape) * length)


def reserved_bytes(shape: Shape, sampler: Sampler, device_bytes: float) -> float:
    """Return what the sampler holds of one device's memory while the policy trains."""
    if sampler.mode != "colocate" or sampler.sleeps:
        return 0.0
    return sampler.share * device_bytes


def awake_bytes(
    shape: Shape, sampler: Sampler, length: int, device_bytes: float, width: int
) -> float:
    """Return what the sampler holds of one device's memory while it draws."""
    if sampler.mode == "server":
        return 0.0
    if sampler.mode == "colocate":
        return sampler.share * device_bytes
    return sampler.slots * length * cache_bytes(shape, width)
