"""``json_schema``: the completion's JSON validates against a schema."""

import json
from typing import Any

from rlvr.isolation.pool import Outcome, scorers
from rlvr.registry import reward
from rlvr.rewards.text import conclusion, fenced_blocks
from rlvr.schema import RecipeError
from rlvr.verdict import Verdict

_SCORER = "rlvr.rewards.json_schema:validate"


@reward
def json_schema(
    completions: list[str],
    schema: list[Any] | None = None,
    *,
    all_rows: dict[str, Any] | None = None,
    seconds: float = 2.0,
    require_think: bool = False,
    correct: float = 1.0,
    wrong: float = 0.0,
) -> list[Verdict]:
    """Judge whether the last JSON block after the thoughts validates against the row's schema.

    The block is the last one fenced as ``json`` (or as nothing), or else the whole conclusion, or
    the one object or array in it, and strict JSON: no NaN, no key twice. ``all_rows`` is one schema
    for all rows, in place of the column ``schema``. A ``$ref`` is followed inside the schema and to
    the JSON Schema drafts, never to the network; a pattern that needs longer than ``seconds`` is a
    timeout.
    """
    schemas = [all_rows] * len(completions) if schema is None or all_rows is not None else schema
    verdicts: list[Verdict | None] = []
    requests = []
    for completion, row_schema in zip(completions, schemas, strict=True):
        rest = conclusion(completion, require_think)
        text = rest if isinstance(rest, Verdict) else find_json(rest)
        if text is None:
            text = Verdict("unparsable", detail="a fenced block never closes")
        verdicts.append(text if isinstance(text, Verdict) else None)
        if not isinstance(text, Verdict):
            requests.append({"text": text, "schema": row_schema})
    # Replies come in the order of the requests: one for each None in `verdicts`.
    jobs = [(request,) for request in requests]
    replies = iter(scorers(_SCORER).map(jobs, deadline_s=seconds) if jobs else [])
    return [_verdict(next(replies)) if verdict is None else verdict for verdict in verdicts]


@reward.checks_options("json_schema")
def _check(options: dict[str, Any], where: str) -> None:
    try:
        import jsonschema  # noqa: F401
    except ImportError as error:
        raise RecipeError(
            f"{where}: json_schema needs the package jsonschema; pip install 'rlvr[rewards]'"
        ) from error
    if options["all_rows"] is not None:
        # Any text: only the schema is checked here.
        problem = validate({"text": "null", "schema": options["all_rows"]})
        if problem["status"] == "gold_unparsable":
            raise RecipeError(f"{where}.all_rows: {problem['detail']}")


def _verdict(outcome: Outcome) -> Verdict:
    if outcome.status == "timeout":
        return Verdict("timeout", detail="validation passed the deadline")
    if outcome.status == "crashed":
        return Verdict("crashed", detail=f"validation: {outcome.value}")
    return Verdict(**outcome.value)


def find_json(text: str) -> str | None:
    """Return the last JSON block of a conclusion, unparsed; None: the last block is open."""
    blocks = fenced_blocks(text)
    if blocks is None:
        return None
    # A block of another language is an example, not the answer.
    fitting = [block.text for block in blocks if block.language in ("json", "")]
    bare = (fitting[-1] if fitting else text).strip().lstrip("\ufeff").strip()
    return bare if fitting else surrounded(bare)


def surrounded(text: str) -> str:
    """Return the one object or array that stands in ``text`` among words; ``text`` without one.

    Two of them are no answer: nobody says which one counts.
    """
    starts = [place for place in map(text.find, "{[") if place >= 0]
    # A text in quotes may hold a bracket.
    if not starts or text.startswith('"'):
        return text
    try:
        _, end = json.JSONDecoder().raw_decode(text, min(starts))
    except (ValueError, RecursionError):
        return text
    alone = not any(sign in text[end:] for sign in "{[")
    return text[min(starts) : end] if alone else text


class Invalid(ValueError):
    """Text that is no strict JSON."""


def _refuse_constant(name: str) -> Any:
    raise Invalid(f"{name} is no JSON")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    # Python keeps the last of two equal keys; which one was meant is unknown.
    if len(content) != len(pairs):
        raise Invalid("a key stands twice in one object")
    return content


def validate(request: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a verdict on ``{text, schema}``; runs in a worker."""
    import jsonschema
    import referencing.exceptions
    from jsonschema.validators import validator_for
    from jsonschema_specifications import REGISTRY

    schema: Any = request["schema"]
    try:
        schema = json.loads(schema) if isinstance(schema, str) else schema
        if not isinstance(schema, dict | bool):
            raise Invalid(f"a schema is an object, not {type(schema).__name__}")
        # The draft that "$schema" names; 2020-12 without one.
        kind: Any = validator_for(schema, jsonschema.Draft202012Validator)
        kind.check_schema(schema)
    except (ValueError, RecursionError, jsonschema.SchemaError) as error:
        return {"status": "gold_unparsable", "detail": f"schema: {_line(error)}"}
    try:
        content = json.loads(
            request["text"], parse_constant=_refuse_constant, object_pairs_hook=_distinct
        )
    except (ValueError, RecursionError) as error:
        return {"status": "unparsable", "detail": _line(error)}
    try:
        # A registry of one's own is what keeps the library from fetching a remote $ref.
        error = next(kind(schema, registry=REGISTRY).iter_errors(content), None)
    except referencing.exceptions.Unresolvable as error:
        return {"status": "gold_unparsable", "detail": f"schema: unresolvable $ref {_line(error)}"}
    except RecursionError:
        return {"status": "wrong", "detail": "nested too deeply to validate"}
    if error is not None:
        return {"status": "wrong", "detail": f"{error.json_path}: {_line(error)}"[:300]}
    return {"status": "correct", "answer": request["text"][:1000]}


def _line(error: BaseException) -> str:
    text = getattr(error, "message", None) or str(error) or type(error).__name__
    return " ".join(text[:300].split())
