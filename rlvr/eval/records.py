"""The files of an evaluation: one line a problem, finished shards, and how they become one file.

While an evaluation runs, each finished shard is a file of its own in ``NAME.shards``; a process
that is killed loses the shard it was at. At the end the shards and the file of before become
``NAME.jsonl``, sorted by id: however the problems were dealt out, the file has the same bytes.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rlvr.eval.sampling import Completion
from rlvr.files import damaged, json_object, read_json, replacing, write_bytes, write_json
from rlvr.schema import RecipeError
from rlvr.verdict import Verdict

ABOUT = "about.json"  # in the folder of shards: what they are completions of
UNJUDGED = "unjudged"  # the status of a completion of which a verifier said nothing
_DIGITS = re.compile(r"(\d+)")
FIX = "evaluate again into another --out"


@dataclass(frozen=True)
class ProblemResult:
    """One problem and what became of its completions, without their texts.

    ``lengths`` in tokens, end token included; ``answers`` are what the verifier read in them.
    """

    id: str
    answer: str
    rewards: tuple[float | None, ...]
    statuses: tuple[str, ...]
    answers: tuple[str | None, ...]
    lengths: tuple[int, ...]
    truncated: tuple[bool, ...]

    @property
    def right(self) -> list[bool]:
        """Which completions are correct."""
        return [reward is not None and reward > 0 for reward in self.rewards]

    @property
    def correct(self) -> int:
        """Number of correct completions."""
        return sum(self.right)


def line_of(
    row: Mapping[str, Any], completions: Sequence[Completion], verdicts: Sequence[Verdict | None]
) -> dict[str, Any]:
    """Return a problem with all that was drawn for it, as the files hold it."""
    drawn = [
        {
            "text": completion.text,
            "status": UNJUDGED if verdict is None else verdict.status,
            "reward": None if verdict is None else verdict.reward,
            "extracted": None if verdict is None else verdict.answer,
            "detail": "" if verdict is None else verdict.detail,
            "length": len(completion.token_ids),
            "truncated": completion.truncated,
        }
        for completion, verdict in zip(completions, verdicts, strict=True)
    ]
    return _line(str(row["id"]), row["problem"], str(row["answer"]), drawn)


def _line(id: str, problem: str, answer: str, drawn: list[dict[str, Any]]) -> dict[str, Any]:
    correct = sum(one["reward"] is not None and one["reward"] > 0 for one in drawn)
    head = {"id": id, "problem": problem, "answer": answer}
    return {**head, "correct": correct, "completions": drawn}


def result_of(line: Mapping[str, Any]) -> ProblemResult:
    drawn = line["completions"]

    def column(key: str) -> tuple[Any, ...]:
        return tuple(one[key] for one in drawn)

    return ProblemResult(
        line["id"],
        line["answer"],
        column("reward"),
        column("status"),
        column("extracted"),
        column("length"),
        column("truncated"),
    )


def encoded(line: Mapping[str, Any]) -> bytes:
    # A lone surrogate of a data file has no UTF-8; its escape is JSON's own.
    text = json.dumps(line, ensure_ascii=False)
    return text.encode(errors="backslashreplace") + b"\n"


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the problems of a file, one in memory at a time.

    Raises:
        RecipeError: a line is cut short or is no problem with its completions.
    """
    for place, line in _places(path):
        yield _parsed(line, path, place.number)


class Place(NamedTuple):
    """Where a line stands in its file."""

    path: Path
    number: int
    offset: int


def _places(path: Path) -> Iterator[tuple[Place, bytes]]:
    offset = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            yield Place(path, number, offset), line
            offset += len(line)


def _parsed(line: bytes, path: Path, number: int) -> dict[str, Any]:
    row = json_object(line)
    if row is None or not isinstance(row.get("completions"), list) or "id" not in row:
        raise damaged(path, f"line {number} is no problem with its completions", FIX)
    return row


def natural(id: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Return a key by which aime24/9 stands before aime24/10."""
    parts = [(part.isdecimal(), part) for part in _DIGITS.split(id)]
    return [(is_number, int(part) if is_number else 0, part) for is_number, part in parts], id


class Shards:
    """The file of one benchmark, and the shards that will be part of it."""

    def __init__(self, file: Path) -> None:
        self.file, self.folder = file, file.with_suffix(".shards")

    def clear(self) -> None:
        """Delete the file and its shards, so that everything is drawn anew."""
        self.file.unlink(missing_ok=True)
        self.file.with_suffix(".json").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def open(self, about: Mapping[str, Any]) -> None:
        """Make the folder of shards for completions of ``about``.

        Raises:
            RecipeError: the shards or the file there are of something else.
        """
        recorded = [(self.folder / ABOUT, None), (self.file.with_suffix(".json"), "about")]
        for path, key in recorded:
            if path.is_file():
                content = read_json(path, FIX)
                self._require(path, content if key is None else content.get(key), about)
        write_json(self.folder / ABOUT, about)

    def _require(self, path: Path, before: Any, about: Mapping[str, Any]) -> None:
        now = json.loads(json.dumps(about))
        if not isinstance(before, dict):
            raise damaged(path, "it does not say what was evaluated", FIX)
        for key in sorted({*before, *now}):
            if before.get(key) != now.get(key):
                raise RecipeError(
                    f"{path}: is of {key} {_short(before.get(key))}, and this call has "
                    f"{_short(now.get(key))}; name another --out, or delete {self.file} and "
                    f"{self.folder}"
                )

    def finished(self) -> int:
        """Return the samples of each problem in the file; 0 where there is none yet.

        Raises:
            RecipeError: its problems do not have equally many.
        """
        counts = {len(line["completions"]) for line in self._whole()}
        if len(counts) > 1:
            raise damaged(self.file, "its problems do not have equally many completions", FIX)
        return max(counts, default=0)

    def _whole(self) -> Iterator[dict[str, Any]]:
        return read_lines(self.file) if self.file.is_file() else iter(())

    def held(self, first: int, last: int) -> set[str]:
        """Return the ids of the problems whose samples ``first`` to ``last - 1`` are in shards."""
        paths = self.folder.glob(f"{first}-{last}-*.jsonl")
        return {line["id"] for path in paths for line in read_lines(path)}

    def write(self, first: int, last: int, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write the samples ``first`` to ``last - 1`` of some problems as one shard, or nothing."""
        ids = json.dumps([line["id"] for line in lines])
        # Named by what is in it, so that shards of another size do not take its name.
        name = f"{first}-{last}-{hashlib.sha256(ids.encode()).hexdigest()[:16]}.jsonl"
        write_bytes(self.folder / name, b"".join(map(encoded, lines)))

    def merge(self, first: int, last: int) -> None:
        """Make the file from itself and the shards of ``first`` to ``last - 1``."""
        before = self._index([self.file] if first else [])
        # Two shards may hold one problem, where their size was changed between two calls.
        drawn = self._index(sorted(self.folder.glob(f"{first}-{last}-*.jsonl")))
        with replacing(self.file) as temporary, open(temporary, "wb") as out:
            for id in sorted(drawn, key=natural):
                lines = [_read(place) for place in (before.get(id), drawn[id]) if place]
                both = [one for line in lines for one in line["completions"]]
                out.write(encoded(_line(id, lines[0]["problem"], lines[0]["answer"], both)))

    def remove(self) -> None:
        """Delete the shards; the file and its ``.json`` stand for them."""
        shutil.rmtree(self.folder)

    def _index(self, paths: Sequence[Path]) -> dict[str, Place]:
        """Return where each problem stands in ``paths``; the texts are not kept in memory."""
        places: dict[str, Place] = {}
        for path in paths:
            for place, line in _places(path):
                places.setdefault(_parsed(line, path, place.number)["id"], place)
        return places


def _read(place: Place) -> dict[str, Any]:
    with open(place.path, "rb") as file:
        file.seek(place.offset)
        return _parsed(file.readline(), place.path, place.number)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
