"""The KL divergence of a policy from its base on the policy's own completions.

The sum over the vocabulary is exact at every position; only the completions are sampled.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rlvr.eval.sampling import Completion, Message, evaluation_mode, prompt_token_ids
from rlvr.intervals import bootstrap_ratio

_LOGITS_AT_ONCE = 1 << 29  # of one forward pass: 1 GiB in bf16
_SUMMED_AT_ONCE = 1 << 24  # of them as float64

Rows = list[list[int]]


@dataclass(frozen=True)
class KLEstimate:
    """Nats per token with the bootstrap interval over the ``n`` prompts."""

    mean: float
    low: float
    high: float
    n: int
    num_tokens: int

    def __str__(self) -> str:
        return (
            f"{self.mean:.4f} nats per token [{self.low:.4f}, {self.high:.4f}] "
            f"(n = {self.n}, {self.num_tokens} tokens)"
        )


def kl_per_position(
    logits: Float[Tensor, "T V"], base_logits: Float[Tensor, "T V"]
) -> Float64[Tensor, " T"]:
    r"""Return :math:`KL(p \| q)` of each row in nats, float64; T x V logits of policy and base.

    .. math:: \sum_v p_v (\log p_v - \log q_v) = \sum_v q_v - p_v + p_v (\log p_v - \log q_v)

    The right side is summed. Both p and q sum to 1, but the float32 ``log_softmax`` leaves an error
    of 1e-7 in each sum, which would swamp a small KL and can turn it negative; here it cancels to
    first order, and every term is at least 0. Equal logits give exactly 0.
    """
    rows = max(1, _SUMMED_AT_ONCE // logits.shape[-1])
    parts = []
    for ours, theirs in zip(logits.split(rows), base_logits.split(rows), strict=True):
        log_p = ours.float().log_softmax(-1).double()
        log_q = theirs.float().log_softmax(-1).double()
        p, q = log_p.exp(), log_q.exp()
        # A token that the policy rules out (-inf) costs nothing, and 0 * inf would be NaN.
        weighted = torch.where(p > 0, p * (log_p - log_q), torch.zeros_like(p))
        parts.append((q - p + weighted).clamp_min(0).sum(-1))
    return torch.cat(parts)


def _batches(rows: Rows, order: list[int], batch_size: int, vocab_size: int) -> Iterator[list[int]]:
    """Yield runs of ``order`` of at most ``batch_size`` rows and a bounded number of logits."""
    batch: list[int] = []
    for index in order:
        # The order is by length, so this row is the longest of its batch.
        logits = (len(batch) + 1) * len(rows[index]) * vocab_size
        if batch and (len(batch) == batch_size or logits > _LOGITS_AT_ONCE):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@torch.no_grad()
def token_kl(
    policy: Any,
    base: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[Message]],
    completions: Sequence[Sequence[Completion]],
    *,
    batch_size: int,
) -> KLEstimate:
    r"""Return the mean over completion tokens of :math:`KL(\pi \| \pi_{base})`, in nats per token.

    The interval is the bootstrap over prompts, as the completions of one prompt are alike.

    Args:
        policy: a causal LM; the ``completions`` were sampled from it at temperature 1.
        base: a second causal LM of the same vocabulary; may be on another device.
        tokenizer: with the chat template of the prompts.
        prompts: chat messages of each prompt.
        completions: of each prompt, end token included.
        batch_size: most completions in a forward pass; long ones go in smaller batches.
    """
    if len(prompts) != len(completions):
        raise ValueError(f"got {len(prompts)} prompts and {len(completions)} lists of completions")
    rows, starts, owners = [], [], []
    heads = prompt_token_ids(tokenizer, prompts)
    for owner, (head, group) in enumerate(zip(heads, completions, strict=True)):
        for completion in group:
            rows.append(head + list(completion.token_ids))
            starts.append(len(head))
            owners.append(owner)
    sums, counts = [0.0] * len(prompts), [0] * len(prompts)
    # Rows of one length share a batch, so that little is padded.
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    with evaluation_mode(policy), evaluation_mode(base):
        for batch in _batches(rows, order, batch_size, policy.config.vocab_size):
            ours, theirs = (_logits(model, rows, batch) for model in (policy, base))
            for position, index in enumerate(batch):
                # The logits at a position predict the token after it.
                span = slice(starts[index] - 1, len(rows[index]) - 1)
                p, q = ours[position, span], theirs[position, span].to(ours.device)
                sums[owners[index]] += float(kl_per_position(p, q).sum())
                # Summed by prompt: it is the unit of the bootstrap.
                counts[owners[index]] += len(rows[index]) - starts[index]
    estimate = bootstrap_ratio(sums, counts)
    return KLEstimate(estimate.mean, estimate.low, estimate.high, estimate.n, sum(counts))


def _logits(model: nn.Module, rows: Rows, batch: list[int]) -> Tensor:
    """Return the logits of the rows in ``batch``, padded on the right."""
    device = next(model.parameters()).device
    width = max(len(rows[index]) for index in batch)
    # Padded on the right, where causal attention hides it and positions start at 0.
    ids = torch.zeros(len(batch), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for position, index in enumerate(batch):
        ids[position, : len(rows[index])] = torch.tensor(rows[index])
        mask[position, : len(rows[index])] = 1
    output = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)
    return output.logits
