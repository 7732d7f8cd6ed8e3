"""The weights of a Hugging Face checkpoint as raw bytes, a chunk in memory at a time.

An entry is a bit pattern of 1, 2, 4 or 8 bytes, whatever its dtype means: NaN payloads and -0.0
are bits like any other. Nothing here knows a dtype, so one that torch lacks works too.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from rlvr.checkpoints.delta_codec import Bits
from rlvr.checkpoints.folders import INDEX, SAFETENSORS, weight_files
from rlvr.schema import RecipeError

# safetensors' words for a dtype, as torch's; any other keeps its own, in lower case.
TORCH_WORDS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "BOOL": "bool",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
}  # fmt: skip
CHUNK = 1 << 19  # entries; bounds memory to a few times 8 MiB, a delta records its own


@dataclass(frozen=True)
class Place:
    """Where the bytes of one tensor lie; ``dtype`` is safetensors' word for it."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def entries(self) -> int:
        return math.prod(self.shape)

    @property
    def width(self) -> int:
        """Bytes per entry; a dtype that is not of whole bytes counts as bytes."""
        width = self.size // self.entries if self.entries else 1
        return width if width in (1, 2, 4, 8) and width * self.entries == self.size else 1

    def describe(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


Layout = Mapping[str, Place]


def safetensors_files(folder: Path) -> list[Path]:
    """Return the safetensors files that transformers would load from ``folder``.

    Raises:
        RecipeError: no such folder, no safetensors weights, or a shard is missing.
    """
    if not folder.is_dir():
        raise RecipeError(
            f"{folder}: no such checkpoint folder; download it first if it is a hub name"
        )
    files = weight_files(folder)
    if not files or files[0].suffix != ".safetensors":
        raise RecipeError(
            f"{folder}: holds neither {SAFETENSORS} nor {INDEX}; save the whole policy with "
            "save_pretrained first (an adapter merged, a .bin checkpoint loaded and saved again)"
        )
    return files


def read_header(file: Path) -> tuple[bytes, dict[str, Place]]:
    """Return the bytes before the first tensor, and where each tensor lies, in file order."""
    try:
        # Checks that the tensors lie within the file, without gaps or overlaps.
        with safe_open(file, framework="np"):
            pass
    except SafetensorError as error:
        raise RecipeError(f"{file}: cut short or no safetensors file ({error})") from error
    with open(file, "rb") as handle:
        length = handle.read(8)
        header = length + handle.read(int.from_bytes(length, "little"))
    places = {}
    for name, info in json.loads(header[8:]).items():
        if name != "__metadata__":
            start, end = info["data_offsets"]
            place = len(header) + start
            places[name] = Place(file, info["dtype"], tuple(info["shape"]), place, end - start)
    # The header lists names in any order; reading in file order avoids seeks.
    return header, dict(sorted(places.items(), key=lambda item: item[1].start))


def read_layout(folder: Path) -> Layout:
    """Return where every tensor of a checkpoint lies, by name."""
    layout: dict[str, Place] = {}
    for file in safetensors_files(folder):
        for name, stored in read_header(file)[1].items():
            if name in layout:
                raise RecipeError(
                    f"{folder}: {name!r} is in {layout[name].file.name} and {file.name}"
                )
            layout[name] = stored
    return layout


def chunks(stored: Place, handle: BufferedReader, chunk: int) -> Iterator[Bits]:
    """Yield the entries of a tensor as unsigned integers, ``chunk`` at a time, writable."""
    step = chunk * stored.width
    for offset in range(0, stored.size, step):
        handle.seek(stored.start + offset)
        # A bytearray, since frombuffer on bytes gives a read-only array.
        data = bytearray(min(step, stored.size - offset))
        if handle.readinto(data) != len(data):
            raise RecipeError(f"{stored.file}: became shorter while it was read; copy it again")
        yield np.frombuffer(data, f"<u{stored.width}")


def fingerprint_bits(layout: Layout, digests: Mapping[str, str]) -> str:
    """Return the SHA-256 over name, dtype, shape and SHA-256 of the bytes, sorted by name.

    It does not depend on the sharding nor on the order of tensors in a file.
    """
    total = hashlib.sha256()
    for name in sorted(layout):
        stored = layout[name]
        line = [name, stored.dtype, list(stored.shape), digests[name]]
        total.update(json.dumps(line).encode() + b"\n")
    return total.hexdigest()


def fingerprint_folder(layout: Layout) -> str:
    """Return the fingerprint of the weights on disk."""
    digests = {}
    for name, stored in layout.items():
        digest = hashlib.sha256()
        with open(stored.file, "rb") as handle:
            for values in chunks(stored, handle, CHUNK):
                digest.update(values.data)
        digests[name] = digest.hexdigest()
    return fingerprint_bits(layout, digests)
