"""Formats that are not read here, refused by their name and with the command that converts them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvr.schema import RecipeError

_VERL = "model_world_size_*_rank_*.pt"
# fp8 is read (rlvr.checkpoints.quantised); compressed-tensors only as fp8.
_READ = ("fp8", "fbgemm_fp8", "compressed-tensors")


def gguf(file: Path) -> RecipeError:
    """Return the error for a GGUF file."""
    return RecipeError(
        f"{file}: is a GGUF file, and its blocks of 2 to 8 bits are not the weights that were "
        "trained; name the checkpoint it was converted from, or write one with transformers: "
        f"from_pretrained(FOLDER, gguf_file={file.name!r}).save_pretrained(OUT)"
    )


def refuse_foreign(folder: Path) -> None:
    """Refuse a folder in a format that is known and not read.

    Raises:
        RecipeError: it holds such a format, with the way to convert it.
    """
    if files := sorted(folder.glob("*.gguf")):
        raise gguf(files[0])
    shards = sorted(folder.glob(_VERL)) or sorted((folder / "actor").glob(_VERL))
    if shards:
        where = shards[0].parent
        raise RecipeError(
            f"{where}: holds verl's sharded actor ({len(shards)} pickles); merge it with\n  python "
            f"-m verl.model_merger merge --backend fsdp --local_dir {where} --target_dir OUT"
        )
    if (folder / "latest_checkpointed_iteration.txt").is_file() or list(folder.glob("iter_0*")):
        raise RecipeError(
            f"{folder}: holds a Megatron checkpoint; convert it with Megatron-Bridge's or "
            "Megatron-LM's export to Hugging Face, and name that folder"
        )
    method = quantisation(folder).get("quant_method")
    if method and method not in _READ:
        raise RecipeError(
            f"{folder}: is quantised with {method}; its numbers are codes, no weights. Name the "
            "checkpoint it was made from, or dequantise it (transformers: model.dequantize(), then "
            "save_pretrained)"
        )


def refuse_codes(names: Mapping[str, Any], where: Path) -> None:
    """Refuse tensors that are codes of a quantiser whose config is missing.

    Raises:
        RecipeError: the names are those of GPTQ, AWQ or bitsandbytes.
    """
    for name in names:
        if name.endswith((".qweight", ".qzeros", ".g_idx")):
            maker = "GPTQ or AWQ"
        elif ".quant_state." in name or name.endswith((".absmax", ".quant_map", ".SCB")):
            maker = "bitsandbytes"
        else:
            continue
        raise RecipeError(
            f"{where}: {name!r} is a code of {maker}, no weight; name the checkpoint it was made "
            "from, or dequantise it (transformers: model.dequantize(), then save_pretrained)"
        )


def quantisation(folder: Path) -> dict[str, Any]:
    """Return the quantisation that ``config.json`` names; empty if none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        content = config.get("quantization_config") or {}
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError, AttributeError):
        return {}
