"""``provenance.json``: what a run was started on, and whether a resume has the same before it.

The file keeps what the first start found; each resume appends its own versions and machine. What
decides the bits of a run is compared by content, wherever it lies now.
"""

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlvr import runtime
from rlvr.config import Recipe
from rlvr.files import file_digest, read_sealed, write_sealed
from rlvr.schema import RecipeError

PROVENANCE = "provenance.json"

# By fact: what a user reads where a resume finds another value than the first start did.
_SAME = {
    "base_weights": "model.path: the base weights {now} are not those that the run started from, "
    "{before}, which are its reference; put the same files (model.revision) there again",
    "tokenizer": "model.path: the tokenizer or its chat template {now} is not the one that the run "
    "started with, {before}; put the same files there again",
    "rows_sha256": "data: the rows {now} are not those that the run started on, {before}; put the "
    "same data there again",
    "plugins": "plugins: {now} is not what the run started with, {before}; put the same code there "
    "again",
    "processes": "this launch has {now} processes and the run was started on {before}: the global "
    "batch would be another, and each process holds its own part of a checkpoint; launch {before}",
    "engine": "this launch runs {now} and the run was started with {before}; use its launch file",
    "precision": "this launch computes in {now} and the run was started in {before}; use its "
    "launch file and trainer settings",
    "mask": "mask.safetensors: the mask {now} is not the one that the run started with, {before}; "
    "take the file from a copy of the run",
    "initial_adapter": "initial_adapter.safetensors: the factors {now} are not those that the run "
    "started with, {before}; take the file from a copy of the run",
}


def read_provenance(run_dir: Path) -> dict[str, Any]:
    """Return what the starts of a run recorded; nothing where none did yet.

    Raises:
        RecipeError: the file is damaged.
    """
    path = run_dir / PROVENANCE
    if not path.is_file():
        return {}
    return read_sealed(
        path,
        "take it from a copy of the run; or delete it, if nothing that the run reads has changed "
        "since, and go on with --resume, which records it anew",
    )


class Start:
    """A start of a run: what it found, compared with the first start where it resumes."""

    def __init__(self, recipe: Recipe, run_dir: Path, step: int | None) -> None:
        """``step`` is that of the checkpoint which the run goes on from; ``None`` at first."""
        self.recipe, self.path, self.step = recipe, run_dir / PROVENANCE, step
        self.recorded = {} if step is None else read_provenance(run_dir)
        self.facts: dict[str, Any] = {}

    def require(self, **facts: Any) -> None:
        """Take ``facts`` to the record, and compare them with those of the first start.

        Raises:
            RecipeError: one of them differs; what the run did not record is not compared.
        """
        self.facts |= facts
        for name, now in facts.items():
            before = self.recorded.get(name)
            if before is not None and before != now:
                shown = _changed_part(before, now)
                text = _SAME[name].format(before=shown[0], now=shown[1])
                raise RecipeError(f"{text}, or choose another run.dir")

    def record(self, about: Mapping[str, Any], *, lost: list[str], **more: Any) -> None:
        """Write ``provenance.json``, or append this resume to it.

        Args:
            about: what describes this start and is not compared.
            lost: a line for each file of the run that lost something since it was written.
            more: as ``about``.
        """
        for line in lost:
            runtime.say(line)
        facts = {**self.facts, **about, **more}
        # recipe.json is written after this file: until then it holds the recipe before.
        resolved = json.loads(json.dumps(self.recipe.to_dict()))
        digests = [*self.recorded.get("recipe_sha256", []), recipe_digest(resolved)]
        recipes = {"recipe": resolved, "recipe_sha256": digests}
        if not self.recorded:
            write_sealed(self.path, {**facts, **recipes, "resumes": []})
            return
        recipes["recipe_sha256"] = [
            *self.recorded.get("recipe_sha256", []),
            *recipes["recipe_sha256"],
        ]
        resume = {"step": self.step, "lost": lost}
        resume |= {key: value for key, value in facts.items() if self.recorded.get(key) != value}
        resumes = [*self.recorded.get("resumes", []), resume]
        # A run of an earlier version recorded less; what this start found is known from now on.
        write_sealed(self.path, {**facts, **self.recorded, **recipes, "resumes": resumes})


def _changed_part(before: object, now: object) -> tuple[str, str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        key = next(k for k in sorted({*before, *now}) if before.get(k) != now.get(k))
        return f"{key} {_short(before.get(key))}", f"{key} {_short(now.get(key))}"
    return _short(before), _short(now)


def _short(value: object) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text


def add_to_provenance(run_dir: Path, facts: Mapping[str, Any]) -> None:
    """Add what became known during the run."""
    write_sealed(run_dir / PROVENANCE, {**read_provenance(run_dir), **facts})


def recipe_digest(resolved: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()


def rows_digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return one SHA-256 of rows in their order."""
    total = hashlib.sha256()
    for row in rows:
        total.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return total.hexdigest()


def plugin_digests(plugins: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of the source of each plugin: a module, or every module of a package."""
    digests = {}
    for name in plugins:
        spec = importlib.util.find_spec(name)
        if spec is None:
            continue
        files = [Path(spec.origin)] if spec.origin and Path(spec.origin).is_file() else []
        for folder in spec.submodule_search_locations or []:
            files += Path(folder).rglob("*.py")
        # By content only: moving the package changes no digest.
        hashes = sorted(file_digest(file) for file in set(files))
        digests[name] = hashlib.sha256("".join(hashes).encode()).hexdigest()
    return digests


def tokenizer_digest(tokenizer: Any) -> str:
    """Return one SHA-256 of the vocabulary, the special tokens and the chat template."""
    parts = [sorted(tokenizer.get_vocab().items()), tokenizer.all_special_ids]
    return hashlib.sha256(json.dumps([*parts, tokenizer.chat_template]).encode()).hexdigest()
