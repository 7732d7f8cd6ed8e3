"""The evaluation at the end of a run: its exported policy and the base, on the same problems."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlvr import runtime
from rlvr.checkpoints.runs import checkpoints, step_of
from rlvr.config import EvalSection, Recipe
from rlvr.data import DataSpec, Row, load_prepared, parse_dataset, prompt_tokenizer
from rlvr.eval import Completion, EvalResult, EvalSettings, Task, evaluate, token_kl
from rlvr.policy import load_policy, load_tokenizer
from rlvr.precision import dtype_name
from rlvr.rewards import RewardCall, check_columns, parse_reward
from rlvr.training.export import export_dtype, exported, run_precision


@dataclass(frozen=True)
class Problems:
    """The rows of an eval section, how a prompt is made of one, and who judges the answers."""

    data: DataSpec
    tokenizer: PreTrainedTokenizerBase
    rows: list[Row]
    verifier: RewardCall

    @property
    def task(self) -> Task:
        return Task(self.rows, self.data.render, self.verifier.verdicts)


def load_problems(recipe: Recipe, section: EvalSection) -> Problems:
    """Load the problems of an eval section.

    Raises:
        RecipeError: the rows cannot be read, or lack a column that the verifier reads.
    """
    data = parse_dataset(section.data, "eval.data")
    tokenizer = prompt_tokenizer(
        load_tokenizer(recipe.model), data.shared["prefill"], recipe.template_kwargs, "eval.data"
    )
    rows = load_prepared(data, "eval.data", tokenizer=tokenizer).rows
    call = parse_reward(section.verifier, "eval.verifier")
    check_columns([call], rows[0])
    return Problems(data, tokenizer, rows, call)


def evaluate_run(
    recipe: Recipe, section: EvalSection, run_dir: Path, folder: Path
) -> dict[str, Any]:
    """Evaluate the base and the exported policy in ``folder``, and the KL between them.

    Both compute in the dtype of the export: a KL between two precisions would count the rounding.
    """
    problems = load_problems(recipe, section)
    dtype: Any = dtype_name(export_dtype(recipe, run_precision(run_dir)))
    device = runtime.default_device()
    settings = settings_of(section)
    kept: dict[str, list[Completion]] = {}

    def score(policy: PreTrainedModel, name: str) -> EvalResult:
        kept.clear()
        file = run_dir / "eval" / f"{name}.jsonl"
        return evaluate(policy, problems.tokenizer, problems.task, settings, file, keep=kept)

    def load(path: Path) -> PreTrainedModel:
        exported = dataclasses.replace(recipe.model, path=str(path), revision=None, dtype=dtype)
        return load_policy(exported, device)

    base = load_policy(dataclasses.replace(recipe.model, dtype=dtype), device)
    before = score(base, "base")
    final = load(folder)
    after = score(final, "final")
    completions = [kept[str(row["id"])] for row in problems.rows]
    on_the_way = {}
    if section.checkpoints == "every":
        # Without the last: that is the export, evaluated above.
        for checkpoint in checkpoints(run_dir)[:-1]:
            with exported(recipe, run_dir, checkpoint) as passing:
                result = score(load(passing), checkpoint.name)
            on_the_way[step_of(checkpoint)] = dataclasses.asdict(result.accuracy)
    kl = token_kl(
        final,
        base,
        problems.tokenizer,
        [problems.data.render(row["problem"]) for row in problems.rows],
        completions,
        batch_size=section.batch_size,
    )
    return {
        "evaluated_in": dtype,
        "accuracy_before": dataclasses.asdict(before.accuracy),
        "accuracy_after": dataclasses.asdict(after.accuracy),
        "accuracy_on_the_way": on_the_way,
        "kl_to_base": dataclasses.asdict(kl),
        "truncated": after.truncated,
    }


def settings_of(section: EvalSection) -> EvalSettings:
    """Return how an eval section draws completions."""
    fields = dataclasses.fields(EvalSettings)
    return EvalSettings(**{field.name: getattr(section, field.name) for field in fields})
