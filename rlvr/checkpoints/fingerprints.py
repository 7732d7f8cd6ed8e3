"""Fingerprints and checksums of weights, each of which says what it is of: values or bits."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

_MIX = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed integer: an odd multiplier
_CHUNK = 1 << 24  # entries per pass of a checksum, which bounds its memory


def fingerprint_values(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return one SHA-256 of named weights, the same for whatever order or dtype holds the values.

    It covers the sorted names with shapes and values; values as float32 (float64 for float64), so
    that bf16 files and the float32 weights which were loaded from them have one fingerprint.
    """
    lines = []
    for name, tensor in tensors:
        data = tensor.detach().cpu()
        data = data.contiguous() if data.dtype == torch.float64 else data.float().contiguous()
        values = data.view(-1).view(torch.uint8).numpy().data if data.numel() else b""
        lines.append(f"{name} {tuple(data.shape)} {hashlib.sha256(values).hexdigest()}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def checksum(tensor: Tensor, keep: Tensor | None = None) -> int:
    r"""Return a 64-bit checksum of the values of ``tensor`` where ``keep`` is true.

    .. math:: \sum_i \mathrm{keep}_i \, b_i \, (i c \lor 1) \bmod 2^{64}

    with :math:`b_i` the bits of entry i in float32 (float64 for float64), so that an engine which
    holds the same values in another dtype gives the same checksum. Each factor is odd, hence
    invertible, so a change of any one entry is always seen. Runs on the tensor's own device.
    """
    flat = tensor.detach().reshape(-1)
    wide = flat.dtype == torch.float64
    keep = None if keep is None else keep.reshape(-1)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for start in range(0, flat.numel(), _CHUNK):
        part = flat[start : start + _CHUNK]
        # A view, not a conversion: -0.0 and NaN payloads count too.
        bits = part.view(torch.int64) if wide else part.float().view(torch.int32)
        # A copy even of int64: the product below is in place.
        values = bits.to(torch.int64, copy=True)
        if keep is not None:
            values *= keep[start : start + _CHUNK]
        index = torch.arange(start, start + values.numel(), device=tensor.device)
        # int64 products and sums wrap modulo 2^64, and addition does not depend on the order.
        total += (values * (index * _MIX | 1)).sum()
    return int(total)
