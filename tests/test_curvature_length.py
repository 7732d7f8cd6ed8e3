"""The Fisher length of an update and its shares on masks, on a network of two matrices."""

import numpy as np
import pytest
import torch
from test_curvature import SETTINGS
from torch import Tensor

from rlvr.geometry import curvature as cv
from rlvr.geometry import fisher_length as fl
from rlvr.geometry.fisher import Example


def tiny_update() -> tuple[dict[str, Tensor], dict[str, Tensor], list[Example], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(4)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).double()

    weights = {"w0": normal(8, 6), "w1": normal(7, 8), "bias": normal(7)}
    inputs = [normal(length, 6) for length in (4, 9)]

    def forward(x: Tensor):
        return lambda w: torch.tanh(x @ w["w0"].T) @ w["w1"].T + w["bias"]

    examples = [Example(forward(x), torch.zeros(len(x), dtype=torch.long)) for x in inputs]
    update = {n: 0.01 * normal(*w.shape) for n, w in weights.items()}
    cells = {n: cv.cells_of(n, weights[n], SETTINGS) for n in ("w0", "w1")}
    return weights, update, examples, cells


def length_of(weights, update, examples, cells) -> dict:
    pieces, at_random = fl.pieces_of(update, cells), fl.random_pieces_of(update, cells)
    terms, cross = zip(
        *(fl.length_terms(e, weights, pieces, at_random) for e in examples), strict=True
    )
    tokens = np.array([float(len(e.tokens)) for e in examples])
    energies = np.array([sum(float(d.square().sum()) for d in p.values()) for p in pieces])
    stacked = (torch.stack(terms).numpy(), torch.stack(cross).numpy())
    return fl.summarise_length(*stacked, np.ones(len(tokens)), tokens, energies)


def test_shares_of_the_length_add_up_and_have_their_random_mean():
    weights, update, examples, cells = tiny_update()
    found = length_of(weights, update, examples, cells)
    shares = {mask: row["share"]["mean"] for mask, row in found["masks"].items()}
    outside = found["share_outside_targets"]
    assert shares["principal"] + shares["off_principal"] + outside == pytest.approx(1, abs=1e-12)
    assert shares["safe"] + shares["principal_not_low"] + outside == pytest.approx(1, abs=1e-12)
    generator, drawn = torch.Generator().manual_seed(0), []
    for _ in range(40):
        shuffled = {
            n: c.reshape(-1)[torch.randperm(c.numel(), generator=generator)].view(c.shape)
            for n, c in cells.items()
        }
        drawn.append(
            length_of(weights, update, examples, shuffled)["masks"]["safe"]["share"]["mean"]
        )
    expected = found["masks"]["safe"]["share_random"]
    assert np.mean(drawn) == pytest.approx(expected, abs=5 * np.std(drawn) / 40**0.5)


def test_an_update_on_one_mask_has_its_whole_length_there():
    weights, update, examples, cells = tiny_update()
    only = {n: d * ((cells[n] // cv.BINS) % 2 == 1) for n, d in update.items() if n in cells}
    found = length_of(weights, only, examples, cells)
    assert found["masks"]["principal"]["share"]["mean"] == pytest.approx(1, abs=1e-12)
    alone = found["masks"]["principal"]["alone_nats_per_token"]
    assert alone == pytest.approx(found["fisher_nats_per_token"]["mean"], rel=1e-12)
    assert found["masks"]["principal"]["share_of_energy"] == 1
