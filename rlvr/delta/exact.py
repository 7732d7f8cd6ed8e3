"""Pack, apply and revert: the XOR of the bits is its own inverse, so one file goes both ways."""

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rlvr import __version__
from rlvr.delta.codec import Coded, decode, encode
from rlvr.delta.companions import pack_companions, restore_companions
from rlvr.delta.container import FILES, VERSION, Delta, read_delta, tensor_key, write_delta
from rlvr.delta.publish import published, require_absent
from rlvr.delta.weights import (
    CHUNK,
    INDEX,
    Layout,
    Stored,
    chunks,
    fingerprint,
    fingerprint_folder,
    read_header,
    read_layout,
    weight_files,
)
from rlvr.run_dir import trained_policy
from rlvr.schema import RecipeError, RunError

# A wider one of these holds every value of a narrower one.
_FLOATS = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True)
class Packed:
    """What a delta holds: entries that changed, of how many, and the bytes of file and weights."""

    changed: int
    entries: int
    file_bytes: int
    weight_bytes: int


def checkpoint_folder(path: Path) -> Path:
    """Return ``path``, or the newest trained policy where it is a run directory."""
    is_run = (path / "checkpoints").is_dir() and not any(path.glob("model*.safetensors*"))
    return trained_policy(path)[0] if is_run else path


def pack(base: Path, tuned: Path, out: Path, provenance: Mapping[str, Any] | None = None) -> Packed:
    """Write the delta file ``out`` that turns ``base`` into ``tuned`` and back.

    Raises:
        RecipeError: the two are not of one architecture and dtype, or ``out`` exists.
    """
    require_absent(out)
    folders = checkpoint_folder(base), checkpoint_folder(tuned)
    layouts = read_layout(folders[0]), read_layout(folders[1])
    require_pair(*layouts)
    # Beside the file to be, since the delta of a large model may not fit elsewhere; it has no name.
    with published(out) as temporary, tempfile.TemporaryFile(dir=out.parent) as payload:
        tensors, prints = _pack_weights(*layouts, payload)
        sizes = {tensor_key(name): _part_bytes(row["chunks"]) for name, row in tensors.items()}
        rows, contents = pack_companions(*folders)
        sizes[FILES] = payload.write(contents)
        origin = {"rlvr": __version__, "base": str(base), "tuned": str(tuned)}
        header = {
            "version": VERSION,
            "base": prints[0],
            "tuned": prints[1],
            "chunk": CHUNK,
            "tensors": tensors,
            "files": rows,
            "provenance": {**(provenance or {}), **origin},
        }
        write_delta(temporary, header, sizes, payload)
    changed = sum(row[1] for tensor in tensors.values() for row in tensor["chunks"] if row)
    entries, weight_bytes = total_size(layouts[1])
    return Packed(changed, entries, out.stat().st_size, weight_bytes)


def total_size(layout: Layout) -> tuple[int, int]:
    """Return the number of entries and of bytes of a checkpoint's weights."""
    return (
        sum(stored.entries for stored in layout.values()),
        sum(stored.size for stored in layout.values()),
    )


def require_pair(base: Layout, tuned: Layout) -> None:
    """Refuse two checkpoints that are not the same tensors, dtypes and shapes."""
    for name in sorted(base.keys() ^ tuned.keys()):
        side, other = ("BASE", "TUNED") if name in base else ("TUNED", "BASE")
        raise RecipeError(
            f"{name!r} is in {side} alone, not in {other}; a delta needs two checkpoints of one "
            "architecture, saved by one library (a tied output head is stored by some alone)"
        )
    for name in base:
        first, second = base[name], tuned[name]
        if first.shape != second.shape:
            raise RecipeError(
                f"{name!r}: {first.describe()} in BASE, {second.describe()} in TUNED; a delta "
                "needs two checkpoints of one architecture"
            )
        if first.dtype != second.dtype:
            raise RecipeError(f"{name!r}: {_dtype_fix(first, second)}")


def _dtype_fix(base: Stored, tuned: Stored) -> str:
    problem = f"{base.dtype} in BASE, {tuned.dtype} in TUNED; a delta is between equal dtypes. "
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
        if any(rows):
            stored = base[name]
            tensors[name] = {"dtype": stored.dtype, "shape": stored.shape, "chunks": rows}
    return tensors, (fingerprint(base, digests[0]), fingerprint(tuned, digests[1]))


def _pack_tensor(
    base: Stored, tuned: Stored, payload: BinaryIO
) -> tuple[list[list[Any] | None], tuple[str, str]]:
    digests = hashlib.sha256(), hashlib.sha256()
    rows = []
    with open(base.file, "rb") as first, open(tuned.file, "rb") as second:
        pairs = zip(chunks(base, first, CHUNK), chunks(tuned, second, CHUNK), strict=True)
        for old, new in pairs:
            digests[0].update(old.data)
            digests[1].update(new.data)
            rows.append(_write_chunk(encode(old ^ new), payload))
    return rows, (digests[0].hexdigest(), digests[1].hexdigest())


def _write_chunk(coded: Coded | None, payload: BinaryIO) -> list[Any] | None:
    if coded is None:
        return None
    sizes = payload.write(coded.positions), payload.write(coded.values)
    return [coded.coding, coded.changed, *sizes]


def _part_bytes(rows: list[list[Any] | None]) -> int:
    return sum(row[2] + row[3] for row in rows if row)


def apply(base: Path, delta: Path, out: Path) -> None:
    """Write the checkpoint folder ``out``: the tuned checkpoint, from its base and the delta.

    Raises:
        RecipeError: the delta is damaged or of another base, or ``out`` exists.
        RunError: the result is not the tuned checkpoint bit for bit; nothing is left.
    """
    _turn(base, delta, out, "base", "tuned")


def revert(tuned: Path, delta: Path, out: Path) -> None:
    """Write the checkpoint folder ``out``: the base, from the tuned checkpoint and the delta.

    Raises:
        RecipeError: the delta is damaged or of another checkpoint, or ``out`` exists.
        RunError: the result is not the base bit for bit; nothing is left.
    """
    _turn(tuned, delta, out, "tuned", "base")


def _turn(source: Path, delta_path: Path, out: Path, given: str, wanted: str) -> None:
    require_absent(out)  # before the minutes that reading takes
    delta = read_delta(delta_path)
    folder = checkpoint_folder(source)
    layout = read_layout(folder)
    _require_source(delta, folder, fingerprint_folder(layout), given, wanted)
    with published(out) as temporary:
        temporary.mkdir()
        digests = {}
        for file in weight_files(folder):
            digests |= _turn_file(file, delta, temporary / file.name)
        if fingerprint(layout, digests) != delta.header[wanted]:
            raise RunError(
                f"{out}: the result is not the {wanted} checkpoint of {delta_path} bit for bit; "
                "nothing was kept. Was a file changed meanwhile? Run it again"
            )
        if not (folder / "model.safetensors").is_file():
            shutil.copyfile(folder / INDEX, temporary / INDEX)
        rows = delta.header["files"]
        restore_companions(folder, temporary, rows, delta.read(FILES), wanted == "tuned")


def _require_source(delta: Delta, folder: Path, found: str, given: str, wanted: str) -> None:
    if found == delta.header[given]:
        return
    if found == delta.header[wanted]:
        verb = "revert" if wanted == "tuned" else "apply"
        raise RecipeError(
            f"{folder}: already the {wanted} checkpoint of {delta.path}; "
            f"`rlvr delta {verb}` goes the other way"
        )
    raise RecipeError(
        f"{folder}: not the {given} checkpoint of {delta.path} (weights {found[:12]}, expected "
        f"{delta.header[given][:12]}); it was packed from {delta.header['provenance'][given]}"
    )


def _turn_file(file: Path, delta: Delta, out: Path) -> dict[str, str]:
    """Write one weight file with the XORs of the delta; return the SHA-256 of each tensor."""
    header, tensors = read_header(file)
    digests = {}
    with open(file, "rb") as source, open(out, "wb") as target:
        target.write(header)
        for name, stored in tensors.items():
            digest = hashlib.sha256()
            coded = delta.chunks(name)
            for chunk in chunks(stored, source, delta.header["chunk"]):
                update = next(coded, None)
                if update is not None:
                    positions, values = decode(update, chunk.size, stored.width)
                    chunk[positions] ^= values
                target.write(chunk.data)
                digest.update(chunk.data)
            digests[name] = digest.hexdigest()
    return digests
