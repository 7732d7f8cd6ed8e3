r"""Seconds of one optimizer step, split into its parts: a roofline with a share for each part.

With P the entries of the matrix products, s the tokens of a sequence and L the blocks:

- forward and backward passes take :math:`2P + 2 L q s` operations a token and pass (half of all
  pairs of positions, two products each); a backward pass is two passes, one where an adapter's base
  needs no gradient of its weights; recomputed activations are one more, and so are the log-probs of
  the sampling policy where a generation serves several steps;
- drawing tokens reads the weights and the cached keys and values once for each token of all rows
  together, and computes one pass; the devices of one engine share both;
- the optimizer reads and writes what it moves. A GPU reads 32 bytes at a time: at density d it
  touches 1 - (1 - d)^n of the sectors of n entries;
- gradients are averaged, weights gathered and the sampler's copy pushed through the links.
"""

from dataclasses import dataclass, replace

from rlvr.costs.hardware import CORES, VERDICT_SECONDS, Hardware
from rlvr.costs.memory import Setting
from rlvr.costs.sampler import cache_bytes

SECTOR = 32  # bytes that a GPU reads or writes at least
WAVE = 256  # rows that one engine of vLLM computes at a time, unless its cache holds fewer


@dataclass(frozen=True)
class Batch:
    """Completions of one optimizer step and of one generation, on all processes together.

    ``mean`` is the mean share of the longest completion that a completion has.
    """

    step: int
    generation: int
    mean: float = 0.5

    @property
    def updates(self) -> float:
        return self.generation / self.step


@dataclass(frozen=True)
class Seconds:
    """One optimizer step; a generation counts with the share that this step has of it."""

    rollout: float
    verification: float
    passes: float
    optimizer: float
    sync: float

    @property
    def total(self) -> float:
        return self.rollout + self.verification + self.passes + self.optimizer + self.sync


def step_seconds(
    setting: Setting,
    engine: str,
    processes: int,
    batch: Batch,
    hardware: Hardware,
    *,
    ranks: int = 1,
    cached: float = WAVE,
) -> Seconds:
    """Return what one optimizer step takes on ``processes`` devices.

    ``ranks`` devices are one engine of the sampler, whose cache holds ``cached`` completions.
    """
    prompt = setting.length - setting.completion
    mean = replace(
        setting,
        length=prompt + round(batch.mean * setting.completion),
        completion=round(batch.mean * setting.completion),
    )
    each = batch.step / processes
    micro_batches = max(1.0, each / setting.rows)
    return Seconds(
        rollout=rollout_seconds(mean, each, hardware, ranks, cached / batch.mean),
        verification=each * VERDICT_SECONDS / CORES,
        passes=pass_seconds(mean, each, batch.updates > 1, hardware),
        optimizer=optimizer_seconds(setting, engine, processes, hardware),
        sync=sync_seconds(setting, engine, processes, micro_batches, batch.updates, hardware),
    )


def token_operations(setting: Setting) -> float:
    """Return the operations of one pass over one token, at the mean position."""
    shape = setting.shape
    # Scores and values: two products of 2 s q operations, and half of the positions are masked.
    attention = 2 * shape.layers * shape.queries * setting.length
    return 2 * (shape.matrices + shape.head) + attention


def pass_seconds(setting: Setting, rows: float, scored_before: bool, hardware: Hardware) -> float:
    passes = 2.0 if setting.trained.kind == "adapter" else 3.0
    passes += setting.checkpointing + scored_before
    operations = passes * rows * setting.length * token_operations(setting)
    return operations / (hardware.flops * hardware.train_share)


def rollout_seconds(
    setting: Setting, rows: float, hardware: Hardware, ranks: int, cached: float
) -> float:
    """Return the seconds in which engines of ``ranks`` devices draw ``rows`` for each device."""
    shape = setting.shape
    at_once = min(rows * ranks, WAVE, max(cached, 1.0))
    cache = cache_bytes(shape) * (setting.length - setting.completion / 2)
    read = (2 * (shape.matrices + shape.head) + at_once * cache) / ranks
    computed = at_once * token_operations(setting) / ranks
    moment = max(
        read / (hardware.bandwidth * hardware.decode_share),
        computed / (hardware.flops * hardware.train_share),
    )
    return rows * ranks / at_once * setting.completion * moment


def optimizer_bytes(setting: Setting) -> float:
    """Return the bytes that a step reads and writes, on one process that holds everything."""
    trained, width = setting.trained, setting.width
    if trained.kind != "mask":
        adapter = trained.kind == "adapter"
        held = 4 if adapter else width  # weight, gradient and moments have one dtype
        return 7 * held * trained.entries
    density = trained.moving / trained.entries
    touched = 1 - (1 - density) ** (SECTOR // width)
    scattered = width * trained.entries * touched  # each of them in the weights' own order
    gradient = 4 * trained.moving if setting.free_gradients else scattered
    moments = 16 * trained.moving + (8 * trained.moving if width == 2 and setting.masters else 0)
    # The hook reads and writes a whole gradient before; freed ones are gathered once.
    restricted = scattered if setting.free_gradients else 2 * width * trained.entries
    return trained.entries / 8 + 2 * scattered + gradient + moments + restricted


def optimizer_seconds(setting: Setting, engine: str, processes: int, hardware: Hardware) -> float:
    entries, moved = setting.trained.entries, optimizer_bytes(setting)
    if engine.startswith("ZeRO"):
        # Dense float32 masters, moments and gradients, whatever the mask.
        moved = 28 * entries / processes
        if engine.endswith("offload"):
            return moved / hardware.host
    elif engine == "FSDP2":
        moved /= processes
    return moved / (hardware.bandwidth * hardware.step_share)


def _speed(processes: int, hardware: Hardware) -> float:
    """Return the bytes a second that each device sends where ``processes`` share a sum."""
    slowest = hardware.link if processes <= hardware.devices else hardware.network
    return slowest * hardware.link_share


def sync_seconds(
    setting: Setting,
    engine: str,
    processes: int,
    micro_batches: float,
    updates: float,
    hardware: Hardware,
) -> float:
    """Return the seconds of gradients, gathered weights and the push to the sampler, unhidden."""
    trained, compute = setting.trained, setting.compute
    weights = compute * setting.shape.parameters
    push = weights / (hardware.bandwidth * hardware.step_share) / updates
    if processes == 1:
        return push
    others, speed = (processes - 1) / processes, _speed(processes, hardware)
    width = 4 if trained.kind == "adapter" else setting.width
    if engine in ("DDP", "ZeRO-1", "ZeRO-2"):
        # The sum is sent around once to add it up and once to hand it out.
        return push + 2 * others * width * trained.entries / speed
    passes = (2 + setting.checkpointing) * micro_batches
    sums = 1.0 if engine == "FSDP2" else micro_batches  # DeepSpeed divides after each pass
    moved = (passes + 1 / updates) * weights + sums * compute * trained.entries
    host = 2 * micro_batches * weights / hardware.host if engine.endswith("offload") else 0.0
    return push + others * moved / speed + host
