"""Completions of a policy by transformers' own generation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class SamplingSettings:
    """How completions are drawn; ``temperature`` 0 takes the most probable token each time."""

    samples: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 4096
    batch_size: int = 256
    seed: int = 0


@dataclass(frozen=True)
class Completion:
    """One completion; ``truncated`` means that the limit came before its end."""

    text: str
    token_ids: list[int]
    truncated: bool


def prompt_text(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> str:
    """Return the prompt as text, the chat template applied once, up to where the policy begins."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return str(text)


def _generation_config(
    tokenizer: PreTrainedTokenizerBase, policy: PreTrainedModel, settings: SamplingSettings
) -> GenerationConfig:
    declared = policy.generation_config.eos_token_id if policy.generation_config else None
    ends = [declared] if isinstance(declared, int) else list(declared or [])
    random: dict[str, Any] = {"do_sample": False}
    if settings.temperature > 0:
        # The whole distribution: transformers would cut it to the 50 most probable tokens.
        random = {"do_sample": True, "temperature": settings.temperature, "top_k": 0}
        random["top_p"] = settings.top_p
    return GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=sorted({*ends, tokenizer.eos_token_id}),
        **random,
    )


@torch.no_grad()
def sample(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[dict[str, str]]],
    settings: SamplingSettings,
) -> list[list[Completion]]:
    """Return ``settings.samples`` completions of each prompt, in the order of ``prompts``.

    The draw depends on the settings alone; the caller's random state stays as it was.
    """
    config = _generation_config(tokenizer, policy, settings)
    rows = [prompt_text(tokenizer, prompt) for prompt in prompts]
    rows = [text for text in rows for _ in range(settings.samples)]
    # Prompts of like length share a batch, which spares padding.
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    completions: dict[int, Completion] = {}
    was_training = policy.training
    policy.eval()
    devices = [policy.device] if policy.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(settings.seed)
        for start in range(0, len(order), settings.batch_size):
            batch = order[start : start + settings.batch_size]
            drawn = _complete(policy, tokenizer, [rows[index] for index in batch], config)
            completions.update(zip(batch, drawn, strict=True))
    policy.train(was_training)
    flat = [completions[index] for index in range(len(rows))]
    return [flat[i : i + settings.samples] for i in range(0, len(flat), settings.samples)]


def _complete(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    config: GenerationConfig,
) -> list[Completion]:
    inputs = tokenizer(
        texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
    ).to(policy.device)
    output = policy.generate(**inputs, generation_config=config)
    completions = []
    for tokens in output[:, inputs["input_ids"].shape[1] :].tolist():
        ends = [i for i, token in enumerate(tokens) if token in config.eos_token_id]
        kept = tokens[: ends[0] + 1] if ends else tokens
        text = str(tokenizer.decode(kept, skip_special_tokens=True))
        completions.append(Completion(text, kept, truncated=not ends))
    return completions
