r"""One chunk of an update as bytes, coded given the exponents of the weights.

How far an entry moves, in steps of its number format, depends on its exponent: small weights move
by many steps, large ones by one or none. Each exponent E, from the largest down, is therefore a
group with statistics of its own: the entries of which the larger of both sides' exponents is E. A
reader holds either the base or the tuned weights, so that the group is told in two parts.

1. *Crossings*: one flag for each entry not yet told, whether just one of its sides has the exponent
   E. Then their changes of sign, how far the other exponent lies below, and the rest of the bits.
2. *The others* with the exponent E, on both sides: changes of sign, the steps
   :math:`d = \mathrm{bits}_+ - \mathrm{bits}_0`, and their directions.

Numbers are coded by tests (at least 1, of those at least 2, then 3, 4, 6, 8, 12, ...) and the place
between two tests as plain bits; every test is a stream of ``rlvr.checkpoints.bit_streams``.

Files of version 1 hold positions and XORs instead; they are still read.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import zstandard
from numpy.typing import NDArray

from rlvr.checkpoints.bit_streams import Reader, Writer, unrice

Bits = NDArray[np.unsignedinteger]
Steps = NDArray[np.signedinteger]

_LEVEL = 3  # zstd; 19 gains under 1 % and costs most of the speed
_GROUPS = "groups"
_PLAIN = "plain"
_BITMAP = "bitmap"  # of version 1
_RICE = "rice"  # of version 1, followed by the number of low bits
_FRACTION = {1: 3, 2: 7, 4: 23, 8: 55}  # bits below the exponent's top eight, by bytes
_NEAR = 2  # exponents apart: up to here a crossing is a number of steps, beyond it new bits
# Powers of two apart, so that the place between two tests is a whole number of bits.
_TESTS = (1, 2, 3, *(k << n for n in range(1, 60) for k in (2, 3)))


@dataclass(frozen=True)
class Coded:
    """A coded chunk of ``changed`` entries; ``coding`` says how.

    ``positions`` is empty where the coding is by groups.
    """

    coding: str
    changed: int
    positions: bytes
    values: bytes


@dataclass(frozen=True)
class Parts:
    """The fields of numbers: exponent, sign, and the magnitude as one integer."""

    exponent: NDArray[np.uint8]
    sign: NDArray[np.bool_]
    magnitude: Steps

    @classmethod
    def of(cls, bits: Bits) -> "Parts":
        sign_bit = 8 * bits.itemsize - 1
        # int32 where it is enough: these arrays decide on the memory of a chunk.
        wide = np.int64 if bits.itemsize == 8 else np.int32
        magnitude = (bits & bits.dtype.type((1 << sign_bit) - 1)).astype(wide)
        exponent = (magnitude >> _FRACTION[bits.itemsize]).astype(np.uint8)
        return cls(exponent, bits >> sign_bit != 0, magnitude)

    def at(self, places: Steps) -> "Parts":
        return Parts(self.exponent[places], self.sign[places], self.magnitude[places])


def encode(base: Bits, tuned: Bits) -> Coded | None:
    """Return the coded update of a chunk, or ``None`` where nothing changed."""
    update = base ^ tuned
    changed = int(np.count_nonzero(update))
    if not changed:
        return None
    # bf16 numbers in a float32 file have 16 low bits that never change.
    either = int(np.bitwise_or.reduce(update))
    fraction = _FRACTION[base.itemsize]
    zeros = min(fraction, (either & -either).bit_length() - 1)
    writer = Writer()
    writer.number(zeros)
    first, second = Parts.of(base), Parts.of(tuned)
    larger = np.maximum(first.exponent, second.exponent)
    rest = np.arange(base.size, dtype=np.int32)
    for exponent in np.unique(larger)[::-1]:
        writer.number(int(exponent))
        here, there = (side.exponent[rest] == exponent for side in (first, second))
        is_crossing = here != there
        writer.flags(is_crossing)
        crossing, both = rest[is_crossing], rest[here & there]
        _write_crossings(writer, first.at(crossing), second.at(crossing), zeros, fraction)
        _write_steps(writer, first.at(both), second.at(both), zeros, fraction)
        rest = rest[~(here | there)]
    return _shorter(Coded(_GROUPS, changed, b"", _compress(writer.getvalue())), update)


def _shorter(grouped: Coded, update: Bits) -> Coded:
    """Return ``grouped``, or positions and XORs where those are shorter.

    They are for bits that are no trained weights: spread over all exponents, or hardly changed.
    """
    # At least a byte for each change, and no position is free.
    if len(grouped.values) <= grouped.changed * update.itemsize:
        return grouped
    writer = Writer()
    writer.flags(update != 0)
    changes = update[update != 0]
    # Byte planes: a small update leaves the high bytes nearly constant.
    planes = changes.view(np.uint8).reshape(changes.size, changes.itemsize).T
    plain = (_compress(writer.getvalue()), _compress(np.ascontiguousarray(planes).tobytes()))
    if sum(map(len, plain)) >= len(grouped.values):
        return grouped
    return Coded(_PLAIN, grouped.changed, *plain)


def _write_crossings(
    writer: Writer, first: Parts, second: Parts, zeros: int, fraction: int
) -> None:
    flips = first.sign != second.sign
    writer.flags(flips)
    apart = np.abs(first.exponent.astype(np.int64) - second.exponent)
    _write_numbers(writer, apart - 1)
    is_near = ~flips & (apart <= _NEAR)
    steps = np.abs(second.magnitude - first.magnitude) >> zeros
    _write_numbers(writer, steps[is_near])
    bits = (first.magnitude ^ second.magnitude)[~is_near] >> zeros
    writer.raw(bits, fraction - zeros)


def _write_steps(writer: Writer, first: Parts, second: Parts, zeros: int, fraction: int) -> None:
    flips = first.sign != second.sign
    writer.flags(flips)
    writer.raw((first.magnitude ^ second.magnitude)[flips] >> zeros, fraction - zeros)
    steps = (second.magnitude - first.magnitude)[~flips]
    _write_numbers(writer, np.abs(steps) >> zeros)
    writer.flags(steps[steps != 0] < 0)


def _write_numbers(writer: Writer, numbers: Steps) -> None:
    rest = numbers
    for low, high in pairwise((0, *_TESTS)):
        is_larger = rest >= high
        writer.flags(is_larger)
        if low:
            writer.raw(rest[~is_larger] - low, (high - low).bit_length() - 1)
        rest = rest[is_larger]
        if not rest.size:
            break


def turn(bits: Bits, coded: Coded, *, to_tuned: bool) -> Bits:
    """Return the other side of a chunk of which ``bits`` is one."""
    if coded.coding == _PLAIN:
        moved = Reader(_decompress(coded.positions)).flags(bits.size)
        bits[moved] ^= _unplanes(_decompress(coded.values), bits.itemsize)
        return bits
    if coded.coding != _GROUPS:
        positions, values = _decode_version_1(coded, bits.size, bits.itemsize)
        # Positions are distinct, so fancy indexing XORs each entry once.
        bits[positions] ^= values
        return bits
    reader = Reader(_decompress(coded.values))
    zeros, own = reader.number(), Parts.of(bits)
    fraction, sign_bit = _FRACTION[bits.itemsize], 8 * bits.itemsize - 1
    magnitude, sign = own.magnitude.copy(), own.sign.copy()
    rest = np.arange(bits.size, dtype=np.int32)
    while rest.size:
        exponent = reader.number()
        here = own.exponent[rest] == exponent
        is_crossing = reader.flags(rest.size)
        crossing, both = rest[is_crossing], rest[here & ~is_crossing]
        for places, read in ((crossing, _read_crossings), (both, _read_steps)):
            flips, other = read(reader, own.at(places), exponent, zeros, fraction, to_tuned)
            sign[places] ^= flips
            magnitude[places] = other
        rest = rest[~(here | is_crossing)]
    turned = magnitude.astype(np.uint64) | sign.astype(np.uint64) << np.uint64(sign_bit)
    return turned.astype(bits.dtype)


def _read_crossings(
    reader: Reader, own: Parts, exponent: int, zeros: int, fraction: int, to_tuned: bool
) -> tuple[NDArray[np.bool_], Steps]:
    """Return the changes of sign and the other side's magnitudes."""
    count = own.sign.size
    flips = reader.flags(count)
    apart = _read_numbers(reader, count) + 1
    is_near = ~flips & (apart <= _NEAR)
    is_upper = own.exponent == exponent
    other = own.magnitude.copy()
    steps = _read_numbers(reader, int(is_near.sum())) << zeros
    other[is_near] += np.where(is_upper[is_near], -steps, steps)
    far = ~is_near
    low = reader.raw(int(far.sum()), fraction - zeros) << zeros
    exponents = np.where(is_upper, exponent - apart, exponent)[far]
    fractions = own.magnitude[far] & ((1 << fraction) - 1)
    other[far] = exponents << fraction | fractions ^ low
    return flips, other


def _read_steps(
    reader: Reader, own: Parts, exponent: int, zeros: int, fraction: int, to_tuned: bool
) -> tuple[NDArray[np.bool_], Steps]:
    """Return the changes of sign and the other side's magnitudes."""
    flips = reader.flags(own.sign.size)
    other = own.magnitude.copy()
    other[flips] ^= reader.raw(int(flips.sum()), fraction - zeros) << zeros
    steps = _read_numbers(reader, int((~flips).sum())) << zeros
    moved = np.flatnonzero(steps)
    steps[moved[reader.flags(moved.size)]] *= -1
    other[~flips] += steps if to_tuned else -steps
    return flips, other


def _read_numbers(reader: Reader, count: int) -> Steps:
    numbers = np.zeros(count, np.int64)
    rest = np.arange(count)
    for low, high in pairwise((0, *_TESTS)):
        is_larger = reader.flags(rest.size)
        if low:
            here = rest[~is_larger]
            numbers[here] = low + reader.raw(here.size, (high - low).bit_length() - 1)
        rest = rest[is_larger]
        if not rest.size:
            break
    return numbers


def _decode_version_1(coded: Coded, entries: int, width: int) -> tuple[NDArray[np.int64], Bits]:
    """Return positions and XOR bits of a chunk of ``entries`` entries of ``width`` bytes each."""
    packed = _decompress(coded.positions)
    if coded.coding == _BITMAP:
        positions = np.flatnonzero(np.unpackbits(packed, count=entries))
    else:
        low_bits = int(coded.coding.removeprefix(_RICE))
        positions = np.cumsum(unrice(packed, coded.changed, low_bits) + 1) - 1
    return positions, _unplanes(_decompress(coded.values), width)


def _compress(data: bytes) -> bytes:
    return zstandard.compress(data, _LEVEL)


def _decompress(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(zstandard.decompress(data), np.uint8)


def _unplanes(planes: NDArray[np.uint8], width: int) -> Bits:
    # Transposed, the bytes of one entry are neighbours again.
    return np.ascontiguousarray(planes.reshape(width, -1).T).view(f"<u{width}").reshape(-1)
