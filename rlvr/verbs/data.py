"""``rlvr data``: rows counted, shown, validated and written."""

import dataclasses
import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr import runtime
from rlvr.config import ModelSection, load_recipe
from rlvr.data import (
    DataSpec,
    Loaded,
    Row,
    generation_prompt,
    load_prepared,
    overlaps,
    parse_dataset,
    prompt_tokenizer,
)
from rlvr.files import replacing, write_json
from rlvr.recipe_file import apply_overrides
from rlvr.registry import import_plugins, pop_plugins
from rlvr.rewards import RewardCall, check_columns, parse_reward, parse_rewards
from rlvr.rewards.gold import gold_verdicts, is_verifier, unparsable_golds
from rlvr.schema import RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN_IDS, SHOWN_PROMPTS = 20, 3


def run(options: Namespace) -> int:
    """Show, check and write the rows; return 1 where a gold answer does not score itself."""
    runtime.prepare_environment()
    if Path(options.target).suffix in (".yaml", ".yml"):
        return _run_recipe(options)
    spec = pop_plugins(apply_overrides({"name": options.target}, options.overrides))
    data = parse_dataset(spec, "data")
    named = [parse_reward({"name": options.reward}, "--reward")] if options.validate else []
    calls = [call for call in named if is_verifier(call)]
    tokenizer = _tokenizer(ModelSection(options.model)) if options.model else None
    if tokenizer is not None:
        tokenizer = prompt_tokenizer(tokenizer, data.shared["prefill"], None, "data")
    return _report(data, "data", calls, tokenizer, options)


def _run_recipe(options: Namespace) -> int:
    recipe = load_recipe(options.target, options.overrides)
    import_plugins(recipe.plugins)
    calls = [call for call in parse_rewards(recipe.rewards) if is_verifier(call)]
    sections = [("data", recipe.data, calls)]
    if recipe.eval is not None:
        verifier = parse_reward(recipe.eval.verifier, "eval.verifier")
        if recipe.supervised:
            sections = [("data", recipe.data, [verifier])]
        sections.append(("eval.data", recipe.eval.data, [verifier]))
    checked = [(name, parse_dataset(spec, name), found) for name, spec, found in sections]
    tokenizer, kwargs = _tokenizer(recipe.model), recipe.template_kwargs
    failed = 0
    for name, data, found in checked:
        own = prompt_tokenizer(tokenizer, data.shared["prefill"], kwargs, name)
        failed |= _report(data, name, found, own, options)
    return failed


def _tokenizer(section: ModelSection) -> Any:
    from rlvr.policy import load_tokenizer

    return load_tokenizer(section)


def _report(
    data: DataSpec,
    where: str,
    calls: list[RewardCall],
    tokenizer: "PreTrainedTokenizerBase | None",
    options: Namespace,
) -> int:
    loaded = load_prepared(
        data, where, tokenizer=tokenizer, unparsable=lambda rows: unparsable_golds(calls, rows)
    )
    dropped = sum(map(len, loaded.dropped.values()))
    runtime.say(f"{where}: {data.name}, {len(loaded.rows)} rows kept, {dropped} dropped")
    for reason, ids in loaded.dropped.items():
        more = f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else ""
        runtime.say(f"  dropped {len(ids)}, {reason}: {', '.join(ids[:SHOWN_IDS])}{more}")
    for row in loaded.rows[:SHOWN_PROMPTS]:
        messages = data.render(row["problem"])
        if tokenizer is None:
            text = "\n".join(f"{turn['role']}: {turn['content']}" for turn in messages)
        else:
            text = generation_prompt(tokenizer, messages)
        runtime.say(f"--- prompt of {row['id']} (answer {row['answer']!r})\n{text}")
    runtime.say("---")
    if options.out is not None and where == "data":
        _write(options.out, loaded)
    for name in options.against:
        _count_overlaps(loaded.rows, name, where, data.shared["ngram"], options.out)
    failures = _validate(calls, loaded.rows, where) if options.validate else 0
    return 1 if failures else 0


def _count_overlaps(
    rows: Sequence[Row], name: str, where: str, ngram: int, out: Path | None
) -> None:
    """Say which rows hold problems of a benchmark; write all of them beside ``out``."""
    from rlvr.benchmarks.problems import load_benchmark_rows  # imports transformers

    benchmark = load_benchmark_rows(name)
    shared = overlaps(rows, benchmark, ngram)
    exact = [one for one in shared if one.exact]
    held = {id for one in shared for id in one.problems}
    runtime.say(
        f"{where} against {name}: {len(shared)} of {len(rows)} rows overlap ({len(exact)} the same "
        f"problem, {len(shared) - len(exact)} {ngram} words in a row), with {len(held)} of its "
        f"{len(benchmark)} problems"
    )
    for one in shared[:SHOWN_IDS]:
        kind = "is" if one.exact else "shares words with"
        runtime.say(f"  {one.row} {kind} {', '.join(one.problems)}")
    if len(shared) > SHOWN_IDS:
        runtime.say(f"  … and {len(shared) - SHOWN_IDS} more; --out FILE writes them all")
    if out is not None:
        beside = out.with_name(f"{out.name}.{Path(name).stem}.overlaps.json")
        write_json(beside, [dataclasses.asdict(one) for one in shared])
        runtime.say(f"{beside}: every overlap, with ids")


def _write(out: Path, loaded: Loaded) -> None:
    """Write the rows, and the ids that were dropped beside them; whole files or none."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as temporary, open(temporary, "w", encoding="utf-8") as file:
            for row in loaded.rows:
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
    except (OSError, UnicodeEncodeError) as error:
        raise RecipeError(f"--out {out}: {error}; nothing was written") from error
    runtime.say(f"{out}: {len(loaded.rows)} rows")
    if loaded.dropped:
        beside = out.with_name(f"{out.name}.dropped.json")
        write_json(beside, loaded.dropped)
        runtime.say(f"{beside}: the ids that were dropped, by reason")


def _validate(calls: Sequence[RewardCall], rows: Sequence[Any], where: str) -> int:
    """Say which gold answers do not score themselves; return their number."""
    if not calls:
        raise RecipeError(f"{where}: no reward here judges right and wrong; name one that does")
    check_columns(calls, rows[0])
    failures = 0
    for call in calls:
        verdicts = gold_verdicts(call, rows)
        wrong = [(r, v) for r, v in zip(rows, verdicts, strict=True) if v.status != "correct"]
        for row, verdict in wrong:
            detail = f" ({verdict.detail})" if verdict.detail else ""
            runtime.say(f"{where}: {row['id']}: {row['answer']!r} is {verdict.status}{detail}")
        right = len(rows) - len(wrong)
        runtime.say(f"{where}: {right} of {len(rows)} gold answers score themselves ({call.name})")
        failures += len(wrong)
    return failures
