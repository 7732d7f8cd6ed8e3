r"""The Fisher information of a policy on a prompt set: its diagonal, products, top eigenvalues.

A context is a prompt with the completion so far; completions are sampled from the policy itself,
at temperature 1. Over the N positions of the completions, with :math:`p = \pi(\cdot | h)` and
:math:`J` the derivative of the V logits at context h with respect to the weights,

.. math:: F = \frac{1}{N} \sum_h \mathbb{E}_{v \sim p} [g_v g_v^\top]
            = \frac{1}{N} \sum_h J^\top (\mathrm{diag}(p) - p p^\top) J,
          \qquad g_v = \nabla \log \pi(v | h)

in nats per token and per squared unit of weight. It is the Hessian, at the policy, of the mean KL
per token to a moved policy; times the mean length it is the Fisher information of a completion.

1. ``fisher_diagonal`` takes the sampled tokens as the labels v: the squared gradient of a whole
   completion's log-probability, since the cross terms of its positions have mean zero under the
   policy. That is unbiased for the diagonal of F. On completions from elsewhere the same formula is
   the *empirical* Fisher, which is another quantity (arXiv 1905.12558). The squared gradient of a
   batch would be neither.
2. ``fisher_product`` and ``fisher_form`` sum over the vocabulary exactly: no label is drawn.
3. ``hutchinson`` and ``lanczos`` estimate the diagonal and the top eigenvalues from such products.

Logits are a function of named weights, T x V for one completion: a linear softmax model and a
language model are used alike. Forward-mode derivatives need attention written out (``eager``).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

Weights = Mapping[str, Tensor]
Product = Callable[[Weights], dict[str, Tensor]]
Observe = Callable[[int, str, Tensor], None]
_ROWS = 64  # positions whose vocabulary is held in float64 at a time


@dataclass(frozen=True)
class Example:
    """One completion: its T x V logits as a function of weights, and its T sampled tokens."""

    logits: Callable[[Weights], Tensor]
    tokens: Tensor


def _leaves(weights: Weights) -> dict[str, Tensor]:
    return {name: weight.detach().requires_grad_() for name, weight in weights.items()}


def visit_gradient(
    example: Example, weights: Weights, visit: Callable[[str, Tensor], None]
) -> None:
    r"""Call ``visit(name, gradient)`` with :math:`\nabla \log \pi(y|x)`, matrix by matrix.

    Each gradient is freed after its visit: the memory is that of the largest matrix.
    """
    leaves = _leaves(weights)

    def hook(name: str) -> Callable[[Tensor], None]:
        def seen(leaf: Tensor) -> None:
            assert leaf.grad is not None
            visit(name, leaf.grad)
            leaf.grad = None

        return seen

    for name, leaf in leaves.items():
        leaf.register_post_accumulate_grad_hook(hook(name))
    log_probs = example.logits(leaves).log_softmax(-1)
    log_probs.gather(-1, example.tokens[:, None]).sum().backward()


def fisher_diagonal(
    examples: Iterable[Example], weights: Weights, observe: Observe | None = None
) -> dict[str, Tensor]:
    r"""Return the unbiased estimate of the diagonal of F, shaped like ``weights``.

    .. math:: \hat F_{jj} = \sum_i (\partial_j \log \pi(y_i | x_i))^2 / \sum_i T_i,
              \qquad y_i \sim \pi(\cdot | x_i)

    Args:
        examples: completions that the policy of these weights sampled.
        weights: with respect to which; others are constants of ``Example.logits``.
        observe: called with the index of an example, a name and the squared gradient; what it is
            given is overwritten afterwards.
    """
    totals = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    count = 0
    for index, example in enumerate(examples):

        def visit(name: str, gradient: Tensor, index: int = index) -> None:
            square = gradient.square_()
            totals[name] += square
            if observe is not None:
                observe(index, name, square)

        visit_gradient(example, weights, visit)
        count += len(example.tokens)
    for total in totals.values():
        total /= count  # per token; the squares are of whole completions
    return totals


def logit_change(example: Example, weights: Weights, vector: Weights) -> tuple[Tensor, Tensor]:
    r"""Return the logits and their derivative :math:`J v` along ``vector``, both T x V.

    ``vector`` may name some of the weights only; it is zero elsewhere.
    """
    with torch.no_grad(), forward_ad.dual_level():
        duals = {
            name: forward_ad.make_dual(weight.detach(), vector[name]) if name in vector else weight
            for name, weight in weights.items()
        }
        logits, change = forward_ad.unpack_dual(example.logits(duals))
    return logits, torch.zeros_like(logits) if change is None else change


def fisher_form(logits: Tensor, first: Tensor, second: Tensor) -> Tensor:
    r"""Return :math:`a^\top (\mathrm{diag}(p) - p p^\top) b` of each position, float64, shape [T].

    It is the covariance under the policy of two changes of logits. With a = b = J v its mean over
    positions is :math:`v^\top F v`, in nats per token.

    Args:
        logits: T x V.
        first, second: changes of them, T x V.
    """
    # In float64, because p (a - mean a) cancels; a few rows at a time, because V is large.
    parts = []
    for rows in zip(*(x.split(_ROWS) for x in (logits, first, second)), strict=True):
        p, a, b = rows[0].double().softmax(-1), rows[1].double(), rows[2].double()
        centred = a - (p * a).sum(-1, keepdim=True)
        parts.append((p * centred * (b - (p * b).sum(-1, keepdim=True))).sum(-1))
    return torch.cat(parts)


def fisher_product(
    examples: Iterable[Example], weights: Weights, vector: Weights
) -> dict[str, Tensor]:
    r"""Return :math:`F v = \frac{1}{N} \sum_h J^\top (p \circ (J v - p^\top J v))`, exactly.

    One forward-mode pass and one backward pass per completion.
    """
    totals = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    count = 0
    for example in examples:
        logits, change = logit_change(example, weights, vector)
        p = logits.softmax(-1)
        # (diag(p) - p p^T) applied to the change, without the V x V matrix.
        pull = p * (change - (p * change).sum(-1, keepdim=True))
        # A second forward pass: the dual numbers of the first one carry no graph for backward.
        leaves = _leaves(weights)
        gradients = torch.autograd.grad(
            example.logits(leaves), list(leaves.values()), grad_outputs=pull, allow_unused=True
        )
        for name, gradient in zip(leaves, gradients, strict=True):
            if gradient is not None:
                totals[name] += gradient
        count += len(example.tokens)
    return {name: total / count for name, total in totals.items()}


def hutchinson(
    product: Product, weights: Weights, probes: int, generator: torch.Generator
) -> Iterator[dict[str, Tensor]]:
    r"""Yield :math:`v \circ F v` of ``probes`` Rademacher vectors v, shaped like ``weights``.

    Each is unbiased for the diagonal of F, with variance :math:`\sum_{j \ne i} F_{ij}^2` at entry
    i; the sum of its entries is unbiased for the trace (Hutchinson 1989; Bekas et al. 2007).
    ``generator`` is on the CPU, so that every device draws the same signs.
    """
    for _ in range(probes):
        vector = {
            name: (torch.randint(2, weight.shape, generator=generator) * 2 - 1).to(weight)
            for name, weight in weights.items()
        }
        image = product(vector)
        yield {name: vector[name] * image[name] for name in weights}


@dataclass(frozen=True)
class Ritz:
    """Approximate top eigenpairs, values descending.

    ``errors[i]`` bounds the distance of ``values[i]`` to an eigenvalue. ``vectors[i]`` is of unit
    norm over all weights together.
    """

    values: Tensor
    errors: Tensor
    vectors: list[dict[str, Tensor]]


def lanczos(
    product: Product, weights: Weights, steps: int, top: int, generator: torch.Generator
) -> Ritz:
    r"""Return the ``top`` largest eigenpairs that ``steps`` products with F can tell.

    Lanczos with full reorthogonalisation; the error of a Ritz value is at most
    :math:`\beta_m |s_m|` (Parlett 1998, section 13.2). Memory: ``steps`` copies of the weights.
    It ends early where the Krylov space is exhausted.
    """
    first = {
        n: torch.randn(w.shape, generator=generator, dtype=w.dtype) for n, w in weights.items()
    }
    # Drawn on the CPU and then moved, so that every device starts from the same vector.
    vector = _flat(first).to(next(iter(weights.values())).device)
    basis, diagonal, off_diagonal = [vector / vector.norm()], [], []
    for _ in range(min(steps, vector.numel())):
        image = _flat(product(_shaped(basis[-1], weights)))
        diagonal.append(float(image.double() @ basis[-1].double()))
        for _ in range(2):  # one pass leaves rounding errors as large as what it removed
            for other in basis:
                image = image - (image @ other) * other
        off_diagonal.append(float(image.norm()))
        # Nothing but rounding is left: the Krylov space is exhausted.
        if off_diagonal[-1] <= torch.finfo(image.dtype).eps * max(map(abs, diagonal)) * len(basis):
            break
        basis.append(image / off_diagonal[-1])
    size = len(diagonal)
    # The last norm lies outside the tridiagonal matrix; it bounds the errors below.
    inner = torch.tensor(off_diagonal[: size - 1], dtype=torch.float64)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    values, small = torch.linalg.eigh(matrix + torch.diag(inner, 1) + torch.diag(inner, -1))
    best = list(range(size - 1, -1, -1))[:top]  # eigh sorts ascending
    vectors = []
    for index in best:
        ritz = sum(float(c) * q for c, q in zip(small[:, index], basis, strict=False))
        assert isinstance(ritz, Tensor)
        vectors.append(_shaped(ritz, weights))
    return Ritz(values[best], off_diagonal[-1] * small[-1, best].abs(), vectors)


def _flat(weights: Weights) -> Tensor:
    return torch.cat([weight.reshape(-1) for weight in weights.values()])


def _shaped(flat: Tensor, weights: Weights) -> dict[str, Tensor]:
    parts = flat.split([weight.numel() for weight in weights.values()])
    return {n: part.view(w.shape) for (n, w), part in zip(weights.items(), parts, strict=True)}
