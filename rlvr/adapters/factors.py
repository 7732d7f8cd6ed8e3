r"""The factors A (r x n) and B (m x r) from which a low-rank adapter of W0 (m x n) starts.

Pure functions of one matrix in float32; the policy's weight is W0 + s (B A - B0 A0), see
``rlvr.adapters.attach``. :math:`U_r, \sigma_r, V_r` are singular triplets of W0 and s the scaling.
"""

import math

import torch
from torch import Tensor

from rlvr.linalg import Svd, exact_svd, top_singular
from rlvr.masks.builders import count_of, exact_density, generator_for, largest, smallest

Factors = tuple[Tensor, Tensor]


class Matrix:
    """One target matrix in float32; each of its decompositions is computed once."""

    def __init__(self, weight: Tensor, name: str) -> None:
        self.weight, self.name = weight.detach().float(), name
        self._full: tuple[Tensor, Tensor, Tensor] | None = None
        self._top: tuple[Tensor, Tensor, Tensor] | None = None

    def full(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the thin U, sigma and V, columns orthonormal, exactly."""
        if self._full is None:
            left, values, right_t = exact_svd(self.weight)
            self._full = left, values, right_t.T
        return self._full

    def top(self, rank: int, svd: Svd) -> tuple[Tensor, Tensor, Tensor]:
        """Return the top-``rank`` singular triplets U (m x rank), sigma and V (n x rank)."""
        # A full SVD that exists already is exact and free.
        if svd == "exact" or self._full is not None:
            left, values, right = self.full()
            return left[:, :rank], values[:rank], right[:, :rank]
        if self._top is None or len(self._top[1]) != rank:
            generator = generator_for(self.name, 0)
            self._top = top_singular(self.weight, rank, svd=svd, generator=generator)
        return self._top


def _balanced(left: Tensor, values: Tensor, right: Tensor) -> Factors:
    """Return A = sqrt(sigma) V^T and B = U sqrt(sigma), so that B A is the sum of the triplets."""
    root = values.sqrt()
    return (right * root).T.contiguous(), (left * root).contiguous()


def random_factors(matrix: Matrix, *, rank: int, seed: int) -> Factors:
    r"""LoRA: A uniform in :math:`\pm 1/\sqrt n`, as nn.Linear draws it, and B = 0."""
    rows, columns = matrix.weight.shape
    # Drawn on the CPU: a GPU has another stream of random numbers for one seed.
    draw = torch.rand(rank, columns, generator=generator_for(matrix.name, seed))
    first = ((2 * draw - 1) / math.sqrt(columns)).to(matrix.weight.device)
    return first, matrix.weight.new_zeros(rows, rank)


def principal_factors(matrix: Matrix, *, rank: int, scaling: float, svd: Svd) -> Factors:
    r"""PiSSA: s B A = :math:`U_r \Sigma_r V_r^\top`, the top-r triplets (arXiv 2404.02948)."""
    left, values, right = matrix.top(rank, svd)
    # sigma / s in the factors, so that s B A is the sum of the triplets.
    return _balanced(left, values / scaling, right)


def minor_factors(matrix: Matrix, *, rank: int, scaling: float) -> Factors:
    """MiLoRA: s B A is the sum of the last r triplets (arXiv 2406.09044)."""
    left, values, right = matrix.full()
    return _balanced(left[:, -rank:], values[-rank:] / scaling, right[:, -rank:])


def minor_column_factors(matrix: Matrix, *, rank: int) -> Factors:
    """MiCA: B the last r left singular vectors, A = 0 (arXiv 2604.01694)."""
    left, _, _ = matrix.full()
    return matrix.weight.new_zeros(rank, matrix.weight.shape[1]), left[:, -rank:].contiguous()


def qr_factors(matrix: Matrix, *, rank: int) -> Factors:
    """OLoRA: W0 = Q R; B the first r columns of Q, A the first r rows of R (arXiv 2406.01775)."""
    # The first r columns of Q depend only on the first r columns of W0.
    basis = torch.linalg.qr(matrix.weight[:, :rank]).Q
    return basis.T @ matrix.weight, basis


def geometry_factors(matrix: Matrix, *, rank: int, density: float, svd: Svd) -> Factors:
    r"""GeoRA: B A the top-r triplets of :math:`W_0 \odot (M_{spec} \cup M_{euc})`.

    :math:`M_{spec}` holds the smallest entries of :math:`|W_0^{(r)}|`, :math:`M_{euc}` the smallest
    of :math:`|W_0|`, ``density`` of the entries each (arXiv 2601.09361).
    """
    left, values, right = matrix.top(rank, svd)
    reconstruction = ((left * values) @ right.T).abs()
    share, entries = exact_density(density), matrix.weight.numel()
    # The smallest entries as the complement of the largest: ties then fall on one side only.
    spectral = ~largest(reconstruction, count_of(1 - share, entries))
    euclidean = smallest(matrix.weight.abs(), count_of(share, entries))
    inside = matrix.weight * (spectral | euclidean)
    generator = generator_for(matrix.name, 0)
    return _balanced(*top_singular(inside, rank, svd=svd, generator=generator))
