"""Pack: what a tuned checkpoint changed in its base, as steps of the number format."""

import hashlib
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rlvr import __version__
from rlvr.checkpoints.companions import pack_companions
from rlvr.checkpoints.delta_codec import Coded, encode
from rlvr.checkpoints.delta_file import FILES, VERSION, tensor_key, write_delta
from rlvr.checkpoints.folders import DELTA, INDEX
from rlvr.checkpoints.layout import (
    CHUNK,
    Layout,
    Place,
    chunks,
    fingerprint_bits,
    read_layout,
    safetensors_files,
)
from rlvr.checkpoints.widening import WIDENED, is_widened, widen
from rlvr.delta.publish import published, require_absent
from rlvr.delta.restoring import checkpoint_folder
from rlvr.schema import RecipeError

# A wider one of these holds every value of a narrower one.
_FLOATS = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True)
class Packed:
    """What a delta holds: entries that changed, of how many, and the bytes of file and weights."""

    changed: int
    entries: int
    file_bytes: int
    weight_bytes: int


def pack(base: Path, tuned: Path, out: Path, provenance: Mapping[str, Any] | None = None) -> Packed:
    """Write the delta file ``out`` that turns ``base`` into ``tuned`` and back.

    Raises:
        RecipeError: the two are not of one architecture and dtype, or ``out`` exists.
    """
    require_absent(out)
    folders = checkpoint_folder(base), checkpoint_folder(tuned)
    layouts = read_layout(folders[0]), read_layout(folders[1])
    require_pair(*layouts)
    # In the folder of OUT, since a large delta may not fit elsewhere. The file has no name.
    with published(out) as temporary, tempfile.TemporaryFile(dir=out.parent) as payload:
        tensors, prints = _pack_weights(*layouts, payload)
        sizes = {tensor_key(name): _part_bytes(row["chunks"]) for name, row in tensors.items()}
        rows, contents = pack_companions(*folders)
        sizes[FILES] = payload.write(contents)
        # Last in `provenance`, so that a caller cannot overwrite them.
        origin = {"rlvr": __version__, "base": str(base), "tuned": str(tuned)}
        header = {
            "version": VERSION,
            "base": prints[0],
            "tuned": prints[1],
            "chunk": CHUNK,
            "tensors": tensors,
            "dtypes": _changed_dtypes(*layouts),
            "files": rows,
            "provenance": {**(provenance or {}), **origin},
        }
        write_delta(temporary, header, sizes, payload)
    changed = sum(row[1] for tensor in tensors.values() for row in tensor["chunks"] if row)
    entries, weight_bytes = total_size(layouts[1])
    return Packed(changed, entries, out.stat().st_size, weight_bytes)


def _changed_dtypes(base: Layout, tuned: Layout) -> dict[str, tuple[str, str]]:
    pairs = {name: (base[name].dtype, tuned[name].dtype) for name in sorted(base)}
    return {name: (first, second) for name, (first, second) in pairs.items() if first != second}


def total_size(layout: Layout) -> tuple[int, int]:
    """Return the number of entries and of bytes of a checkpoint's weights."""
    return (
        sum(stored.entries for stored in layout.values()),
        sum(stored.size for stored in layout.values()),
    )


def require_pair(base: Layout, tuned: Layout) -> None:
    """Refuse two checkpoints with other tensors, shapes or dtypes.

    A 16-bit base and float32 weights are a pair: the base can be widened exactly.
    """
    for name in sorted(base.keys() ^ tuned.keys()):
        side, other = ("BASE", "TUNED") if name in base else ("TUNED", "BASE")
        raise RecipeError(
            f"{name!r} is only in {side}, not in {other}; a delta needs two checkpoints of one "
            "architecture, saved by one library (only some store a tied output head)"
        )
    for name in base:
        first, second = base[name], tuned[name]
        if first.shape != second.shape:
            raise RecipeError(
                f"{name!r}: {first.describe()} in BASE, {second.describe()} in TUNED; a delta "
                "needs two checkpoints of one architecture"
            )
        if first.dtype != second.dtype and not is_widened(first, second):
            raise RecipeError(f"{name!r}: {_dtype_fix(first, second)}")


def _dtype_fix(base: Place, tuned: Place) -> str:
    problem = (
        f"{base.dtype} in BASE, {tuned.dtype} in TUNED; a delta is between equal dtypes, or from a "
        "16-bit BASE to float32. "
    )
    wide = max(base, tuned, key=lambda stored: stored.width)
    narrow = base if wide is tuned else tuned
    if base.width == tuned.width or not {base.dtype, tuned.dtype} <= _FLOATS.keys():
        return problem + "Save both in one dtype that holds the values of both, such as float32"
    return (
        f"{problem}Widen {'BASE' if narrow is base else 'TUNED'}, which keeps its values: "
        f"AutoModelForCausalLM.from_pretrained({str(narrow.file.parent)!r}, "
        f"dtype=torch.{_FLOATS[wide.dtype]}).save_pretrained(NEW), and pass NEW"
    )


def _pack_weights(
    base: Layout, tuned: Layout, payload: BinaryIO
) -> tuple[dict[str, dict[str, Any]], tuple[str, str]]:
    """Write the coded chunks of every changed tensor; return their rows and both fingerprints."""
    tensors = {}
    digests: tuple[dict[str, str], dict[str, str]] = {}, {}
    for name in sorted(base):
        rows, (digests[0][name], digests[1][name]) = _pack_tensor(base[name], tuned[name], payload)
        # A tensor without a changed chunk has no entry at all.
        if any(rows):
            stored = tuned[name]
            tensors[name] = {"dtype": stored.dtype, "shape": stored.shape, "chunks": rows}
    return tensors, (fingerprint_bits(base, digests[0]), fingerprint_bits(tuned, digests[1]))


def _pack_tensor(
    base: Place, tuned: Place, payload: BinaryIO
) -> tuple[list[list[Any] | None], tuple[str, str]]:
    digests = hashlib.sha256(), hashlib.sha256()
    rows = []
    with open(base.file, "rb") as first, open(tuned.file, "rb") as second:
        pairs = zip(chunks(base, first, CHUNK), chunks(tuned, second, CHUNK), strict=True)
        for old, new in pairs:
            # Hashes and XOR in one pass: each checkpoint is read from disk once.
            digests[0].update(old.data)
            digests[1].update(new.data)
            before = widen(old, base.dtype) if is_widened(base, tuned) else old
            rows.append(_write_chunk(encode(before, new), payload))
    return rows, (digests[0].hexdigest(), digests[1].hexdigest())


def _write_chunk(coded: Coded | None, payload: BinaryIO) -> list[Any] | None:
    if coded is None:
        return None
    sizes = payload.write(coded.positions), payload.write(coded.values)
    return [coded.coding, coded.changed, *sizes]


def _part_bytes(rows: list[list[Any] | None]) -> int:
    return sum(row[2] + row[3] for row in rows if row)


def store_delta(checkpoint: Path, base: Path, model: Mapping[str, str | None]) -> None:
    """Replace the weights in a written ``checkpoint`` by their delta against the folder ``base``.

    ``model`` is how another machine finds the base: ``path`` (a folder or hub id), ``revision``.
    """
    pack(base, checkpoint, checkpoint / DELTA, {"model": dict(model)})
    for file in (*safetensors_files(checkpoint), checkpoint / INDEX):
        # After pack, which has published the delta: a crash leaves too much, never too little.
        file.unlink(missing_ok=True)


def check_delta_base(folder: Path, names: Collection[str], dtype: str) -> None:
    """Refuse a base against which a run could not store its checkpoints.

    Args:
        folder: the base policy.
        names: the tensors that the run will save.
        dtype: torch's word for the dtype of its weights.

    Raises:
        RecipeError: ``folder`` has other tensors, or one that does not fit into ``dtype``.
    """
    layout = read_layout(folder)
    fix = (
        f"load it with from_pretrained, save it with save_pretrained in {dtype}, and name that "
        "folder in model.path, or set run.checkpoint to full"
    )
    # Symmetric difference: a tensor too many is as bad as one too few.
    for name in sorted(layout.keys() ^ set(names)):
        what = "stores" if name in layout else "does not store"
        raise RecipeError(f"run.checkpoint: the base policy in {folder} {what} {name!r}; {fix}")
    for name, stored in layout.items():
        # Integers and booleans keep their dtype when a model is cast.
        held = _FLOATS.get(stored.dtype, dtype)
        if held != dtype and _FLOATS.get(WIDENED.get(stored.dtype, "")) != dtype:
            raise RecipeError(
                f"run.checkpoint: {name!r} is {held} in {folder} and {dtype} in the run, which "
                f"rounds it, so no delta gives the base back; set model.dtype to float32 or {fix}"
            )
