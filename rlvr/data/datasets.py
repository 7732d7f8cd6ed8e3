"""Datasets that a recipe can name, in one row schema, and how a problem becomes a prompt."""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any, Literal, TypedDict

from rlvr.config import pop_name
from rlvr.data import pocket as pocket_task
from rlvr.registry import dataset
from rlvr.schema import RecipeError


class Row(TypedDict):
    """One problem: ``answer`` is the gold answer as text, ``source`` says where it is from."""

    id: str
    problem: str
    answer: str
    source: str


@dataset
def pocket(*, split: Literal["train", "test"], size: int, seed: int = 0) -> list[Row]:
    """Distinct problems of the pocket task; the splits never share one (``rlvr.data.pocket``)."""
    problems = itertools.islice(pocket_task.draw_split(split, seed), size)
    return [
        Row(
            id=f"pocket-{problem}",
            problem=problem,
            answer=pocket_task.reductions(problem)[-1],
            source=f"pocket/{split}",
        )
        for problem in problems
    ]


@dataset
def jsonl(*, path: str, size: int | None = None) -> list[Row]:
    """Rows of a local file with ``problem`` and ``answer`` on each line; the first ``size``."""
    file = Path(path)
    if not file.is_file():
        raise RecipeError(f"data.path: {path} does not exist; check the path")
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            content = json.loads(line)
            problem, answer = str(content["problem"]), str(content["answer"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise RecipeError(
                f"{path}, line {number}: expected an object with 'problem' and 'answer' ({error})"
            ) from error
        default_id = hashlib.sha256(problem.encode()).hexdigest()[:16]
        row_id = str(content.get("id", default_id))
        rows.append(Row(id=row_id, problem=problem, answer=answer, source=file.name))
        if len(rows) == size:
            break
    return rows


def parse_dataset(spec: dict[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    """Check ``{name: ..., **options}`` and return the dataset's name and its options."""
    name, options = pop_name(spec, "name", where)
    checked = dataset.check(name, options, where)
    size = checked.get("size")
    if isinstance(size, int) and size < 1:
        raise RecipeError(f"{where}.size: must be at least 1, got {size}")
    return name, checked


def load_rows(spec: dict[str, Any], where: str) -> list[Row]:
    """Return the rows that ``spec`` names, in a deterministic order."""
    name, options = parse_dataset(spec, where)
    rows = dataset.functions[name](**options)
    if not rows:
        raise RecipeError(f"{where}: dataset {name!r} has no rows")
    return rows


def render(problem: str) -> list[dict[str, str]]:
    """Return the chat messages of a prompt; the policy's own chat template does the rest."""
    return [{"role": "user", "content": problem}]
