"""Bit patterns of a narrow float dtype as those of a wider one, and back, NaN payloads included.

A run often trains in float32 from a base that is stored in 16 bits. Every 16-bit value is a float32
value, so the delta of such a pair is taken from the base widened exactly: apply widens the base it
is given, revert narrows what it recovered, and both ends keep the dtype that they are stored in.
"""

import numpy as np

from rlvr.checkpoints.delta_codec import Bits
from rlvr.checkpoints.layout import Place

WIDENED = {"BF16": "F32", "F16": "F32"}


def is_widened(base: Place, tuned: Place) -> bool:
    """Return whether every value of the base's dtype is one of the other's, which is wider."""
    return WIDENED.get(base.dtype) == tuned.dtype


def widen(bits: Bits, dtype: str) -> Bits:
    """Return the float32 bits of 16-bit values; distinct values stay distinct."""
    wide = bits.astype(np.uint32)
    if dtype == "BF16":
        return wide << np.uint32(16)
    magnitude = wide & np.uint32(0x7FFF)
    is_finite = magnitude < 0x7C00
    finite = (bits & np.uint16(0x7FFF)).view("<f2").astype("<f4").view("<u4")
    # By hand from infinity up: hardware would set the quiet bit of a signalling NaN.
    special = np.uint32(0x7F800000) | (magnitude & np.uint32(0x3FF)) << np.uint32(13)
    return (wide & np.uint32(0x8000)) << np.uint32(16) | np.where(is_finite, finite, special)


def narrow(bits: Bits, dtype: str) -> Bits:
    """Return what ``widen`` was given; of other float32 bits, 16 bits that a hash will refuse."""
    high = (bits >> np.uint32(16)).astype(np.uint16)
    if dtype == "BF16":
        return high
    magnitude = bits & np.uint32(0x7FFFFFFF)
    with np.errstate(all="ignore"):
        finite = magnitude.view("<f4").astype("<f2").view("<u2")
    payload = (magnitude >> np.uint32(13)).astype(np.uint16) & np.uint16(0x3FF)
    special = np.uint16(0x7C00) | payload
    return high & np.uint16(0x8000) | np.where(magnitude < 0x7F800000, finite, special)
