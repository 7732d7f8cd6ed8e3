"""The one row schema, and how a record of any file or hub dataset becomes a row of it."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from rlvr.registry import shown
from rlvr.schema import RecipeError

SCHEMA = ("id", "problem", "answer", "source")
Extract = Literal["auto", "boxed", "text"]
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))", re.ASCII)


class Row(TypedDict):
    """One problem: ``answer`` is the gold answer as text, ``source`` says where it is from.

    A row may hold more: the chat messages of its ``prompt``, columns that a reward reads, and the
    ``solution`` that supervised fine-tuning imitates.
    """

    id: str
    problem: str
    answer: str
    source: str


class Rejected(ValueError):
    """A record that cannot become a row; the text is the reason."""


@dataclass(frozen=True)
class Reading:
    """Where the columns of a record are, and in ``fix`` what to do about one that is not there.

    ``columns`` maps the schema's names, ``solution`` and the columns that a reward reads to the
    record's, with a dot between the levels of nested ones and the places of a list counted from 0
    (``prompt.1.content``). ``extract`` is how an answer is found in
    its column: ``auto`` is the text after the last ``####``, or else the whole; ``boxed`` is what
    the last ``\\boxed{}`` holds. ``keep`` keeps the records whose columns have one of the values.
    ``joins``: a list of answers is one answer, all values of which are wanted.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    extract: Extract = "auto"
    keep: Mapping[str, list[Any]] = field(default_factory=dict)
    joins: bool = False
    fix: str = "Name it in columns, such as columns: {problem: question, answer: solution}"


@dataclass
class Loaded:
    """The rows of a source, and the ids of the records that were left out, by reason.

    ``invalid`` are the reasons of those that cannot become a row.
    """

    rows: list[Row] = field(default_factory=list)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    invalid: set[str] = field(default_factory=set)

    def drop(self, reason: str, identity: str) -> None:
        self.dropped.setdefault(reason, []).append(identity)


def read_records(
    records: Iterable[tuple[str, Any]], reading: Reading, source: str, size: int | None, where: str
) -> Loaded:
    """Return the rows of ``records``, each with a name for messages; at most ``size``.

    Raises:
        RecipeError: a record is no object, or lacks a column that the reading names.
    """
    loaded, keep = Loaded(), reading.keep.items()
    for name, record in records:
        if not isinstance(record, Mapping):
            raise RecipeError(f"{where}, {name}: expected an object, got {shown(record)}")
        kept = (_find(record, key, reading, f"{where}, {name}") in v for key, v in keep)
        if not all(kept):
            loaded.drop("not kept", str(record.get("id", name)))
            continue
        try:
            loaded.rows.append(_to_row(record, reading, source, where, name))
        except Rejected as error:
            loaded.drop(str(error), str(record.get("id", name)))
            loaded.invalid.add(str(error))
        if len(loaded.rows) == size:
            break
    return loaded


def rows_of_plugin(returned: object, name: str, place: str) -> Loaded:
    """Return what the function of dataset ``name`` at ``place`` returned as rows.

    Raises:
        RecipeError: they are no rows, or a row lacks its problem or its answer.
    """
    where = f"dataset {name!r}, {place}"
    example = "[{'problem': '1+1', 'answer': '2'}]"
    if isinstance(returned, str | bytes | Mapping) or not isinstance(returned, Iterable):
        raise RecipeError(f"{where}: returned {shown(returned)}; return rows such as {example}")
    reading = Reading(extract="text", fix=f"A row has both keys, such as {example}")
    records = ((f"row {number}", record) for number, record in enumerate(returned))
    return read_records(records, reading, name, None, where)


def _find(record: Mapping[str, Any], path: str, reading: Reading, place: str) -> Any:
    """Return the value at ``path``, a column or a dotted path."""
    if path in record:
        return record[path]
    value: Any = record
    for key in path.split("."):
        if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
            continue
        if not isinstance(value, Mapping) or key not in value:
            columns = ", ".join(map(str, record)) or "none"
            raise RecipeError(f"{place}: no column {path!r}; it has {columns}. {reading.fix}")
        value = value[key]
    return value


def _to_row(record: Mapping[str, Any], reading: Reading, source: str, where: str, name: str) -> Row:
    columns = {"problem": "problem", "answer": "answer", **reading.columns}
    at = f"{where}, {name}"
    values = {ours: _find(record, theirs, reading, at) for ours, theirs in columns.items()}
    problem = problem_text(values["problem"])
    answer = answer_text(values["answer"], reading.extract, joins=reading.joins)
    used = set(columns.values())
    rest = {key: value for key, value in record.items() if key not in used and key not in SCHEMA}
    identity = values.pop("id", record.get("id"))
    if identity is None or identity == "":
        identity = hashlib.sha256(problem.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    origin = values.pop("source", record.get("source"))
    schema = Row(
        id=str(identity),
        problem=problem,
        answer=answer,
        source=origin if isinstance(origin, str) and origin else source,
    )
    return Row(**{**schema, **rest, **values, **schema})


def problem_text(value: object) -> str:
    """Return a problem, which may come as chat messages with one user's turn.

    Raises:
        Rejected: there is no text, or the messages are more than the user's turn.
    """
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        roles = [str(item.get("role")) for item in value]
        if "user" in roles and roles != ["user"]:
            raise Rejected(
                f"a problem of {' + '.join(roles)} messages (a problem is one user's turn: name "
                f"its column, as in columns: {{problem: prompt.{roles.index('user')}.content}}, "
                "and write a system message as data.system)"
            )
        value = value[0].get("content") if roles == ["user"] else None
    if not isinstance(value, str) or not value.strip():
        raise Rejected("no problem")
    return value


def answer_text(value: Any, extract: Extract, *, joins: bool = False) -> str:
    """Return a gold answer as text: numbers written out, and the one entry of a list.

    Raises:
        Rejected: there is no answer. Or there are several: a list does not say whether all of them
            are wanted, or any one.
    """
    if isinstance(value, list) and value and not any(isinstance(v, list | dict) for v in value):
        texts = list(dict.fromkeys(answer_text(item, extract) for item in value))
        if len(texts) > 1 and not joins:
            raise Rejected(
                "a list of several answers (write one text: the answer in one spelling, or all "
                "values that are wanted, such as '1, 2')"
            )
        return ", ".join(texts)
    if getattr(value, "ndim", None) == 0:
        # A number of NumPy or torch.
        value = value.item()  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Rejected("no answer")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Rejected("no answer")
        value = int(value) if value.is_integer() and abs(value) < 1e15 else value
    text = str(value).strip()
    if extract == "boxed":
        text = _last_box(text)
    elif extract == "auto" and "####" in text:
        text = _THOUSANDS.sub("", text.rpartition("####")[2].strip())
    if not text or text.lower() == "nan":
        raise Rejected("no answer")
    return text


def _last_box(text: str) -> str:
    start = text.rfind("\\boxed{")
    depth = 0
    for brace in _BRACE.finditer(text, start + len("\\boxed")) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[start + len("\\boxed{") : brace.start()].strip()
    raise Rejected("no closed box in the answer")


def plain_columns(rows: list[Row], names: Iterable[str]) -> list[Row]:
    """Return the rows with only the schema's columns and ``names``, in a form that Arrow keeps.

    Arrow would give all objects of a column the keys of all others, and refuses lists of mixed
    types: a column that holds either becomes JSON text, which the rewards read as well.
    """
    names = sorted(set(names) - set(SCHEMA))
    kept = [{name: row[name] for name in names if name in row} for row in rows]
    for name in names:
        values = [row[name] for row in kept if row.get(name) is not None]
        if len({_shape(value) for value in values} - {"[]"}) > 1 or any(
            _shape(value) == "nested" for value in values
        ):
            for row in (row for row in kept if row.get(name) is not None):
                row[name] = json.dumps(row[name], ensure_ascii=False, default=str)
    plain = ({key: row[key] for key in SCHEMA} for row in rows)
    return [Row(**{**more, **schema}) for more, schema in zip(kept, plain, strict=True)]


def _shape(value: object) -> str:
    """Name what Arrow must not mix."""
    if isinstance(value, list):
        shapes = {_shape(item) for item in value}
        simple = len(shapes) < 2 and not any(shape.startswith("[") for shape in shapes)
        return f"[{''.join(shapes)}]" if simple and "nested" not in shapes else "nested"
    return "nested" if isinstance(value, dict) else type(value).__name__
