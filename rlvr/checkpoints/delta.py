"""A delta file as the checkpoint it stands for, applied to its base tensor by tensor."""

from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlvr.checkpoints.delta_codec import Bits, Coded, turn
from rlvr.checkpoints.delta_file import Delta, read_delta
from rlvr.checkpoints.folders import base_of_run, model_folder
from rlvr.checkpoints.layout import (
    TORCH_WORDS,
    Place,
    chunks,
    fingerprint_folder,
    read_layout,
    safetensors_files,
)
from rlvr.checkpoints.plain import Checkpoint, Stored
from rlvr.checkpoints.widening import narrow, widen
from rlvr.schema import RecipeError


def open_delta(file: Path, base: Path | None = None) -> Checkpoint:
    """Return the tuned checkpoint of a delta.

    ``base`` is the folder of its base where that was checked before; to hash each of its bytes
    takes minutes for a large model.

    Raises:
        RecipeError: the delta is damaged, or its base is not here or no longer the same.
    """
    delta = read_delta(file)
    folder = checked_base(delta) if base is None else base
    return {name: _tuned(delta, name, place) for name, place in read_layout(folder).items()}


def checked_base(delta: Delta, folder: Path | None = None) -> Path:
    """Return the folder of the base of ``delta``, each byte of which was compared by its hash.

    ``folder`` is where the base lies, where the delta does not know that.

    Raises:
        RecipeError: it is not here, or no longer the same.
    """
    folder = folder or base_of(delta)
    # Sizes and times are part of the cache key: a base that changed is hashed again.
    stamps = tuple((f, f.stat().st_size, f.stat().st_mtime_ns) for f in safetensors_files(folder))
    if _fingerprint(folder, stamps) != delta.header["base"]:
        raise RecipeError(
            f"{folder}: is not the base checkpoint of {delta.path} any more; with that in a folder "
            f"BASE, `rlvr delta apply BASE {delta.path} OUT` gives the policy"
        )
    return folder


@lru_cache(maxsize=4)  # a run has many deltas of one base
def _fingerprint(folder: Path, stamps: tuple[Any, ...]) -> str:
    return fingerprint_folder(read_layout(folder))


def base_of(delta: Delta) -> Path:
    """Return the folder of the base, by the path or hub id that the run was started with.

    Where the base was moved since, the recipe of the delta's run may name its new place.

    Raises:
        RecipeError: it is not here.
    """
    provenance = delta.header["provenance"]
    model: dict[str, str | None] = provenance.get("model", {"path": provenance["base"]})
    try:
        return model_folder(str(model["path"]), model.get("revision"))
    except RecipeError as error:
        run_dir = delta.path.absolute().parent.parent.parent  # of RUN/checkpoints/step-N/DELTA
        with suppress(RecipeError):
            return base_of_run(run_dir)
        raise RecipeError(
            f"{delta.path}: a delta of {model['path']}, which is not here; with its base in a "
            f"folder BASE, `rlvr delta apply BASE {delta.path} OUT` gives the policy"
        ) from error


def _tuned(delta: Delta, name: str, place: Place) -> Stored:
    base_dtype, dtype = delta.dtypes.get(name, (None, place.dtype))
    word = TORCH_WORDS.get(dtype, dtype.lower())

    def load() -> Tensor:
        # The chunks of the base and of the update have one size, so they pair up in order.
        coded = delta.chunks(name)
        with open(place.file, "rb") as source:
            pieces = [
                turn_chunk(bits, next(coded, None), base_dtype, to_tuned=True)
                for bits in chunks(place, source, delta.header["chunk"])
            ]
        data = np.concatenate(pieces) if pieces else np.empty(0, np.uint8)
        # Through bytes: torch has no arithmetic, and no conversion from NumPy, for all dtypes.
        flat = torch.from_numpy(data.view(np.uint8)).view(getattr(torch, word))
        return flat.reshape(place.shape)

    return Stored(place.shape, word, load, f"{place.file.name} and {delta.path.name}")


def turn_chunk(bits: Bits, update: Coded | None, base_dtype: str | None, *, to_tuned: bool) -> Bits:
    """Return the other side's bits; ``base_dtype`` is set only where the base is narrower."""
    if base_dtype is not None and to_tuned:
        bits = widen(bits, base_dtype)
    if update is not None:
        bits = turn(bits, update, to_tuned=to_tuned)
    return narrow(bits, base_dtype) if base_dtype is not None and not to_tuned else bits
