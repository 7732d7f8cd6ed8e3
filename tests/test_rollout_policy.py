"""Rollouts come from the policy of the loss, whatever the base's files and the recipe say."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import POLICY, SMALL
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation import GenerationMode, StoppingCriteriaList

from rlvr.checkpoints.reader import read_weights
from rlvr.checkpoints.runs import step_folder
from rlvr.config import ModelSection, load_recipe
from rlvr.eval import sampling
from rlvr.eval.sampling import end_token_ids
from rlvr.files import read_jsonl
from rlvr.generation import KEPT, plain_generation, put_aside
from rlvr.policy import load_policy, load_tokenizer
from rlvr.train import main as train_main
from rlvr.training.plan import check_recipe
from rlvr.training.session import build_trainer

END = 1  # "<|end|>"
# Each changes what `generate` draws, where it stops, or how many sequences it returns.
LEAKS: dict[str, Any] = {
    "min_p": 0.5,
    "top_h": 0.4,
    "typical_p": 0.5,
    "epsilon_cutoff": 0.02,
    "eta_cutoff": 0.02,
    "suppress_tokens": [7, 8],
    "begin_suppress_tokens": [7, 8],
    "no_repeat_ngram_size": 2,
    "bad_words_ids": [[7], [8]],
    "forced_bos_token_id": 7,
    "forced_eos_token_id": 7,
    "sequence_bias": [[[7], 4.0]],
    "guidance_scale": 1.5,
    "min_new_tokens": 3,
    "min_length": 30,
    "exponential_decay_length_penalty": [1, 1.5],
    "remove_invalid_values": True,
    "renormalize_logits": True,
    "watermarking_config": {"greenlist_ratio": 0.25, "bias": 2.0},
    "stop_strings": ["1", "2"],
    "num_beams": 3,
    "num_return_sequences": 2,
    "max_time": 0.001,
    "prompt_lookup_num_tokens": 2,
}


def copy_base(folder: Path, **files: dict[str, Any]) -> Path:
    """Copy the pocket policy, the JSON files that are named updated; ``None`` deletes a key."""
    folder.mkdir()
    for path in POLICY.iterdir():
        if path.suffix == ".safetensors":
            (folder / path.name).symlink_to(path)
        else:
            (folder / path.name).write_bytes(path.read_bytes())
    for name, changes in files.items():
        path = folder / f"{name}.json"
        content = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return folder


@pytest.fixture(scope="module")
def trl_settings(tmp_path_factory: pytest.TempPathFactory) -> GenerationConfig:
    """Return the settings that TRL gives to ``generate`` in a run without special wishes."""
    folder = tmp_path_factory.mktemp("settings")
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({**SMALL, "run": {"dir": str(folder / "run")}}))
    trainer: Any = build_trainer(check_recipe(load_recipe(path, [])), folder / "run")
    return trainer.generation_config


def drawn_by(policy: Any, settings: GenerationConfig) -> list[Any]:
    """Return all that stands between the softmax of ``policy`` and what ``generate`` returns."""
    merged, _ = policy._prepare_generation_config(settings)
    policy._prepare_special_tokens(merged, True, "cpu")
    kinds: list[Any] = list(
        policy._get_logits_processor(merged, input_ids_seq_length=4, device="cpu")
    )
    # Known by the setting: no criterion can be made of it for the pocket tokenizer.
    kinds += merged.stop_strings or []
    merged.stop_strings = None
    stops = policy._get_stopping_criteria(merged, StoppingCriteriaList())
    kinds += [type(stop).__name__ for stop in stops if type(stop).__name__ not in ENDS]
    kinds += [] if merged.get_generation_mode() == GenerationMode.SAMPLE else ["mode"]
    return kinds + ["copies"] * (merged.num_return_sequences != 1)


ENDS = ("MaxLengthCriteria", "EosTokenCriteria")


@pytest.mark.parametrize("key", LEAKS)
def test_nothing_of_the_bases_settings_stands_between_softmax_and_rollout(
    tmp_path, trl_settings, key
):
    base = copy_base(tmp_path / "base", generation_config={key: LEAKS[key]})
    section = ModelSection(str(base))
    assert put_aside(section) == {key: LEAKS[key]}
    assert drawn_by(load_policy(section), trl_settings) == []
    evaluation = sampling._settings(1.0, 1.0, max_new_tokens=8, ends=[END], pad_id=0)
    assert drawn_by(load_policy(section), evaluation) == []
    # The control: a policy loaded as ever would let it in.
    plain = AutoModelForCausalLM.from_pretrained(POLICY)
    with pytest.MonkeyPatch.context():
        plain.generation_config.update(**{key: LEAKS[key], "do_sample": True})
        if key == "watermarking_config":
            from transformers import WatermarkingConfig

            plain.generation_config.watermarking_config = WatermarkingConfig(**LEAKS[key])
        assert drawn_by(plain, trl_settings) != []


def test_every_setting_that_transformers_knows_is_put_aside_but_the_token_ids(tmp_path):
    keys = [key for key in GenerationConfig().to_dict() if key not in KEPT]
    base = copy_base(tmp_path / "base", generation_config=dict.fromkeys([*keys, "new_key"], 3))
    section = ModelSection(str(base))
    config = AutoModelForCausalLM.from_pretrained(POLICY).config
    expected = plain_generation(ModelSection(str(POLICY)), config).to_dict()
    assert plain_generation(section, config).to_dict() == expected
    assert {"top_p", "num_beams", "new_key"} <= put_aside(section).keys()


def test_first_tokens_follow_the_softmax(tmp_path, trl_settings):
    """Pearson's chi-square over the vocabulary stays within five of its standard deviations."""
    leaks = {"min_p": 0.2, "suppress_tokens": [6], "num_return_sequences": 2, "typical_p": 0.8}
    base = copy_base(tmp_path / "base", generation_config=leaks)
    policy: Any = load_policy(ModelSection(str(base)))
    count, temperature = 4000, 3.0
    prompt = torch.tensor([[2, 6, 16, 7, 3]])
    settings = GenerationConfig.from_dict(trl_settings.to_dict())
    settings.update(max_new_tokens=1, temperature=temperature)
    torch.manual_seed(0)
    with torch.no_grad():
        rows = policy.generate(prompt.repeat(count, 1), generation_config=settings)
        expected = count * (policy(prompt).logits[0, -1] / temperature).softmax(-1)
    assert rows.shape == (count, 6)
    drawn = torch.bincount(rows[:, -1], minlength=len(expected)).double()
    # Cells of fewer than 5 expected draws are joined: below that chi-square is no good law.
    large = expected >= 5
    cells = [torch.cat([x[large], x[~large].sum()[None]]) for x in (drawn, expected.double())]
    cells = [x[cells[1] > 0] for x in cells]
    statistic = float(((cells[0] - cells[1]).square() / cells[1]).sum())
    freedom = len(cells[0]) - 1
    assert freedom > 10
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)


def test_a_run_on_such_a_base_is_bit_for_bit_the_plain_one(train, tmp_path, capsys):
    """And its checkpoint has the files that the base came with, not those of the run."""
    leaks = {key: LEAKS[key] for key in ("min_p", "suppress_tokens", "stop_strings", "num_beams")}
    # transformers refuses to save a temperature without do_sample.
    leaks |= {"temperature": 0.6, "top_p": 0.9, "num_return_sequences": 4, "max_length": 7}
    base = copy_base(tmp_path / "base", generation_config=leaks)
    data = {"prefill": "<think>"}
    run = train("leaky", model={"path": str(base)}, data=data, trainer={"max_steps": 2})
    assert "put aside from the base's generation_config.json" in capsys.readouterr().out
    plain = train("plain", data=data, trainer={"max_steps": 2})
    saved, policy = step_folder(run, 2), run / "policy"
    weights = dict(read_weights(step_folder(plain, 2)))
    assert all(torch.equal(weights[name], weight) for name, weight in read_weights(saved))
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        for folder in (saved, policy):
            assert (folder / name).read_bytes() == (base / name).read_bytes(), name
    assert (saved / "chat_template.jinja").read_text() == (base / "chat_template.jinja").read_text()
    config, stored = (json.loads((x / "config.json").read_text()) for x in (base, saved))
    assert stored == {**config, "dtype": "float32"} and stored["use_cache"]
    # transformers refuses the base's own file, and not the weights beside it.
    loaded = AutoModelForCausalLM.from_pretrained(saved, generation_config=GenerationConfig())
    assert loaded.dtype == torch.float32


@pytest.mark.parametrize(
    ("files", "ends"),
    {
        "a list in generation_config.json": (
            {"generation_config": {"eos_token_id": [4, 9]}},
            {4, 9},
        ),
        "the config's, where that says nothing": (
            {"generation_config": {"eos_token_id": None}, "config": {"eos_token_id": [4, 8]}},
            {4, 8},
        ),
        "the tokenizer's alone": (
            {"generation_config": {"eos_token_id": None}, "config": {"eos_token_id": None}},
            set(),
        ),
    }.values(),
)
def test_every_end_token_of_the_base_ends_a_completion(tmp_path, files, ends):
    section = ModelSection(str(copy_base(tmp_path / "base", **files)))
    policy, tokenizer = load_policy(section), load_tokenizer(section)
    assert set(end_token_ids(policy, tokenizer)) == ends | {END}


def test_rewards_metrics_and_evaluation_agree_on_what_is_cut_off(train, tmp_path):
    base = copy_base(tmp_path / "base", generation_config={"eos_token_id": [END, *range(10, 20)]})
    evaluation = {
        "data": {"name": "pocket", "split": "test", "size": 8},
        "verifier": {"name": "math"},
        "max_new_tokens": 24,
    }
    rewards = [{"name": "math"}, {"name": "overlong", "max_length": 16, "buffer": 15}]
    model = {"path": str(base)}
    run = train("ends", model=model, rewards=rewards, trainer={"max_steps": 1}, eval=evaluation)
    [row] = read_jsonl(run / "metrics.jsonl")
    # A digit (10 to 19) comes within a few tokens, the tokenizer's own end token after about 30.
    assert row["completions/clipped_ratio"] == row["rewards/math/truncated"] == 0
    assert row["completions/max_length"] < 24
    assert json.loads((run / "summary.json").read_text())["truncated"] == 0


TOKENIZERS = {
    "no pad token": {"tokenizer_config": {"pad_token": None}},
    "pad is the end token": {"tokenizer_config": {"pad_token": "<|end|>"}},
    "an end token in the config only": {"tokenizer_config": {"eos_token": None}},
}


@pytest.mark.parametrize("files", TOKENIZERS.values(), ids=TOKENIZERS)
def test_padding_and_end_tokens_change_nothing_that_is_learnt(train, tmp_path, files):
    """The loss sees the same tokens, so that the run ends in the same bits."""
    base = copy_base(tmp_path / "base", **files)
    trainer = {"max_steps": 1}
    odd = train("odd", model={"path": str(base)}, trainer=trainer)
    plain = train("plain", trainer=trainer)
    weights = dict(read_weights(step_folder(plain, 1)))
    for name, weight in read_weights(step_folder(odd, 1)):
        # Padded positions are masked; the id that stands there reaches no sum.
        assert torch.equal(weights[name], weight), name


@pytest.mark.parametrize("files", TOKENIZERS.values(), ids=TOKENIZERS)
def test_padding_and_end_tokens_change_nothing_under_sft(write_sft, tmp_path, files):
    runs = {}
    for name, path in (("odd", copy_base(tmp_path / "base", **files)), ("plain", POLICY)):
        recipe = write_sft(name, model={"path": str(path)}, trainer={"max_steps": 1})
        assert train_main([str(recipe)]) == 0
        runs[name] = dict(read_weights(step_folder(tmp_path / name, 1)))
    assert all(torch.equal(runs["plain"][name], weight) for name, weight in runs["odd"].items())
