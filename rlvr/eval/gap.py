"""How far apart two computations of one policy are, in the log-probabilities of the same tokens."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

# Largest mean gap, in nats per token, that rounding explains: of sums in float32, and of the
# activations of a model in 16 bits. Measured on a 268 M language model: 1e-6, 4e-3 and 2e-2.
ROUNDING = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class LogProbGap:
    r"""The gap :math:`d_t = \log q(y_t) - \log p(y_t)` over ``tokens`` tokens, in nats per token.

    ``mean`` and ``max`` are of :math:`|d_t|`. ``kl`` estimates :math:`KL(p \| q)` where p drew the
    tokens, as the mean of :math:`e^d - 1 - d`: every term is at least 0.
    """

    mean: float
    max: float
    kl: float
    tokens: int


def logprob_gap(p: Tensor, q: Tensor) -> LogProbGap:
    """Return the gap of log-probabilities ``q`` from ``p``, two vectors over the same tokens."""
    # float64 before the difference: two float32 log-probs of -20 agree to 1e-6 only.
    d = q.double() - p.double()
    if not d.numel():
        return LogProbGap(0.0, 0.0, 0.0, 0)
    kl = (d.expm1() - d).clamp_min(0).mean()
    return LogProbGap(float(d.abs().mean()), float(d.abs().max()), float(kl), d.numel())


@dataclass(frozen=True)
class ScoredTokens:
    """Completions with the log-probabilities that a policy gave to their tokens.

    Attributes:
        ids: N x L token ids, prompts included.
        attention: N x L, 1 at tokens and 0 at padding, on either side.
        kept: N x L, true at the completion tokens.
        logps: the log-probabilities of the kept tokens, row by row, in nats.
        temperature: by which the logits were divided.
    """

    ids: Tensor
    attention: Tensor
    kept: Tensor
    logps: Tensor
    temperature: float = 1.0

    def save(self, file: Path) -> None:
        """Write it as a safetensors file."""
        tensors = {"ids": self.ids, "attention": self.attention, "kept": self.kept.bool()}
        tensors = {**tensors, "logps": self.logps.float()}
        tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
        save_file(tensors, file, metadata={"temperature": repr(self.temperature)})

    @classmethod
    def load(cls, file: Path) -> "ScoredTokens":
        """Read what ``save`` wrote."""
        with safe_open(file, framework="pt") as reader:
            tensors = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118
            return cls(**tensors, temperature=float((reader.metadata() or {})["temperature"]))

    @torch.no_grad()
    def gap_of(self, policy: PreTrainedModel) -> LogProbGap:
        """Return the gap of ``policy`` from the one that scored the tokens, row by row."""
        device, parts = policy.device, []
        for row in range(len(self.ids)):
            real = self.attention[row].bool()
            # Without its padding a row needs no mask, and its positions start at 0.
            ids, kept = self.ids[row][real], self.kept[row][real]
            logits = policy(input_ids=ids[None].to(device), use_cache=False).logits[0]
            parts.append(token_logps(logits, ids.to(device), self.temperature)[kept[1:]].cpu())
        return logprob_gap(self.logps, torch.cat(parts))


def token_logps(logits: Tensor, ids: Tensor, temperature: float = 1.0) -> Tensor:
    """Return log p of each of T tokens but the first, from T x V logits: T - 1 values, float32."""
    # The logits at a position predict the token after it.
    scaled = logits[:-1].float() / temperature
    chosen = scaled.gather(-1, ids[1:, None]).squeeze(-1)
    return chosen - scaled.logsumexp(-1)
