"""The rows of a run: loaded, counted, and shaped as the trainer of its algorithm takes them."""

from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlvr import runtime
from rlvr.data import DataSpec, Loaded, Row, demonstrations, load_prepared, plain_columns
from rlvr.rewards import check_columns
from rlvr.rewards.gold import unparsable_golds
from rlvr.training.batch_sizes import require_rows
from rlvr.training.plan import Plan

# What TRL hands to a reward beside the columns of the dataset.
TRAINER_COLUMNS = {"completion_ids": []}


def training_rows(
    plan: Plan, data: DataSpec, tokenizer: PreTrainedTokenizerBase, args: Any
) -> tuple[Loaded, dict[str, Any]]:
    """Return the rows, and what the trainer of the plan's algorithm takes of them."""
    loaded = load_prepared(
        data, "data", tokenizer=tokenizer, unparsable=partial(unparsable_golds, plan.verifiers)
    )
    own: dict[str, Any]
    if plan.recipe.supervised:
        own = {"examples": demonstrations(loaded, data, tokenizer, args.max_length, "data")}
    else:
        rows = _with_prompts(plan, data, loaded)
        own = {"rows": rows, "rewards": plan.rewards, "algorithm": plan.recipe.algorithm}
    for reason, ids in loaded.dropped.items():
        runtime.say(f"data     dropped {len(ids)} rows, {reason}: {', '.join(ids[:5])}")
    dropped = sum(map(len, loaded.dropped.values()))
    require_rows(len(loaded.rows), args, supervised=plan.recipe.supervised, dropped=dropped)
    return loaded, own


def _with_prompts(plan: Plan, data: DataSpec, loaded: Loaded) -> list[Row]:
    """Return the rows with their prompts and the columns that the rewards read."""
    columns = {column for call in plan.rewards for column in call.reads}
    rows = plain_columns(loaded.rows, columns)
    check_columns(plan.rewards, {**rows[0], **TRAINER_COLUMNS})
    return [Row(**{**row, "prompt": data.render(row["problem"])}) for row in rows]
