"""An update mask as data: name -> packed bits, with provenance, in memory and in a file."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from rlvr.files import write_bytes
from rlvr.masks.bits import count_bits, pack_bits, unpack_bits
from rlvr.masks.spec import MaskSpec
from rlvr.registry import mask_builder, place, shown
from rlvr.schema import RecipeError

_KEY = "rlvr_update_mask"  # the metadata entry by which a file is known to be a mask


@dataclass(frozen=True, eq=False)
class Mask(Mapping[str, Tensor]):
    """A mapping from parameter name to bool mask, unpacked when it is asked for.

    ``bits`` are uint8 on the CPU, one bit per entry, row-major; ``provenance`` is plain JSON.
    """

    bits: dict[str, Tensor]
    shapes: dict[str, tuple[int, ...]]
    provenance: dict[str, Any]

    @classmethod
    def from_bools(
        cls, masks: Mapping[str, Tensor], provenance: Mapping[str, Any] | None = None
    ) -> "Mask":
        bits = {name: pack_bits(mask).cpu() for name, mask in masks.items()}
        shapes = {name: tuple(mask.shape) for name, mask in masks.items()}
        return cls(bits, shapes, dict(provenance or {}))

    def with_dense(self, shapes: Mapping[str, Sequence[int]]) -> "Mask":
        """Return this mask and, for each name of ``shapes``, one in which all entries may move."""
        twice = sorted(set(shapes) & set(self.shapes))
        if twice:
            raise ValueError(f"{twice[0]!r} already has a mask; it cannot be dense as well")
        full = {n: torch.ones(tuple(shape), dtype=torch.bool) for n, shape in shapes.items()}
        dense = Mask.from_bools(full)
        return Mask(self.bits | dense.bits, self.shapes | dense.shapes, self.provenance)

    def __getitem__(self, name: str) -> Tensor:
        return unpack_bits(self.bits[name], self.shapes[name])

    def __contains__(self, name: object) -> bool:
        return name in self.shapes  # the inherited test would unpack

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    @property
    def names(self) -> list[str]:
        return list(self.shapes)

    def numel(self, name: str) -> int:
        return torch.Size(self.shapes[name]).numel()

    def count(self, name: str) -> int:
        """Return how many entries of ``name`` may move."""
        return count_bits(self.bits[name])

    def density(self, name: str | None = None) -> float:
        """Return the fraction of entries that may move, of one matrix or of all together."""
        names = self.names if name is None else [name]
        return sum(map(self.count, names)) / sum(map(self.numel, names))

    def fingerprint(self) -> str:
        """Return the SHA-256 over names, shapes and bits, sorted by name."""
        digest = hashlib.sha256()
        # Sorted, so that the order in which matrices were built does not matter.
        for name in sorted(self.shapes):
            digest.update(json.dumps([name, *self.shapes[name]]).encode())
            digest.update(self.bits[name].numpy().tobytes())
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, so that ``path`` holds the old or the new mask, never half."""
        header = {
            "shapes": self.shapes,
            "provenance": self.provenance,
            "fingerprint": self.fingerprint(),
        }
        content = to_safetensors(self.bits, metadata={_KEY: json.dumps(header)})
        write_bytes(Path(path), content)

    @classmethod
    def load(cls, path: str | Path) -> "Mask":
        """Read a mask file and verify its fingerprint.

        Raises:
            RecipeError: no such file, cut short, no mask, or not the bits that were saved.
        """
        header, bits = _read(Path(path))
        shapes = {name: tuple(shape) for name, shape in header["shapes"].items()}
        mask = cls(bits, shapes, header["provenance"])
        if set(bits) != set(shapes) or mask.fingerprint() != header["fingerprint"]:
            raise RecipeError(f"{path}: the bits are not those that were saved; build it again")
        return mask


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise RecipeError(f"{path}: no such mask file; make it with `rlvr mask build`")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys() if _KEY in metadata else ()
            bits = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise RecipeError(f"{path}: cut short or no safetensors file ({error})") from error
    if _KEY not in metadata:
        raise RecipeError(f"{path}: a safetensors file, but not of an update mask")
    return json.loads(metadata[_KEY]), bits


def load_mask(path: str | Path) -> dict[str, Tensor]:
    """Return a mask file as bool tensors, by parameter name."""
    return dict(Mask.load(path))


@mask_builder
def file(weight: Tensor, name: str, *, path: str) -> Tensor:
    """The mask of a file, made by ``rlvr mask build`` or by a run."""
    mask = read_mask(path)
    if name not in mask or mask.shapes[name] != tuple(weight.shape):
        raise RecipeError(f"{path}: holds no mask of {name!r} {tuple(weight.shape)}")
    return mask[name].to(weight.device)


def read_mask(path: str) -> Mask:
    """Return the mask of a file, read once for its checks and all its matrices."""
    file = Path(path)
    return _load_once(path, file.stat().st_mtime_ns if file.is_file() else 0)


@cache  # of any number of files, since each matrix of a union reads them all; build_mask clears it
def _load_once(path: str, changed: int) -> Mask:
    return Mask.load(path)


def check_files(spec: MaskSpec, shapes: Mapping[str, Sequence[int]], where: str = "mask") -> None:
    """Raise where a mask file that ``spec`` names is not one of matrices of these shapes."""
    if spec.builder == "file":
        mask = read_mask(spec.options["path"])
        for name, shape in shapes.items():
            if mask.shapes.get(name) != tuple(shape):
                held = mask.shapes.get(name, "none")
                raise RecipeError(
                    f"{where}.path: {spec.options['path']} is another model's mask: {name!r} is "
                    f"{tuple(shape)} and the file has {held}; build it for this model"
                )
    for nested, path in spec.nested(where):
        check_files(nested, shapes, path)


def check_built_from(spec: MaskSpec, base_weights: str, where: str = "mask") -> None:
    """Raise where a mask file that ``spec`` names was built from other base weights."""
    if spec.builder == "file":
        built_from = read_mask(spec.options["path"]).provenance.get("base_weights", base_weights)
        if built_from != base_weights:
            raise RecipeError(
                f"{where}.path: {spec.options['path']} was built from weights {built_from[:12]}, "
                f"and this policy has {base_weights[:12]}; build it for these"
            )
    for nested, path in spec.nested(where):
        check_built_from(nested, base_weights, path)


def _build(spec: MaskSpec, weight: Tensor, name: str) -> Tensor:
    """Return the bool mask of one weight, its nested masks first."""

    def built(value: object) -> Any:
        if isinstance(value, MaskSpec):
            return _build(value, weight, name)
        return [built(item) for item in value] if isinstance(value, list) else value

    options = {key: built(value) for key, value in spec.options.items()}
    # A builder gets a copy: one that works in place must not change the policy.
    mask = mask_builder.call(spec.builder, f" of {name!r}", weight.clone(), name, **options)
    kind = shown(mask)
    if isinstance(mask, Tensor):
        has_entries = mask.layout == torch.strided and mask.is_meta == weight.is_meta
        if has_entries and mask.dtype == torch.bool and mask.shape == weight.shape:
            return mask.to(weight.device)
        kind = f"a tensor of {mask.dtype} and shape {tuple(mask.shape)}"
        kind += "" if has_entries else f" ({mask.layout}, on {mask.device})"
    raise RecipeError(
        f"mask builder {spec.builder!r} of {name!r}: "
        f"{place(mask_builder.functions[spec.builder])}: returned {kind}; return a tensor of "
        f"torch.bool and of the weight's shape {tuple(weight.shape)}, true where it may move"
    )


def require_finite(weight: Tensor, name: str) -> None:
    """Raise where a base weight holds NaN or infinity."""
    if not torch.isfinite(weight).all():
        raise RecipeError(f"base weights: {name!r} holds NaN or infinity; the checkpoint is broken")


def build_mask(
    spec: MaskSpec,
    weights: Iterable[tuple[str, Tensor]],
    provenance: Mapping[str, Any] | None = None,
) -> Mask:
    """Build the mask of each named base weight, one matrix in memory at a time.

    Raises:
        ValueError: a base weight is not finite, a name comes twice, or no entry at all may move.
    """
    # Packed at once: all bool masks of a 7B model together would take 7 GB.
    bits: dict[str, Tensor] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, weight in weights:
        if name in bits:
            raise ValueError(f"{name!r} comes twice in the weights to build a mask for")
        require_finite(weight, name)
        bits[name] = pack_bits(_build(spec, weight.detach(), name)).cpu()
        shapes[name] = tuple(weight.shape)
    _load_once.cache_clear()
    if not any(count_bits(packed) for packed in bits.values()):
        raise RecipeError(f"mask {spec.to_dict()}: no entry of any matrix may move")
    return Mask(bits, shapes, {"spec": spec.to_dict(), **(provenance or {})})
