r"""How an update turned a matrix: singular values, singular subspaces, and the error of each.

Notation: :math:`W = U \Sigma V^\top` is m x n, singular values descend, columns of U and V are
singular vectors. Everything is float64: RLVR moves singular values by 1e-5 of their norm, which
float32 would drown (arXiv 2606.07082, App. C).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from rlvr.linalg import gram, top_of_symmetric

Method = Literal["exact", "gram"]

_UNIT = 2.0**-53  # of float64
_SINGLE_UNIT = 2.0**-24  # of float32
_GRAM_FLOOR = 1e-5  # share of the largest singular value below which a Gram matrix is too inexact


@dataclass(frozen=True)
class Spectrum:
    """The singular values of a matrix and its leading singular vectors.

    ``values``: all min(m, n), descending; ``left`` (m x k) and ``right`` (n x k): the first k.
    ``value_error`` bounds the rounding error of each value. ``square_error`` is the same for the
    squared values of a Gram matrix, and ``None`` where the decomposition is of W itself.
    ``side_error`` is what float32 adds to the angles of the longer side's subspace, in radians.
    """

    values: Tensor
    left: Tensor
    right: Tensor
    value_error: Tensor
    square_error: float | None
    side_error: float = 0.0

    def angle_error(self, rank: int) -> float:
        """Return a bound in radians on the error of the top-``rank`` subspaces (Davis-Kahan).

        2 error / gap, at most pi / 2. The gap is between the values ``rank`` and ``rank`` + 1, or
        from the last value to 0.
        """
        tail = self.values[rank] if rank < len(self.values) else self.values.new_zeros(())
        head = self.values[rank - 1]
        if self.square_error is None:
            gap, error = head - tail, float(self.value_error[0])
        else:
            gap, error = head.square() - tail.square(), self.square_error
        if not gap > 0:
            return math.pi / 2
        return min(math.pi / 2, 2 * error / float(gap) + self.side_error)


def decompose(weight: Tensor, keep: int, method: Method = "exact") -> Spectrum:
    r"""Return all singular values of ``weight`` and its first ``keep`` singular vectors.

    ``exact``: Householder QR of the longer side, then LAPACK's SVD. ``gram``: the eigenvectors of
    :math:`W^\top W`, three times as fast, with absolute errors of
    :math:`u (\sqrt m \|W\|_F^2 + n \sigma_1^2) / \sigma_i` in :math:`\sigma_i`, u = 2^-53
    (probabilistic rounding, Higham and Mary, SIAM J. Sci. Comput. 41, 2019). The singular vectors
    of the longer side are float32. Where the last wanted singular value is too small for that, the
    decomposition is ``exact`` after all.
    """
    if weight.ndim != 2 or not weight.numel():
        raise ValueError(f"a spectrum is of a matrix, got the shape {tuple(weight.shape)}")
    weight = weight.detach()
    if weight.shape[0] < weight.shape[1]:
        # Below, rows >= columns: W^T has the same values, and its sides are exchanged.
        flipped = decompose(weight.T, keep, method)
        return replace(flipped, left=flipped.right, right=flipped.left)
    keep = min(keep, weight.shape[1])
    spectrum = _from_gram(weight, keep) if method == "gram" else None
    return _from_svd(weight, keep) if spectrum is None else spectrum


def _from_svd(weight: Tensor, keep: int) -> Spectrum:
    rows, columns = weight.shape
    device = weight.device
    weight = weight.double().cpu()  # GPU solvers are unsteady on near-equal matrices
    # A square matrix gains nothing from a QR first.
    if rows == columns:
        left, values, right_t = torch.linalg.svd(weight, full_matrices=False)
        left = left[:, :keep].contiguous()
    else:
        factors, tau = torch.geqrf(weight)
        small, values, right_t = torch.linalg.svd(factors[:columns].triu(), full_matrices=False)
        left = small.new_zeros(rows, keep)
        left[:columns] = small[:, :keep]
        # Q times the small factor without forming Q, which is m x m.
        left = torch.ormqr(factors, tau, left)
    error = torch.full_like(values, 2 * _UNIT * columns * float(values[0]))
    right = right_t[:keep].T.contiguous()
    return Spectrum(values.to(device), left.to(device), right.to(device), error.to(device), None)


def singular_values(weight: Float[Tensor, "m n"]) -> Float64[Tensor, " k"]:
    """Return all singular values, descending, float64."""
    weight = weight.detach().double().cpu()
    tall = weight if weight.shape[0] >= weight.shape[1] else weight.T
    if tall.shape[0] > tall.shape[1]:
        tall = torch.geqrf(tall)[0][: tall.shape[1]].triu()
    return torch.linalg.svdvals(tall)


def _eigen(product: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Return all eigenvalues, descending, and the eigenvectors of the first ``keep``."""
    size = len(product)
    if product.device.type != "cpu" or 4 * keep > size:
        squares, vectors = torch.linalg.eigh(product)
        return squares.flip(0), vectors.flip(1)[:, :keep]
    # Torch cannot compute only a few eigenvectors. All values by torch and the first vectors by
    # LAPACK together take 0.65 of the time of all vectors.
    squares = torch.linalg.eigvalsh(product).flip(0)
    return squares, top_of_symmetric(product, keep)


def _from_gram(weight: Tensor, keep: int) -> Spectrum | None:
    squares, vectors = _eigen(gram(weight), keep)
    squares = squares.clamp(min=0)  # rounding may leave the smallest below 0
    values = squares.sqrt()
    if not values[keep - 1] > _GRAM_FLOOR * values[0]:
        return None
    rows, columns = weight.shape
    error = _UNIT * (rows**0.5 * float(squares.sum()) + columns * float(squares[0]))
    right = vectors.contiguous()
    left = weight.float() @ right.float() / values[:keep].float()
    side_error = 4 * _SINGLE_UNIT * float(values[0] / values[keep - 1])
    # An error e in a square is e / sigma in sigma, and at most sqrt(e) where sigma is tiny.
    value_error = (error / values.clamp(min=error**0.5)).clamp(max=error**0.5)
    return Spectrum(values, left, right, value_error, error, side_error)


def spectral_shift(before: Float[Tensor, " k"], after: Float[Tensor, " k"]) -> float:
    r"""Return the normalised spectral shift of all singular values (arXiv 2511.08567, section 4).

    .. math:: \mathrm{NSS} = \|\sigma(W_+) - \sigma(W_0)\|_2 / \|\sigma(W_0)\|_2

    NaN where the base matrix is zero and the tuned one is not.
    """
    distance, norm = float((after - before).norm()), float(before.norm())
    return distance / norm if norm else (0.0 if not distance else math.nan)


def spectral_shift_error(before: Spectrum, after: Spectrum) -> float:
    """Return a bound on the rounding error of ``spectral_shift`` of the two."""
    norm = float(before.values.norm())
    return float((before.value_error + after.value_error).norm()) / norm if norm else 0.0


def principal_angles(
    first: Float[Tensor, "n k"], second: Float[Tensor, "n k"]
) -> Float[Tensor, " k"]:
    r"""Return the principal angles between two subspaces, ascending, in radians.

    With orthonormal columns A and B (n x k): cosines are the singular values of :math:`A^\top B`,
    sines those of :math:`B - A A^\top B`, and each angle is the arc tangent of sine and cosine. The
    arc cosine cannot see angles below 1e-8 and is off by 1e-9 at 1e-7 (Bjorck and Golub 1973).
    """
    cross = first.T @ second
    cosines = torch.linalg.svdvals(cross.cpu())
    rest = second - first @ cross
    # Ascending sines beside descending cosines: place i of both belongs to one angle.
    sines = singular_values(rest).flip(0) if rest.numel() else cosines.new_zeros(0)
    # When k exceeds the dimensions outside, the missing sines are 0.
    missing = len(cosines) - len(sines)
    sines = torch.cat([sines.new_zeros(missing), sines]) if missing > 0 else sines
    return torch.atan2(sines, cosines)


def top_energy(values: Float[Tensor, " k"], rank: int) -> float:
    r"""Return the share of the energy, the sum of squares, in the top ``rank`` of ``values``.

    .. math:: \sum_{i \le k} \sigma_i^2 / \sum_i \sigma_i^2

    NaN for a zero matrix.
    """
    total = float(values.square().sum())
    return float(values[:rank].square().sum()) / total if total else math.nan


def energy_off_principal(
    update: Float[Tensor, "m n"], left: Float[Tensor, "m k"], right: Float[Tensor, "n k"]
) -> float:
    r"""Return the share of the energy of an update outside a principal subspace.

    .. math:: 1 - \|U_k^\top \Delta W V_k\|_F^2 / \|\Delta W\|_F^2

    ``left`` (m x k) and ``right`` (n x k) are singular vectors of the base weights. An update in
    random directions has 1 - k^2 / (m n). NaN where the update is zero. This subspace is not the
    principal *mask*, which is a set of entries: the two overlaps answer different questions.
    """
    total = float(update.square().sum())
    inside = float((left.T @ update @ right).square().sum())
    return 1 - inside / total if total else math.nan


def stable_rank(values: Float[Tensor, " k"]) -> float:
    r"""Return :math:`\|W\|_F^2 / \|W\|_2^2` of singular values; NaN for a zero matrix."""
    return float((values / values[0]).square().sum()) if values[0] > 0 else math.nan


def numerical_rank(values: Float[Tensor, " k"], shape: Sequence[int]) -> int:
    r"""Return how many singular values exceed :math:`\max(m, n) \, 2^{-52} \sigma_1`.

    The tolerance, NumPy's and MATLAB's, is that of float64 arithmetic and not of the storage: a
    low-rank update that was rounded to bf16 has full rank.
    """
    if not values[0] > 0:
        return 0
    return int((values > max(shape) * 2 * _UNIT * values[0]).sum())
