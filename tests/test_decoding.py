"""The decoder against ``generate``, a full forward pass, and counted draws."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import POLICY, VARIED
from scipy.stats import chi2
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from rlvr.config import load_recipe
from rlvr.decoding import Drawing, decode, draw, pad_rows, stream_seed, supports
from rlvr.schema import RunError
from rlvr.training.plan import check_recipe
from rlvr.training.session import build_trainer

SHAPE: dict[str, Any] = {
    "vocab_size": 26,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
GEMMA_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
# Windows shorter than prompt and completion: a sliding layer forgets while it decodes.
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=6)),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**SHAPE, head_dim=8, sliding_window=6, layer_types=GEMMA_LAYERS)
    ),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=26, n_embd=32, n_layer=2, n_head=4)),
}
ENDS = [1, 3]


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    lengths = torch.randint(1, 14, (17,), generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(4, 26, (int(n),), generator=generator).tolist() for n in lengths]


def model_of(name: str) -> Any:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)  # logits far apart: no ties that rounding could decide
    return model


def decoded(model: Any, prompts: list[list[int]], slots: int, temperature: float = 1.0) -> list:
    seeds = [stream_seed(0, tuple(prompt)) for prompt in prompts]
    drawing = Drawing(temperature)
    options: Any = {"max_new_tokens": 24, "ends": ENDS, "seeds": seeds, "slots": slots}
    return decode(model, prompts, drawing=drawing, **options)


@pytest.mark.parametrize("name", MODELS)
def test_greedy_is_that_of_generate_for_every_number_of_slots(name, prompts):
    model = model_of(name)
    ids, mask = pad_rows(prompts, 0, torch.device("cpu"))
    settings = GenerationConfig(
        max_new_tokens=24, do_sample=False, eos_token_id=ENDS, pad_token_id=0
    )
    output = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
    expected = []
    for row in output[:, ids.shape[1] :].tolist():
        stop = next((place for place, token in enumerate(row) if token in ENDS), len(row) - 1)
        expected.append(row[: stop + 1])
    assert len({len(row) for row in expected}) > 2 or name == "gpt2"
    for slots in (1, 4, 17, 100):
        assert [one.token_ids for one in decoded(model, prompts, slots, 0.0)] == expected


@pytest.mark.parametrize("name", MODELS)
def test_log_probs_are_those_of_a_forward_pass_without_cache(name, prompts):
    model = model_of(name)
    for prompt, one in zip(prompts, decoded(model, prompts, 5, 1.7), strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + one.token_ids])).logits[0]
        logps = (logits[len(prompt) - 1 : -1] / 1.7).log_softmax(-1)
        own = logps.gather(1, torch.tensor(one.token_ids)[:, None])[:, 0]
        # Sums of float32 in another order, over logits of some tens.
        assert torch.tensor(one.logps).sub(own).abs().max() < 1e-4 * max(1, logits.abs().max())
        assert one.ended == (one.token_ids[-1] in ENDS)
        assert one.ended or len(one.token_ids) == 24


def test_a_row_draws_the_same_whatever_is_beside_it(prompts):
    model = model_of("llama").double()  # rounding would decide a draw about once in 1e7
    whole = decoded(model, prompts, 17)
    assert [one.token_ids for one in decoded(model, prompts, 3)] == [o.token_ids for o in whole]
    turned = decoded(model, prompts[::-1], 6)[::-1]
    assert [one.token_ids for one in turned] == [one.token_ids for one in whole]
    assert len({tuple(one.token_ids) for one in whole}) > 10


def test_what_is_cached_otherwise_is_not_supported(prompts):
    model = model_of("llama")
    assert supports(model)
    model.config.layer_types = ["full_attention", "linear_attention", "full_attention"]
    assert not supports(model)


def test_draws_have_the_probabilities_of_the_softmax():
    logits = torch.randn(1300, generator=torch.Generator().manual_seed(0)) * 2
    count = 200_000
    uniforms = torch.from_numpy(np.random.default_rng(0).random(count))
    tokens = torch.cat(
        [draw(logits.expand(len(u), -1), u, Drawing(0.8))[0] for u in uniforms.split(5000)]
    )
    expected = (logits.double() / 0.8).softmax(-1) * count
    seen = torch.bincount(tokens, minlength=1300).double()
    rare = expected < 5  # pooled, as the approximation by chi square asks for
    pairs = [(seen[~rare], expected[~rare]), (seen[rare].sum()[None], expected[rare].sum()[None])]
    statistic = sum(float(((a - b) ** 2 / b).sum()) for a, b in pairs)
    assert chi2.sf(statistic, int((~rare).sum())) > 1e-4


def test_a_tail_of_tiny_probabilities_is_drawn_as_often_as_it_weighs():
    """A tenth of the mass on 100,000 tokens of 1e-6 each; float32 sums would lose their order."""
    weights = torch.full((100_001,), 1e-6, dtype=torch.float64)
    weights[0] = 0.9
    uniforms = torch.linspace(0, 1 - 1e-9, 201, dtype=torch.float64)
    tokens, _ = draw(weights.log().float().expand(201, -1), uniforms, Drawing())
    expected = ((uniforms - 0.9) * 1e6 + 1).clamp(min=0).floor()
    # log and exp in float32 are right to 1e-6 of each weight, so the sum to 1e-6 x 1e5 tokens.
    assert (tokens - expected).abs().max() <= 2


@pytest.mark.parametrize("drawing", [Drawing(1.0, 0.7), Drawing(0.5, 1.0, 3), Drawing(1.3, 0.5, 4)])
def test_top_p_and_top_k_keep_the_set_of_the_definition(drawing):
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        logits = torch.randn(12, generator=generator) * 2
        p = (logits / drawing.temperature).softmax(-1)
        order = sorted(range(12), key=lambda token: -p[token])[: drawing.top_k or None]
        mass, kept = float(p[order].sum()), []
        for token in order:
            if float(p[kept].sum()) >= drawing.top_p * mass:
                break
            kept.append(token)
        grid = torch.linspace(0, 1 - 1e-9, 5000, dtype=torch.float64)
        tokens, logps = draw(logits.expand(5000, -1), grid, drawing)
        assert set(tokens.tolist()) == set(kept)
        shares = torch.bincount(tokens, minlength=12) / 5000
        assert (shares - p * shares.gt(0) / p[kept].sum()).abs().max() < 2 / 5000 + 1e-6
        assert logps.exp().allclose(p[tokens], rtol=1e-5)


def test_uniforms_at_the_edges_draw_tokens_that_can_be_drawn():
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]]).expand(3, -1)
    uniforms = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert draw(logits, uniforms, Drawing())[0].tolist() == [1, 3, 3]


def test_nan_is_no_distribution(prompts):
    model = model_of("llama")
    model.lm_head.weight.data[5] = math.nan
    with pytest.raises(FloatingPointError, match="NaN"):
        decoded(model, prompts, 4)


def trainer_of(write_recipe, tmp_path, **changes: Any) -> Any:
    path = write_recipe(**changes)
    return build_trainer(check_recipe(load_recipe(path, [])), tmp_path / "recipe")


def test_a_run_measures_its_sampler_and_two_seeds_share_no_completion(write_recipe, tmp_path):
    streams = []
    for seed in (0, 1):
        # In file order: a seed that shuffled the prompts would change every completion by itself.
        settings = {"max_steps": 2, "seed": seed, "shuffle_dataset": False, "temperature": 2.0}
        trainer = trainer_of(write_recipe, tmp_path, trainer=settings)
        trainer.train()
        gaps = [row for row in trainer.state.log_history if "sampler_gap" in row]
        assert gaps and all(row["sampler_gap"] < 1e-5 for row in gaps)
        assert all(row["sampler_gap"] <= row["sampler_gap_max"] < 1e-4 for row in gaps)
        streams.append(list(zip(trainer._logs["prompt"], trainer._logs["completion"], strict=True)))
        (tmp_path / "recipe").rename(tmp_path / f"seed-{seed}")
    pairs = list(zip(*streams, strict=True))
    assert all(one[0] == other[0] for one, other in pairs)
    # Hot, so that few come twice by chance.
    assert sum(one == other for one, other in pairs) < len(pairs) / 4


def test_a_sampler_that_holds_the_weights_of_an_earlier_step_stops_the_run(
    write_recipe, tmp_path, monkeypatch
):
    trainer = trainer_of(
        write_recipe,
        tmp_path,
        rewards=VARIED,
        trainer={"max_steps": 6, "learning_rate": 1e-3},
        run={"kl_every": 2},
    )
    old = AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32).eval()

    def stale(prompts: list[list[int]], limit: int) -> Any:
        seeds = [stream_seed(trainer.state.global_step, row) for row in range(len(prompts))]
        options: Any = {"max_new_tokens": limit, "ends": trainer.eos_token_ids, "seeds": seeds}
        drawn = decode(old, prompts, drawing=Drawing(), slots=8, **options)
        return [one.token_ids for one in drawn], [one.logps for one in drawn]

    monkeypatch.setattr(trainer, "_decode", stale)
    with pytest.raises(RunError, match="step 3: the sampler is not the policy"):
        trainer.train()


def test_a_sampler_of_another_policy_stops_the_run_at_its_first_generation(write_recipe, tmp_path):
    trainer = trainer_of(write_recipe, tmp_path, trainer={"max_steps": 2})
    decode_right = trainer._decode

    def other(prompts: list[list[int]], limit: int) -> Any:
        tokens, logps = decode_right(prompts, limit)
        return tokens, [[value - 0.01 for value in row] for row in logps]

    trainer._decode = other
    with pytest.raises(RunError, match=r"step 1: the sampler is not the policy.*revision"):
        trainer.train()


def test_the_first_gap_is_kept_and_a_sampler_without_log_probs_costs_no_forward(
    write_recipe, tmp_path, monkeypatch
):
    trainer = trainer_of(
        write_recipe, tmp_path, rewards=VARIED, trainer={"max_steps": 2}, run={"kl_every": 0}
    )
    trainer.first_gap = 0.0  # exact, as on some processors
    trainer._require_policy(5e-5)
    assert trainer.first_gap == 0.0

    trainer.first_gap, scored = None, []
    decode_right, score = trainer._decode, trainer._completion_logps
    monkeypatch.setattr(trainer, "_decode", lambda *words: (decode_right(*words)[0], None))
    monkeypatch.setattr(
        trainer, "_completion_logps", lambda *a, **k: scored.append(a) or score(*a, **k)
    )
    steps = []
    measure = trainer._generate_and_score_completions

    def generate(inputs: list) -> dict:
        before = len(scored)
        output = measure(inputs)
        steps.append(len(scored) - before)
        return output

    monkeypatch.setattr(trainer, "_generate_and_score_completions", generate)
    trainer.train()
    assert steps == [0, 0]
