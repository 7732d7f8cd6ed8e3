r"""One chunk of an update as bytes, coded given the exponents of the weights.

How far an entry moves, in steps of its number format, depends on its exponent: small weights move
by many steps, large ones by one or none. Each exponent E, from the largest down, is therefore a
group with statistics of its own: the entries of which the larger of both sides' exponents is E. A
reader holds either the base or the tuned weights, so that the group is told in two parts:

1. The *crossings*: one flag for each entry not yet told, whether just one of its sides has the
   exponent E. The side with E moves down; this direction needs no bit.
2. *The others* with the exponent E, on both sides, and the directions in which they moved.

Each part holds how many steps the magnitudes moved; where the sign changed or the exponents are far
apart, the XOR of the magnitudes.

Files of version 1 hold positions and XORs instead; they are still read.
"""

from dataclasses import dataclass, replace

import numpy as np
import zstandard
from numpy.typing import NDArray

from rlvr.checkpoints.bit_streams import Flags, Reader, Writer, unrice

Bits = NDArray[np.unsignedinteger]
Steps = NDArray[np.signedinteger]

_LEVEL = 3  # zstd; 19 gains under 1 % and costs most of the speed
_GROUPS = "groups"
_PLAIN = "plain"
_BITMAP = "bitmap"  # of version 1
_RICE = "rice"  # of version 1, followed by the number of low bits
_FRACTION = {1: 3, 2: 7, 4: 23, 8: 55}  # bits below the exponent's top eight, by bytes
_NEAR = 2  # exponents apart: up to here a move is a number of steps, beyond it an XOR
_PASS = 64  # the largest exponents are one group if at most this part of the entries has them
_FEW = 256  # the smallest exponents are one group if so few entries have them


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
    """The fields of numbers: sign, the magnitude as one integer, and its exponent."""

    sign: Flags
    magnitude: Steps
    exponent: NDArray[np.uint8]

    @classmethod
    def of(cls, bits: Bits) -> "Parts":
        sign_bit = 8 * bits.itemsize - 1
        # int32 where it is enough: these arrays decide on the memory of a chunk.
        wide = np.int64 if bits.itemsize == 8 else np.int32
        magnitude = (bits & bits.dtype.type((1 << sign_bit) - 1)).astype(wide)
        exponent = (magnitude >> _FRACTION[bits.itemsize]).astype(np.uint8)
        return cls(bits >> sign_bit != 0, magnitude, exponent)

    def within(self, floor: int, ceiling: int) -> "Parts":
        """Return the same numbers, with smaller and larger exponents set to these."""
        return replace(self, exponent=np.clip(self.exponent, floor, ceiling))


@dataclass(frozen=True)
class Moves:
    """Where each sign changed, and how far each magnitude moved.

    A move is a number of steps; where ``is_far`` it is the XOR of both magnitudes.
    """

    flips: Flags
    is_far: Flags
    sizes: Steps

    @classmethod
    def between(cls, first: Parts, second: Parts, zeros: int) -> "Moves":
        flips = first.sign != second.sign
        larger = np.maximum(first.exponent, second.exponent)
        is_far = flips | (larger - np.minimum(first.exponent, second.exponent) > _NEAR)
        sizes = second.magnitude - first.magnitude
        far = np.flatnonzero(is_far)
        sizes[far] = first.magnitude[far] ^ second.magnitude[far]
        return cls(flips, is_far, sizes >> zeros)


def encode(base: Bits, tuned: Bits) -> Coded | None:
    """Return the coded update of a chunk, or ``None`` where nothing changed."""
    update = base ^ tuned
    changed = int(np.count_nonzero(update))
    if not changed:
        return None
    # bf16 numbers in a float32 file have 16 low bits that never change.
    either = int(np.bitwise_or.reduce(update))
    zeros = min(_FRACTION[base.itemsize], (either & -either).bit_length() - 1)
    first, second = Parts.of(base), Parts.of(tuned)
    writer, ends = Writer(), _ends(np.maximum(first.exponent, second.exponent))
    for number in (zeros, *ends):
        writer.number(number)
    _write_groups(
        writer,
        Moves.between(first, second, zeros),
        *(side.within(*ends).exponent for side in (first, second)),
    )
    return _shorter(Coded(_GROUPS, changed, b"", _compress(writer.getvalue())), update)


def _ends(exponents: NDArray[np.uint8]) -> tuple[int, int]:
    """Return the smallest and the largest exponent that are worth a group, given all."""
    counts = np.bincount(exponents)
    floor = min(np.searchsorted(np.cumsum(counts), _FEW), len(counts) - 1)
    above = exponents.size - np.cumsum(counts)
    ceiling = np.searchsorted(-above, -exponents.size // _PASS)
    return int(floor), max(int(floor), int(ceiling))


def _write_groups(
    writer: Writer, moves: Moves, one: NDArray[np.uint8], other: NDArray[np.uint8]
) -> None:
    """Append all moves; ``one`` and ``other`` are the exponents of both sides."""
    rest = np.arange(one.size, dtype=np.int32)
    while rest.size:
        top = max(int(one.max()), int(other.max()))
        writer.number(top)
        here, there = one == top, other == top
        is_crossing, is_later = here ^ there, ~(here | there)
        writer.flags(is_crossing)
        # compress, because indexing with random flags is eight times slower.
        _write_moves(writer, moves, rest.compress(is_crossing))
        steps = _write_moves(writer, moves, rest.compress(here & there))
        writer.flags(steps.compress(steps != 0) < 0)
        rest, one, other = (array.compress(is_later) for array in (rest, one, other))


def _write_moves(writer: Writer, moves: Moves, places: Steps) -> Steps:
    """Append the moves of one part of a group; return those that are steps."""
    is_far, sizes = moves.is_far.take(places), moves.sizes.take(places)
    writer.flags(is_far)
    writer.flags(moves.flips[places[is_far]])
    writer.numbers(sizes[is_far])
    steps = sizes.compress(~is_far)
    writer.numbers(np.abs(steps))
    return steps


def _shorter(grouped: Coded, update: Bits) -> Coded:
    """Return ``grouped``, or positions and XORs where those are shorter.

    They are for bits that are no trained weights: spread over all exponents, or hardly changed.
    """
    # At least a byte for each change, and no position is free.
    if len(grouped.values) <= grouped.changed * update.itemsize:
        return grouped
    writer = Writer()
    writer.flags(update != 0)
    changes = update.compress(update != 0)
    # Byte planes: a small update leaves the high bytes nearly constant.
    planes = changes.view(np.uint8).reshape(changes.size, changes.itemsize).T
    plain = (_compress(writer.getvalue()), _compress(np.ascontiguousarray(planes).tobytes()))
    if sum(map(len, plain)) >= len(grouped.values):
        return grouped
    return Coded(_PLAIN, grouped.changed, *plain)


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
    reader, own = Reader(_decompress(coded.values)), Parts.of(bits)
    zeros, ends = reader.number(), (reader.number(), reader.number())
    magnitude, sign = own.magnitude.copy(), own.sign.copy()
    own = own.within(*ends)
    rest, exponent = np.arange(bits.size, dtype=np.int32), own.exponent
    while rest.size:
        top = reader.number()
        is_top = exponent == top
        is_crossing = reader.flags(rest.size)
        crossing, both = rest.compress(is_crossing), rest.compress(is_top & ~is_crossing)
        flips, steps, is_near = _read_moves(reader, crossing.size, zeros)
        # The side with the larger exponent moves down, whichever it is.
        down = own.exponent[crossing] == top
        sign[crossing] ^= flips
        magnitude[crossing] = _moved(own.magnitude[crossing], steps, is_near, down)
        flips, steps, is_near = _read_moves(reader, both.size, zeros)
        down = np.zeros(both.size, np.bool_)
        moved = np.flatnonzero(is_near & (steps != 0))
        down[moved] = reader.flags(moved.size) == to_tuned
        sign[both] ^= flips
        magnitude[both] = _moved(own.magnitude[both], steps, is_near, down)
        is_later = ~(is_top | is_crossing)
        rest, exponent = rest.compress(is_later), exponent.compress(is_later)
    turned = magnitude.astype(np.uint64) | sign.astype(np.uint64) << np.uint64(
        8 * bits.itemsize - 1
    )
    return turned.astype(bits.dtype)


def _read_moves(reader: Reader, count: int, zeros: int) -> tuple[Flags, Steps, Flags]:
    """Return the changes of sign, the steps or XORs, and which of them are steps."""
    is_far = reader.flags(count)
    flips = np.zeros(count, np.bool_)
    far = np.flatnonzero(is_far)
    flips[far] = reader.flags(far.size)
    steps = np.zeros(count, np.int64)
    steps[far] = reader.numbers(far.size) << zeros
    near = np.flatnonzero(~is_far)
    steps[near] = reader.numbers(near.size) << zeros
    return flips, steps, ~is_far


def _moved(magnitude: Steps, steps: Steps, is_near: Flags, down: Flags) -> Steps:
    return np.where(is_near, magnitude + np.where(down, -steps, steps), magnitude ^ steps)


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
