"""The policy: loading it, choosing what it may train, and its base weights as the reference."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.hub import cached_file

from rlvr.config import ModelSection
from rlvr.engines import held, local, local_mask, reshard, total
from rlvr.generation import plain_generation
from rlvr.masks import Mask
from rlvr.masks.bits import unpack_bits
from rlvr.schema import RecipeError


def _require_source(section: ModelSection) -> None:
    path = Path(section.path)
    local = path.is_absolute() or section.path.startswith(("./", "../", "~"))
    if local and not (path / "config.json").is_file():
        what = "holds no config.json" if path.is_dir() else "does not exist"
        raise RecipeError(f"model.path: {section.path} {what}; name a checkpoint folder or hub id")


def load_config(section: ModelSection) -> Any:
    """Return the model's configuration; a missing path or hub id is an error with the fix."""
    _require_source(section)
    try:
        config = AutoConfig.from_pretrained(section.path, revision=section.revision)
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise RecipeError(
            f"model.path: cannot load {section.path!r}, neither as a folder nor from the hub: "
            f"{first_line}"
        ) from error
    if getattr(config, "quantization_config", None) is not None:
        raise RecipeError(
            f"model.path: {section.path} is quantised; masks and adapters need the plain weights"
        )
    return config


def checkpoint_folder(section: ModelSection) -> Path:
    """Return the folder of the checkpoint's files, downloaded before if it is on the hub."""
    return Path(str(cached_file(section.path, "config.json", revision=section.revision))).parent


def load_skeleton(section: ModelSection) -> PreTrainedModel:
    """Return the model on the meta device: names and shapes, no weights and no memory."""
    config = load_config(section)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def load_tokenizer(section: ModelSection) -> PreTrainedTokenizerBase:
    """Return the policy's tokenizer, which pads on the left.

    Raises:
        RecipeError: it has no chat template, or nothing says which token ends a completion.
    """
    tokenizer = AutoTokenizer.from_pretrained(
        section.path, revision=section.revision, padding_side="left"
    )
    if tokenizer.chat_template is None:
        raise RecipeError(
            f"model.path: the tokenizer of {section.path} has no chat template; add one to it"
        )
    if tokenizer.eos_token is None:
        # TRL reads the tokenizer's end token; some bases name theirs in the model's files only.
        ends = plain_generation(section, load_config(section)).eos_token_id
        if not ends:
            raise RecipeError(
                f"model.path: neither the tokenizer of {section.path} nor its config.json names an "
                "end token, so that no completion could end; set eos_token in tokenizer_config.json"
            )
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ends[0])
    return tokenizer


def load_policy(section: ModelSection, device: torch.device | None = None) -> PreTrainedModel:
    """Load the base weights in ``model.dtype`` to ``device``; every parameter frozen.

    Of the base's generation settings the policy has the token ids only (``generation.py``).

    Raises:
        RecipeError: a weight is NaN or infinite.
    """
    _require_source(section)
    model: Any = AutoModelForCausalLM.from_pretrained(
        section.path,
        revision=section.revision,
        dtype=getattr(torch, section.dtype),
        attn_implementation=section.attn_implementation,
        generation_config=GenerationConfig(),  # transformers refuses some files that users have
    )
    model.generation_config = plain_generation(section, model.config)
    _require_finite(model, section)
    return model.to(device).requires_grad_(False)


def _require_finite(model: nn.Module, section: ModelSection) -> None:
    bad = non_finite(model.named_parameters())
    if bad is not None:
        raise RecipeError(f"model.path: in {section.path} {bad}; use an undamaged checkpoint")


def non_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """Name the first tensor with NaN or infinite entries and count them; ``None`` if all are finite.

    Of a sharded tensor the entries of this rank are looked at.
    """
    for name, tensor in tensors:
        values = local(tensor.detach())
        if not values.is_meta and not bool(values.isfinite().all()):
            count = int((~values.isfinite()).sum())
            return f"{count:,} of {values.numel():,} entries of {name!r} are NaN or infinite"
    return None


def choose_trainable(model: nn.Module, names: Sequence[str]) -> None:
    """Let exactly the named parameters receive gradients."""
    chosen = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)


class BaseWeights:
    """The base policy, kept as the initial values of whatever may move.

    Swapping them in gives the base policy's function exactly, for full and masked training; of an
    adapter, whose reference is the policy without it, they only tell what moved. Memory: one copy
    of the trainable entries, where a second model would copy all of them, and the packed mask. Of a
    sharded parameter each rank keeps the rows that it holds.
    """

    def __init__(self, model: nn.Module, mask: Mask | None) -> None:
        """Snapshot what ``model`` may train; of a parameter in ``mask``, where that is true."""
        self._model, self._moving = model, {}
        for name, parameter in self._parameters().items():
            if mask is not None and name in mask:
                part, _ = local_mask(mask, name, parameter)
                self._moving[name] = (part.bits[name], part.shapes[name])
        self.values = {name: self._read(name, p) for name, p in self._parameters().items()}

    def _parameters(self) -> dict[str, nn.Parameter]:
        # By name, each time: an engine may replace the objects.
        reshard(self._model)
        return {name: p for name, p in self._model.named_parameters() if p.requires_grad}

    def _mask(self, name: str, device: torch.device) -> Tensor | None:
        """Return where ``name`` may move; the bits stay on the device where they were needed."""
        if name not in self._moving:
            return None
        bits, shape = self._moving[name]
        self._moving[name] = bits.to(device), shape
        return unpack_bits(self._moving[name][0], shape)

    def _read(self, name: str, parameter: Tensor) -> Tensor:
        with held(parameter) as tensor:
            mask = self._mask(name, tensor.device)
            # A copy in any case: what was gathered is gone after this, and a view would change.
            return tensor.detach().clone() if mask is None else tensor.detach()[mask]

    def _base(self, name: str, parameter: Tensor) -> Tensor:
        """Return the base values beside their parameter, which an engine may have moved."""
        self.values[name] = self.values[name].to(parameter.device)
        return self.values[name]

    def _write(self, name: str, parameter: Tensor, values: Tensor) -> None:
        tensor = local(parameter.detach())
        mask = self._mask(name, tensor.device)
        if mask is None:
            tensor.copy_(values)
        else:
            tensor[mask] = values.to(tensor.dtype)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Run the body with the base policy's weights; the trained ones return bit for bit."""
        with torch.no_grad():
            trained = {name: self._read(name, p) for name, p in self._parameters().items()}
            for name, parameter in self._parameters().items():
                self._write(name, parameter, self._base(name, parameter))
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._parameters().items():
                    self._write(name, parameter, trained[name])

    @torch.no_grad()
    def count_moved(self) -> int:
        """Return the number of entries that may move and did; every rank must ask."""
        parameters = self._parameters()
        moved = (
            (self._read(name, p) != self._base(name, p)).sum() for name, p in parameters.items()
        )
        return total(sum(map(int, moved)), parameters.values())

    def count(self) -> int:
        """Return the number of entries that may move; every rank must ask."""
        parameters = self._parameters()
        return total(sum(v.numel() for v in self.values.values()), parameters.values())
