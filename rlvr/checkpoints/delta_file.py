"""The delta file: a safetensors file of coded chunks that knows when a byte of it is wrong.

Tensor ``xor.NAME`` holds, chunk after chunk, the coded changes of weight ``NAME``
(``rlvr.checkpoints.delta_codec``; version 1 stored positions and XORs); ``files`` holds the other
files that differ. The metadata holds

* ``sha256``: of the whole file, with this value itself read as 64 zeros;
* ``rlvr_delta``: JSON with the format's ``version``, the fingerprints of ``base`` and ``tuned``,
  the entries per ``chunk``, ``tensors`` (name to dtype, shape and chunks, each null or [coding,
  changed entries, bytes of positions, bytes of values]), ``dtypes`` (name to those of base and
  tuned where they differ, the base's being the narrower), ``files`` and ``provenance``.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rlvr.checkpoints.delta_codec import Coded
from rlvr.checkpoints.folders import DELTA_START
from rlvr.schema import RecipeError

VERSION = 2
FILES = "files"
_ZEROS = b"0" * 64
_AT = 8 + len(DELTA_START)  # where the checksum stands in the file
_BLOCK = 1 << 20


def tensor_key(name: str) -> str:
    return f"xor.{name}"


@dataclass(frozen=True)
class Delta:
    """A delta file with a verified checksum; ``parts`` maps a part to its start and size."""

    path: Path
    header: dict[str, Any]
    parts: dict[str, tuple[int, int]]

    @property
    def dtypes(self) -> dict[str, list[str]]:
        """The dtypes in base and tuned of each tensor that is narrower in the base."""
        return self.header.get("dtypes", {})

    def chunks(self, name: str) -> Iterator[Coded | None]:
        """Yield the coded chunks of one weight; none where it did not change."""
        if name not in self.header["tensors"]:
            return
        with open(self.path, "rb") as file:
            file.seek(self.parts[tensor_key(name)][0])
            for chunk in self.header["tensors"][name]["chunks"]:
                if chunk is None:
                    yield None
                    continue
                coding, changed, positions, values = chunk
                yield Coded(coding, changed, file.read(positions), file.read(values))

    def read(self, part: str) -> bytes:
        start, size = self.parts[part]
        with open(self.path, "rb") as file:
            file.seek(start)
            return file.read(size)


def write_delta(
    path: Path, header: dict[str, Any], sizes: dict[str, int], payload: BinaryIO
) -> None:
    """Write a delta file of ``payload``: its parts one after another, of ``sizes`` bytes each."""
    offsets, start = {}, 0
    for part, size in sizes.items():
        offsets[part] = {"dtype": "U8", "shape": [size], "data_offsets": [start, start + size]}
        start += size
    # "sha256" comes first, so the digest stands at a fixed offset, `_AT`.
    metadata = {"sha256": _ZEROS.decode(), "rlvr_delta": json.dumps(header, separators=(",", ":"))}
    text = json.dumps({"__metadata__": metadata, **offsets}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb+") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        payload.seek(0)
        shutil.copyfileobj(payload, file, _BLOCK)
        digest = _checksum(file)
        file.seek(_AT)
        # Same length as the zeros: it replaces them in place.
        file.write(digest)


def _checksum(file: BinaryIO) -> bytes:
    """Return the SHA-256 of a file in hex, its own checksum read as zeros."""
    total = hashlib.sha256()
    file.seek(0)
    total.update(file.read(_AT) + _ZEROS)
    file.seek(_AT + len(_ZEROS))
    while block := file.read(_BLOCK):
        total.update(block)
    return total.hexdigest().encode()


def read_delta(path: Path) -> Delta:
    """Open a delta file and verify every byte of it.

    Raises:
        RecipeError: no such file, no delta, cut short or damaged, or of a newer format.
    """
    if not path.is_file():
        raise RecipeError(f"{path}: no such delta file; make it with `rlvr delta pack`")
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        # Before the checksum: any other file would be called damaged.
        if file.read(len(DELTA_START)) != DELTA_START:
            raise RecipeError(
                f"{path}: not a delta, or damaged at its start; copy or pack it again"
            )
        claimed = file.read(len(_ZEROS))
        if claimed != _checksum(file):
            raise RecipeError(
                f"{path}: cut short or damaged (its SHA-256 is not the one it was written with); "
                "copy or pack it again"
            )
        file.seek(8)
        content = json.loads(file.read(length))
    header = json.loads(content.pop("__metadata__")["rlvr_delta"])
    if header["version"] > VERSION:
        raise RecipeError(f"{path}: delta format {header['version']}; upgrade rlvr to read it")
    offsets = {part: info["data_offsets"] for part, info in content.items()}
    parts = {part: (8 + length + start, end - start) for part, (start, end) in offsets.items()}
    return Delta(path, header, parts)
