"""From the ``data`` section of a recipe to rows: a named source, then what all sources share."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.config import pop_name
from rlvr.data.filters import (
    drop_duplicates,
    drop_overlaps,
    keep_difficulty,
    keep_where,
    require_distinct,
    shuffled,
)
from rlvr.data.prompts import Message, check_template, generation_prompt, render
from rlvr.data.rows import Loaded, Row, plain_columns, rows_of_plugin
from rlvr.registry import dataset, place
from rlvr.schema import RecipeError, check_options

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Unparsable = Callable[[list[Row]], list[bool]]
SHOWN = 5  # ids of an error


@dataclass(frozen=True)
class DataSpec:
    """A checked ``data`` section: the source with its options, and the options of ``options``."""

    name: str
    source: dict[str, Any]
    shared: dict[str, Any] = field(default_factory=dict)

    def render(self, problem: str) -> list[Message]:
        """Return the chat messages of a problem's prompt."""
        return render(problem, self.shared["prompt"], self.shared["system"])


def options(
    *,
    prompt: str = "plain",
    system: str | None = None,
    prefill: str | None = None,
    max_chars: int | None = None,
    max_prompt_tokens: int | None = None,
    pass_rates: str | None = None,
    min_pass_rate: float = 0.0,
    max_pass_rate: float = 1.0,
    deduplicate: bool = False,
    decontaminate: list[dict[str, Any]] | None = None,
    ngram: int = 13,
    check_gold: bool = False,
    drop_invalid: bool = False,
    shuffle: int | None = None,
    limit: int | None = None,
) -> None:
    """The options of every source, applied in this order after its own.

    Args:
        prompt: ``plain``, ``boxed`` (asks for a ``\\boxed{}``), or a text that holds ``{problem}``.
        system: a system message.
        prefill: what the policy's answer begins with, such as ``<think>\\n``; left out where the
            chat template writes it already.
        max_chars: longest problem, in characters.
        max_prompt_tokens: longest prompt, in tokens of the policy, chat template included.
        pass_rates: a JSONL file of ``{"id": …, "pass_rate": …}``.
        min_pass_rate: of the rows kept, and ``max_pass_rate`` likewise; both bounds are kept.
        deduplicate: keep the first row of each problem.
        decontaminate: benchmarks, each a source such as ``{name: math500}``.
        ngram: words in a row that a row must not share with a benchmark.
        check_gold: drop the rows whose gold answer the verifier cannot parse.
        drop_invalid: drop the rows without a problem or an answer, which are an error otherwise.
        shuffle: the seed of a new order.
        limit: rows kept at the end.
    """


SHARED = signature(options).parameters


def parse_dataset(spec: dict[str, Any], where: str) -> DataSpec:
    """Check ``{name: ..., **options}``; nothing is read."""
    name, given = pop_name(spec, "name", where)
    known = signature(dataset.get(name, where)).parameters
    # A source may have a parameter of the same name; then it is the source's.
    shared = {key: value for key, value in given.items() if key in SHARED and key not in known}
    own = {key: value for key, value in given.items() if key not in shared}
    source = dataset.check(name, own, where)
    # Also fills in the defaults, so that `shared` below has every key.
    checked = check_options(options, shared, where)
    counts = {"size": source.get("size")}
    counts |= {key: checked[key] for key in ("max_chars", "max_prompt_tokens", "limit")}
    for key, value in counts.items():
        if isinstance(value, int) and value < 1:
            raise RecipeError(f"{where}.{key}: must be at least 1, got {value}")
    if checked["ngram"] < 5:
        raise RecipeError(f"{where}.ngram: must be at least 5 words, got {checked['ngram']}")
    low, high = checked["min_pass_rate"], checked["max_pass_rate"]
    if not 0 <= low <= high <= 1:
        raise RecipeError(f"{where}.min_pass_rate: need 0 <= min <= max <= 1, got {low} and {high}")
    if (low, high) != (0.0, 1.0) and checked["pass_rates"] is None:
        raise RecipeError(f"{where}.pass_rates: missing; name the file of measured pass rates")
    check_template(checked["prompt"], where)
    for index, benchmark in enumerate(checked["decontaminate"] or []):
        parse_dataset(benchmark, f"{where}.decontaminate[{index}]")
    return DataSpec(name, source, checked)


def require_files(spec: DataSpec, where: str) -> None:
    """Raise where a local file that ``spec`` reads does not exist; none is opened."""
    named = {"pass_rates": spec.shared["pass_rates"]}
    if spec.name in ("jsonl", "parquet"):
        named["path"] = spec.source["path"]
    for key, path in named.items():
        if path is not None and not Path(path).is_file():
            raise RecipeError(f"{where}.{key}: {path} does not exist; check the path")
    nested = {"parts": spec.source.get("parts"), "decontaminate": spec.shared["decontaminate"]}
    for key, sources in nested.items():
        for index, source in enumerate(sources or []):
            place = f"{where}.{key}[{index}]"
            require_files(parse_dataset(source, place), place)


def load_source(spec: DataSpec, where: str) -> Loaded:
    """Return the rows of the source, before any shared option is applied.

    Raises:
        RecipeError: the source's function fails, or returns something else than rows.
    """
    returned = dataset.call(spec.name, f" of {where}", **spec.source)
    if isinstance(returned, Loaded):
        return returned
    return rows_of_plugin(returned, spec.name, place(dataset.functions[spec.name]))


def load_prepared(
    spec: DataSpec,
    where: str,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    unparsable: Unparsable | None = None,
) -> Loaded:
    """Return the rows of ``spec`` in a deterministic order, and the ids of those it dropped.

    Args:
        spec: a checked section.
        where: its name in messages.
        tokenizer: the policy's, for ``max_prompt_tokens``.
        unparsable: tells which rows have a gold answer that the verifier cannot parse, for
            ``check_gold``.
    """
    loaded, shared = load_source(spec, where), spec.shared
    _check_invalid(loaded, shared["drop_invalid"], where)
    if shared["deduplicate"]:
        drop_duplicates(loaded)
    # Before the filters, which look rows up by id.
    require_distinct(loaded.rows, where)
    if (most := shared["max_chars"]) is not None:
        keep_where(loaded, "too long", lambda row: len(row["problem"]) <= most)
    if shared["pass_rates"] is not None:
        bounds = shared["min_pass_rate"], shared["max_pass_rate"]
        keep_difficulty(loaded, shared["pass_rates"], *bounds, where)
    # Cheap filters first: this one builds n-grams of every row that is left.
    if shared["decontaminate"]:
        drop_overlaps(loaded, _benchmarks(shared["decontaminate"], where), shared["ngram"])
    if shared["max_prompt_tokens"] is not None:
        _keep_short(loaded, spec, tokenizer, where)
    if shared["check_gold"] and unparsable is not None:
        # All rows in one call: the verifier has worker processes to share them.
        flags = dict(zip((r["id"] for r in loaded.rows), unparsable(loaded.rows), strict=True))
        keep_where(loaded, "gold unparsable", lambda row: not flags[row["id"]])
    if shared["shuffle"] is not None:
        loaded.rows = shuffled(loaded.rows, shared["shuffle"])
    # Last, and after the shuffle: the limit takes a random part.
    loaded.rows = loaded.rows[: shared["limit"]]
    if not loaded.rows:
        reasons = ", ".join(f"{len(ids)} {reason}" for reason, ids in loaded.dropped.items())
        raise RecipeError(
            f"{where}: dataset {spec.name!r} has no rows ({reasons or 'it is empty'})"
        )
    return loaded


def load_rows(spec: dict[str, Any], where: str, columns: Collection[str] = ()) -> list[Row]:
    """Return the rows that ``spec`` names, with the schema's columns and ``columns``."""
    loaded = load_prepared(parse_dataset(spec, where), where)
    return plain_columns(loaded.rows, columns)


def _check_invalid(loaded: Loaded, drop: bool, where: str) -> None:
    invalid = {reason: ids for reason, ids in loaded.dropped.items() if reason in loaded.invalid}
    if invalid and not drop:
        lines = "; ".join(
            f"{len(ids)} rows with {reason}: {', '.join(ids[:SHOWN])}"
            + (", …" if len(ids) > SHOWN else "")
            for reason, ids in invalid.items()
        )
        raise RecipeError(f"{where}: {lines}. Mend them, or drop them with drop_invalid: true")


def _benchmarks(specs: list[dict[str, Any]], where: str) -> dict[str, list[str]]:
    benchmarks: dict[str, list[str]] = {}
    for index, spec in enumerate(specs):
        place = f"{where}.decontaminate[{index}]"
        parsed = parse_dataset(spec, place)
        problems = [row["problem"] for row in load_source(parsed, place).rows]
        path = parsed.source.get("path")
        name = str(path) if parsed.name in ("jsonl", "parquet", "hub") else parsed.name
        benchmarks[name] = problems
    return benchmarks


def _keep_short(
    loaded: Loaded, spec: DataSpec, tokenizer: "PreTrainedTokenizerBase | None", where: str
) -> None:
    if tokenizer is None:
        raise RecipeError(f"{where}.max_prompt_tokens: needs the tokenizer of a policy")
    most = spec.shared["max_prompt_tokens"]

    def is_short(row: Row) -> bool:
        text = generation_prompt(tokenizer, spec.render(row["problem"]))
        return len(tokenizer(text, add_special_tokens=False)["input_ids"]) <= most

    keep_where(loaded, "prompt too long", is_short)
