r"""The Fisher length of an update, :math:`\frac12 \Delta^\top F \Delta`, and which masks pay it.

It is the KL from the base to the tuned policy to second order, in nats per token, on contexts that
the base policy sampled. With :math:`u = J \Delta`, the change of the logits to first order, it is
half their variance under the policy: one forward-mode pass, exact in the vocabulary.

A mask M splits the update, :math:`u = u_M + u_{M^c}`, and the length is not additive: its share of
M counts the cross term half, :math:`\Delta_M^\top F \Delta / \Delta^\top F \Delta`. The shares of a
mask and its complement sum to 1; one may be negative where the two cancel. Random masks of the same
density in each matrix have, on average, the share of :math:`\rho \circ \Delta` with the densities
:math:`\rho`, which is computed likewise. No diagonal approximation enters.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlvr.geometry.curvature import BINS, GROUPS, MASKS, Floats, ratio_interval, resample
from rlvr.geometry.fisher import Example, Weights, fisher_form, logit_change

PIECES = GROUPS + 1  # the groups of the target matrices, then everything else that moved


def pieces_of(update: Weights, cells: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return the update on each group of entries of the target matrices, and its rest."""
    pieces = []
    # A cell is group BINS + bin, so that the division gives its group.
    for group in range(GROUPS):
        pieces.append({n: d * (cells[n] // BINS == group) for n, d in update.items() if n in cells})
    return [*pieces, {n: d for n, d in update.items() if n not in cells}]


def random_pieces_of(update: Weights, cells: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return the mean of ``pieces_of`` over random groups of the same sizes in each matrix."""
    pieces = []
    for group in range(GROUPS):
        shares = {n: float((cells[n] // BINS == group).double().mean()) for n in cells}
        pieces.append({n: d * shares[n] for n, d in update.items() if n in cells})
    return pieces


def length_terms(
    example: Example,
    weights: Weights,
    pieces: list[dict[str, Tensor]],
    random_pieces: list[dict[str, Tensor]],
) -> tuple[Tensor, Tensor]:
    r"""Return sums over positions of :math:`u_a^\top (\mathrm{diag}(p) - p p^\top) u_b`.

    The first sums are over all pairs of pieces (K x K), the second over each random piece with the
    whole update. Float64, nats.
    """
    changes, logits = [], None
    for piece in pieces:
        logits, change = logit_change(example, weights, piece)
        changes.append(change)
    assert logits is not None
    whole = torch.stack(changes).sum(0)  # J is linear: the pieces' changes add up to the update's
    terms = torch.zeros(len(pieces), len(pieces), dtype=torch.float64)
    for i, first in enumerate(changes):
        for j, second in enumerate(changes[: i + 1]):
            # The form is symmetric: half of the pairs are enough.
            terms[i, j] = terms[j, i] = fisher_form(logits, first, second).sum().item()
    cross = [
        fisher_form(logits, logit_change(example, weights, piece)[1], whole).sum().item()
        for piece in random_pieces
    ]
    return terms, torch.tensor(cross, dtype=torch.float64)


def summarise_length(
    terms: Floats, cross: Floats, kl: Floats, tokens: Floats, energies: Floats
) -> dict[str, Any]:
    """Return lengths, shares and the exact KL, with 95 % bootstrap intervals over P prompts.

    Args:
        terms: P x PIECES x PIECES and ``cross``: P x GROUPS, from ``length_terms``.
        kl: P, sums of KL(base || tuned) over the same positions, nats.
        tokens: P, those positions.
        energies: PIECES, squared Frobenius norms of the pieces.
    """
    draws, length = resample(len(tokens)), terms.sum((1, 2)) / 2

    def interval(above: Floats, below: Floats) -> dict[str, float | None]:
        keys = ("mean", "low", "high")
        if not below.sum() > 0:
            return dict.fromkeys(keys)
        return dict(zip(keys, ratio_interval(above, below, draws), strict=True))

    masks: dict[str, Any] = {}
    for mask, chosen in MASKS.items():
        groups = list(chosen)
        masks[mask] = {
            "share": interval(terms[:, groups].sum((1, 2)) / 2, length),
            "share_random": interval(cross[:, groups].sum(1) / 2, length)["mean"],
            "share_of_energy": _share(energies[groups].sum(), energies.sum()),
            "alone_nats_per_token": float(terms[:, groups][:, :, groups].sum() / 2 / tokens.sum()),
        }
    return {
        "fisher_nats_per_token": interval(length, tokens),
        "kl_nats_per_token": interval(kl, tokens),
        "fisher_over_kl": interval(length, kl),
        "share_outside_targets": interval(terms[:, GROUPS:].sum((1, 2)) / 2, length)["mean"],
        "update_norm": float(np.sqrt(energies.sum())),
        "masks": masks,
    }


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole > 0 else None
