"""The policy: loading it and its tokenizer, and choosing what it may train."""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import CONFIG_NAME, logging

from rlvr import runtime
from rlvr.checkpoints.folders import hint, is_local, model_folder, weight_files
from rlvr.checkpoints.plain import open_plain, unreadable
from rlvr.checkpoints.whole import refuse_other_tensors, refuse_surplus_tokens, refuse_untied
from rlvr.config import ModelSection
from rlvr.engines import local
from rlvr.generation import plain_generation
from rlvr.schema import RecipeError

_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "*.tiktoken")


def load_config(section: ModelSection) -> PreTrainedConfig:
    """Return the model's configuration.

    Raises:
        RecipeError: no such folder or hub id, no usable config.json, or a quantised model.
    """
    folder = _source(section, download=False)
    if not (folder / CONFIG_NAME).is_file():
        raise RecipeError(
            f"model.path: {section.path} holds no {CONFIG_NAME}; name a checkpoint folder or hub id"
        )
    _require_mapping(folder / CONFIG_NAME)
    try:
        config = AutoConfig.from_pretrained(folder)
    except Exception as error:  # noqa: BLE001  (whatever a configuration class of transformers raises)
        raise RecipeError(
            f"model.path: {folder / CONFIG_NAME} is no configuration that transformers knows: "
            f"{_reason(error)}; copy the file again, or upgrade transformers for a newer model"
        ) from error
    if getattr(config, "quantization_config", None) is not None:
        raise RecipeError(
            f"model.path: {section.path} is quantised; masks and adapters need the plain weights"
        )
    return config


def _require_mapping(file: Path) -> None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecipeError(f"model.path: {file} is no JSON ({error}); copy it again") from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise RecipeError(f"model.path: {file} is a {kind}, no mapping; copy it again")


def _source(section: ModelSection, *, download: bool = True) -> Path:
    """Return the folder of the base policy; say what to name instead of what is none."""
    try:
        folder = model_folder(section.path, section.revision, download=download)
    except RecipeError as error:
        raise RecipeError(f"model.path: {error}") from error
    if advice := hint(folder):
        raise RecipeError(f"model.path: {section.path} {advice}")
    return folder


def _location(section: ModelSection) -> str:
    """Return what transformers knows the policy by: a hub id stays one, as adapters record it."""
    return str(_source(section)) if is_local(section.path) else section.path


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines()]
    # A validation error of a dataclass says what is wrong in its last line.
    return (lines[-1] if lines and lines[0].endswith(":") else " ".join(lines[:1])) or repr(error)


def load_skeleton(section: ModelSection) -> PreTrainedModel:
    """Return the model on the meta device: names and shapes, no weights and no memory.

    If the weights are on this machine, their headers are compared with the model.

    Raises:
        RecipeError: the configuration describes no language model, a weight file is damaged, or
            the files do not hold the model's tensors.
    """
    config = load_config(section)
    folder = _source(section, download=False)
    try:
        # Parameters made under this device have a shape and no storage.
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config)
    except Exception as error:  # noqa: BLE001  (whatever a model class of transformers raises)
        raise RecipeError(
            f"model.path: {folder / CONFIG_NAME} describes no language model that transformers can "
            f"make: {_reason(error)}"
        ) from error
    if weight_files(folder):
        open_plain(folder)
        _from_pretrained(section, device_map="meta")
    elif is_local(section.path):
        raise unreadable(folder)
    return skeleton


def load_policy(section: ModelSection, device: torch.device | None = None) -> PreTrainedModel:
    """Load the base weights in ``model.dtype`` to ``device``; every parameter frozen.

    The policy keeps only the token ids of the base's generation settings (``generation.py``).

    Raises:
        RecipeError: the files are damaged, do not hold the model's tensors, or a weight is NaN or
            infinite.
    """
    open_plain(_source(section))  # names a damaged file; transformers raises anything
    model: Any = _from_pretrained(
        section,
        attn_implementation=section.attn_implementation,
    )
    # Set after loading: from_pretrained may fill it from the folder again.
    model.generation_config = plain_generation(section, model.config)
    _require_finite(model, section)
    if runtime.is_main():
        refuse_untied(section.path, model)
    return model.to(device).requires_grad_(False)


def _from_pretrained(section: ModelSection, **options: Any) -> PreTrainedModel:
    """Load and compare: transformers itself would draw what is missing at random.

    Raises:
        RecipeError: a tensor is missing, has another shape, or does not belong to the model.
    """
    verbosity, shows_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # what it would report is raised below, in one line
    if not sys.stderr.isatty() or options.get("device_map") == "meta":
        logging.disable_progress_bar()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            _location(section),
            revision=section.revision,
            dtype=getattr(torch, section.dtype),
            output_loading_info=True,
            # Reported instead of raised, so that one message of ours names the tensor.
            ignore_mismatched_sizes=True,
            generation_config=GenerationConfig(),  # transformers refuses some that users have
            **options,
        )
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"model.path: {section.path} cannot be loaded: {_reason(error)}"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if shows_bar:
            logging.enable_progress_bar()
    model, report = loaded
    if runtime.is_main():  # another rank of FSDP2 may load nothing
        refuse_other_tensors(section.path, report)
    return model


def load_tokenizer(section: ModelSection) -> PreTrainedTokenizerBase:
    """Return the policy's tokenizer, which pads on the left.

    Raises:
        RecipeError: there is none, it has no chat template, it has tokens that the policy lacks,
            or nothing says which token ends a completion.
    """
    folder = _source(section, download=False)
    # Without its files transformers makes an empty tokenizer of the model's kind, and says nothing.
    if is_local(section.path) and not any(
        path for kind in _TOKENIZER_FILES for path in folder.glob(kind)
    ):
        raise RecipeError(
            f"model.path: {section.path} holds no tokenizer; save the policy's own into it with "
            "tokenizer.save_pretrained"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            _location(section),
            revision=section.revision,
            padding_side="left",
        )
    except Exception as error:  # noqa: BLE001  (whatever a tokenizer of transformers raises)
        raise RecipeError(
            f"model.path: the tokenizer of {section.path} cannot be read: {_reason(error)}; save "
            "it there again with tokenizer.save_pretrained"
        ) from error
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
    refuse_surplus_tokens(section.path, load_config(section), tokenizer)
    return tokenizer


def local_tokenizer(section: ModelSection) -> PreTrainedTokenizerBase | None:
    """Return the policy's tokenizer; ``None`` where its files are not on this machine yet."""
    if is_local(section.path) or weight_files(_source(section, download=False)):
        return load_tokenizer(section)
    return None


def _require_finite(model: nn.Module, section: ModelSection) -> None:
    bad = non_finite(model.named_parameters())
    if bad is not None:
        raise RecipeError(f"model.path: in {section.path} {bad}; use an undamaged checkpoint")


def non_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """Name the first tensor with NaN or infinite entries, and count them; else ``None``.

    A rank looks at its own entries of a sharded tensor.
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
