"""Any checkpoint as named tensors that are read one at a time: whole, adapter, delta or run."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from rlvr.checkpoints.delta import open_delta
from rlvr.checkpoints.folders import (
    ADAPTER,
    ADAPTER_CONFIG,
    DELTA,
    EXPORT,
    LORA,
    base_of_run,
    is_delta,
    is_run,
    weight_files,
)
from rlvr.checkpoints.lora import open_adapter
from rlvr.checkpoints.names import canonical
from rlvr.checkpoints.plain import Checkpoint, Stored, open_plain
from rlvr.checkpoints.runs import exported_step, require_newest, step_of
from rlvr.schema import RecipeError

_HEAD = "lm_head.weight"
_EMBEDDING = ("embed_tokens.weight", "wte.weight")


def open_checkpoint(path: Path, base: Checkpoint | None = None) -> Checkpoint:
    """Return the tensors of ``path``: a folder or file of weights, a delta, an adapter, or a run.

    A run is read from the masters of its newest checkpoint. Where those are an adapter, it is read
    from its exported policy: the export keeps the whole update, a merge rounds it to the base's
    dtype.
    An adapter is merged into ``base``, or into the base of its run, as tensors are read.

    Raises:
        RecipeError: there are no such weights, or a file is damaged.
    """
    # A run directory that also holds weights is read as a checkpoint.
    if is_run(path) and not (path.is_file() or weight_files(path)):
        newest = require_newest(path)
        if not (newest / ADAPTER).is_dir():
            return open_checkpoint(newest)
        if exported_step(path) == step_of(newest):
            # The export of another step would be another policy.
            return open_plain(path / EXPORT)
        return open_checkpoint(newest, base or open_plain(base_of_run(path)))
    if path.is_file() and is_delta(path):
        return open_delta(path)
    if (path / DELTA).is_file():
        return open_delta(path / DELTA)
    if (path / LORA).is_dir():
        path = path / LORA
    elif (path / ADAPTER).is_dir():
        raise RecipeError(
            f"{path}: holds an adapter that is no plain LoRA, without its dense weights; name the "
            f"policy of its run, {path.parent.parent / EXPORT}"
        )
    if not (path / ADAPTER_CONFIG).is_file():
        return open_plain(path)
    if base is None:
        raise RecipeError(f"{path}: is an adapter; BASE must be the whole policy it was made for")
    return open_adapter(path, base)


def read_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield ``(name, tensor)`` of a checkpoint, one tensor in memory at a time."""
    return weights_of(open_checkpoint(folder))


def weights_of(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """Yield ``(name, tensor)``, one tensor in memory at a time."""
    return ((name, stored.load()) for name, stored in checkpoint.items())


def by_canonical(names: Iterable[str], where: Path) -> dict[str, str]:
    """Return the names in a checkpoint by their canonical form.

    Raises:
        RecipeError: two of them are one parameter.
    """
    known: dict[str, str] = {}
    for name in names:
        key = canonical(name)
        if key in known:
            raise RecipeError(
                f"{where}: {known[key]!r} and {name!r} are one parameter but for wrappers; export "
                "the plain policy first"
            )
        known[key] = name
    return known


def counterpart(name: str, names: Mapping[str, str]) -> str | None:
    """Return which of ``names``, by canonical form, is the parameter ``name``.

    A tied output head may be stored, or its embedding, or both: the one stands for the other.
    """
    key = canonical(name)
    if key in names:
        return names[key]
    if key == _HEAD:
        # Only a tied head may be missing: transformers loads it from its embedding.
        return next((names[known] for known in names if known.endswith(_EMBEDDING)), None)
    return names.get(_HEAD) if key.endswith(_EMBEDDING) else None


def select(checkpoint: Checkpoint, names: Iterable[str], where: Path) -> dict[str, Stored]:
    """Return the stored tensor of each parameter in ``names``, whatever its name in the file.

    Raises:
        RecipeError: the checkpoint lacks one.
    """
    known = by_canonical(checkpoint, where)
    chosen = {}
    for name in names:
        stored = counterpart(name, known)
        if stored is None:
            raise RecipeError(
                f"{where}: holds no tensor {name!r}; is it a checkpoint of the same model?"
            )
        chosen[name] = checkpoint[stored]
    return chosen
