"""The update of one parameter in one pass over its memory, as a Triton kernel for CUDA.

Numbers are those of the eager path up to the rounding of fused multiply-adds; stochastic rounding
draws from a counter-based generator of its own. A tile's moving entries are numbered by a prefix
sum over its bits, so that no position is ever stored.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from rlvr.masks import Mask
from rlvr.optim.entries import Entries
from rlvr.optim.rule import adamw

TILE = 2048  # entries; one int32 start per tile is 1/512 byte per entry
MAX_ENTRIES = 1 << 30  # entries are numbered in 32 bits


@triton.jit
def _round_to_bf16(value, seed, entry, STOCHASTIC: tl.constexpr):
    """Return the float32 that holds the bfloat16; NaN and infinities stay."""
    bits = value.to(tl.int32, bitcast=True)
    if STOCHASTIC:
        noise = tl.randint(seed, entry).to(tl.int32, bitcast=True) & 0xFFFF
    else:
        noise = 0x7FFF + ((bits >> 16) & 1)  # to nearest; the kept last bit breaks ties to even
    # A bfloat16 is the upper half of a float32: add, then clear the lower 16 bits.
    rounded = (bits + noise) & -65536
    is_finite = (bits & 0x7F800000) != 0x7F800000
    return tl.where(is_finite, rounded, bits).to(tl.float32, bitcast=True)


@triton.jit
def _update(
    weights,
    grads,
    means,
    mean_sqs,
    masters,
    bits,
    starts,
    numel,
    seed,
    decay,
    rate1,
    beta2,
    rate2,
    step_size,
    bias2,
    eps,
    TILE: tl.constexpr,
    COMPACT: tl.constexpr,
    MASTER: tl.constexpr,
    STOCHASTIC: tl.constexpr,
):
    tile = tl.program_id(0)
    entry = tile * TILE + tl.arange(0, TILE)
    byte = tl.load(bits + entry // 8, mask=entry < numel, other=0).to(tl.int32)
    bit = (byte >> (entry % 8)) & 1
    moves = bit == 1
    # The rank of each moving entry among all: where its state is in the compact vectors.
    place = tl.load(starts + tile) + tl.cumsum(bit, 0) - bit
    if COMPACT:
        grad = tl.load(grads + place, mask=moves, other=0.0)
    else:
        grad = tl.load(grads + entry, mask=moves, other=0.0).to(tl.float32)
    if MASTER:
        weight = tl.load(masters + place, mask=moves, other=0.0)
    else:
        weight = tl.load(weights + entry, mask=moves, other=0.0).to(tl.float32)
    mean = tl.load(means + place, mask=moves, other=0.0)
    mean_sq = tl.load(mean_sqs + place, mask=moves, other=0.0)
    mean += rate1 * (grad - mean)
    mean_sq = mean_sq * beta2 + rate2 * grad * grad
    # div_rn and sqrt_rn round to nearest as torch does; plain / and sqrt are approximate on GPUs.
    scale = tl.div_rn(tl.sqrt_rn(mean_sq), bias2) + eps
    weight = weight * decay - step_size * tl.div_rn(mean, scale)
    tl.store(means + place, mean, mask=moves)
    tl.store(mean_sqs + place, mean_sq, mask=moves)
    # The master keeps all 32 bits; only what goes into the weight is rounded.
    if MASTER:
        tl.store(masters + place, weight, mask=moves)
    if weights.dtype.element_ty == tl.bfloat16:
        weight = _round_to_bf16(weight, seed, entry, STOCHASTIC)
    tl.store(weights + entry, weight.to(weights.dtype.element_ty), mask=moves)


def fused_update(
    parameter: Tensor,
    gradient: Tensor,
    entries: Entries,
    state: dict[str, Any],
    group: dict[str, Any],
    *,
    is_compact: bool,
    seed: int | None,
) -> None:
    """Take AdamW's step ``state["step"]`` on the ``entries`` of ``parameter``, in place.

    ``gradient`` is the vector over the entries if ``is_compact``, else of the parameter's shape.
    With a ``seed`` the weights are rounded stochastically.
    """
    step, lr, (beta1, beta2) = state["step"].item(), group["lr"], group["betas"]
    master = state.get("master")
    with torch.cuda.device_of(parameter):  # a kernel is launched on the current device
        launch = _update[(triton.cdiv(entries.numel, TILE),)]  # pyright: ignore[reportIndexIssue]
        launch(
            parameter,
            gradient.contiguous(),
            state["exp_avg"],
            state["exp_avg_sq"],
            parameter if master is None else master,
            entries.bits,
            entries.tile_starts(TILE),
            entries.numel,
            0 if seed is None else seed,
            1 - lr * group["weight_decay"],
            1 - beta1,
            beta2,
            1 - beta2,
            lr / (1 - beta1**step),
            (1 - beta2**step) ** 0.5,
            group["eps"],
            TILE=TILE,
            COMPACT=is_compact,
            MASTER=master is not None,
            STOCHASTIC=seed is not None,
            num_warps=8,  # pyright: ignore[reportCallIssue]
        )


@dataclass(frozen=True)
class Mode:
    """One compiled variant of the kernel: what its pointers hold, and how it rounds."""

    weights: torch.dtype
    gradients: torch.dtype
    compact: bool
    master: bool
    stochastic: bool


@cache
def kernel_agrees(device: torch.device, mode: Mode) -> bool:
    """Return whether the kernel takes the eager step on ``device``, on a parameter of two tiles.

    Compiled code differs between GPUs, versions of Triton and modes; this costs milliseconds, once
    for each mode of a run.
    """
    generator = torch.Generator().manual_seed(0)
    # Seven entries more than a tile: a partial second tile with an unused bit in its last byte.
    bools = torch.rand(TILE + 7, generator=generator) < 0.5
    entries = Entries(Mask.from_bools({"probe": bools}), "probe", device)
    draws = torch.randn(3, TILE + 7, generator=generator).to(device)
    weights, gradient = draws[0].to(mode.weights), draws[1].to(mode.gradients)
    before, mean, grads = weights.clone(), entries.gather(draws[2]), entries.gather(gradient)
    group = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    state = {"step": torch.tensor(3.0), "exp_avg": mean.clone(), "exp_avg_sq": mean.square()}
    expected, mean_sq = entries.gather(weights), mean.square()
    if mode.master:
        state["master"] = expected.clone()
    given, seed = (grads if mode.compact else gradient), (7 if mode.stochastic else None)
    fused_update(weights, given, entries, state, group, is_compact=mode.compact, seed=seed)
    adamw(expected, grads, mean, mean_sq, 3, group)
    rtol, atol = _rounding_error(mode), 1e-6
    return (
        torch.allclose(entries.gather(weights), expected, rtol=rtol, atol=atol)
        and (not mode.master or torch.allclose(state["master"], expected, rtol=1e-5, atol=atol))
        and torch.allclose(state["exp_avg"], mean, rtol=1e-5, atol=1e-7)
        and torch.allclose(state["exp_avg_sq"], mean_sq, rtol=1e-5, atol=1e-7)
        and torch.equal(weights.cpu()[~bools], before.cpu()[~bools])
    )


def _rounding_error(mode: Mode) -> float:
    """Return how far, relatively, the weights may lie from what the eager step computes.

    Two neighbours in bfloat16 are at most 2^-7 of a number apart; to nearest is half of that, and
    stochastic rounding takes either neighbour.
    """
    if mode.weights == torch.float32:
        return 1e-5
    return 2**-7 if mode.stochastic else 2**-8 * 1.001
