"""From two policies and prompts to curvature: what is sampled, measured and summed up.

The definitions are in ``rlvr.geometry.fisher``, ``curvature`` and ``fisher_length``; here they are
applied to a language model. The base policy samples the completions at temperature 1 from the whole
distribution: only then are their tokens labels drawn from the policy.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from tqdm import tqdm
from transformers import PreTrainedModel

from rlvr import runtime
from rlvr.config import ModelSection
from rlvr.data import load_prepared, parse_dataset, prompt_tokenizer
from rlvr.eval.divergence import kl_per_position
from rlvr.eval.sampling import prompt_token_ids, sample
from rlvr.geometry import curvature as cv
from rlvr.geometry import fisher
from rlvr.geometry import fisher_length as fl
from rlvr.geometry.fisher import Example, Weights
from rlvr.geometry.names import place_of
from rlvr.geometry.settings import Settings
from rlvr.policy import load_config, load_policy, load_tokenizer
from rlvr.schema import RecipeError

TOP = 5  # eigenvalues that are reported
_BATCH = 64  # completions that are sampled at a time


@dataclass(frozen=True)
class Prompts:
    """Prompts as token ids, and the completions that the base policy sampled, prompt by prompt.

    ``truncated`` completions have no end token; their tokens are samples of the policy too.
    """

    heads: list[list[int]]
    completions: list[list[list[int]]]
    truncated: int = 0

    @property
    def tokens(self) -> cv.Floats:
        """Completion tokens of each prompt."""
        return np.array([float(sum(map(len, group))) for group in self.completions])

    @property
    def owners(self) -> list[int]:
        """Index of the prompt of each completion."""
        return [i for i, group in enumerate(self.completions) for _ in group]

    def examples(self, policy: PreTrainedModel) -> Iterator[Example]:
        """Yield each completion with its logits as a function of weights, by parameter name."""
        for head, group in zip(self.heads, self.completions, strict=True):
            for tokens in group:
                yield _example(policy, head, tokens)


def _example(policy: PreTrainedModel, head: list[int], tokens: list[int]) -> Example:
    # One completion at a time: squared gradients of a batch would mix its completions.
    ids = torch.tensor([head + tokens], device=next(policy.parameters()).device)
    span = slice(len(head) - 1, len(head) + len(tokens) - 1)  # each predicts the token after it

    def logits(weights: Weights) -> Tensor:
        inputs = {"input_ids": ids, "use_cache": False}
        # Weights as an argument: derivatives are taken with respect to them.
        return functional_call(policy, dict(weights), (), inputs).logits[0, span]

    return Example(logits, ids[0, len(head) :])


def load(section: ModelSection, like: PreTrainedModel | None = None) -> PreTrainedModel:
    """Load a policy in float32 for derivatives, on the default device.

    Raises:
        RecipeError: it cannot be loaded, is broken, or is of another architecture than ``like``.
    """
    # Forward-mode derivatives exist for attention that is written out, not for fused kernels.
    plain = ModelSection(section.path, section.revision, attn_implementation="eager")
    load_config(plain)
    policy = load_policy(plain, runtime.default_device()).eval()
    if like is not None:
        # Before minutes of sampling.
        _require_same(like, policy, section.path)
    return policy


def _require_same(base: PreTrainedModel, tuned: PreTrainedModel, path: str) -> None:
    shapes = [{n: list(p.shape) for n, p in m.named_parameters()} for m in (base, tuned)]
    for name in sorted(shapes[0].keys() | shapes[1].keys()):
        own, other = (of.get(name, "missing") for of in shapes)
        if own != other:
            raise RecipeError(
                f"{path}: {name!r} is {other}, and in the base policy {own}; the two must be of "
                "one architecture"
            )


def draw_prompts(
    section: ModelSection,
    policy: PreTrainedModel,
    data: dict[str, Any],
    *,
    template_kwargs: dict[str, Any] | None = None,
    prompts: int,
    samples: int,
    max_new_tokens: int,
    seed: int,
) -> Prompts:
    """Draw at most ``prompts`` prompts of ``data``, and ``samples`` completions of each.

    ``template_kwargs`` are arguments of the policy's chat template.
    """
    spec = parse_dataset(data, "data")
    tokenizer = prompt_tokenizer(
        load_tokenizer(section), spec.shared["prefill"], template_kwargs, "data"
    )
    rows = load_prepared(spec, "data", tokenizer=tokenizer).rows
    if len(rows) < 2:
        raise RecipeError("data: has one row, and one prompt has no interval; name at least two")
    # Not the first rows: a file may be sorted by difficulty.
    rows = random.Random(seed).sample(rows, min(prompts, len(rows)))
    messages = [spec.render(row["problem"]) for row in rows]
    drawn = sample(
        policy,
        tokenizer,
        messages,
        samples=samples,
        temperature=1.0,
        max_new_tokens=max_new_tokens,
        batch_size=_BATCH,
        seed=seed,
        names=[str(row["id"]) for row in rows],
    )
    completions = [[list(completion.token_ids) for completion in group] for group in drawn]
    truncated = sum(completion.truncated for group in drawn for completion in group)
    return Prompts(prompt_token_ids(tokenizer, messages), completions, truncated)


@dataclass(frozen=True)
class Curvature:
    """One row for each matrix and mask, the numbers of all, and the cells of the entries."""

    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    cells: dict[str, Tensor]


def measure_curvature(
    policy: PreTrainedModel,
    prompts: Prompts,
    names: Sequence[str],
    settings: Settings,
    *,
    probes: int,
    steps: int,
    seed: int,
) -> Curvature:
    """Estimate the Fisher diagonal of the target matrices, and compare it on the masks.

    Args:
        policy: the base policy, from which the completions in ``prompts`` were sampled.
        prompts: the contexts.
        names: of the target matrices.
        settings: rank and densities of the masks.
        probes: of Hutchinson's estimate; 0 leaves it out.
        steps: of Lanczos; 0 leaves it out.
        seed: of the probes.
    """
    parameters = dict(policy.named_parameters())
    weights = {name: parameters[name].detach() for name in names}
    cells = {name: cv.cells_of(name, weight, settings) for name, weight in weights.items()}
    table = _table(policy, prompts, weights, cells)
    rows = []
    for index, (name, weight) in enumerate(weights.items()):
        place = place_of(name, weight.shape)
        rows += [{**place, "mask": mask, **table.row(mask, [index])} for mask in cv.MASKS]
    entries = int(table.counts.sum())
    summary: dict[str, Any] = {
        "matrices": len(names),
        "entries": entries,
        # The mean over all entries is the same in every row; any mask would do.
        "trace": table.row("principal", range(len(names)))["mean_curvature_all"] * entries,
        "masks": cv.summarise(table, rows),
    }
    generator = torch.Generator().manual_seed(seed)
    batch = list(prompts.examples(policy))  # closures; logits are computed when they are called

    def product(vector: Weights) -> dict[str, Tensor]:
        return fisher.fisher_product(batch, weights, vector)

    if probes:
        estimates = fisher.hutchinson(product, weights, probes, generator)
        summary["hutchinson"] = _hutchinson(estimates, probes, cells, table.counts)
    if steps:
        summary["lanczos"] = _lanczos(product, weights, steps, generator, cells)
    return Curvature(rows, summary, cells)


def _table(
    policy: PreTrainedModel, prompts: Prompts, weights: Weights, cells: Mapping[str, Tensor]
) -> cv.Table:
    names, owners = list(weights), prompts.owners
    place = {name: index for index, name in enumerate(names)}
    # By prompt, because prompts are what the intervals draw again.
    sums = np.zeros((len(prompts.heads), len(names), cv.GROUPS, cv.BINS))

    def observe(index: int, name: str, square: Tensor) -> None:
        sums[owners[index], place[name]] += cv.sum_cells(square, cells[name]).numpy()

    bar = tqdm(prompts.examples(policy), "gradients", len(owners), unit="completion")
    # One pass fills both: `observe` sees each square on the way.
    diagonal = fisher.fisher_diagonal(bar, weights, observe)
    counts = [cv.sum_cells(torch.ones_like(weights[n]), cells[n]).numpy() for n in names]
    squares = [cv.sum_cells(diagonal[n].double().square(), cells[n]).numpy() for n in names]
    shuffled = [cv.shuffled_sums(n, diagonal[n], cells[n]) for n in names]
    return cv.Table(sums, np.stack(counts), np.stack(squares), np.stack(shuffled), prompts.tokens)


def _hutchinson(
    estimates: Iterator[dict[str, Tensor]],
    probes: int,
    cells: Mapping[str, Tensor],
    counts: cv.Floats,
) -> dict[str, Any]:
    bar = tqdm(estimates, "probes", probes, unit="probe")
    sums = np.stack(
        [np.stack([cv.sum_cells(probe[n], cells[n]).numpy() for n in cells]) for probe in bar]
    )
    traces = sums.sum((1, 2, 3))
    # The standard error of the mean over independent probes.
    error = float(traces.std(ddof=1) / probes**0.5) if probes > 1 else None
    return {
        "probes": probes,
        "trace": float(traces.mean()),
        "trace_standard_error": error,
        "masks": cv.probe_ratios(sums, counts),
    }


def _lanczos(
    product: fisher.Product,
    weights: Weights,
    steps: int,
    generator: torch.Generator,
    cells: Mapping[str, Tensor],
) -> list[dict[str, Any]]:
    bar = tqdm(total=steps, desc="lanczos", unit="step")

    def counted(vector: Weights) -> dict[str, Tensor]:
        bar.update()
        return product(vector)

    with bar:
        ritz = fisher.lanczos(counted, weights, steps, TOP, generator)
    pairs = []
    for value, error, vector in zip(ritz.values, ritz.errors, ritz.vectors, strict=True):
        # Squared entries of a unit vector: shares of its energy that sum to 1.
        energy = sum(cv.sum_cells(vector[n].double().square(), cells[n]) for n in cells)
        groups = torch.as_tensor(energy).sum(1)
        shares = {mask: float(groups[list(own)].sum()) for mask, own in cv.MASKS.items()}
        pairs.append({"value": float(value), "error": float(error), "share_of_energy": shares})
    return pairs


def measure_length(
    policy: PreTrainedModel, tuned: PreTrainedModel, prompts: Prompts, cells: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Return the Fisher length of the update of all parameters, its shares, and the exact KL."""
    after = dict(tuned.named_parameters())
    changes = {n: (after[n] - p).detach() for n, p in policy.named_parameters()}
    # Parameters that did not move cost a pass each and add nothing.
    update = {n: change for n, change in changes.items() if bool(change.any())}
    weights = {n: p.detach() for n, p in policy.named_parameters() if n in update}
    pieces, at_random = fl.pieces_of(update, cells), fl.random_pieces_of(update, cells)
    size = len(prompts.heads)
    terms, cross = np.zeros((size, fl.PIECES, fl.PIECES)), np.zeros((size, cv.GROUPS))
    kl = np.zeros(size)
    pairs = zip(prompts.owners, prompts.examples(policy), prompts.examples(tuned), strict=True)
    bar = tqdm(pairs, "length", len(prompts.owners), unit="completion")
    for owner, example, moved in bar:
        own, between = fl.length_terms(example, weights, pieces, at_random)
        # By prompt, the unit of the intervals.
        terms[owner] += own.numpy()
        cross[owner] += between.numpy()
        with torch.no_grad():
            kl[owner] += float(kl_per_position(example.logits({}), moved.logits({})).sum())
    energies = np.array([sum(float(d.double().square().sum()) for d in p.values()) for p in pieces])
    summary = fl.summarise_length(terms, cross, kl, prompts.tokens, energies)
    return {"parameters_moved": len(update), **summary}
