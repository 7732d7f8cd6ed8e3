"""The policy: loading it, choosing what it may train, and its base weights as the reference."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.hub import cached_file

from rlvr.config import ModelSection
from rlvr.engines import whole
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
    tokenizer = AutoTokenizer.from_pretrained(
        section.path, revision=section.revision, padding_side="left"
    )
    if tokenizer.chat_template is None:
        raise RecipeError(
            f"model.path: the tokenizer of {section.path} has no chat template; add one to it"
        )
    return tokenizer


def load_policy(section: ModelSection, device: torch.device | None = None) -> PreTrainedModel:
    """Load the base weights in ``model.dtype`` to ``device``; every parameter frozen."""
    _require_source(section)
    model: Any = AutoModelForCausalLM.from_pretrained(
        section.path,
        revision=section.revision,
        dtype=getattr(torch, section.dtype),
        attn_implementation=section.attn_implementation,
    )
    return model.to(device).requires_grad_(False)


def choose_trainable(model: nn.Module, names: Sequence[str]) -> None:
    """Let exactly the named parameters receive gradients."""
    chosen = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)


class BaseWeights:
    """The base policy, kept as the initial values of whatever may move.

    Swapping them in gives the base policy's function exactly, for full and masked training; of an
    adapter, whose reference is the policy without it, they only tell what moved. Memory: one copy
    of the trainable entries, where a second model would copy all of them.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """Snapshot what ``model`` may train; of a parameter in ``masks``, where that is true.

        ``masks`` is indexed when it is needed, so packed masks are unpacked one at a time.
        """
        self._parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._masks = masks
        self.values = {name: self._read(name) for name in self._parameters}

    def _mask(self, name: str) -> Tensor | None:
        if name not in self._masks:
            return None
        return self._masks[name].to(self._parameters[name].device)

    def _read(self, name: str) -> Tensor:
        mask = self._mask(name)
        with whole(self._parameters[name]) as parameter:
            # A copy in any case: what was gathered is gone after this, and a view would change.
            return parameter.detach().clone() if mask is None else parameter.detach()[mask]

    def _base(self, name: str) -> Tensor:
        """Return the base values beside their parameter, which an engine may have moved."""
        self.values[name] = self.values[name].to(self._parameters[name].device)
        return self.values[name]

    def _write(self, name: str, values: Tensor) -> None:
        mask, parameter = self._mask(name), self._parameters[name].detach()
        if mask is None:
            parameter.copy_(values)
        else:
            parameter[mask] = values.to(parameter.dtype)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Run the body with the base policy's weights; the trained ones return bit for bit."""
        with torch.no_grad():
            trained = {name: self._read(name) for name in self.values}
            for name in self.values:
                self._write(name, self._base(name))
        try:
            yield
        finally:
            with torch.no_grad():
                for name, values in trained.items():
                    self._write(name, values)

    def count_moved(self) -> int:
        """Return the number of entries that may move and did."""
        with torch.no_grad():
            return sum(int((self._read(name) != self._base(name)).sum()) for name in self.values)

    def count(self) -> int:
        return sum(values.numel() for values in self.values.values())
