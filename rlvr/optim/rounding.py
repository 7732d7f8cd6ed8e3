r"""Stochastic rounding of float32 to bfloat16: unbiased, where nearest loses small updates.

A float32 x between the neighbouring bfloat16 numbers a and b, |a| < |b|, becomes b with
probability (|x| - |a|) / (|b| - |a|), so that E[round(x)] = x. A bfloat16 is the upper half of a
float32: add a uniform 16-bit integer to the bits, then drop the lower half. arXiv 2010.06192
studies this rounding of trained weights.
"""

import hashlib

import torch
from jaxtyping import BFloat16, Float32
from torch import Tensor

_INT64_MIN = -(1 << 63)


def seed_of(seed: int, name: str, step: int) -> int:
    """Return the seed of one parameter's rounding at one step, a 63-bit integer.

    It depends on nothing else: a resumed run needs only the saved step to round as before, and all
    processes of a distributed run round alike.
    """
    digest = hashlib.sha256(f"{seed}:{name}:{step}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def round_stochastically(
    values: Float32[Tensor, " k"], generator: torch.Generator
) -> BFloat16[Tensor, " k"]:
    """Return the float32 vector ``values`` in bfloat16; NaN, infinities and bfloat16s stay."""
    # One 64-bit draw rounds four values; a signed 16-bit view of it is uniform as well.
    draws = torch.empty(-(-values.numel() // 4), dtype=torch.int64, device=values.device)
    # The full range of int64: from 0 the top bit of every fourth value would always be 0.
    draws.random_(_INT64_MIN, None, generator=generator)
    noise = draws.view(torch.int16)[: values.numel()].to(torch.int32) & 0xFFFF
    bits = (values.contiguous().view(torch.int32) + noise) & -0x10000
    # The bits of a NaN could carry into the sign and become a number.
    return torch.where(values.isfinite(), bits.view(torch.float32), values).to(torch.bfloat16)
