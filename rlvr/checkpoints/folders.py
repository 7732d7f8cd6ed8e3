"""Which files of a folder are its weights; torch is not imported."""

import json
from collections.abc import Mapping
from pathlib import Path

from rlvr.schema import RecipeError

SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"
INDEX = f"{SAFETENSORS}.index.json"


def weight_files(folder: Path) -> list[Path]:
    """Return the files from which transformers loads a policy; none where it finds no weights.

    A whole file goes before shards, and safetensors before torch's own format.

    Raises:
        RecipeError: an index is no index, or names a shard that is missing.
    """
    for name in (SAFETENSORS, BIN):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = sorted(set(read_index(index).values()))
            for shard in shards:
                if not (folder / shard).is_file():
                    raise RecipeError(
                        f"{folder}: {shard} is missing, which {index.name} names; copy it there"
                    )
            return [folder / shard for shard in shards]
    return []


def read_index(index: Path) -> Mapping[str, str]:
    """Return the file of each tensor of a sharded checkpoint, by the tensor's name."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if all(isinstance(place, str) for place in places.values()):
            return places
        problem = "weight_map holds what is no file name"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = repr(error)
    raise RecipeError(f"{index}: no index of weights ({problem}); copy it again")
