"""Datasets that a recipe can name, in one row schema."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from rlvr.data import pocket as pocket_task
from rlvr.data.rows import Extract, Loaded, Reading, Row, read_records
from rlvr.registry import dataset
from rlvr.schema import RecipeError


@dataset
def pocket(
    *,
    split: Literal["train", "test"],
    size: int,
    seed: int = 0,
    solutions: Literal["expert"] | None = None,
) -> Loaded:
    """Distinct problems of the pocket task; the splits never share one (``rlvr.data.pocket``).

    ``solutions: expert`` adds the column ``solution``, right in every line.
    """
    rows = []
    # The stream has no end, and a seed gives the same first problems at every size.
    for problem in itertools.islice(pocket_task.draw_split(split, seed), size):
        row = Row(
            id=f"pocket-{problem}",
            problem=problem,
            answer=pocket_task.reductions(problem)[-1],
            source=f"pocket/{split}",
        )
        more = {} if solutions is None else {"solution": pocket_task.expert(problem)}
        rows.append({**row, **more})
    return Loaded(rows)


@dataset
def jsonl(
    *,
    path: str,
    size: int | None = None,
    columns: dict[str, str] | None = None,
    extract: Extract = "auto",
    keep: dict[str, list[Any]] | None = None,
) -> Loaded:
    """Rows of a local file with one JSON object on each line; the first ``size``."""
    reading = Reading(columns or {}, extract, keep or {})
    return read_records(_lines(local_file(path)), reading, Path(path).name, size, path)


@dataset
def parquet(
    *,
    path: str,
    size: int | None = None,
    columns: dict[str, str] | None = None,
    extract: Extract = "auto",
    keep: dict[str, list[Any]] | None = None,
) -> Loaded:
    """Rows of a local parquet file; the first ``size``."""
    reading = Reading(columns or {}, extract, keep or {})
    return read_records(_parquet_rows(local_file(path)), reading, Path(path).name, size, path)


@dataset
def hub(
    *,
    path: str,
    split: str = "train",
    config: str | None = None,
    revision: str | None = None,
    size: int | None = None,
    columns: dict[str, str] | None = None,
    extract: Extract = "auto",
    keep: dict[str, list[Any]] | None = None,
) -> Loaded:
    """Rows of a Hugging Face dataset by its name, or of a local folder of one."""
    reading = Reading(columns or {}, extract, keep or {})
    records = hub_rows(path, split, config, revision)
    return read_records(records, reading, f"{path}/{split}", size, f"data.path: {path}")


@dataset
def reasoning_gym(*, task: str, size: int, seed: int = 0) -> Loaded:
    """Problems of a task of the package reasoning-gym, for the reward of the same name."""
    try:
        import reasoning_gym as package
    except ImportError as error:
        raise RecipeError(
            "data: the package reasoning-gym is missing; pip install reasoning-gym"
        ) from error
    try:
        entries = package.create_dataset(task, size=size, seed=seed)
    except ValueError as error:
        raise RecipeError(f"data.task: {error}") from error
    rows = []
    for number, entry in enumerate(entries):
        # As text: tasks have different keys, which Arrow would merge into one struct.
        metadata = json.dumps(entry["metadata"], default=str)
        row = Row(
            id=f"{task}/{seed}/{number}",
            problem=entry["question"],
            answer=str(entry["answer"]),
            source=f"reasoning_gym/{task}",
        )
        rows.append({**row, "metadata": metadata})
    return Loaded(rows)


def local_file(path: str) -> Path:
    file = Path(path)
    if not file.is_file():
        raise RecipeError(f"data.path: {path} does not exist; check the path")
    return file


def read_local(path: str) -> Iterator[tuple[str, Any]]:
    """Yield the records of a local ``.parquet`` or JSONL file, with a name for messages."""
    file = local_file(path)
    return _parquet_rows(file) if file.suffix == ".parquet" else _lines(file)


def _lines(file: Path) -> Iterator[tuple[str, Any]]:
    # utf-8-sig drops a byte order mark; "\n" keeps a "\r" inside a line.
    with open(file, encoding="utf-8-sig", newline="\n") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"line {number}", json.loads(line)
        except UnicodeDecodeError as error:
            raise RecipeError(f"{file}: not UTF-8 ({error}); convert the file") from error
        except (json.JSONDecodeError, RecursionError) as error:
            raise RecipeError(f"{file}, line {number}: not JSON ({error})") from error


def _parquet_rows(file: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(file) as opened:
            # Batches: a parquet file may be larger than memory, and `size` stops early.
            for batch in opened.iter_batches():
                for record in batch.to_pylist():
                    yield f"row {number}", record
                    number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise RecipeError(f"{file}: not a readable parquet file ({error})") from error


def hub_rows(
    path: str, split: str, config: str | None, revision: str | None, folder: str | None = None
) -> Iterator[tuple[str, Any]]:
    """Yield the records of a Hugging Face dataset, with a name for messages.

    ``folder`` is where they are in a repository of several datasets without configurations.
    """
    import datasets

    datasets.disable_progress_bars()
    try:
        records = datasets.load_dataset(
            path, config, data_dir=folder, split=split, revision=revision
        )
    except (ValueError, OSError) as error:
        # datasets writes paragraphs; their first line says what is wrong.
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise RecipeError(
            f"data: cannot load the dataset {path!r} (config {config}, split {split!r}, revision "
            f"{revision}): {first}. Check these names, or read a local copy with name: parquet or "
            "jsonl"
        ) from error
    for number, record in enumerate(records):
        yield f"row {number}", record
