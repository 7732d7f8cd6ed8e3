"""Streams of yes-or-no answers as bytes: gaps between the rarer answer, or a bitmap.

For independent answers of density d the bound is the entropy H(d) bits each. Rice codes of the gaps
stay within 4 % of it, and a bitmap takes over near d = 1/2.
"""

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]
_BITMAP = 255  # in place of the number of low bits


class Writer:
    """Appends numbers and streams to one buffer."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def number(self, value: int) -> None:
        """Append a non-negative integer, seven bits a byte."""
        out = bytearray()
        while value > 127:
            out.append(value & 127 | 128)
            value >>= 7
        out.append(value)
        self.parts.append(bytes(out))

    def flags(self, flags: Flags) -> None:
        """Append flags; the reader must know how many they are."""
        ones = int(np.count_nonzero(flags))
        self.number(ones)
        if ones in (0, flags.size):
            return
        rarer = flags if 2 * ones <= flags.size else ~flags
        positions = np.flatnonzero(rarer)
        # Entries skipped before each; prepend -1 makes the first gap a gap like the others.
        gaps = np.diff(positions, prepend=-1) - 1
        low_bits, size = best_low_bits(gaps)
        if size >= flags.size:
            self.parts += [bytes([_BITMAP]), np.packbits(flags).tobytes()]
            return
        body = rice(gaps, low_bits).tobytes()
        self.parts.append(bytes([low_bits]))
        self.number(len(body))
        self.parts.append(body)

    def raw(self, values: NDArray[np.signedinteger], bits: int) -> None:
        """Append the low ``bits`` of every value."""
        if bits and values.size:
            matrix = (values[:, None] >> np.arange(bits) & 1).astype(np.uint8)
            self.parts.append(np.packbits(matrix).tobytes())

    def getvalue(self) -> bytes:
        return b"".join(self.parts)


class Reader:
    """Reads what ``Writer`` wrote, in the same order."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self.data, self.at = data, 0

    def _take(self, size: int) -> NDArray[np.uint8]:
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = int(self._take(1)[0])
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def flags(self, count: int) -> Flags:
        ones = self.number()
        if ones in (0, count):
            return np.full(count, ones > 0)
        low_bits = int(self._take(1)[0])
        if low_bits == _BITMAP:
            return np.unpackbits(self._take(-(-count // 8)), count=count).astype(bool)
        is_one = 2 * ones <= count
        rarer = ones if is_one else count - ones
        positions = np.cumsum(unrice(self._take(self.number()), rarer, low_bits) + 1) - 1
        flags = np.full(count, not is_one)
        flags[positions] = is_one
        return flags

    def raw(self, count: int, bits: int) -> NDArray[np.int64]:
        if not bits or not count:
            return np.zeros(count, np.int64)
        packed = self._take(-(-count * bits // 8))
        matrix = np.unpackbits(packed, count=count * bits).reshape(count, bits)
        return matrix @ (1 << np.arange(bits))


def best_low_bits(gaps: NDArray[np.int64]) -> tuple[int, int]:
    r"""Return the Rice parameter b of the shortest code of the k gaps g, and its bits.

    .. math:: k (b + 1) + \sum_i \lfloor g_i / 2^b \rfloor

    The best is near the binary logarithm of the mean gap; above it a larger b only adds low bits.
    """
    top = int(gaps.mean()).bit_length()
    sizes = {
        bits: gaps.size * (bits + 1) + int((gaps >> bits).sum())
        for bits in range(max(0, top - 3), top + 1)
    }
    best = min(sizes, key=sizes.__getitem__)
    return best, sizes[best]


def rice(gaps: NDArray[np.int64], low_bits: int) -> NDArray[np.uint8]:
    """Return the low bits of every gap, then every quotient as so many 0s and a 1."""
    ends = np.cumsum((gaps >> low_bits) + 1) - 1
    unary = np.zeros(ends[-1] + 1, np.uint8)
    # A 1 ends each quotient; the zeros before it are the quotient.
    unary[ends] = 1
    low = (gaps[:, None] >> np.arange(low_bits) & 1).astype(np.uint8)
    return np.concatenate([np.packbits(low), np.packbits(unary)])


def unrice(packed: NDArray[np.uint8], count: int, low_bits: int) -> NDArray[np.int64]:
    """Return the ``count`` gaps of ``rice``."""
    # Rounded up: packbits fills the last byte of the low bits.
    split = -(-count * low_bits // 8)
    low = np.unpackbits(packed[:split], count=count * low_bits).reshape(count, low_bits)
    ends = np.flatnonzero(np.unpackbits(packed[split:]))
    # packbits pads with zeros behind the last 1, which flatnonzero does not see.
    quotients = np.diff(ends, prepend=-1) - 1
    return (quotients << low_bits) + low @ (1 << np.arange(low_bits))
