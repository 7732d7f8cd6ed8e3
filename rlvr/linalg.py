"""Truncated singular value decompositions, deterministic in every way they are computed.

- ``exact``: LAPACK's SVD of the whole matrix.
- ``gram``: the eigenvectors of :math:`W^\\top W` in float64. What float32 weights lose by squaring
  lies below their own rounding, and the top of a spectrum is its least affected part.
- ``randomized``: subspace iteration on a sketch. Singular *values* are good; on the flat spectra of
  trained matrices the *entries* of the reconstruction are not: of 90 matrices of Gemma 3 270M at
  rank 64 the principal mask has an IoU of 0.85 with the exact one, where ``gram`` has 0.9999.
"""

from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from rlvr.lapack import leading_eigenvectors

Svd = Literal["gram", "exact", "randomized"]

OVERSAMPLING = 2  # columns of the sketch per wanted singular vector
SMALL = 512  # the smaller dimension up to which the exact decomposition is taken
_GRAM_BLOCKS = 8  # of columns: only blocks on and above the diagonal are multiplied
_GRAM_ROWS = 1024  # converted to float64 at a time
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
    if svd == "gram":
        return _gram_triplets(weight, rank)
    width = OVERSAMPLING * rank
    # A sketch as wide as the matrix costs more than the exact SVD.
    if svd == "exact" or min(weight.shape) <= max(SMALL, width):
        left, values, right_t = exact_svd(weight)
    else:
        left, values, right_t = _randomized(weight, width, generator)
    return left[:, :rank], values[:rank], right_t[:rank].T


def _gram_triplets(weight: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    if weight.shape[0] < weight.shape[1]:
        right, values, left = _gram_triplets(weight.T, rank)
        return left, values, right
    right = top_of_symmetric(gram(weight), rank)
    left = weight.double() @ right
    values = left.norm(dim=0)
    # A direction that W sends to 0 has no left vector; any will do, since its value is 0.
    left = left / values.clamp(min=torch.finfo(torch.float64).tiny)
    return left.to(weight.dtype), values.to(weight.dtype), right.to(weight.dtype)


def gram(weight: Float[Tensor, "m n"]) -> Float64[Tensor, "n n"]:
    r"""Return :math:`W^\top W` in float64; each pair of column blocks is multiplied once."""
    columns = weight.shape[1]
    width = -(-columns // _GRAM_BLOCKS)
    product = weight.new_zeros(columns, columns, dtype=torch.float64)
    for rows in weight.split(_GRAM_ROWS):
        wide = rows.double()
        for start in range(0, columns, width):
            block = slice(start, start + width)
            product[block, start:].addmm_(wide[:, block].T, wide[:, start:])
    return product.triu() + product.triu(1).T  # blocks on the diagonal hold both triangles


def top_of_symmetric(product: Float64[Tensor, "n n"], count: int) -> Float64[Tensor, "n {count}"]:
    """Return the eigenvectors of the largest ``count`` eigenvalues, descending."""
    if product.device.type != "cpu" or 4 * count > len(product):
        return torch.linalg.eigh(product).eigenvectors.flip(1)[:, :count]
    # Torch cannot compute only a few eigenvectors; LAPACK can, in half the time.
    return torch.from_numpy(leading_eigenvectors(product.numpy(), count)).flip(1)


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
