"""Formats that are not read here, refused by their name and with the command that converts them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvr.schema import RecipeError

_VERL = "model_world_size_*_rank_*.pt"
# By the end of a name; the first that fits names the maker.
_CODES = {
    "GPTQ or AWQ": (".qweight", ".qzeros", ".g_idx"),
    "EXL2": (".q_weight", ".q_scale", ".q_perm"),
    "bitsandbytes": (".absmax", ".quant_map", ".SCB", ".weight_format"),
    "MXFP4": ("_blocks",),
    "compressed-tensors": (".weight_packed", ".weight_shape"),
    "MLX": (".scales",),
}
# Files without a PyTorch checkpoint beside them, and what writes one.
_OTHERS = {
    "*.h5": ("TensorFlow", "from_pretrained(FOLDER, from_tf=True) of transformers 4"),
    "*.msgpack": ("Flax", "from_pretrained(FOLDER, from_flax=True) of transformers 4"),
    "*.onnx": ("ONNX", "the checkpoint that it was exported from"),
    "*.nemo": ("NeMo", "NeMo's export to Hugging Face (llm.export_ckpt)"),
}
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
    places = (folder, folder / "actor", *sorted(folder.glob("global_step_*/actor")))
    where = next((place for place in places if list(place.glob(_VERL))), None)
    if where is not None:
        raise RecipeError(
            f"{where}: holds verl's sharded actor, as pickles; merge it with `python -m "
            f"verl.model_merger merge --backend fsdp --local_dir {where} --target_dir OUT`"
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
    """Refuse tensors that are codes of a quantiser, whatever the config says.

    Raises:
        RecipeError: the names are those of one, such as GPTQ.
    """
    for name in names:
        maker = next((maker for maker, ends in _CODES.items() if name.endswith(ends)), None)
        if maker is None and ".quant_state." in name:
            maker = "bitsandbytes"
        if maker is not None:
            raise RecipeError(
                f"{where}: {name!r} is a code of {maker}, no weight; name the checkpoint it was "
                "made from, or dequantise it (transformers: model.dequantize(), then "
                "save_pretrained)"
            )


def refuse_other_frameworks(folder: Path) -> None:
    """Refuse a folder without weights for PyTorch that holds those of another framework.

    Raises:
        RecipeError: it does, with the way to convert it.
    """
    for pattern, (maker, way) in _OTHERS.items():
        if files := sorted(folder.glob(pattern)):
            raise RecipeError(f"{files[0]}: is a {maker} file, which is not read here; take {way}")


def quantisation(folder: Path) -> dict[str, Any]:
    """Return the quantisation that ``config.json`` names; empty if none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        content = config.get("quantization_config") or {}
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError, AttributeError):
        return {}
