"""One weight file of base or tuned into the other's: XOR the changed entries, change the dtype."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from rlvr.checkpoints.delta import turn_chunk
from rlvr.checkpoints.delta_file import Delta
from rlvr.checkpoints.folders import INDEX
from rlvr.checkpoints.layout import Layout, Place, chunks, read_header


def turned_layout(layout: Layout, delta: Delta, *, to_tuned: bool) -> dict[str, Place]:
    """Return the tensors of ``layout`` with the dtype and size that they have on the other side.

    Where a dtype changes they are ordered widest first, which aligns each; else as they are.
    """
    turned = dict(layout)
    for name in delta.dtypes.keys() & layout.keys():
        stored, dtype = layout[name], delta.dtypes[name][to_tuned]
        # Only 16-bit floats are widened, to 32: the factor is always 2.
        size = stored.size * 2 if to_tuned else stored.size // 2
        turned[name] = dataclasses.replace(stored, dtype=dtype, size=size)
    if turned == layout:
        return turned
    # sorted is stable: tensors of one width keep their order.
    return dict(sorted(turned.items(), key=lambda item: -item[1].width))


def turn_file(file: Path, delta: Delta, out: Path, *, to_tuned: bool) -> dict[str, str]:
    """Write one weight file of the other side; return the SHA-256 of each of its tensors."""
    header, tensors = read_header(file)
    turned = turned_layout(tensors, delta, to_tuned=to_tuned)
    if turned != tensors:
        header = _header(turned, json.loads(header[8:]).get("__metadata__"))
    digests = {}
    with open(file, "rb") as source, open(out, "wb") as target:
        target.write(header)
        for name in turned:
            digest = hashlib.sha256()
            base_dtype = delta.dtypes[name][0] if name in delta.dtypes else None
            # Empty for a tensor without changes: its chunks are copied.
            coded = delta.chunks(name)
            for chunk in chunks(tensors[name], source, delta.header["chunk"]):
                bits = turn_chunk(chunk, next(coded, None), base_dtype, to_tuned=to_tuned)
                target.write(bits.data)
                digest.update(bits.data)
            digests[name] = digest.hexdigest()
    return digests


def _header(layout: Layout, metadata: Mapping[str, str] | None) -> bytes:
    """Return the start of a safetensors file with the tensors of ``layout`` in their order."""
    content: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    start = 0
    for name, stored in layout.items():
        end = start + stored.size
        row = {"dtype": stored.dtype, "shape": stored.shape, "data_offsets": [start, end]}
        content[name], start = row, end
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    # safetensors pads its header with spaces to a multiple of 8 bytes.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_index(folder: Path, out: Path, layout: Layout) -> None:
    """Write the index of a sharded checkpoint; ``layout`` has the sizes of its tensors now."""
    text = (folder / INDEX).read_text(encoding="utf-8")
    index = json.loads(text)
    # Rewritten only if the size changed: else the index keeps its bytes.
    total = sum(stored.size for stored in layout.values())
    if index.get("metadata", {}).get("total_size", total) != total:
        index["metadata"]["total_size"] = total
        text = json.dumps(index, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (out / INDEX).write_text(text, encoding="utf-8")
