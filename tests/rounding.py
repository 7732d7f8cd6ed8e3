"""Bounds on rounding, so that a tolerance follows from the arithmetic and not from one machine.

A sum of n products in a precision of unit roundoff u is within n u sum |a_i b_i| of the exact one,
in any order and with or without fused multiply-add (Higham, Accuracy and Stability of Numerical
Algorithms, section 3.1). The bound is relative to the sum of the magnitudes. A bound relative to
the sum itself is none: the terms may cancel, and how far depends on the order of the processor.
"""

import torch
from torch import Tensor


def unit(dtype: torch.dtype = torch.float32) -> float:
    """Return the unit roundoff: half the distance from 1 to the next number."""
    return torch.finfo(dtype).eps / 2


def sum_bound(magnitudes: Tensor, terms: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the largest error of sums of ``terms`` terms with these sums of magnitudes."""
    return terms * unit(dtype) * magnitudes.double()


def assert_within(actual: Tensor, expected: Tensor, bound: Tensor | float) -> None:
    """Require ``|actual - expected| <= bound`` entry by entry, and say where it fails most."""
    excess = (actual.double() - expected.double()).abs() - bound
    assert not excess.isnan().any(), "NaN"
    worst = int(excess.argmax())
    values = [float(x.reshape(-1)[worst]) for x in (actual, expected)]
    assert float(excess.max()) <= 0, (
        f"entry {worst}: {values[0]} against {values[1]}, {float(excess.max())} beyond the bound"
    )
