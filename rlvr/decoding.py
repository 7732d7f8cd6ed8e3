"""Completions of many prompts at once, without work for the rows that have ended.

``generate`` of transformers computes a batch until its longest row ends. Here a finished row leaves
the batch and a waiting prompt takes its place, so the work is that of the tokens drawn. It returns
the log-probability of each token as well, which tells whether sampler and policy are one.

Every row draws from a random stream of its own (``stream_seed``). What a row draws does not depend
on the rows beside it, their number or their order, except through the rounding of a matrix product
that has another shape.
"""

import hashlib
import inspect
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

# Kinds of layers with a cache of keys and values only: its rows and columns can be taken.
_PLAIN_LAYERS = {"full_attention", "sliding_attention"}
# Finished rows leave once they are this share of the batch: each leaving copies the cache.
_LEAVING = 1 / 8
# Tokens of the vocabulary that are summed at once, before the sums are accumulated in float64.
_CHUNK = 512


@dataclass(frozen=True)
class Drawing:
    """How a token is drawn from the logits.

    ``temperature`` divides them; at 0 the likeliest token is taken. ``top_p`` keeps the smallest
    set of likeliest tokens with that mass, ``top_k`` the k likeliest (0: all).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


@dataclass
class Drawn:
    """One completion: its tokens, and log p of each in nats, at the temperature, before top-p.

    ``ended`` tells whether the last token is an end token; else the completion was cut off.
    """

    token_ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    ended: bool = False


def stream_seed(*parts: object) -> int:
    """Return 128 bits that name a random stream, such as of (seed, problem, sample)."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:16])


def pad_rows(
    rows: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return ``(input_ids, attention_mask)``, padded on the left to the longest row."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        # On the left, so that all rows go on from one column.
        ids[index, width - len(row) :] = torch.tensor(row)
        mask[index, width - len(row) :] = 1
    return ids.to(device), mask.to(device)


def unwrapped(model: nn.Module) -> Any:
    """Return the language model inside the wrappers of an engine and of PEFT."""
    inner: Any = model
    while hasattr(inner, "module"):
        inner = inner.module
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def supports(model: nn.Module) -> bool:
    """Tell whether every layer of ``model`` caches plain keys and values.

    Recurrent and chunked layers do not: their states belong to a place in the sequence.
    """
    inner = unwrapped(model)
    config = inner.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return kinds <= _PLAIN_LAYERS and not inner._is_stateful


@torch.no_grad()
def decode(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    drawing: Drawing,
    max_new_tokens: int,
    ends: Sequence[int],
    seeds: Sequence[int],
    slots: int,
    any_busy: Callable[[bool], bool] = bool,
) -> list[Drawn]:
    """Draw one completion of each prompt.

    Args:
        model: a causal LM, wrapped or not, for which ``supports`` holds.
        prompts: token ids of each prompt, none empty.
        drawing: how a token is drawn.
        max_new_tokens: a completion without an end token is cut off there.
        ends: the token ids that end a completion; the end token belongs to it.
        seeds: the random stream of each row (``stream_seed``).
        slots: rows that are computed at a time.
        any_busy: tells, from whether this process has rows left, whether any process has. Where a
            model is sharded all processes must take part in each forward pass.

    Returns:
        The completions in the order of the prompts.

    Raises:
        FloatingPointError: the probabilities of a row are NaN.
    """
    batch = _Batch(model, drawing, max_new_tokens, frozenset(ends))
    waiting = deque(
        _Row(list(prompt), seed, max_new_tokens, drawing.temperature)
        for prompt, seed in zip(prompts, seeds, strict=True)
    )
    drawn = [row.drawn for row in waiting]
    # One forward pass each time, so that the processes stay in step.
    while any_busy(bool(waiting or batch.rows)):
        room = slots - len(batch.rows)
        if waiting and (not batch.rows or room >= max(1, slots // 4)):
            batch.admit([waiting.popleft() for _ in range(min(room, len(waiting)))])
        elif batch.rows:
            batch.step()
        else:
            batch.idle()
    return drawn


class _Row:
    """A prompt on its way: its random numbers and what it has drawn."""

    def __init__(self, prompt: list[int], seed: int, tokens: int, temperature: float) -> None:
        self.prompt, self.drawn = prompt, Drawn()
        # All of them now: one call for a row, not one for each token.
        stream = np.random.Generator(np.random.Philox(key=seed))
        self.uniforms = stream.random(tokens) if temperature > 0 else None

    @property
    def uniform(self) -> float:
        return 0.0 if self.uniforms is None else float(self.uniforms[len(self.drawn.token_ids)])


class _Batch:
    """The rows under computation, with the keys and values of what they have read.

    All rows end in the same column; shorter ones are padded on the left.
    """

    def __init__(
        self, model: nn.Module, drawing: Drawing, tokens: int, ends: frozenset[int]
    ) -> None:
        self.model, self.drawing, self.tokens, self.ends = model, drawing, tokens, ends
        self.device = next(model.parameters()).device
        self.rows: list[_Row] = []
        self.cache: DynamicCache | None = None
        self.mask = torch.zeros(0, 0, dtype=torch.long, device=self.device)
        self.latest = torch.zeros(0, dtype=torch.long, device=self.device)
        # The class is asked: accelerate replaces the instance's method by one that takes anything.
        takes = inspect.signature(type(unwrapped(model)).forward).parameters
        self.takes_positions = "position_ids" in takes
        # Else a prefill would make logits of every position of the prompts.
        self.last_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    def admit(self, rows: list[_Row]) -> None:
        """Read the prompts of ``rows``, draw their first tokens and let them join."""
        ids, mask = pad_rows([row.prompt for row in rows], 0, self.device)
        # Without its configuration the cache of a sliding layer keeps all columns; the mask slides.
        cache = DynamicCache()
        logits = self._forward(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), cache)
        self._join(rows, mask, cache)
        self._draw(rows, logits)

    def step(self) -> None:
        """Draw the next token of every row; those that end leave."""
        assert self.cache is not None
        ones = torch.ones_like(self.mask[:, :1])
        self.mask = torch.cat([self.mask, ones], dim=1)
        positions = self.mask.sum(1, keepdim=True) - 1
        logits = self._forward(self.latest[:, None], self.mask, positions, self.cache)
        self._draw(self.rows, logits)

    def idle(self) -> None:
        """Take part in a forward pass of the other processes."""
        one = torch.ones(1, 1, dtype=torch.long, device=self.device)
        self._forward(one, one, one - 1, DynamicCache())

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        """Return the logits after the last column, in float32."""
        places = {"position_ids": positions} if self.takes_positions else {}
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **places,
            **self.last_only,
        )
        return output.logits[:, -1].float()

    def _draw(self, rows: list[_Row], logits: Tensor) -> None:
        """Draw a token of each of ``rows``, the last ones of the batch, and drop who has ended."""
        uniforms = torch.tensor([row.uniform for row in rows], dtype=torch.float64)
        tokens, logps = draw(logits, uniforms.to(self.device), self.drawing)
        if bool(logps.isnan().any()):
            raise FloatingPointError("the policy's probabilities are NaN")
        self.latest = torch.cat([self.latest[: len(self.rows) - len(rows)], tokens])
        for row, token, logp in zip(rows, tokens.tolist(), logps.tolist(), strict=True):
            if self._is_done(row):
                continue  # it ended before and has not left yet
            row.drawn.token_ids.append(token)
            row.drawn.logps.append(logp)
            row.drawn.ended = token in self.ends
        going = [place for place, row in enumerate(self.rows) if not self._is_done(row)]
        if len(self.rows) - len(going) > _LEAVING * len(self.rows) or not going:
            self._keep(going)

    def _is_done(self, row: _Row) -> bool:
        return row.drawn.ended or len(row.drawn.token_ids) == self.tokens

    def _join(self, rows: list[_Row], mask: Tensor, cache: DynamicCache) -> None:
        if self.cache is not None:
            width = max(mask.shape[1], self.mask.shape[1])
            for mine, new in zip(_layers(self.cache), _layers(cache), strict=True):
                mine.keys = torch.cat([_widen(mine.keys, width), _widen(new.keys, width)])
                mine.values = torch.cat([_widen(mine.values, width), _widen(new.values, width)])
            old = pad(self.mask, (width - self.mask.shape[1], 0))
            mask, cache = torch.cat([old, pad(mask, (width - mask.shape[1], 0))]), self.cache
        self.rows, self.mask, self.cache = [*self.rows, *rows], mask, cache

    def _keep(self, places: list[int]) -> None:
        """Keep only the rows at ``places``, and the columns that they have read."""
        self.rows = [self.rows[place] for place in places]
        if not places:
            self.cache = None
        chosen = torch.tensor(places, dtype=torch.long, device=self.device)
        self.latest, self.mask = self.latest[chosen], self.mask[chosen]
        empty = self.mask.shape[1] - int(self.mask.sum(1).max()) if places else 0
        self.mask = self.mask[:, empty:]
        for layer in _layers(self.cache) if self.cache is not None else []:
            assert layer.keys is not None and layer.values is not None
            layer.keys = layer.keys[chosen, :, empty:]
            layer.values = layer.values[chosen, :, empty:]


def _layers(cache: DynamicCache) -> list[DynamicLayer]:
    layers = [layer for layer in cache.layers if isinstance(layer, DynamicLayer)]
    assert len(layers) == len(cache.layers)  # `supports` lets no other model in
    return layers


def _widen(states: Tensor | None, width: int) -> Tensor:
    """Pad keys or values, of shape (rows, heads, columns, size), on the left."""
    assert states is not None
    return pad(states, (0, 0, width - states.shape[2], 0))


def draw(logits: Tensor, uniforms: Tensor, drawing: Drawing) -> tuple[Tensor, Tensor]:
    """Draw a token of each row by inverting the distribution function at ``uniforms``.

    Args:
        logits: of shape (rows, vocabulary), float32.
        uniforms: of shape (rows,), float64 in [0, 1).
        drawing: temperature, top-p and top-k.

    Returns:
        The tokens, and their log-probabilities at the temperature before top-p and top-k.
    """
    if drawing.temperature == 0:
        tokens = logits.argmax(-1)
        return tokens, _at(logits.log_softmax(-1), tokens)
    logps = (logits / drawing.temperature).log_softmax(-1)
    tokens = _invert(_nucleus(logps.exp(), drawing), uniforms)
    return tokens, _at(logps, tokens)


def _at(rows: Tensor, places: Tensor) -> Tensor:
    return rows.gather(-1, places[:, None])[:, 0]


def _nucleus(probabilities: Tensor, drawing: Drawing) -> Tensor:
    """Set the tokens outside top-k and top-p to 0; the rest is not normalised."""
    if drawing.top_k == 0 and drawing.top_p == 1.0:
        return probabilities
    values, order = probabilities.sort(dim=-1, descending=True)
    if drawing.top_k:
        values[:, drawing.top_k :] = 0
    # Top-p is of what top-k left. The token that reaches the mass still belongs to it.
    before = values.double().cumsum(-1) - values
    values[before >= drawing.top_p * values.double().sum(-1, keepdim=True)] = 0
    return torch.zeros_like(values).scatter(-1, order, values)


def _invert(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Return the first index of each row at which its running sum exceeds u times its total.

    Sums run in float64: in float32 ten thousand tokens of probability 1e-8 would add nothing.
    Chunks are summed first, since a float64 sum over a whole vocabulary takes longer than its
    softmax.
    """
    rows, size = weights.shape
    chunks = pad(weights, (0, -size % _CHUNK)).view(rows, -1, _CHUNK)
    sums = chunks.sum(-1, dtype=torch.float64).cumsum(-1)
    target = uniforms[:, None] * sums[:, -1:]
    # `right`: a token without probability is never drawn.
    chunk = torch.searchsorted(sums, target, right=True).clamp(max=sums.shape[1] - 1)
    before = torch.where(chunk > 0, sums.gather(1, (chunk - 1).clamp(min=0)), 0.0)
    inside = chunks[torch.arange(rows, device=weights.device), chunk[:, 0]].double().cumsum(-1)
    token = torch.searchsorted(inside, target - before, right=True)
    # Rounding may leave the last token of a chunk just below the target.
    last = (inside < inside[:, -1:]).sum(-1, keepdim=True)
    return (chunk * _CHUNK + torch.minimum(token, last))[:, 0]
