"""The mask section of a recipe: parsed into a ``MaskSpec``, checked before any weight is loaded."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rlvr.masks.builders import exact_density
from rlvr.registry import mask_builder
from rlvr.schema import RecipeError

EXAMPLE = "{builder: low_magnitude, density: 0.5}"


@dataclass(frozen=True)
class MaskSpec:
    """A builder and its options; one that is a mask holds a ``MaskSpec`` or a list of them."""

    builder: str
    options: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe's form, defaults filled in; ``parse_spec`` reads it back."""
        return {"builder": self.builder, **{k: _plain(v) for k, v in self.options.items()}}

    def nested(self, where: str) -> Iterator[tuple["MaskSpec", str]]:
        """Yield the masks that this one is made of, each with its key path."""
        for key, value in self.options.items():
            if isinstance(value, MaskSpec):
                yield value, f"{where}.{key}"
            elif isinstance(value, list):
                for index, item in enumerate(value):
                    if isinstance(item, MaskSpec):
                        yield item, f"{where}.{key}[{index}]"


def _plain(value: object) -> Any:
    if isinstance(value, MaskSpec):
        return value.to_dict()
    return [_plain(item) for item in value] if isinstance(value, list) else value


def parse_spec(value: object, where: str = "mask") -> MaskSpec:
    """Return the spec that a recipe's mapping ``value`` at key path ``where`` describes.

    Raises:
        RecipeError: no mapping, no or an unknown builder, or a wrong option.
    """
    if isinstance(value, MaskSpec):
        return value
    if not isinstance(value, dict):
        raise RecipeError(f"{where}: expected a mapping such as {EXAMPLE}, got {value!r}")
    if not isinstance(value.get("builder"), str):
        raise RecipeError(f"{where}: 'builder' is missing or no name; write for example {EXAMPLE}")
    options = {key: item for key, item in value.items() if key != "builder"}
    # The annotation Tensor of a builder's option means: a mask, which is built first.
    checked = mask_builder.check(value["builder"], options, where, {Tensor: parse_spec})
    return MaskSpec(value["builder"], checked)


def check_spec(spec: MaskSpec, shapes: Mapping[str, Sequence[int]], where: str = "mask") -> None:
    """Raise where ``spec`` cannot be built for matrices of ``shapes``, by parameter name.

    Options named ``rank`` or ``density``, or ending so, are checked for any builder.

    Raises:
        RecipeError: the message names the key path, the value and the matrix.
    """
    # Both options have a default, so that neither type tells whether it was given.
    if spec.builder == "random" and (
        (spec.options["density"] is None) == (spec.options["like"] is None)
    ):
        raise RecipeError(f"{where}: give exactly one of {where}.density and {where}.like")
    for key, value in spec.options.items():
        path = f"{where}.{key}"
        if key.split("_")[-1] == "density" and value is not None:
            _check_density(value, shapes, path)
        elif key.split("_")[-1] == "rank" and value is not None:
            _check_rank(value, shapes, path)
        elif key == "of" and value == []:
            raise RecipeError(f"{path}: is empty; give at least one mask such as {EXAMPLE}")
    for nested, path in spec.nested(where):
        check_spec(nested, shapes, path)


def _check_density(density: float, shapes: Mapping[str, Sequence[int]], path: str) -> None:
    if not 0 < density <= 1:
        raise RecipeError(f"{path}: {density} is outside (0, 1]; give the fraction of entries")
    for name, shape in shapes.items():
        # Exactly half an entry counts as none, since off_principal rounds it down.
        if 2 * exact_density(density) * math.prod(shape) <= 1:
            raise RecipeError(
                f"{path}: {density} rounds to zero entries of {name!r} of shape {tuple(shape)}; "
                "raise it"
            )


def _check_rank(rank: int, shapes: Mapping[str, Sequence[int]], path: str) -> None:
    if rank < 1:
        raise RecipeError(f"{path}: {rank} is below 1")
    for name, shape in shapes.items():
        if rank > min(shape):
            raise RecipeError(
                f"{path}: {rank} is above {min(shape)}, the smallest dimension of {name!r} of "
                f"shape {tuple(shape)}; lower it"
            )


def density_bounds(spec: MaskSpec) -> tuple[float, float]:
    """Return the least and the largest overall density that ``spec`` can have on any weights."""
    options, builder = spec.options, spec.builder
    if builder == "dense":
        return 1.0, 1.0
    if builder == "safe":
        low, principal = options["low_density"], options["principal_density"]
        # A union: at least its larger part, at most the sum of both.
        return max(low, 1 - principal), min(1.0, low + 1 - principal)
    # The complement of the densest mask is the sparsest one.
    if builder == "complement":
        low, high = density_bounds(options["of"])
        return 1 - high, 1 - low
    # The parts may overlap in any way, which gives the bounds of Frechet.
    if builder in ("union", "intersection"):
        lows, highs = zip(*(density_bounds(part) for part in options["of"]), strict=True)
        if builder == "union":
            return max(lows), min(1.0, sum(highs))
        # n parts of density d_i overlap in at least sum d_i - (n - 1).
        return max(0.0, sum(lows) - len(lows) + 1), min(highs)
    if isinstance(options.get("like"), MaskSpec):
        return density_bounds(options["like"])
    density = options.get("density")
    return (density, density) if isinstance(density, float) else (0.0, 1.0)
