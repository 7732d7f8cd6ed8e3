"""The adapters of a recipe: each builder returns a ``Method``, its keywords are the options.

Every low-rank adapter here is stock LoRA to PEFT; what tells them apart is where the factors start,
which of them are trained, and at which rate. Scaling s is alpha / rank (alpha / sqrt(rank) for
``rslora``), and alpha defaults to rank.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from peft import LoraConfig, PeftConfig

from rlvr.adapters import factors
from rlvr.adapters.factors import Factors, Matrix
from rlvr.adapters.passthrough import passthrough_config
from rlvr.linalg import Svd
from rlvr.registry import adapter


@dataclass(frozen=True)
class Method:
    """How a policy is reparameterised.

    Attributes:
        config: PEFT's configuration, without targets.
        factors: ``(matrix, seed=…) -> A, B`` in float32, or ``None`` for PEFT's own start.
        subtracts_start: s B0 A0 is not 0 and is subtracted again, by a frozen second adapter.
        trains: which of ``lora_A`` and ``lora_B`` are trained; the rest stays as it starts.
        lr_ratio: the learning rate of B over that of A.
        sync: ``merge_unmerge`` is a control, see ``peft``.
    """

    config: PeftConfig
    factors: Callable[..., Factors] | None = None
    subtracts_start: bool = False
    trains: tuple[str, ...] = ("lora_A", "lora_B")
    lr_ratio: float = 1.0
    sync: Literal["exact", "merge_unmerge"] = "exact"


def _lora(rank: int, alpha: float | None, dropout: float, **options: Any) -> LoraConfig:
    # Rank 0 passes here: the check of shapes refuses it and names a matrix.
    return LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=dropout,
        bias="none",
        task_type="CAUSAL_LM",
        **options,
    )


def scaling_of(config: Any) -> float:
    """Return s of W0 + s B A."""
    return config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)


def _random(matrix: Matrix, *, seed: int, rank: int) -> Factors:
    return factors.random_factors(matrix, rank=rank, seed=seed)


def _fixed(function: Callable[..., Factors], **options: Any) -> Callable[..., Factors]:
    """Return ``function`` as a start that needs no seed."""

    def start(matrix: Matrix, *, seed: int) -> Factors:
        return function(matrix, **options)

    return start


@adapter
def lora(*, rank: int, alpha: float | None = None, dropout: float = 0.0) -> Method:
    """LoRA (arXiv 2106.09685): W = W0 + s B A with B = 0 and A random."""
    return Method(_lora(rank, alpha, dropout), partial(_random, rank=rank))


@adapter
def rslora(*, rank: int, alpha: float | None = None, dropout: float = 0.0) -> Method:
    """Rank-stabilised LoRA (arXiv 2312.03732): LoRA with s = alpha / sqrt(rank)."""
    return Method(_lora(rank, alpha, dropout, use_rslora=True), partial(_random, rank=rank))


@adapter
def dora(*, rank: int, alpha: float | None = None, dropout: float = 0.0) -> Method:
    """DoRA (arXiv 2402.09353): W = m (W0 + s B A) / ||W0 + s B A|| by row, m and B A trained."""
    return Method(_lora(rank, alpha, dropout, use_dora=True), partial(_random, rank=rank))


@adapter
def lora_plus(
    *, rank: int, alpha: float | None = None, dropout: float = 0.0, ratio: float = 16.0
) -> Method:
    """LoRA+ (arXiv 2402.12354): LoRA with B trained at ``ratio`` times the rate of A.

    The paper finds 2^4 good for all of its models; ``trainer.learning_rate`` is the rate of A.
    """
    start = partial(_random, rank=rank)
    return Method(_lora(rank, alpha, dropout), start, lr_ratio=ratio)


@adapter
def pissa(
    *,
    rank: int,
    alpha: float | None = None,
    dropout: float = 0.0,
    svd: Svd = "randomized",
) -> Method:
    """PiSSA (arXiv 2404.02948): s B A starts as the top-``rank`` singular triplets of W0."""
    config = _lora(rank, alpha, dropout)
    start = _fixed(factors.principal_factors, rank=rank, scaling=_scale(config), svd=svd)
    return Method(config, start, subtracts_start=True)


@adapter
def milora(*, rank: int, alpha: float | None = None, dropout: float = 0.0) -> Method:
    """MiLoRA (arXiv 2406.09044): s B A starts as the last ``rank`` triplets, of an exact SVD."""
    config = _lora(rank, alpha, dropout)
    start = _fixed(factors.minor_factors, rank=rank, scaling=_scale(config))
    return Method(config, start, subtracts_start=True)


@adapter
def mica(*, rank: int, alpha: float | None = None, dropout: float = 0.0) -> Method:
    """MiCA (arXiv 2604.01694): B the last left singular vectors, frozen; A = 0, trained."""
    start = _fixed(factors.minor_column_factors, rank=rank)
    return Method(_lora(rank, alpha, dropout), start, trains=("lora_A",))


@adapter
def olora(*, rank: int, alpha: float | None = None, dropout: float = 0.0) -> Method:
    """OLoRA (arXiv 2406.01775): B and A start as the first columns of Q and rows of R, W0 = Q R."""
    config = _lora(rank, alpha, dropout)
    return Method(config, _fixed(factors.qr_factors, rank=rank), subtracts_start=True)


@adapter
def geora(
    *,
    rank: int = 16,
    alpha: float | None = None,
    dropout: float = 0.0,
    density: float = 0.2,
    svd: Svd = "randomized",
) -> Method:
    """GeoRA (arXiv 2601.09361): B A starts as the top triplets of W0 in its off-principal entries.

    Rank and density are the paper's. Its alpha is not known to us; it stays rank, where s B A is
    the same with and without PiSSA's division by s.
    """
    config = _lora(rank, alpha, dropout)
    start = _fixed(factors.geometry_factors, rank=rank, density=density, svd=svd)
    return Method(config, start, subtracts_start=True)


def _scale(config: LoraConfig) -> float:
    # Division by a rank of 0 would hide the message that refuses it.
    return scaling_of(config) if config.r > 0 else 1.0


@adapter
def peft(
    *,
    method: str,
    options: dict[str, Any] | None = None,
    sync: Literal["exact", "merge_unmerge"] = "exact",
) -> Method:
    """Any other method of PEFT: the name of its configuration class and that class's options.

    ``sync: merge_unmerge`` is a control, never for use: it does to the base weights what TRL does
    with vLLM, merging into them and unmerging again before each step (completions are drawn from
    the unmerged policy), and neither the start nor the base weights are enforced, only reported.
    """
    return Method(passthrough_config(method, options or {}), sync=sync)
