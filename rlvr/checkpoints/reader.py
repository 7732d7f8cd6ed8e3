"""Any checkpoint as named tensors that are read one at a time."""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from rlvr.checkpoints.lora import CONFIG, open_adapter
from rlvr.checkpoints.plain import Checkpoint, open_plain
from rlvr.schema import RecipeError


def open_checkpoint(path: Path, base: Checkpoint | None = None) -> Checkpoint:
    """Return the tensors of ``path``; an adapter is merged into ``base``, which it needs.

    Of a run's checkpoint with an adapter, the merged policy inside is taken, or else its LoRA.
    """
    if (path / "merged").is_dir():
        return open_plain(path / "merged")
    if (path / "lora").is_dir():
        path = path / "lora"
    elif (path / "adapter").is_dir():
        raise RecipeError(
            f"{path}: holds an adapter that is no plain LoRA, without its dense weights; the last "
            "checkpoint of a run has them, and all of them with run.merged=every"
        )
    if not (path / CONFIG).is_file():
        return open_plain(path)
    if base is None:
        raise RecipeError(f"{path}: is an adapter; BASE must be the whole policy it was made for")
    return open_adapter(path, base)


def read_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield ``(name, tensor)`` of a checkpoint folder, one tensor in memory at a time."""
    return ((name, stored.load()) for name, stored in open_checkpoint(folder).items())
