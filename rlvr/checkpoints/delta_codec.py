"""One chunk of an update as bytes: where entries changed, and the XOR of their bits.

The positions are coded as Rice codes of the gaps between them or as a bitmap, whichever is smaller
after zstd. For n entries of density d at random positions the bound is n H(d) bits; the better of
the two is within 2 % of it from d = 0.001 up. The XORs are split into byte planes (all lowest
bytes, then all second bytes, ...), since a small update leaves the high bytes nearly constant.
"""

from dataclasses import dataclass

import numpy as np
import zstandard
from numpy.typing import NDArray

Bits = NDArray[np.unsignedinteger]

_LEVEL = 3  # zstd; 19 gains 3 % on a trained pocket policy and costs most of the speed
_BITMAP = "bitmap"
_RICE = "rice"  # followed by the number of low bits


@dataclass(frozen=True)
class Coded:
    """A coded chunk of ``changed`` entries; ``coding`` says how its positions are coded."""

    coding: str
    changed: int
    positions: bytes
    values: bytes


def encode(update: Bits) -> Coded | None:
    """Return the coded XOR bits of a chunk, or ``None`` where nothing changed."""
    positions = np.flatnonzero(update)
    if not positions.size:
        return None
    # Entries skipped before each change; prepend -1 makes the first gap a gap like the others.
    gaps = np.diff(positions, prepend=-1) - 1
    low_bits = _best_low_bits(gaps)
    codings = {
        f"{_RICE}{low_bits}": _compress(_rice(gaps, low_bits)),
        _BITMAP: _compress(np.packbits(update != 0)),
    }
    coding = min(codings, key=lambda name: len(codings[name]))
    values = _compress(_planes(update[positions]))
    return Coded(coding, positions.size, codings[coding], values)


def decode(coded: Coded, entries: int, width: int) -> tuple[NDArray[np.int64], Bits]:
    """Return positions and XOR bits of a chunk of ``entries`` entries of ``width`` bytes each."""
    packed = _decompress(coded.positions)
    if coded.coding == _BITMAP:
        positions = np.flatnonzero(np.unpackbits(packed, count=entries))
    else:
        low_bits = int(coded.coding.removeprefix(_RICE))
        # The inverse of the gaps in `encode`.
        positions = np.cumsum(_unrice(packed, coded.changed, low_bits) + 1) - 1
    planes = _decompress(coded.values).reshape(width, coded.changed)
    # planes is width x changed; transposed, the bytes of one entry are neighbours again.
    values = np.ascontiguousarray(planes.T).view(f"<u{width}").reshape(-1)
    return positions, values


def _compress(data: NDArray[np.uint8]) -> bytes:
    return zstandard.compress(np.ascontiguousarray(data).data, _LEVEL)


def _decompress(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(zstandard.decompress(data), np.uint8)


def _planes(values: Bits) -> NDArray[np.uint8]:
    # changed x width bytes, little-endian; transposed, plane 0 is all lowest bytes.
    return values.view(np.uint8).reshape(values.size, values.itemsize).T


def _best_low_bits(gaps: NDArray[np.int64]) -> int:
    r"""Return the Rice parameter b of the shortest code of the k gaps g.

    .. math:: k (b + 1) + \sum_i \lfloor g_i / 2^b \rfloor

    in bits; above the mean gap a larger b only adds low bits.
    """
    # bit_length(mean) bits reach just above the mean gap.
    candidates = range(int(gaps.mean()).bit_length() + 1)
    return min(candidates, key=lambda bits: gaps.size * (bits + 1) + int((gaps >> bits).sum()))


def _rice(gaps: NDArray[np.int64], low_bits: int) -> NDArray[np.uint8]:
    """Return the low bits of every gap, then every quotient as so many 0s and a 1."""
    ends = np.cumsum((gaps >> low_bits) + 1) - 1
    unary = np.zeros(ends[-1] + 1, np.uint8)
    # A 1 ends each quotient; the zeros before it are the quotient.
    unary[ends] = 1
    low = (gaps[:, None] >> np.arange(low_bits) & 1).astype(np.uint8)
    return np.concatenate([np.packbits(low), np.packbits(unary)])


def _unrice(packed: NDArray[np.uint8], changed: int, low_bits: int) -> NDArray[np.int64]:
    # Rounded up: packbits fills the last byte of the low bits.
    split = -(-changed * low_bits // 8)
    low = np.unpackbits(packed[:split], count=changed * low_bits).reshape(changed, low_bits)
    ends = np.flatnonzero(np.unpackbits(packed[split:]))
    # packbits pads with zeros behind the last 1, which flatnonzero does not see.
    quotients = np.diff(ends, prepend=-1) - 1
    return (quotients << low_bits) + low @ (1 << np.arange(low_bits))
