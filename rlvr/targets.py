"""Which parameters a run may train: the one resolver of target patterns, for masks and adapters.

A target matrix is a 2-D weight inside the transformer blocks: every linear layer there, and neither
embeddings, output head, norms nor biases. Which entries of it may move is the mask's business.
"""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from rlvr.schema import RecipeError


def linear_weights(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return name and shape of every 2-D weight inside the blocks of ``model``.

    A block is a member of an ``nn.ModuleList``, whatever the architecture calls the list.
    """
    # Every ModuleList, so that vision and text towers are both covered by their own names.
    blocks = tuple(
        f"{name}." for name, module in model.named_modules() if isinstance(module, nn.ModuleList)
    )
    embeddings = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
    }
    return {
        name: (parameter.shape[0], parameter.shape[1])
        for name, parameter in model.named_parameters()
        # Norms and biases are vectors, convolutions have more dimensions.
        if parameter.ndim == 2
        and name.endswith(".weight")
        and name.startswith(blocks)
        and name not in embeddings
    }


def matches(name: str, pattern: str) -> bool:
    """Tell whether ``pattern`` names the parameter.

    A pattern is matched against the whole name or its end after a dot, with or without
    ``.weight``: ``q_proj``, ``mlp.*``, ``layers.0.*`` and ``*.3.self_attn.?_proj`` all work.
    """
    names = (name, name.removesuffix(".weight"))
    return any(
        # fnmatchcase: names differ in case, and fnmatch folds it on some systems.
        fnmatchcase(candidate, form)
        for candidate in names
        for form in (pattern, f"*.{pattern}")
    )


def _select(patterns: Sequence[str], names: Iterable[str], where: str) -> list[str]:
    names = list(names)
    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            kinds = sorted({name.removesuffix(".weight").rsplit(".", 1)[-1] for name in names})
            raise RecipeError(
                f"{where}: {pattern!r} matches no parameter of the model; "
                f"there are: {', '.join(kinds) or 'none'}"
            )
    return [name for name in names if any(matches(name, pattern) for pattern in patterns)]


def resolve_targets(model: nn.Module, patterns: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return the target matrices that ``model.targets`` of the recipe selects, in model order."""
    weights = linear_weights(model)
    if not patterns:
        raise RecipeError("model.targets: the list is empty; write [linear] for all linear layers")
    patterns = ["*" if pattern == "linear" else pattern for pattern in patterns]
    return {name: weights[name] for name in _select(patterns, weights, "model.targets")}


def resolve_also_train(
    model: nn.Module, patterns: Sequence[str], targets: Iterable[str]
) -> dict[str, tuple[int, ...]]:
    """Return the whole parameters that ``model.also_train`` adds to the target matrices."""
    taken = set(targets)
    others = {
        name: tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if name not in taken
    }
    return {name: others[name] for name in _select(patterns, others, "model.also_train")}
