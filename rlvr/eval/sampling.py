"""Completions of a policy for its evaluation, on whatever device the policy is on.

What comes out depends only on the arguments: the checkpoint's own generation settings (top-k,
repetition penalty) are put aside, and the random state of the caller is neither read nor moved.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from rlvr.decoding import Drawing, decode, pad_rows, stream_seed, supports, unwrapped

Message = dict[str, str]


@dataclass(frozen=True)
class Completion:
    """One completion: ``token_ids`` ends with the end token unless it was ``truncated``."""

    text: str
    token_ids: tuple[int, ...]
    truncated: bool


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch dropout off in the body; afterwards every module is in its mode of before."""
    # Per module: an adapter or a frozen tower may be in another mode than its parent.
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextlib.contextmanager
def kept_random_state(device: torch.device) -> Iterator[None]:
    """Put torch's random states of the CPU and of ``device`` back after the body."""
    # Only this device: a look at the others' states would take memory on each of them.
    accelerators = [] if device.type in ("cpu", "meta") else [device]
    kind = device.type if accelerators else "cuda"
    with torch.random.fork_rng(devices=accelerators, device_type=kind):
        yield


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Measure in the body without a trace: no dropout, and the random state is as before after it.

    The random states of the CPU and of the model's device are kept.
    """
    with evaluation_mode(model), kept_random_state(next(model.parameters()).device):
        yield


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch in the body; the caller's random state is as before afterwards."""
    with kept_random_state(device):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _generation_settings(policy: nn.Module, settings: GenerationConfig) -> Iterator[None]:
    # generate() fills what a passed GenerationConfig leaves open from the model's own, so a
    # checkpoint's top_k or repetition_penalty would come back in; its own must be replaced.
    owner = unwrapped(policy)
    before = owner.generation_config
    owner.generation_config = settings
    try:
        yield
    finally:
        owner.generation_config = before


def prompt_token_ids(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[Message]]
) -> list[list[int]]:
    """Return the token ids of each chat with the generation prompt, special tokens once."""
    texts: list[Any] = [
        tokenizer.apply_chat_template(list(prompt), tokenize=False, add_generation_prompt=True)
        for prompt in prompts
    ]
    if not texts:
        return []  # a tokenizer refuses an empty list
    # The template writes the special tokens; the tokenizer would write the first one again.
    return [list(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def end_token_ids(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return every token id that ends a completion, of the policy and of the tokenizer."""
    configured = policy.generation_config.eos_token_id
    tokens: list[Any] = configured if isinstance(configured, list) else [configured]
    ends = {int(token) for token in [*tokens, tokenizer.eos_token_id] if token is not None}
    if not ends:
        raise ValueError("the tokenizer has no eos token, so no completion can end; set eos_token")
    return sorted(ends)


def _check(samples: int, temperature: float, top_p: float, limits: tuple[int, int]) -> None:
    if samples < 1 or min(limits) < 1:
        raise ValueError("samples, max_new_tokens and batch_size must be at least 1")
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(
            f"temperature must be at least 0 and top_p in (0, 1], got {temperature} and {top_p}"
        )


@torch.no_grad()
def sample(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[Message]],
    *,
    samples: int,
    temperature: float,
    top_p: float = 1.0,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    names: Sequence[str] | None = None,
    first: int = 0,
    any_busy: Callable[[bool], bool] = bool,
) -> list[list[Completion]]:
    """Draw the samples ``first`` to ``samples - 1`` of each prompt.

    Each completion has a random stream of its own, of (seed, name of the prompt, sample): neither
    order nor batch size changes it, but for the rounding of a batch of another shape. Where
    the layers keep more than keys and values, ``generate`` samples a batch at a time, and another
    ``batch_size`` pairs the random numbers with other prompts.

    Args:
        policy: a causal LM, wrapped by PEFT or not; its mode and its settings are restored.
        tokenizer: with a chat template.
        prompts: chat messages of each prompt.
        samples: completions of each prompt, with those before ``first``.
        temperature: of the softmax; 0 takes the likeliest token.
        top_p: mass of the nucleus, in (0, 1].
        max_new_tokens: of a completion; one without an end token by then is truncated.
        batch_size: completions that are generated at a time.
        seed: of the random numbers.
        names: of the prompts, such as the ids of the problems; by default their places.
        first: the number of the first sample that is drawn.
        any_busy: of ``decode``, where the processes share one sharded policy.

    Returns:
        For each prompt, in the given order, its completions.
    """
    _check(samples, temperature, top_p, (max_new_tokens, batch_size))
    ends = end_token_ids(policy, tokenizer)
    rows = prompt_token_ids(tokenizer, prompts)
    names = [str(place) for place in range(len(rows))] if names is None else names
    # Prompts of one length follow each other, so that little is padded.
    by_length = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    order = [index for index in by_length for _ in range(first, samples)]
    seeds = [
        stream_seed(seed, names[index], number)
        for index in by_length
        for number in range(first, samples)
    ]
    with evaluation_mode(policy):
        if supports(policy):
            drawn = decode(
                policy,
                [rows[index] for index in order],
                drawing=Drawing(temperature, top_p),
                max_new_tokens=max_new_tokens,
                ends=ends,
                seeds=seeds,
                slots=batch_size,
                any_busy=any_busy,
            )
            completions = [(one.token_ids, one.ended) for one in drawn]
        else:
            pad_id: Any = ends[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
            settings = _settings(temperature, top_p, max_new_tokens, ends, pad_id)
            heads = [rows[index] for index in order]
            completions = _generate(policy, heads, settings, batch_size, seeds)
    drawn_ids = [ids for ids, _ in completions]
    # A tokenizer makes one empty text of an empty list.
    texts = tokenizer.batch_decode(drawn_ids, skip_special_tokens=True) if drawn_ids else []
    results: list[list[Completion]] = [[] for _ in rows]
    for index, text, (ids, ended) in zip(order, texts, completions, strict=True):
        results[index].append(Completion(text, tuple(ids), not ended))
    return results


def _settings(
    temperature: float, top_p: float, max_new_tokens: int, ends: list[int], pad_id: int
) -> GenerationConfig:
    options: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        # An open top_k means 50 in transformers.
        options = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    return GenerationConfig(
        max_new_tokens=max_new_tokens, eos_token_id=ends, pad_token_id=pad_id, **options
    )


def _generate(
    policy: Any,
    rows: list[list[int]],
    settings: GenerationConfig,
    batch_size: int,
    seeds: list[int],
) -> list[tuple[list[int], bool]]:
    """Return the tokens of each completion by ``generate``, and whether it ended."""
    device = next(policy.parameters()).device
    ends: Any = settings.eos_token_id
    completions = []
    with _generation_settings(policy, settings):
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            ids, mask = pad_rows(batch, settings.pad_token_id, device)
            # By what is in it: another batch, or more samples of it, must not repeat its numbers.
            with seeded(stream_seed(*seeds[start : start + batch_size]) % 2**63, device):
                output = policy.generate(input_ids=ids, attention_mask=mask)
            # generate() returns the prompt too, padded to one width.
            for tokens in output[:, ids.shape[1] :].tolist():
                stop = next((place for place, token in enumerate(tokens) if token in ends), None)
                cut = tokens if stop is None else tokens[: stop + 1]
                completions.append((cut, stop is not None))
    return completions
