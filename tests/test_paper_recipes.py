"""The recipes of the paper's studies resolve to its published numbers, on the GPUs they name."""

from functools import cache
from pathlib import Path

import pytest
from hub_models import cache_model

from rlvr.config import load_recipe
from rlvr.masks import MaskSpec, density_bounds
from rlvr.recipe_file import read_recipe
from rlvr.registry import dataset
from rlvr.training.inputs import Arguments, training_arguments
from rlvr.training.plan import check_recipe

RECIPES = Path(__file__).parent.parent / "recipes"
GPUS = 8  # of each recipe as written; its comments say what to change for another number
LAUNCHED = {  # by launch/fsdp2.yaml
    "WORLD_SIZE": str(GPUS),
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "FSDP_VERSION": "2",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}

# arXiv 2511.08567, appendix C.1 and C.2: prompts a step and an update, rollouts, steps, context.
# What it leaves open (Llama's data and context) is here what the recipe says is its own.
PUBLISHED = {
    "deepseek-r1-distill-qwen-1.5b": (
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        {"prompts": 256, "mini": 64, "rollouts": 12, "steps": 320, "context": 8192},
        ["deepscaler", "simplerl"],
    ),
    "qwen2.5-math-7b": (
        "Qwen/Qwen2.5-Math-7B",
        {"prompts": 256, "mini": 64, "rollouts": 16, "steps": 300, "context": 8192},
        ["dapo_math_17k", "hendrycks_math"],
    ),
    "qwen3-4b-base": (
        "Qwen/Qwen3-4B-Base",
        {"prompts": 256, "mini": 64, "rollouts": 16, "steps": 150, "context": 20480},
        ["deepscaler", "simplerl"],
    ),
    "llama-3.2-3b-instruct": (
        "meta-llama/Llama-3.2-3B-Instruct",
        {"prompts": 128, "mini": 32, "rollouts": 16, "steps": 200, "context": 8192},
        ["hendrycks_math"],
    ),
}
PEFT = {"prompts": 128, "mini": 32, "rollouts": 16, "steps": 200, "context": 8192}
# Tables 4 and 5: the share of the target matrices that may move.
DENSITY = {
    "mask_principal": 0.5,
    "mask_off_principal": 0.5,
    "mask_low_magnitude": 0.5859,
    "mask_safe": 0.7402,
    "mask_random": 0.7402,
}
FILES = [
    path
    for folder in PUBLISHED
    for path in sorted((RECIPES / folder).glob("*.yaml"))
    if not path.name.startswith("study_")
]


@pytest.fixture(scope="module")
def resolve(tmp_path_factory):
    """Return a function from a recipe's path to its plan and TRL's configuration, as launched."""
    folder = tmp_path_factory.mktemp("models")

    @cache
    def resolve(path: Path):
        model = load_recipe(path).model.path
        recipe = load_recipe(path, cache_model(model))
        with pytest.MonkeyPatch.context() as launched:
            for name, value in LAUNCHED.items():
                launched.setenv(name, value)
            plan = check_recipe(recipe)
        with pytest.MonkeyPatch.context() as launched:
            # What TRL asks accelerate, which would wait for the other processes.
            launched.setattr(Arguments, "world_size", property(lambda self: GPUS))
            args = training_arguments(recipe, folder)
        return model, plan, args

    return resolve


def published(path: Path) -> dict[str, int]:
    paper = PUBLISHED[path.parent.name][1]
    return PEFT if path.stem in ("lora", "pissa") else paper


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_recipe_has_the_published_numbers(path, resolve):
    model, plan, args = resolve(path)
    paper = published(path)
    assert model == PUBLISHED[path.parent.name][0]
    completions = args.per_device_train_batch_size * args.gradient_accumulation_steps * GPUS
    found = {
        "prompts": args.generation_batch_size // args.num_generations,
        "mini": completions // args.num_generations,
        "rollouts": args.num_generations,
        "steps": args.max_steps * completions // args.generation_batch_size,
        "context": args.max_completion_length,
    }
    assert found == paper
    assert args.max_steps % (paper["prompts"] // paper["mini"]) == 0  # whole steps of the paper
    assert args.generation_batch_size == completions * 4  # 4 updates of a step
    assert args.steps_per_generation == 4 * args.gradient_accumulation_steps
    assert args.num_iterations == 1
    batch = plan.batch
    assert (batch.prompts, batch.step, batch.updates) == (paper["prompts"], completions, 4)
    assert args.vllm_max_model_length == args.max_completion_length + 1024
    assert plan.recipe.data["max_prompt_tokens"] == 1024
    for every in (args.save_steps, plan.recipe.run.kl_every):
        assert every % 4 == 0  # where a generation ends


@pytest.mark.parametrize(
    ("folder", "parameters", "entries"),
    [
        ("deepseek-r1-distill-qwen-1.5b", 1_777_088_000, 1_310_195_712),
        ("qwen2.5-math-7b", 7_615_616_512, 6_525_288_448),
        ("qwen3-4b-base", 4_022_468_096, 3_633_315_840),
        ("llama-3.2-3b-instruct", 3_212_749_824, 2_818_572_288),
    ],
)
def test_a_model_has_the_published_size(folder, parameters, entries, resolve):
    _, plan, _ = resolve(RECIPES / folder / "full.yaml")
    assert plan.num_parameters == parameters
    assert sum(rows * columns for rows, columns in plan.targets.values()) == entries


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_recipe_has_the_published_algorithm(path, resolve):
    _, plan, args = resolve(path)
    rates = {"lora": 1e-5, "pissa": 1e-5}  # one of the paper's three; the studies have all
    assert args.learning_rate == rates.get(path.stem, 1e-6)
    assert args.lr_scheduler_type == "constant" and args.get_warmup_steps(args.max_steps) == 0
    assert (args.adam_beta1, args.adam_beta2) == (0.9, 0.999)
    assert args.optim == "adamw_torch"
    assert args.beta == 0.0 and args.loss_type == "dapo"
    assert (args.epsilon, args.epsilon_high) == (0.2, 0.28)
    assert args.importance_sampling_level == "token" and args.scale_rewards == "group"
    assert args.bf16 and plan.recipe.model.dtype == "float32"
    right, overlong = plan.rewards
    assert (right.name, right.weight) == ("math", 1.0)
    assert (right.options["correct"], right.options["wrong"]) == (1.0, -1.0)
    shaping = {"max_length": args.max_completion_length, "buffer": 1024, "factor": 1.0}
    assert (overlong.name, overlong.weight, overlong.options) == ("overlong", 1.0, shaping)
    data = plan.recipe.data
    names = [part["name"] for part in data.get("parts", [data])]
    study = path.parent.name == "deepseek-r1-distill-qwen-1.5b" and path.stem in ("lora", "pissa")
    assert names == (["deepmath_103k"] if study else PUBLISHED[path.parent.name][2])


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_an_arm_moves_what_the_paper_lets_it_move(path, resolve):
    _, plan, _ = resolve(path)
    if path.stem in ("lora", "pissa"):
        assert plan.recipe.adapter["builder"] == path.stem
        assert plan.recipe.adapter["alpha"] == plan.recipe.adapter["rank"]
        return
    if plan.mask is None:
        assert path.stem in ("base", "full")
        return
    kind = path.stem.removeprefix("mask_")
    few = kind.endswith("pct")
    kind, share = kind.removesuffix("pct").rpartition("_")[::2] if few else (kind, "")
    assert plan.mask.builder == kind
    low, high = density_bounds(plan.mask)
    if few:
        assert low <= float(share) / 100 == pytest.approx(high)
    else:
        # What a safe mask comes to depends on the weights; the published density is possible.
        assert low <= DENSITY[path.stem] <= high
        assert kind in ("safe", "random") or low == high
    like = plan.mask.options.get("like")
    if kind == "random":
        twin = load_recipe(path.with_name(path.name.replace("random", "safe")))
        assert (
            isinstance(like, MaskSpec)
            and like.options.items()
            >= {key: value for key, value in twin.mask.items() if key != "builder"}.items()
        )


@pytest.mark.parametrize(
    ("folder", "gpus", "accumulation"),
    [
        ("deepseek-r1-distill-qwen-1.5b", 16, 12),
        ("deepseek-r1-distill-qwen-1.5b", 1, 192),
        ("qwen2.5-math-7b", 16, 32),
        ("qwen3-4b-base", 16, 64),
        ("qwen3-4b-base", 32, 32),
        ("llama-3.2-3b-instruct", 16, 8),
    ],
)
def test_the_accumulation_that_a_comment_names_keeps_the_batch(
    folder, gpus, accumulation, monkeypatch
):
    path = RECIPES / folder / "full.yaml"
    text = " ".join((path.parent / "base.yaml").read_text().replace("\n#", " ").split())
    assert (
        f"{accumulation} on {gpus}" in text
        or f"accumulation_steps={accumulation}" in text
        or (f"{gpus} GPUs {accumulation}" in text or f"{accumulation} on one" in text)
    )
    monkeypatch.setenv("WORLD_SIZE", str(gpus))
    words = cache_model(load_recipe(path).model.path)
    words.append(f"trainer.gradient_accumulation_steps={accumulation}")
    paper = PUBLISHED[folder][1]
    batch = check_recipe(load_recipe(path, words)).batch
    assert (batch.prompts, batch.step) == (paper["prompts"], paper["mini"] * paper["rollouts"])


def test_every_line_of_a_base_says_where_it_is_from():
    for folder in PUBLISHED:
        lines = (RECIPES / folder / "base.yaml").read_text().splitlines()
        section = next(index for index, line in enumerate(lines) if line == "trainer:")
        for line in lines[section + 1 : -1]:
            if line.startswith("  ") and not line.lstrip().startswith(("#", "seed:")):
                assert "# paper" in line or "# ours" in line, f"{folder}: {line}"


def test_the_datasets_of_the_recipes_are_known():
    for path in FILES:
        data = read_recipe(path)["data"]
        for part in data.get("parts", [data]):
            assert part["name"] in dataset.functions
