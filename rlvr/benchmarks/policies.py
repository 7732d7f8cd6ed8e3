"""What MODEL_OR_RUN names: one policy, or each checkpoint of a run, loaded when its turn comes."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from rlvr import runtime
from rlvr.checkpoints.delta import checked_base, open_delta
from rlvr.checkpoints.delta_file import read_delta
from rlvr.checkpoints.folders import (
    ADAPTER_CONFIG,
    EXPORT,
    LORA,
    is_delta,
    is_local,
    is_run,
    model_folder,
)
from rlvr.checkpoints.plain import Checkpoint, Stored, open_plain
from rlvr.checkpoints.reader import open_checkpoint, select
from rlvr.checkpoints.runs import checkpoints
from rlvr.config import ModelSection, Recipe, resolve_recipe
from rlvr.delta import DELTA, discard_applied, exported_policy
from rlvr.policy import load_config, load_policy
from rlvr.run_dir import recorded_recipe
from rlvr.schema import RecipeError


@dataclass(frozen=True)
class PolicySource:
    """A policy that can be loaded.

    Attributes:
        label: how it is called in tables.
        model: the folder or hub id with its configuration and its tokenizer.
        load: gives the policy; what it wrote for that is deleted afterwards.
        template_kwargs: arguments of the chat template, of its run.
        out: where its files go by default.
    """

    label: str
    model: ModelSection
    load: Callable[[], AbstractContextManager[PreTrainedModel]]
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    out: Path = Path("eval")


def find_policies(
    path: str, dtype: str | None, base: str | None, *, every: bool = False
) -> list[PolicySource]:
    """Return the policies that ``path`` names.

    Args:
        path: a hub id, a checkpoint folder, an adapter folder, a delta, or a run directory.
        dtype: in which it computes; ``None``: as it is stored.
        base: of an adapter or a delta, where that does not say it, or lies elsewhere now.
        every: every checkpoint of a run, oldest first.

    Raises:
        RecipeError: there is no such policy.
    """
    folder = Path(path).expanduser()
    if not is_local(path):
        folder = model_folder(path)
    elif not folder.exists():
        raise RecipeError(f"{path}: does not exist; name a checkpoint folder, a run or a hub id")
    if is_run(folder):
        return _of_run(folder, dtype, every)
    if every:
        raise RecipeError(f"--all: {path} is no run directory, so it has one policy; remove --all")
    run_dir = folder.resolve().parent.parent
    if is_run(run_dir) and folder.resolve() in [one.resolve() for one in checkpoints(run_dir)]:
        return [_of_checkpoint(run_dir, folder, dtype)]
    if (folder / ADAPTER_CONFIG).is_file() or (folder / LORA).is_dir():
        named = _base_of_adapter(folder, base)
        origin = _folder_of_base(folder, named)

        def tensors() -> Checkpoint:
            return open_checkpoint(folder, _in_float32(open_plain(origin)))

        # In float32 unless asked otherwise: bfloat16 would round most of a small update away.
        return [_merged(folder, named, dtype or "float32", tensors)]
    file = folder / DELTA if folder.is_dir() else folder
    if file.is_file() and is_delta(file):
        delta = read_delta(file)
        origin = checked_base(delta, None if base is None else model_folder(base))
        return [_merged(file, str(origin), dtype, lambda: open_delta(file, origin))]
    section = _section(path if not is_local(path) else str(folder), dtype)
    return [PolicySource(path, section, lambda: _plain(section))]


def _section(path: str, dtype: str | None) -> ModelSection:
    """Return how a policy is loaded: in ``dtype``, else as it is stored."""
    section = ModelSection(path)
    stored = str(load_config(section).dtype).removeprefix("torch.")
    word: Any = dtype or ("bfloat16" if stored in ("bfloat16", "float16") else "float32")
    return dataclasses.replace(section, dtype=word)


@contextmanager
def _plain(section: ModelSection) -> Iterator[PreTrainedModel]:
    yield load_policy(section, runtime.default_device())


def _of_run(run_dir: Path, dtype: str | None, every: bool) -> list[PolicySource]:
    if every:
        steps = checkpoints(run_dir)
        if not steps:
            raise RecipeError(f"--all: {run_dir} holds no checkpoint; train it first")
        return [_of_checkpoint(run_dir, step, dtype) for step in steps]
    recipe = _recipe_of(run_dir)

    @contextmanager
    def load() -> Iterator[PreTrainedModel]:
        try:
            folder = runtime.from_main(lambda: exported_policy(run_dir))
            yield load_policy(_section(str(folder), dtype), runtime.default_device())
        finally:
            runtime.gathered(0)  # others may still read it
            if runtime.is_main():
                discard_applied(run_dir)

    if not ((run_dir / EXPORT).is_dir() or (run_dir / DELTA).is_file()):
        exported_policy(run_dir)  # says what is missing
    return [
        PolicySource(str(run_dir), recipe.model, load, recipe.template_kwargs, run_dir / "eval")
    ]


def _of_checkpoint(run_dir: Path, checkpoint: Path, dtype: str | None) -> PolicySource:
    """Return the policy that a run would export at one of its checkpoints."""
    recipe = _recipe_of(run_dir)

    @contextmanager
    def load() -> Iterator[PreTrainedModel]:
        from rlvr.training.export import exported  # imports TRL, which takes seconds

        holder = exported(recipe, run_dir, checkpoint)
        folder = runtime.from_main(holder.__enter__)
        try:
            yield load_policy(_section(str(folder), dtype), runtime.default_device())
        finally:
            runtime.gathered(0)  # others may still read it
            if runtime.is_main():
                holder.__exit__(None, None, None)
                discard_applied(run_dir)

    out = run_dir / "eval" / checkpoint.name
    return PolicySource(
        f"{run_dir}/{checkpoint.name}", recipe.model, load, recipe.template_kwargs, out
    )


def _recipe_of(run_dir: Path) -> Recipe:
    try:
        return resolve_recipe(recorded_recipe(run_dir), str(run_dir))
    except ValueError as error:
        raise RecipeError(f"{run_dir / 'recipe.json'}: is no recipe of a run: {error}") from error


def _base_of_adapter(folder: Path, base: str | None) -> str:
    folder = folder / LORA if (folder / LORA).is_dir() else folder
    if base is not None:
        return base
    try:
        content = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        named = content.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise RecipeError(f"{folder / ADAPTER_CONFIG}: not readable ({error})") from error
    if not isinstance(named, str) or not named:
        raise RecipeError(f"{folder}: does not say which base it adapts; add --base MODEL")
    return named


def _in_float32(checkpoint: Checkpoint) -> Checkpoint:
    """Return the tensors as float32, so that a merge is not rounded to the dtype of the file."""

    def widened(stored: Stored) -> Stored:
        return dataclasses.replace(stored, dtype="float32", load=lambda: stored.load().float())

    return {name: widened(stored) for name, stored in checkpoint.items()}


def _folder_of_base(adapter: Path, base: str) -> Path:
    try:
        return model_folder(base)
    except RecipeError as error:
        raise RecipeError(f"{adapter}: its base {error}; or name it by --base MODEL") from error


def _merged(
    path: Path, base: str, dtype: str | None, tensors: Callable[[], Checkpoint]
) -> PolicySource:
    """Return the policy of an adapter or a delta: the base's model with other ``tensors``."""
    section = _section(base, dtype)

    @contextmanager
    def load() -> Iterator[PreTrainedModel]:
        policy: Any = load_policy(section)
        names = dict(policy.named_parameters())
        stored = select(tensors(), names, path)
        for name, parameter in names.items():
            parameter.data.copy_(stored[name].load())
        yield policy.to(runtime.default_device())

    return PolicySource(str(path), section, load)
