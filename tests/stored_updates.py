"""Weights, updates that know nothing of them, and the ways in which a run stores both."""

import torch
from torch import Tensor

from rlvr.geometry.sparsity import update_mask_bf16
from rlvr.optim.rounding import round_stochastically

BF16 = torch.bfloat16
SHAPES = ("even", "rows", "low_rank", "outer")
UPDATES = ("normal", "sign", "mixed_sign", "heavy", "low_rank", "rank_1", "rows", "columns")
HISTORIES = (
    "masters", "float32", "float32_to_bf16", "float16", "float16_to_bf16", "float32_to_float16",
    "stochastic", "stochastic_steps", "pure", "resumed",
)  # fmt: skip


def draw_weights(shape: str, size: int, generator: torch.Generator) -> Tensor:
    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator)

    even = 0.03 * normal(size, size)
    return {
        "even": lambda: even,
        "rows": lambda: even * torch.exp(0.5 * normal(size, 1)),
        "low_rank": lambda: 0.6 * even + 0.01 * normal(size, 8) @ normal(8, size),
        "outer": lambda: even * torch.exp(0.7 * normal(size, 1) + 0.7 * normal(1, size)),
    }[shape]()


def draw_update(kind: str, size: int, generator: torch.Generator) -> Tensor:
    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator)

    first, even = normal(size, size), torch.rand(size, size, generator=generator)
    return {
        "normal": lambda: first,
        # Adam's first steps: one size, but for the last digits.
        "sign": lambda: first.sign() * (1 + 0.02 * even),
        "mixed_sign": lambda: first.sign() * 10.0**-even,
        "heavy": lambda: first / (0.01 + even),
        "low_rank": lambda: normal(size, 2) @ normal(2, size),
        "rank_1": lambda: normal(size, 1) @ normal(1, size),
        "rows": lambda: first * torch.exp(normal(size, 1)),
        "columns": lambda: first * torch.exp(normal(1, size)),
    }[kind]()


def _stochastic(values: Tensor, generator: torch.Generator) -> Tensor:
    return round_stochastically(values.reshape(-1), generator).view(values.shape)


def store(
    weights: Tensor, update: Tensor, history: str, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the base and the tuned tensor as a run with this history leaves them in files."""
    base = weights
    if history.startswith("float16"):
        base = weights.half()
    elif not history.startswith("float32"):
        base = weights.to(BF16)
    whole = base.float() + update
    if history in ("stochastic", "stochastic_steps", "pure", "resumed"):
        steps = {"stochastic": 1, "stochastic_steps": 4, "pure": 6, "resumed": 2}[history]
        tuned = base
        for _ in range(steps):
            whole = tuned.float() + update / steps
            exact = history in ("pure", "resumed")
            tuned = whole.to(BF16) if exact else _stochastic(whole, generator)
        return base, tuned
    if history in ("float16", "float32_to_float16"):
        return base, whole.half()
    return base, whole if history == "float32" else whole.to(BF16)


def scale_for(weights: Tensor, update: Tensor, history: str, share: float) -> float:
    """Return the factor of an update at which about ``share`` of the weights move."""
    low, high = -8.0, 1.0
    for _ in range(16):
        middle = (low + high) / 2
        pair = store(weights, 10**middle * update, history, torch.Generator().manual_seed(0))
        fewer = float(update_mask_bf16(*pair).float().mean()) < share
        low, high = (middle, high) if fewer else (low, middle)
    return 10**high
