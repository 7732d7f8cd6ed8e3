"""The Fisher information against closed forms, dense matrices and exact divergences."""

import itertools

import pytest
import torch
from rounding import assert_within, sum_bound
from torch import Tensor

from rlvr.geometry.fisher import (
    Example,
    fisher_diagonal,
    fisher_form,
    fisher_product,
    hutchinson,
    lanczos,
    logit_change,
    visit_gradient,
)

VOCABULARY, INPUTS, POSITIONS = 5, 3, 7


def linear(seed: int, count: int = 1) -> tuple[dict[str, Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shape = (VOCABULARY, INPUTS)
    weights = {"W": torch.randn(shape, generator=generator, dtype=torch.float64)}
    inputs = [
        torch.randn(POSITIONS, INPUTS, generator=generator, dtype=torch.float64)
        for _ in range(count)
    ]
    return weights, inputs


def example_of(x: Tensor, weights: dict[str, Tensor], generator: torch.Generator) -> Example:
    p = (x @ weights["W"].T).softmax(-1)
    tokens = torch.multinomial(p, 1, generator=generator).squeeze(1)
    return Example(lambda w: x @ w["W"].T, tokens)


def two_layers(seed: int = 0) -> tuple[dict[str, Tensor], list[Example]]:
    """Return a policy with a hidden layer, in float64, and completions of unequal lengths."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weights = {"first": normal(4, 3), "second": normal(6, 4)}
    inputs = [normal(length, 3) for length in (3, 8, 5)]

    def forward(x: Tensor):
        return lambda w: torch.tanh(x @ w["first"].T) @ w["second"].T

    return weights, [Example(forward(x), torch.zeros(len(x), dtype=torch.long)) for x in inputs]


def flat(weights: dict[str, Tensor]) -> Tensor:
    return torch.cat([w.reshape(-1) for w in weights.values()])


def dense_fisher(weights: dict[str, Tensor], examples: list[Example]) -> Tensor:
    """Return F by its definition: every label of every position, one gradient each."""
    size = flat(weights).numel()
    total, count = torch.zeros(size, size, dtype=torch.float64), 0
    for example in examples:
        p = example.logits(weights).softmax(-1)
        for position, token in itertools.product(range(len(p)), range(p.shape[1])):
            leaves = {n: w.clone().requires_grad_() for n, w in weights.items()}
            log_p = example.logits(leaves).log_softmax(-1)[position, token]
            g = flat(dict(zip(leaves, torch.autograd.grad(log_p, leaves.values()), strict=True)))
            total += p[position, token] * torch.outer(g, g)
        count += len(p)
    return total / count


def test_diagonal_of_a_linear_softmax_is_its_closed_form():
    weights, inputs = linear(0)
    p = (inputs[0] @ weights["W"].T).softmax(-1)
    closed = torch.einsum("tj,ti->ij", inputs[0].square(), p * (1 - p)) / POSITIONS
    generator = torch.Generator().manual_seed(1)
    draws = 4000
    found = torch.stack(
        [fisher_diagonal([example_of(inputs[0], weights, generator)], weights)["W"]
         for _ in range(draws)]
    )  # fmt: skip
    error = found.std(0) / draws**0.5
    assert ((found.mean(0) - closed).abs() < 5 * error).all()
    dense = dense_fisher(weights, [example_of(inputs[0], weights, generator)])
    torch.testing.assert_close(dense.diagonal().view_as(closed), closed, rtol=1e-12, atol=0)


def test_diagonal_is_of_each_completion_and_not_of_their_batch():
    weights, inputs = linear(2, count=6)
    generator = torch.Generator().manual_seed(3)
    examples = [example_of(x, weights, generator) for x in inputs]
    seen: dict[int, Tensor] = {}
    found = fisher_diagonal(
        examples, weights, lambda index, name, square: seen.update({index: square.clone()})
    )
    gradients = []
    for example, x in zip(examples, inputs, strict=True):
        p = (x @ weights["W"].T).softmax(-1)
        one_hot = torch.nn.functional.one_hot(example.tokens, VOCABULARY)
        gradients.append((one_hot - p).T @ x)
    expected = torch.stack(gradients).square().sum(0) / (6 * POSITIONS)
    # An entry of a gradient may cancel: its error is that of its terms, at most |x| each.
    terms = torch.stack([x.abs().sum(0).expand(VOCABULARY, -1) for x in inputs])
    error = sum_bound(2 * terms, 4 * POSITIONS, torch.float64)
    squares = torch.stack(gradients).square()
    bounds = 2 * error * terms + error**2 + sum_bound(squares, 6, torch.float64)
    assert_within(found["W"], expected, bounds.sum(0) / (6 * POSITIONS))
    assert_within(seen[4], squares[4], bounds[4])


def test_a_gradient_of_a_weight_used_twice_is_visited_once():
    weight = torch.randn(4, 4, dtype=torch.float64)
    x = torch.randn(3, 4, dtype=torch.float64)
    example = Example(lambda w: torch.tanh(x @ w["tied"]) @ w["tied"].T, torch.tensor([0, 1, 3]))
    visits = []
    visit_gradient(example, {"tied": weight}, lambda name, g: visits.append((name, g.clone())))
    leaf = weight.clone().requires_grad_()
    log_p = example.logits({"tied": leaf}).log_softmax(-1)[range(3), [0, 1, 3]].sum()
    (expected,) = torch.autograd.grad(log_p, leaf)
    assert [name for name, _ in visits] == ["tied"]
    torch.testing.assert_close(visits[0][1], expected)


def test_product_is_the_dense_matrix():
    weights, examples = two_layers()
    dense = dense_fisher(weights, examples)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        v = {n: torch.randn(w.shape, generator=generator).double() for n, w in weights.items()}
        found = flat(fisher_product(examples, weights, v))
        torch.testing.assert_close(found, dense @ flat(v), rtol=1e-8, atol=1e-12)
        form = [fisher_form(*logit_change(e, weights, v), logit_change(e, weights, v)[1])
                for e in examples]  # fmt: skip
        expected = (flat(v) @ dense @ flat(v)).item()
        assert torch.cat(form).mean().item() == pytest.approx(expected, rel=1e-10)


def test_fisher_length_tends_to_the_kl_as_the_update_shrinks():
    weights, examples = two_layers(5)
    generator = torch.Generator().manual_seed(1)
    update = {n: torch.randn(w.shape, generator=generator).double() for n, w in weights.items()}
    gaps = []
    for scale in (1e-1, 1e-2, 1e-3):
        step = {n: scale * d for n, d in update.items()}
        length, kl = 0.0, 0.0
        for example in examples:
            logits, change = logit_change(example, weights, step)
            length += fisher_form(logits, change, change).sum().item() / 2
            moved = example.logits({n: weights[n] + step[n] for n in weights}).log_softmax(-1)
            p = logits.softmax(-1)
            kl += (p * (logits.log_softmax(-1) - moved)).sum().item()
        gaps.append(abs(length / kl - 1))
    assert gaps[2] < 2e-3
    # The first neglected term is of third order, so that the ratio is wrong by the first.
    assert gaps[1] / gaps[2] == pytest.approx(10, rel=0.2)


def test_lanczos_finds_the_top_eigenvalues():
    weights, examples = two_layers(7)
    dense = dense_fisher(weights, examples)
    expected = torch.linalg.eigvalsh(dense).flip(0)
    generator = torch.Generator().manual_seed(0)
    found = lanczos(
        lambda v: fisher_product(examples, weights, v), weights, 36, 5, generator
    )  # fmt: skip
    torch.testing.assert_close(found.values, expected[:5], rtol=1e-9, atol=0)
    for value, vector in zip(found.values, found.vectors, strict=True):
        v = flat(vector)
        assert v.norm().item() == pytest.approx(1, abs=1e-9)
        assert (dense @ v - value * v).norm() < 1e-7 * expected[0]
    short = lanczos(lambda v: fisher_product(examples, weights, v), weights, 6, 3, generator)
    nearest = (short.values[:, None] - expected).abs().min(1).values
    assert (nearest <= short.errors + 1e-12).all() and (short.errors[2] > 1e-12)


def test_lanczos_stops_where_its_space_ends():
    weights = {"w": torch.zeros(6, dtype=torch.float64)}
    scale = torch.tensor([3.0, 3, 3, 1, 1, 1], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    found = lanczos(lambda v: {"w": scale * v["w"]}, weights, 6, 4, generator)
    torch.testing.assert_close(found.values, torch.tensor([3.0, 1.0], dtype=torch.float64))
    zero = lanczos(lambda v: {"w": 0 * v["w"]}, weights, 6, 4, generator)
    assert zero.values.tolist() == [0.0]


def test_hutchinson_is_unbiased_for_the_diagonal():
    weights, examples = two_layers(9)
    dense = dense_fisher(weights, examples)
    generator = torch.Generator().manual_seed(0)
    probes = 400
    product = lambda v: fisher_product(examples, weights, v)  # noqa: E731
    found = torch.stack([flat(d) for d in hutchinson(product, weights, probes, generator)])
    off = dense - dense.diagonal().diag()
    error = off.square().sum(1).sqrt() / probes**0.5
    assert ((found.mean(0) - dense.diagonal()).abs() < 5 * error + 1e-12).all()
    spread = found.std(0) / off.square().sum(1).sqrt()
    assert ((spread > 0.7) & (spread < 1.3)).all()  # the variance that the docstring states
