"""Evaluation of a policy: what it sampled, how much was right, how far it is from the base."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlvr import runtime
from rlvr.checkpoint import write_json
from rlvr.eval.metrics import Estimate, bootstrap_estimate, pass_at_k
from rlvr.eval.sampling import Completion, SamplingSettings, prompt_text, sample

Prompt = list[dict[str, str]]
Verifier = Callable[[list[str], list[str]], list[float | None]]


@dataclass(frozen=True)
class EvalResult:
    """Completions and their rewards, one list per problem; correct means a reward above 0."""

    settings: SamplingSettings
    rows: list[dict[str, Any]]
    completions: list[list[Completion]]
    rewards: list[list[float | None]]

    @property
    def correct_counts(self) -> list[int]:
        return [sum((reward or 0) > 0 for reward in group) for group in self.rewards]

    @property
    def accuracy(self) -> Estimate:
        """avg@samples, with a bootstrap interval over problems."""
        return bootstrap_estimate(np.array(self.correct_counts) / self.settings.samples)

    @property
    def pass_at(self) -> dict[int, Estimate]:
        """pass@k for k = 1, 2, 4, ... up to the samples of each problem."""
        n, ks = self.settings.samples, [2**i for i in range(self.settings.samples.bit_length())]
        counts = self.correct_counts
        return {k: bootstrap_estimate(np.array([pass_at_k(n, c, k) for c in counts])) for k in ks}

    def summary(self) -> dict[str, Any]:
        flat = [completion for group in self.completions for completion in group]
        return {
            "settings": dataclasses.asdict(self.settings),
            "versions": runtime.versions(),
            "problems": len(self.rows),
            "accuracy": dataclasses.asdict(self.accuracy),
            "pass_at": {str(k): dataclasses.asdict(v) for k, v in self.pass_at.items()},
            "truncated": sum(completion.truncated for completion in flat) / len(flat),
            "mean_tokens": sum(len(completion.token_ids) for completion in flat) / len(flat),
            "unjudged": sum(reward is None for group in self.rewards for reward in group),
        }

    def write(self, folder: Path, name: str) -> None:
        """Write ``name.json`` with the figures and ``name.jsonl`` with every completion."""
        write_json(folder / f"{name}.json", self.summary())
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for row, group, rewards in zip(self.rows, self.completions, self.rewards, strict=True):
                texts = [completion.text for completion in group]
                line = {**row, "completions": texts, "rewards": rewards}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def evaluate(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    prompts: Sequence[Prompt],
    verifier: Verifier,
    settings: SamplingSettings,
) -> EvalResult:
    """Sample completions of ``prompts`` and judge each against the answer of its row."""
    completions = sample(policy, tokenizer, prompts, settings)
    texts = [completion.text for group in completions for completion in group]
    answers = [str(row["answer"]) for row in rows for _ in range(settings.samples)]
    rewards = verifier(texts, answers)
    grouped = [rewards[i : i + settings.samples] for i in range(0, len(rewards), settings.samples)]
    return EvalResult(settings, list(rows), completions, grouped)


@torch.no_grad()
def token_kl(
    policy: PreTrainedModel,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    completions: Sequence[list[Completion]],
    *,
    batch_size: int,
) -> Estimate:
    r"""Return KL(policy || base) in nats per token on completions that the policy sampled.

    At each position the divergence is exact over the vocabulary,
    :math:`\sum_v p(v) (\log p(v) - \log p_0(v))`, and the estimate is the mean over completion
    tokens; its interval is a bootstrap over completions, weighted by their length.
    """
    pairs = [
        (prompt_text(tokenizer, prompt), completion.token_ids)
        for prompt, group in zip(prompts, completions, strict=True)
        for completion in group
    ]
    pairs.sort(key=lambda pair: len(pair[1]))
    totals, lengths = [], []
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        tokens, attention, kept = _collate(tokenizer, batch, policy.device)
        log_p, log_q = (
            torch.log_softmax(model(input_ids=tokens, attention_mask=attention).logits.float(), -1)
            for model in (policy, base)
        )
        divergence = (log_p.exp() * (log_p - log_q)).double().sum(-1)[:, :-1]
        totals += (divergence * kept[:, 1:]).sum(1).tolist()
        lengths += kept[:, 1:].sum(1).tolist()
    return _ratio_estimate(np.array(totals), np.array(lengths))


def _collate(
    tokenizer: PreTrainedTokenizerBase, batch: list[tuple[str, list[int]]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return token ids, attention mask and where completion tokens stand, padded on the right."""
    prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text, _ in batch]
    width = max(len(p) + len(c) for p, (_, c) in zip(prompts, batch, strict=True))
    tokens = torch.full((len(batch), width), int(tokenizer.pad_token_id or 0))
    attention, kept = torch.zeros_like(tokens), torch.zeros_like(tokens)
    for row, (prompt, (_, completion)) in enumerate(zip(prompts, batch, strict=True)):
        end = len(prompt) + len(completion)
        tokens[row, :end] = torch.tensor([*prompt, *completion])
        attention[row, :end] = 1
        kept[row, len(prompt) : end] = 1
    return tokens.to(device), attention.to(device), kept.to(device)


def _ratio_estimate(totals: np.ndarray, lengths: np.ndarray) -> Estimate:
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(totals), (2000, len(totals)))
    ratios = totals[draws].sum(1) / lengths[draws].sum(1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    mean = float(totals.sum() / lengths.sum())
    return Estimate(mean, float(low), float(high), int(lengths.sum()))
