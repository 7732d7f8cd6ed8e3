"""Which tensor of one checkpoint is which of the other, and which of them are target matrices."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlvr.checkpoints.names import canonical
from rlvr.checkpoints.plain import Checkpoint, Stored
from rlvr.checkpoints.reader import by_canonical, counterpart
from rlvr.schema import RecipeError
from rlvr.targets import matches

_FLOATS = ("float", "bfloat")
_BLOCK = re.compile(r"\.(\d+)\.")
_EMBEDDING = re.compile(r"(embed|wte|wpe|position)")
_HEAD = "lm_head.weight"
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight")
_SHOWN = 6  # kinds of tensors that are named on screen


@dataclass(frozen=True)
class Pair:
    """One target matrix; ``name`` is that of the base checkpoint."""

    name: str
    base: Stored
    tuned: Stored

    @property
    def entries(self) -> int:
        return self.base.shape[0] * self.base.shape[1]


def kind_of(name: str) -> str:
    return name.removesuffix(".weight").rsplit(".", 1)[-1]


def layer_of(name: str) -> int | None:
    match = _BLOCK.search(f".{name}")
    return int(match[1]) if match else None


def place_of(name: str, shape: Sequence[int]) -> dict[str, Any]:
    """Return the columns ``rlvr.geometry.table.PLACE``, with which a table of matrices begins."""
    rows, columns = shape
    place = {"name": name, "kind": kind_of(name), "layer": layer_of(name)}
    return place | {"rows": rows, "cols": columns}


def natural(name: str) -> list[tuple[int, int | str]]:
    """Return a key that sorts ``layers.2`` before ``layers.10``."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]


def is_matrix(stored: Stored) -> bool:
    return len(stored.shape) == 2 and stored.dtype.startswith(_FLOATS)


def targets_of(checkpoint: Checkpoint, patterns: Sequence[str]) -> list[str]:
    """Return the names that ``patterns`` select, in natural order.

    ``linear`` stands for the 2-D weights inside the blocks, embeddings excepted; another pattern is
    matched against every 2-D tensor, as ``rlvr.targets.matches`` says.

    Raises:
        RecipeError: a pattern selects nothing.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        selected = _selected(checkpoint, pattern)
        if not selected:
            kinds = sorted({kind_of(name) for name, s in checkpoint.items() if is_matrix(s)})
            raise RecipeError(
                f"--targets: {pattern!r} matches no matrix; there are: {', '.join(kinds) or 'none'}"
            )
        chosen.update(selected)
    return sorted(chosen, key=natural)


def _selected(checkpoint: Checkpoint, pattern: str) -> list[str]:
    names = [name for name, stored in checkpoint.items() if is_matrix(stored)]
    if pattern == "linear":
        return [name for name in names if _is_linear(name)]
    return [name for name in names if matches(name, pattern)]


def _is_linear(name: str) -> bool:
    inside = layer_of(name) is not None
    return inside and name.endswith(".weight") and not _EMBEDDING.search(kind_of(name))


def pair_up(
    base: Checkpoint, tuned: Checkpoint, paths: tuple[Path, Path], patterns: Sequence[str]
) -> list[Pair]:
    """Return the target matrices of both checkpoints, in natural order of the base's names.

    A tied output head that only one of the two files stores is compared as the embedding.

    Raises:
        RecipeError: a matrix is missing in one, or has another shape: they are not of one model.
    """
    for path, checkpoint in zip(paths, (base, tuned), strict=True):
        _refuse_unmerged(path, checkpoint)
        if not any(map(is_matrix, checkpoint.values())):
            raise RecipeError(
                f"{path}: holds no matrix of numbers with a fraction ({len(checkpoint)} tensors)"
            )
    names = by_canonical(tuned, paths[1])
    pairs = []
    for name in targets_of(base, patterns):
        other = counterpart(name, names)
        if other is None:
            raise _missing(name, base, names, paths, patterns)
        if (canonical(name) == _HEAD) != (canonical(other) == _HEAD):
            _require_tied(base, name, paths[0])
            _require_tied(tuned, name, paths[1])
        first, second = base[name], tuned[other]
        _require_floats(other, second, paths[1])
        if first.shape != second.shape:
            raise RecipeError(
                f"{name!r} has the shape {list(first.shape)} in {paths[0]} and "
                f"{list(second.shape)} in {paths[1]}; they are not of one model"
            )
        pairs.append(Pair(name, first, second))
    own = by_canonical(base, paths[0])
    selected = {name for pattern in patterns for name in _selected(tuned, pattern)}
    also = {canonical(name): name for name in selected}
    for name in also.keys() & own.keys():
        _require_floats(name, base[own[name]], paths[0])
    extra = [also[key] for key in sorted(also, key=natural) if key not in own and key != _HEAD]
    if extra:
        raise RecipeError(
            f"{paths[0]}: lacks {extra[0]!r}, which {paths[1]} has ({len(extra)} such matrices); "
            "are they swapped, or of other architectures?"
        )
    return pairs


def _require_floats(name: str, stored: Stored, path: Path) -> None:
    """Refuse a matrix of integers or complex numbers, which has no geometry here."""
    if not stored.dtype.startswith(_FLOATS):
        raise RecipeError(
            f"{path}: {name!r} is no matrix of numbers with a fraction ({stored.dtype}); leave it "
            "out by --targets, or name the checkpoint that was trained"
        )


def left_out_of(base: Checkpoint, pairs: Sequence[Pair]) -> dict[str, int]:
    """Return how many tensors of the base are not measured, by kind, the most frequent first."""
    measured = {pair.name for pair in pairs}
    counts = Counter(kind_of(name) for name in base if name not in measured)
    return dict(counts.most_common())


def left_out_words(kinds: Mapping[str, int]) -> str:
    """Return one line that counts and names what is not measured."""
    if not kinds:
        return "every tensor of BASE was measured"
    shown = [f"{count} {kind}" for kind, count in list(kinds.items())[:_SHOWN]]
    rest = len(kinds) - len(shown)
    more = f" and {rest} other kinds" if rest > 0 else ""
    return f"not measured: {', '.join(shown)}{more}; --targets chooses others"


def _require_tied(base: Checkpoint, name: str, path: Path) -> None:
    """Refuse to compare a head with an embedding, unless the base's are one matrix."""
    own = by_canonical(base, path)
    embedding = next((own[key] for key in own if key.endswith(_EMBEDDINGS)), None)
    head = own.get(_HEAD)
    if head is None or embedding is None:
        return  # only one of the two is stored: they are tied
    if not torch.equal(base[head].load(), base[embedding].load()):
        raise RecipeError(
            f"{path}: its head and its embedding differ, and the other checkpoint lacks one of "
            f"them; {name!r} has nothing to be compared with, leave it out of --targets"
        )


def _missing(
    name: str, base: Checkpoint, names: dict[str, str], paths: tuple[Path, Path], patterns: Sequence
) -> RecipeError:
    count = sum(canonical(n) not in names for n in targets_of(base, patterns))
    return RecipeError(
        f"{paths[1]}: lacks {name!r}, which {paths[0]} has ({count} such matrices); is the "
        "checkpoint complete, and of the same model?"
    )


def _refuse_unmerged(path: Path, checkpoint: Checkpoint) -> None:
    factor = next((name for name in checkpoint if ".lora_" in name), None)
    if factor is not None:
        raise RecipeError(
            f"{path}: holds the adapter factor {factor!r} beside or without the weights; name "
            "the adapter's folder as PEFT saves it, or merge it first"
        )
