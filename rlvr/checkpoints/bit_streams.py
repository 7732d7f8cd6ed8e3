"""Streams of flags and of numbers as bytes, near the entropy of independent ones.

Flags of density d have the entropy H(d) bits each. Rice codes of the gaps between the rarer answer
stay within 4 % of it; where neither is rare, eight flags are one symbol of a Huffman code.

Numbers are split into leading bits, in a Huffman code, and bits below as they are. A Huffman code
spends whole bits on each symbol, so as many small numbers as a byte holds make one symbol.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]
Numbers = NDArray[np.signedinteger]
_PLAIN = 255  # in place of the number of low bits: eight flags a byte
_RARE = 0.06  # a rarer answer is coded by its gaps
_FREQUENT = 0.5  # the least number gets flags of its own, unless more than this share is larger
_LEADING = 6  # bits of the mean that are Huffman coded; those below are nearly even
# Symbols that a byte holds, by size of the alphabet: 2^8, 3^5, 4^4, 6^3 and 16^2 are at most 256.
_PER_BYTE = {2: 8, 3: 5, 4: 4, 6: 3, 16: 2, 256: 1}
_SMALL = 1 << 16  # shorter streams are coded in two ways, as the table of a Huffman code counts
_TAIL = 0.01  # share of numbers that may lie beyond the alphabet


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
        is_rare = min(ones, flags.size - ones) <= _RARE * flags.size
        codings = [] if is_rare else [(_PLAIN, _huffman(np.packbits(flags)))]
        # The table of a Huffman code is long beside few flags.
        if is_rare or flags.size < _SMALL:
            codings.append(_gaps(flags if 2 * ones <= flags.size else ~flags))
        kind, body = min(codings, key=lambda coding: len(coding[1]))
        self.parts.append(bytes([kind]))
        self._body(body)

    def numbers(self, values: Numbers) -> None:
        """Append non-negative numbers; the reader must know how many they are."""
        if not values.size:
            return
        least = int(values.min())
        self.number(least)
        rest = values - least
        is_larger = rest != 0
        if np.count_nonzero(is_larger) <= _FREQUENT * rest.size:
            self.number(0)
            self.flags(is_larger)
            self.numbers(rest.compress(is_larger) - 1)
            return
        low_bits = max(0, int(rest.mean()).bit_length() - _LEADING)
        leading = rest >> low_bits
        symbols, has_tail, body = _leading(leading)
        # Twice the size, so that it and the tail are one number; 0 stands for a rare answer.
        self.number(2 * symbols + has_tail)
        self.number(low_bits)
        self.raw(rest, low_bits)
        self._body(body)
        if has_tail:
            self.numbers(leading.compress(leading >= symbols - 1) - (symbols - 1))

    def raw(self, values: Numbers, bits: int) -> None:
        """Append the low ``bits`` of every value."""
        for bit in range(bits):
            self.parts.append(np.packbits(values >> bit & 1 != 0).tobytes())

    def _body(self, body: bytes) -> None:
        self.number(len(body))
        self.parts.append(body)

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
        if low_bits == _PLAIN:
            return np.unpackbits(self._huffman(-(-count // 8)), count=count).astype(bool)
        is_one = 2 * ones <= count
        rarer = ones if is_one else count - ones
        positions = np.cumsum(unrice(self._take(self.number()), rarer, low_bits) + 1) - 1
        flags = np.full(count, not is_one)
        flags[positions] = is_one
        return flags

    def numbers(self, count: int) -> NDArray[np.int64]:
        if not count:
            return np.zeros(0, np.int64)
        least, kind = self.number(), self.number()
        if not kind:
            rest = np.zeros(count, np.int64)
            larger = np.flatnonzero(self.flags(count))
            rest[larger] = self.numbers(larger.size) + 1
            return rest + least
        symbols, low_bits = kind // 2, self.number()
        low = self.raw(count, low_bits)
        packed = self._huffman(-(-count // _PER_BYTE[symbols]))
        leading = _unpack(packed, symbols)[:count].astype(np.int64)
        if kind % 2:
            tail = np.flatnonzero(leading == symbols - 1)
            leading[tail] += self.numbers(tail.size)
        return (leading << low_bits | low) + least

    def raw(self, count: int, bits: int) -> NDArray[np.int64]:
        values = np.zeros(count, np.int64)
        for bit in range(bits):
            plane = np.unpackbits(self._take(-(-count // 8)), count=count)
            values |= plane.astype(np.int64) << bit
        return values

    def _huffman(self, size: int) -> NDArray[np.uint8]:
        body = self._take(self.number())
        if body.size == size:
            return body
        return np.frombuffer(zlib.decompress(body.tobytes(), -15, size), np.uint8)


def _huffman(symbols: NDArray[np.uint8]) -> bytes:
    """Return the Huffman code of bytes, or the bytes themselves where it is not shorter."""
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    body = coder.compress(symbols.tobytes()) + coder.flush()
    # A reader knows the bytes themselves by their number.
    return body if len(body) < symbols.size else symbols.tobytes()


def _leading(numbers: Numbers) -> tuple[int, bool, bytes]:
    """Return the alphabet, whether its last symbol is a tail, and the code of the numbers."""
    symbols, has_tail = _alphabet(numbers)
    body = _huffman(_pack(np.minimum(numbers, symbols - 1).astype(np.uint8), symbols))
    if numbers.size < _SMALL and symbols < 256:
        single = _huffman(np.minimum(numbers, 255).astype(np.uint8))
        # A table of single numbers is shorter than one of several together.
        if len(single) < len(body):
            return 256, int(numbers.max()) >= 255, single
    return symbols, has_tail, body


def _alphabet(numbers: Numbers) -> tuple[int, bool]:
    """Return the size of the smallest alphabet that fits, and whether its last symbol is a tail."""
    counts = np.bincount(np.minimum(numbers, 256))
    beyond = numbers.size - np.cumsum(counts)  # larger than 0, 1, 2, ...
    for symbols in _PER_BYTE:
        if symbols >= len(counts):
            return symbols, False
        # The tail symbol stands for symbols - 1 and all above.
        if beyond[symbols - 2] <= _TAIL * numbers.size:
            return symbols, True
    return 256, True


def _pack(symbols: NDArray[np.uint8], alphabet: int) -> NDArray[np.uint8]:
    per_byte = _PER_BYTE[alphabet]
    if per_byte == 1:
        return symbols
    padded = np.zeros(-(-symbols.size // per_byte) * per_byte, np.uint8)
    padded[: symbols.size] = symbols
    columns = padded.reshape(-1, per_byte)
    packed = columns[:, 0].copy()
    for place in range(1, per_byte):
        packed = packed * np.uint8(alphabet) + columns[:, place]
    return packed


def _unpack(packed: NDArray[np.uint8], alphabet: int) -> NDArray[np.uint8]:
    per_byte = _PER_BYTE[alphabet]
    powers = alphabet ** np.arange(per_byte - 1, -1, -1)
    table = (np.arange(256)[:, None] // powers % alphabet).astype(np.uint8)
    return table[packed].reshape(-1)


def best_low_bits(gaps: NDArray[np.int64]) -> int:
    r"""Return the Rice parameter b of the shortest code of the k gaps g.

    .. math:: k (b + 1) + \sum_i \lfloor g_i / 2^b \rfloor

    The best is near the binary logarithm of the mean gap; above it a larger b only adds low bits.
    """
    top = int(gaps.mean()).bit_length()
    sizes = {
        bits: gaps.size * (bits + 1) + int((gaps >> bits).sum())
        for bits in range(max(0, top - 3), top + 1)
    }
    return min(sizes, key=sizes.__getitem__)


def _gaps(flags: Flags) -> tuple[int, bytes]:
    # Entries skipped before each; prepend -1 makes the first gap a gap like the others.
    gaps = np.diff(np.flatnonzero(flags), prepend=-1) - 1
    low_bits = best_low_bits(gaps)
    return low_bits, rice(gaps, low_bits).tobytes()


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
