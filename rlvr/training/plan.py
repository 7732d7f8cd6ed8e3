"""Everything about a run that can be known, and refused, before a weight is loaded."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase
from trl import GRPOConfig

from rlvr import runtime
from rlvr.adapters import check_adapter, check_section, parse_adapter, refuse_head
from rlvr.config import EvalSection, OptimizerSection, Recipe
from rlvr.costs.shapes import Shape, shape_of
from rlvr.data import generation_prompt, parse_dataset, prompt_tokenizer, require_files
from rlvr.masks import MaskSpec, check_files, check_spec, parse_spec
from rlvr.policy import load_skeleton, local_tokenizer
from rlvr.registry import import_plugins
from rlvr.rewards import RewardCall, parse_reward, parse_rewards
from rlvr.schema import RecipeError
from rlvr.targets import resolve_also_train, resolve_targets
from rlvr.training.batch_sizes import BatchSizes
from rlvr.training.library import check_library
from rlvr.training.names import check_names
from rlvr.training.settings import check_trainer


@dataclass(frozen=True)
class Plan:
    """A checked recipe: what will be trained, by what, and what it costs in memory.

    ``positions`` are those that the model's configuration claims; only RLVR has a ``batch``.
    ``experts`` are the weights of more than two dimensions, to which no target pattern applies.
    ``shape`` is what costs depend on; none where the model's blocks are of another kind.
    """

    recipe: Recipe
    mask: MaskSpec | None
    rewards: list[RewardCall]
    targets: dict[str, tuple[int, int]]
    also_train: dict[str, tuple[int, ...]]
    num_parameters: int
    batch: BatchSizes | None
    positions: int | None = None
    adapter_entries: int = 0
    experts: int = 0
    shape: Shape | None = None

    @property
    def verifiers(self) -> list[RewardCall]:
        """The functions that know which gold answers can be judged."""
        if self.rewards or self.recipe.eval is None:
            return self.rewards
        return [parse_reward(self.recipe.eval.verifier, "eval.verifier")]

    @property
    def beta(self) -> float:
        return float(self.recipe.trainer.get("beta", 0.0))

    @property
    def longest(self) -> int | None:
        """The most tokens of a completion; none where TRL has no bound."""
        return self.recipe.trainer.get("max_completion_length", GRPOConfig.max_completion_length)

    @property
    def weights(self) -> str:
        """The dtype of the weights and, of a masked bf16 run, how they take an update."""
        dtype = self.recipe.model.dtype
        if self.mask is None or dtype == "float32":
            return dtype
        updates = {"master": "float32 masters", "stochastic": "stochastic rounding"}
        return f"{dtype}, {updates[self.recipe.optimizer.bf16_update]}"

    @property
    def max_steps(self) -> int:
        """The step at which the run ends; -1 where its epochs say so."""
        return int(self.recipe.trainer.get("max_steps", -1))


def check_recipe(recipe: Recipe) -> Plan:
    """Check every section against the registries and the model's shapes; load no weights."""
    check_names(recipe)
    import_plugins(recipe.plugins)
    mask = None if recipe.mask is None else parse_spec(recipe.mask)
    rewards = parse_rewards(recipe.rewards)
    data = parse_dataset(recipe.data, "data")
    require_files(data, "data")
    if recipe.supervised and data.shared["check_gold"] and recipe.eval is None:
        raise RecipeError(
            "data.check_gold: algorithm sft has no rewards to check gold answers with; name the "
            "verifier in eval.verifier, or remove it"
        )
    if recipe.adapter is not None:
        parse_adapter(recipe.adapter)
    if recipe.eval is not None:
        _check_eval(recipe, recipe.eval)
    batch = check_trainer(recipe)
    _check_optimizer(recipe)
    model = load_skeleton(recipe.model)
    tokenizer = local_tokenizer(recipe.model)
    count = sum(parameter.numel() for parameter in model.parameters())
    check_library(recipe, model)
    if tokenizer is not None:
        _check_prompts(recipe, tokenizer)
    if recipe.adapter is not None:
        refuse_head(model, recipe.model.targets)
    targets = resolve_targets(model, recipe.model.targets)
    also_train = resolve_also_train(model, recipe.model.also_train, targets)
    if recipe.run.checkpoint == "delta":
        from rlvr.training.resume import check_checkpoint  # imports datasets, for a second

        check_checkpoint(recipe, model)
    if mask is not None:
        check_spec(mask, targets)
        check_files(mask, targets)
    entries = 0
    if recipe.adapter is not None:
        check_section(recipe)
        entries = check_adapter(recipe.adapter, model, targets)
    positions = getattr(model.config, "max_position_embeddings", None)
    return Plan(
        recipe,
        mask,
        rewards,
        targets,
        also_train,
        count,
        batch,
        positions,
        entries,
        sum(parameter.ndim > 2 for parameter in model.parameters()),
        shape_of(model),
    )


def _check_eval(recipe: Recipe, section: EvalSection) -> None:
    require_files(parse_dataset(section.data, "eval.data"), "eval.data")
    parse_reward(section.verifier, "eval.verifier")


def _check_prompts(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> None:
    """Render a prompt of each data section, as the policy will read it."""
    sections = {"data": recipe.data}
    if recipe.eval is not None:
        sections["eval.data"] = recipe.eval.data
    for where, section in sections.items():
        data = parse_dataset(section, where)
        prefill = data.shared["prefill"]
        extended = prompt_tokenizer(tokenizer, prefill, recipe.template_kwargs, where)
        generation_prompt(extended, data.render("0"))


def _check_optimizer(recipe: Recipe) -> None:
    section = recipe.optimizer
    if recipe.mask is None and section != OptimizerSection():
        raise RecipeError(
            "optimizer: its options are those of a masked run; add a mask, such as "
            "{builder: dense}, or remove them"
        )
    if section.bf16_update == "stochastic" and recipe.model.dtype != "bfloat16":
        raise RecipeError(
            f"optimizer.bf16_update: stochastic rounding is for bfloat16 weights, and model.dtype "
            f"is {recipe.model.dtype}; set one to fit the other"
        )
    if section.free_gradients and runtime.world_size() > 1:
        raise RecipeError(
            "optimizer.free_gradients: on several processes gradients are averaged after the "
            "backward pass that would have freed them; start one process or set it to false"
        )
