"""Truncated singular value decompositions, exact or randomised, deterministic either way."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Svd = Literal["randomized", "exact"]

OVERSAMPLING = 2  # columns of the sketch per wanted singular vector
SMALL = 512  # the smaller dimension up to which the exact decomposition is taken
ITERATIONS = 4  # power iterations; fewer lose a tenth of a mask's entries on flat spectra


def top_singular(
    weight: Float[Tensor, "m n"],
    rank: int,
    *,
    svd: Svd,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "m {rank}"], Float[Tensor, " {rank}"], Float[Tensor, "n {rank}"]]:
    r"""Return the top-``rank`` singular triplets :math:`U, \sigma, V` of ``weight``.

    ``randomized`` is subspace iteration (Halko et al., arXiv 0909.4061, Alg. 4.4) on a Gaussian
    sketch of ``2 rank`` columns drawn from ``generator``. A matrix with at most 512 rows or columns
    is decomposed exactly in any case: that is as cheap, and a narrow sketch of a flat spectrum
    loses a third of the principal entries.

    Args:
        weight: m x n, float32 or float64; the results have its dtype.
        rank: 1 .. min(m, n).
        svd: which algorithm.
        generator: on the CPU, so that every device draws the same sketch; seed 0 if none.

    Returns:
        U (m x rank), sigma (rank, descending) and V (n x rank), columns orthonormal.
    """
    width = OVERSAMPLING * rank
    # A sketch as wide as the matrix costs more than the exact SVD.
    if svd == "exact" or min(weight.shape) <= max(SMALL, width):
        left, values, right_t = exact_svd(weight)
    else:
        left, values, right_t = _randomized(weight, width, generator)
    return left[:, :rank], values[:rank], right_t[:rank].T


def exact_svd(
    weight: Float[Tensor, "m n"],
) -> tuple[Float[Tensor, "m k"], Float[Tensor, " k"], Float[Tensor, "k n"]]:
    """Return the thin U, sigma, V^T; through the QR of a long matrix, which is far cheaper."""
    rows, columns = weight.shape
    if rows < columns:
        right, values, left_t = exact_svd(weight.T)
        return left_t.T, values, right.T
    basis, triangle = torch.linalg.qr(weight)
    # The SVD of the small triangle; Q has orthonormal columns and keeps it one.
    left, values, right_t = torch.linalg.svd(triangle, full_matrices=False)
    return basis @ left, values, right_t


def _randomized(
    weight: Tensor, width: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    # Never the global random state: it belongs to the sampling of completions.
    generator = generator or torch.Generator().manual_seed(0)
    sketch = torch.randn(weight.shape[1], width, generator=generator, dtype=weight.dtype)
    basis = torch.linalg.qr(weight @ sketch.to(weight.device)).Q
    for _ in range(ITERATIONS):
        # Orthonormalise after each product: the small singular directions would drown otherwise.
        basis = torch.linalg.qr(weight.T @ basis).Q
        basis = torch.linalg.qr(weight @ basis).Q
    small, values, right_t = torch.linalg.svd(basis.T @ weight, full_matrices=False)
    return basis @ small, values, right_t


def low_rank(
    weight: Float[Tensor, "m n"],
    rank: int,
    *,
    svd: Svd,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "m n"]:
    r"""Return the rank-``rank`` reconstruction :math:`W^{(k)} = U_k \Sigma_k V_k^\top`, m x n."""
    left, values, right = top_singular(weight, rank, svd=svd, generator=generator)
    return (left * values) @ right.T
