"""The files of a checkpoint that are not weights: config, tokenizer, chat template, model card.

What is the same in base and tuned is copied from the checkpoint that is given to apply or revert.
What differs, or is in only one of the two, is stored in the delta in both versions, so that apply
restores TUNED's and revert BASE's. Training state (optimizer, scheduler, random states, Trainer's
log, a run's manifest), weights in other formats, hidden files and subfolders other than
transformers' folder of chat templates belong to neither and are left out.
"""

import filecmp
import shutil
from pathlib import Path, PurePosixPath

import zstandard

from rlvr.checkpoints.runs import MANIFEST
from rlvr.schema import RecipeError

MAX_SIZE = 20 << 20  # bytes of one file that differs
_FOLDERS = (".", "additional_chat_templates")
_NO_COMPANIONS = {
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx", ".distcp"
}  # fmt: skip
_RUN_FILES = {"trainer_state.json", MANIFEST}
_LEVEL = 9
_WINDOW = 26  # log2 bytes: the second version of a file is coded against the first

Row = tuple[str, int | None, int | None]  # name, bytes in base, bytes in tuned; None where absent


def companions(folder: Path) -> dict[str, Path]:
    """Return the files that are not weights, by their path in the folder."""
    files = {}
    for subfolder in _FOLDERS:
        for path in sorted((folder / subfolder).glob("[!.]*")):
            state = path.suffix in _NO_COMPANIONS or path.name in _RUN_FILES
            if path.is_file() and not state and not path.name.endswith(".index.json"):
                files[path.relative_to(folder).as_posix()] = path
    return files


def pack_companions(base: Path, tuned: Path) -> tuple[list[Row], bytes]:
    """Return a row for each file that differs, and all their contents compressed together.

    Raises:
        RecipeError: a file that differs is larger than ``MAX_SIZE``.
    """
    first, second = companions(base), companions(tuned)
    rows: list[Row] = []
    contents = []
    for name in sorted(first.keys() | second.keys()):
        old, new = first.get(name), second.get(name)
        # shallow=False: the default trusts size and time stamp.
        if old and new and filecmp.cmp(old, new, shallow=False):
            continue
        sides = [_read(path) if path else None for path in (old, new)]
        contents += [content for content in sides if content is not None]
        sizes = [None if content is None else len(content) for content in sides]
        rows.append((name, sizes[0], sizes[1]))
    return rows, _compress(b"".join(contents)) if rows else b""


def _read(path: Path) -> bytes:
    if path.stat().st_size > MAX_SIZE:
        raise RecipeError(
            f"{path}: differs between base and tuned and is larger than {MAX_SIZE >> 20} MiB; "
            "make it the same in both, or move it out of the folder"
        )
    return path.read_bytes()


def _compress(data: bytes) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        # Long-distance matching: the two versions of a tokenizer lie megabytes apart.
        _LEVEL,
        window_log=_WINDOW,
        enable_ldm=True,
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data)


def restore_companions(
    source: Path, out: Path, rows: list[Row], packed: bytes, tuned: bool
) -> None:
    """Write the files of one side into ``out``: stored versions first, then those of ``source``."""
    data = memoryview(zstandard.decompress(packed) if rows else b"")
    for name, *sizes in rows:
        # Contents lie in the order of the rows, BASE before TUNED; skipped ones move `data` on too.
        for size, wanted in zip(sizes, (not tuned, tuned), strict=True):
            if size is None:
                continue
            if wanted:
                _inside(out, name).write_bytes(data[:size])
            data = data[size:]
    stored = {name for name, *_ in rows}
    for name, path in companions(source).items():
        if name not in stored:
            shutil.copyfile(path, _inside(out, name))


def _inside(out: Path, name: str) -> Path:
    """Return where ``name`` goes in ``out``; a delta from a stranger writes nowhere else."""
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise RecipeError(f"the delta holds a file named {name!r}, which is outside of OUT")
    path = out / name
    path.parent.mkdir(exist_ok=True)
    return path
