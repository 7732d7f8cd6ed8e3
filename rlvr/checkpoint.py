"""Files of a run and of checkpoints: complete or absent, readable tensor by tensor.

A checkpoint is written under a temporary name and renamed when it is complete, so whatever stands
under ``checkpoints/step-NNNNNN`` can be loaded, at whatever moment the process was killed.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from rlvr import runtime
from rlvr.files import (  # noqa: F401
    file_digest,
    read_jsonl,
    replacing,
    sync_folder,
    write_bytes,
    write_json,
)
from rlvr.schema import RecipeError

MANIFEST = "manifest.json"  # in each checkpoint: the SHA-256 of every file
_DELETED = ".deleted"  # the name of a checkpoint while its files are deleted
_MIX = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed integer: an odd multiplier
_CHUNK = 1 << 24  # entries per pass of a checksum, which bounds its memory


def step_folder(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step-{step:06d}"


def checkpoints(run_dir: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first."""
    return sorted((run_dir / "checkpoints").glob("step-[0-9]*"))


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def publish_checkpoint(temporary: Path, final: Path, keep: int | None) -> None:
    """Make a written checkpoint durable and visible; delete all but the newest ``keep``."""
    files = sorted(file for file in temporary.rglob("*") if file.is_file())
    manifest = {str(file.relative_to(temporary)): file_digest(file) for file in files}
    for file in files:
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
    write_json(temporary / MANIFEST, manifest)
    hidden = [_hide(final)] if final.exists() else []
    os.replace(temporary, final)
    sync_folder(final.parent)
    for folder in hidden:
        shutil.rmtree(folder)
    if keep is not None:
        for old in checkpoints(final.parent.parent)[:-keep]:
            shutil.rmtree(_hide(old))


def _hide(folder: Path) -> Path:
    """Take a checkpoint's name from ``folder``, at once: nothing half deleted may keep it."""
    hidden = folder.with_name(_DELETED)
    if hidden.exists():
        shutil.rmtree(hidden)
    os.replace(folder, hidden)
    return hidden


def recover_checkpoints(run_dir: Path) -> None:
    """Finish what a killed process was doing to the checkpoints of a run.

    A checkpoint that lacks its final name only is published; one that was being written or deleted
    is deleted.
    """
    for temporary in (run_dir / "checkpoints").glob("checkpoint-[0-9]*"):
        step = temporary.name.removeprefix("checkpoint-")
        final = step_folder(run_dir, int(step)) if step.isdigit() else None
        if final is not None and not final.exists() and damage(temporary) is None:
            os.replace(temporary, final)
        else:
            shutil.rmtree(temporary)
    if (run_dir / "checkpoints" / _DELETED).is_dir():
        shutil.rmtree(run_dir / "checkpoints" / _DELETED)


def damage(folder: Path) -> str | None:
    """Return what is wrong with a published checkpoint, or ``None`` where every byte is there."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"{MANIFEST} is missing or unreadable"
    for name, digest in manifest.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if file_digest(folder / name) != digest:
            return f"{name} is not as it was written"
    return None


def newest_checkpoint(run_dir: Path) -> Path | None:
    """Return the newest checkpoint whose bytes are all there, or ``None`` where there is none yet.

    Raises:
        RecipeError: there are checkpoints and every one is damaged.
    """
    found = checkpoints(run_dir)
    for folder in reversed(found):
        wrong = damage(folder)
        if wrong is None:
            return folder
        runtime.say(f"{folder} is damaged ({wrong}); trying the one before")
    if found:
        raise RecipeError(
            f"{run_dir}: every checkpoint is damaged; remove checkpoints/ to start from the base"
        )
    return None


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint, sharded or not."""
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise RecipeError(f"{folder}: no model*.safetensors file; save it as safetensors first")
    return files


def weight_names(folder: Path) -> set[str]:
    """Return the names of a checkpoint's tensors; only the headers of its files are read."""
    names: set[str] = set()
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as reader:
            names.update(reader.keys())
    return names


def read_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield ``(name, tensor)`` of a checkpoint folder, one tensor in memory at a time."""
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as reader:
            for name in reader.keys():  # noqa: SIM118  (a reader is no mapping)
                yield name, reader.get_tensor(name)


def read_weight(folder: Path, name: str) -> Tensor:
    """Return one tensor of a checkpoint folder."""
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as reader:
            if name in reader.keys():  # noqa: SIM118
                return reader.get_tensor(name)
    raise RecipeError(f"{folder}: holds no tensor {name!r}; is it a checkpoint of the same model?")


def fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return one SHA-256 of named weights, the same for whatever order or dtype holds the values.

    It covers the sorted names with shapes and values; values as float32 (float64 for float64), so
    that bf16 files and the float32 weights which were loaded from them have one fingerprint.
    """
    lines = []
    for name, tensor in tensors:
        data = tensor.detach().cpu()
        data = data.contiguous() if data.dtype == torch.float64 else data.float().contiguous()
        values = data.view(-1).view(torch.uint8).numpy().data if data.numel() else b""
        lines.append(f"{name} {tuple(data.shape)} {hashlib.sha256(values).hexdigest()}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def checksum(tensor: Tensor, keep: Tensor | None = None) -> int:
    r"""Return a 64-bit checksum of the values of ``tensor`` where ``keep`` is true.

    .. math:: \sum_i \mathrm{keep}_i \, b_i \, (i c \lor 1) \bmod 2^{64}

    with :math:`b_i` the bits of entry i in float32 (float64 for float64), so that an engine which
    holds the same values in another dtype gives the same checksum. Each factor is odd, hence
    invertible, so a change of any one entry is always seen. Runs on the tensor's own device.
    """
    flat = tensor.detach().reshape(-1)
    wide = flat.dtype == torch.float64
    keep = None if keep is None else keep.reshape(-1)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for start in range(0, flat.numel(), _CHUNK):
        part = flat[start : start + _CHUNK]
        bits = part.view(torch.int64) if wide else part.float().view(torch.int32)
        values = bits.to(torch.int64, copy=True)
        if keep is not None:
            values *= keep[start : start + _CHUNK]
        index = torch.arange(start, start + values.numel(), device=tensor.device)
        total += (values * (index * _MIX | 1)).sum()
    return int(total)
