"""Checkpoints of any make as named tensors that are read one at a time.

Understood: safetensors and torch files, single or sharded, as save_pretrained, FSDP's full state
and DeepSpeed's consolidation write them; ``torch.distributed.checkpoint`` folders as accelerate's
FSDP writes them.
"""

import pickle
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rlvr.checkpoints.folders import (
    BIN,
    INDEX,
    SAFETENSORS,
    hint,
    read_index,
    weight_files,
)
from rlvr.checkpoints.foreign import gguf, refuse_foreign, refuse_other_frameworks
from rlvr.checkpoints.layout import TORCH_WORDS
from rlvr.schema import RecipeError

_TORCH_ERRORS = (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError)
_LOOSE = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_STATE = ("optim", "lr_scheduler", "dataloader", "train_state", "scheduler", "rng", "extra_state")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_WRAPPED = ("module", "model", "state_dict", "model_state_dict")


@dataclass(frozen=True)
class Stored:
    """One tensor of a checkpoint; ``load`` reads it, ``dtype`` is torch's word, such as float32.

    ``stored_bits``: of a number in the file, where ``load`` widens it to ``dtype``. ``load_part``
    reads one index of the first axis only, where the format allows that.
    """

    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], Tensor]
    where: str
    stored_bits: int | None = None
    load_part: Callable[[int], Tensor] | None = None

    @property
    def bits(self) -> int:
        """The bits of one stored number."""
        digits = re.search(r"\d+", self.dtype)
        return self.stored_bits or (int(digits[0]) if digits else 8)


Checkpoint = dict[str, Stored]


def open_plain(path: Path) -> Checkpoint:
    """Return the tensors of a checkpoint that is no adapter; only headers are read.

    Raises:
        RecipeError: nothing there, an unknown or raw sharded format, or a damaged file.
    """
    if path.is_file():
        return _open_file(path)
    refuse_foreign(path)
    if files := weight_files(path):
        return _open_whole(path, files)
    # In a folder with Trainer's state, other torch files are the run's own, such as random states.
    loose = () if (path / "trainer_state.json").is_file() else _LOOSE
    for pattern in ("*.safetensors", "pytorch_model*.bin", *loose):
        files = [f for f in sorted(path.glob(pattern)) if not _is_training_state(f.name)]
        if files:
            return _merge(path, [_open_file(file) for file in files])
    for folder in (path, *sorted(path.glob("pytorch_model_fsdp_*"))):
        if (folder / ".metadata").is_file():
            return _open_distributed(folder)
    refuse_other_frameworks(path)
    raise unreadable(path)


def _is_training_state(name: str) -> bool:
    stems = ("optimizer", "scheduler", "rng_state", "training_args", "random_states", "scaler")
    return name.startswith((*stems, "adapter_", "mask.", "zero_", "bf16_zero_", "mp_rank_"))


def unreadable(path: Path) -> RecipeError:
    """Return the error for a folder without readable weights, with the command that helps."""
    if not path.exists():
        return RecipeError(f"{path}: does not exist; name a checkpoint folder or file")
    if advice := hint(path):
        return RecipeError(f"{path}: {advice}")
    if (path / "zero_to_fp32.py").is_file() or list(path.glob("global_step*")):
        return RecipeError(
            f"{path}: holds DeepSpeed's sharded state; consolidate it first with `python "
            f"{path}/zero_to_fp32.py {path} OUT --safe_serialization`"
        )
    return RecipeError(
        f"{path}: holds no weights (model.safetensors, pytorch_model.bin, shards of either with "
        "their index, an FSDP folder or adapter_config.json)"
    )


def damaged(file: Path, error: Exception) -> RecipeError:
    """Return the error for a file that cannot be read, with what can be told from its bytes."""
    if not file.is_file():
        what = (
            "a folder, no file"
            if file.is_dir()
            else "a link to a file that is not here (or was removed)"
        )
        return RecipeError(f"{file}: is {what}; copy the checkpoint again")
    size = file.stat().st_size
    if _starts_with(file, _LFS_POINTER):
        return RecipeError(
            f"{file}: is a Git LFS pointer ({size} bytes) in place of the weights; run `git lfs "
            "pull` in that folder, or download the file"
        )
    if isinstance(error, pickle.UnpicklingError):
        return RecipeError(
            f"{file}: is a pickle with more in it than tensors, and reading it could run code; "
            "load it where you trust it, and save its state dict with safetensors.torch.save_file"
        )
    what = "is empty (0 bytes)" if not size else "is cut short, damaged or another format"
    reason = str(error).strip().split("\n")[0].split(". ")[0] or type(error).__name__
    return RecipeError(f"{file}: {what} ({reason}); copy or download it again")


def _starts_with(file: Path, start: bytes) -> bool:
    with open(file, "rb") as handle:
        return handle.read(len(start)) == start


def _open_file(file: Path) -> Checkpoint:
    if file.suffix == ".gguf":
        raise gguf(file)
    return _open_safetensors(file) if file.suffix == ".safetensors" else _open_torch(file)


def _open_safetensors(file: Path) -> Checkpoint:
    tensors: Checkpoint = {}
    try:
        with safe_open(file, framework="pt") as reader:
            for name in reader.keys():  # noqa: SIM118  (a reader is no mapping)
                part = reader.get_slice(name)
                word = str(part.get_dtype())
                dtype = TORCH_WORDS.get(word, word.lower())
                load = _safetensors_loader(file, name)
                shape, one = tuple(part.get_shape()), _part_loader(file, name)
                tensors[name] = Stored(shape, dtype, load, file.name, load_part=one)
    except (SafetensorError, OSError) as error:
        raise damaged(file, error) from error
    return tensors


def _safetensors_loader(file: Path, name: str) -> Callable[[], Tensor]:
    def load() -> Tensor:
        # Opened anew each time: the pages of an open file would count as this process's memory.
        try:
            with safe_open(file, framework="pt") as reader:
                return reader.get_tensor(name).clone()
        except (SafetensorError, OSError) as error:
            raise damaged(file, error) from error

    return load


def _part_loader(file: Path, name: str) -> Callable[[int], Tensor]:
    def load(index: int) -> Tensor:
        try:
            with safe_open(file, framework="pt") as reader:
                return reader.get_slice(name)[index].clone()
        except (SafetensorError, OSError) as error:
            raise damaged(file, error) from error

    return load


def _read_torch(file: Path) -> dict[str, Any]:
    return _state_dict(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=1)  # or every tensor would parse, and in the old format read, the file anew
def _state_dict(file: Path, changed: int) -> dict[str, Any]:
    try:
        # mmap reads only the tensors that are asked for; torch's format before 1.6 cannot.
        with warnings.catch_warnings():
            # Of a plain pickle's protocol; such a file is refused in our words.
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except RuntimeError as error:
        if "mmap can only be used" not in str(error):
            raise
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(file, map_location="cpu", weights_only=True)
    # Training scripts nest the weights: {"model": {"state_dict": ...}}.
    while isinstance(content, dict) and not any(isinstance(v, Tensor) for v in content.values()):
        inner = next((key for key in _WRAPPED if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = content[inner]
    if not isinstance(content, dict):
        raise ValueError("it holds no state dict")
    return content


def _open_torch(file: Path) -> Checkpoint:
    try:
        content = _read_torch(file)
    except _TORCH_ERRORS as error:
        raise damaged(file, error) from error
    tensors = {}
    for name, value in content.items():
        if isinstance(value, Tensor):
            dtype = str(value.dtype).removeprefix("torch.")
            tensors[name] = Stored(tuple(value.shape), dtype, _torch_loader(file, name), file.name)
    return tensors


def _torch_loader(file: Path, name: str) -> Callable[[], Tensor]:
    def load() -> Tensor:
        try:
            tensor = _read_torch(file)[name].detach()
            # In rows, as safetensors: results would differ in their last bits.
            return tensor.clone(memory_format=torch.contiguous_format)
        except _TORCH_ERRORS as error:
            raise damaged(file, error) from error

    return load


def _open_whole(folder: Path, files: list[Path]) -> Checkpoint:
    """Open what transformers would load, and compare it with the index that names its tensors."""
    tensors = _merge(folder, [_open_file(file) for file in files])
    index = folder / (INDEX if files[0].suffix == ".safetensors" else f"{BIN}.index.json")
    if len(files) == 1 and files[0].name in (SAFETENSORS, BIN):
        return tensors
    places = read_index(index)
    missing = sorted(set(places) - set(tensors))
    if missing:
        raise RecipeError(
            f"{folder}: {index.name} names {missing[0]!r} in {places[missing[0]]}, which does not "
            f"hold it ({len(missing)} such tensors); copy the checkpoint again"
        )
    return tensors


def _merge(folder: Path, parts: list[Checkpoint]) -> Checkpoint:
    tensors: Checkpoint = {}
    for part in parts:
        for name, stored in part.items():
            if name in tensors:
                raise RecipeError(
                    f"{folder}: {name!r} is in {tensors[name].where} and in {stored.where}; name "
                    "one file, or remove what is not part of the checkpoint"
                )
            tensors[name] = stored
    return tensors


def _open_distributed(folder: Path) -> Checkpoint:
    """Return the tensors of a ``torch.distributed.checkpoint`` folder, read without a group."""
    from torch.distributed.checkpoint import FileSystemReader, load
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    def loader(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Callable[[], Tensor]:
        def read() -> Tensor:
            box = {name: torch.empty(shape, dtype=dtype)}
            try:
                # torch.distributed.checkpoint loads in place, so the tensor must exist first.
                load(box, storage_reader=FileSystemReader(folder), no_dist=True)
            except Exception as error:
                raise damaged(folder / ".metadata", error) from error
            return box[name]

        return read

    try:
        metadata = FileSystemReader(folder).read_metadata()
    except _TORCH_ERRORS as error:
        raise damaged(folder / ".metadata", error) from error
    tensors = {}
    for name, info in metadata.state_dict_metadata.items():
        # Trainers store their optimizer in the same folder.
        is_state = any(part.startswith(_STATE) for part in name.split(".")[:2])
        if isinstance(info, TensorStorageMetadata) and not is_state:
            shape, dtype = tuple(info.size), info.properties.dtype
            word = str(dtype).removeprefix("torch.")
            tensors[name] = Stored(shape, word, loader(name, shape, dtype), folder.name)
    return tensors
