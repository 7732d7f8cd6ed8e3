r"""LoRA adapter folders, merged matrix by matrix: :math:`W = W_0 + s B A`.

DoRA scales each row of that sum to the length that its magnitude vector says. s is
``lora_alpha / r``, or ``lora_alpha / sqrt(r)`` for rsLoRA. The sum is in float32 (float64 where one
of the terms is) and rounded to the dtype of W0, which is what a merge stores. What has another
formula is refused by name, and so is an adapter that was trained on a changed base.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlvr.checkpoints.folders import ADAPTER_CONFIG, cached_folder, weight_files
from rlvr.checkpoints.names import canonical
from rlvr.checkpoints.plain import Checkpoint, Stored, open_plain
from rlvr.schema import RecipeError

_CHANGED_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")  # initialisations that write W0
_FACTOR = re.compile(r"^(.*)\.lora_(embedding_)?([AB])(?:\.(?!bias$)[^.]+)??(?:\.weight)?$")
MAGNITUDE = "magnitude"
_CAST = 2.0**-7  # a cast to bf16 changes a weight by at most half of that
_MAGNITUDE = re.compile(r"^(.*)\.lora_magnitude_vector(?:\.[^.]+)??(?:\.weight)?$")
_REFUSED_KEYS = ("use_qalora", "target_parameters", "trainable_token_indices")


def open_adapter(folder: Path, base: Checkpoint) -> Checkpoint:
    """Return ``base`` with the adapter in ``folder`` merged into it, as tensors are read.

    Raises:
        RecipeError: another method than LoRA, a missing factor or matrix, or unequal shapes.
    """
    config = _read_config(folder)
    files = [folder / f"adapter_model.{suffix}" for suffix in ("safetensors", "bin")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise RecipeError(
            f"{folder}: holds {ADAPTER_CONFIG}, and no adapter_model.safetensors or .bin; copy the "
            "weights there"
        )
    # Adapter names carry base_model.model and, by auto class, model or not.
    names = {canonical(name): name for name in base}
    factors: dict[str, dict[str, Stored]] = {}
    merged = dict(base)
    for name, stored in open_plain(file).items():
        match, scaled = _FACTOR.match(name), _MAGNITUDE.match(name)
        if scaled:
            factors.setdefault(f"{scaled[1]}.weight", {})[MAGNITUDE] = stored
        elif match:
            target, kind = match[1] + ".weight", f"{match[2] or ''}{match[3]}"
            factors.setdefault(target, {})[kind] = stored
        elif ".lora_" in name:
            raise RecipeError(f"{file}: {name!r} is no factor of a plain LoRA; merge it with PEFT")
        else:
            # modules_to_save holds whole trained copies, such as a head: they replace the base's.
            whole = names.get(canonical(name.replace(".modules_to_save", "")))
            merged[whole or name] = stored
    if not factors:
        raise RecipeError(f"{file}: holds no lora_A and lora_B factors; merge it with PEFT")
    _require_its_base(folder, config, base, [canonical(target) for target in factors])
    for target, pair in factors.items():
        name = names.get(canonical(target))
        if name is None:
            raise RecipeError(f"{folder}: adapts {target!r}, which BASE does not have; wrong base?")
        merged[name] = _merged(name, base[name], pair, config, folder)
    return merged


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{folder / ADAPTER_CONFIG}: not readable ({error})") from error
    advice = "merge it with PEFT's merge_and_unload and name the merged folder"
    if config.get("peft_type") != "LORA":
        raise RecipeError(f"{folder}: peft_type {config.get('peft_type')!r} is not LORA; {advice}")
    for key in _REFUSED_KEYS:
        if config.get(key):
            raise RecipeError(f"{folder}: an adapter with {key} has another formula; {advice}")
    start = str(config.get("init_lora_weights", True)).lower()
    if start.startswith(_CHANGED_BASE):
        raise RecipeError(
            f"{folder}: init_lora_weights {start!r} changed the base weights before training, so "
            f"W0 + s B A is another policy; {advice}"
        )
    return config


def _require_its_base(
    folder: Path, config: Mapping[str, Any], base: Checkpoint, adapted: list[str]
) -> None:
    """Refuse a base of other weights than those the adapter says it was trained on, if here."""
    word = str(config.get("base_model_name_or_path") or "")
    stated = cached_folder(word)
    if stated is None or not weight_files(stated):
        return
    own = {canonical(name): stored for name, stored in base.items()}
    for name, stored in open_plain(stated).items():
        key = canonical(name)
        if key not in adapted or key not in own or own[key].shape != stored.shape:
            continue
        # One adapted matrix tells: other weights differ in all.
        wide = torch.float32
        if not own[key].load().to(wide).allclose(stored.load().to(wide), rtol=_CAST, atol=0):
            raise RecipeError(
                f"{folder}: says it was trained on {word}, and {name!r} has other values in "
                "BASE; name that policy as BASE"
            )
        return


def _option(config: Mapping[str, Any], key: str, patterns: str, module: str) -> float:
    """Return ``r`` or ``lora_alpha`` of one module; PEFT's patterns match the end of its name."""
    for pattern, value in (config.get(patterns) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return config[key]


def _merged(
    name: str, base: Stored, pair: dict[str, Stored], config: Mapping[str, Any], folder: Path
) -> Stored:
    embedding = any(kind.startswith("embedding_") for kind in pair)
    keys = ("embedding_A", "embedding_B") if embedding else ("A", "B")
    if set(pair) - {MAGNITUDE} != set(keys):
        raise RecipeError(f"{folder}: the factors of {name!r} are {sorted(pair)}, not A and B")
    first, second = pair[keys[0]], pair[keys[1]]
    # fan_in_fan_out (Conv1D) and embeddings store the transpose of B A.
    flip = embedding or bool(config.get("fan_in_fan_out"))
    # Without reading: shapes stand in the header.
    shape = (second.shape[0], *first.shape[1:])
    if len(shape) != 2 or base.shape != (shape[::-1] if flip else shape):
        raise RecipeError(
            f"{folder}: B A of {name!r} is of shape {shape} and the matrix of {base.shape}; is "
            "BASE the adapter's base?"
        )
    module = name.removesuffix(".weight")
    alpha = _option(config, "lora_alpha", "alpha_pattern", module)
    rank = _option(config, "r", "rank_pattern", module)
    scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)

    def load() -> Tensor:
        weight, down, up = base.load(), first.load(), second.load()
        wide = torch.promote_types(torch.promote_types(weight.dtype, down.dtype), torch.float32)
        delta = scaling * (up.to(wide) @ down.to(wide))
        whole = weight.to(wide) + (delta.T if flip else delta)
        if MAGNITUDE in pair:
            axis = 0 if flip else 1  # outputs are rows, but in the transposed Conv1D
            length = pair[MAGNITUDE].load().to(wide).reshape(-1)
            whole *= (length / whole.norm(dim=axis)).unsqueeze(axis)
        return whole.to(weight.dtype)

    return Stored(base.shape, base.dtype, load, f"{base.where} and {first.where}")
