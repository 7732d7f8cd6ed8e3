"""The exported policy is the trained one: it gives the log-probs that the engine computed."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from conftest import POLICY, SMALL
from transformers import AutoModelForCausalLM

from rlvr.checkpoints.runs import step_folder
from rlvr.eval.gap import ROUNDING, LogProbGap, ScoredTokens, logprob_gap, token_logps
from rlvr.train import main as train_main
from rlvr.training.export import TRAINED_LOGPS

STEPS = 2
RANDOM = {"builder": "random", "density": 0.3}
PISSA, LORA = ({"builder": name, "rank": 8} for name in ("pissa", "lora"))
AUTOCAST = {"trainer": {"bf16": True}}
BF16 = {"model": {"dtype": "bfloat16"}}
# Sections, the dtype of the export, and the one that the run computes in.
RUNS = {
    "float32": ({}, "float32", torch.float32),
    "dense, autocast": (AUTOCAST, "bfloat16", torch.bfloat16),
    "masters, bf16 weights": ({**BF16, "mask": RANDOM}, "bfloat16", torch.bfloat16),
    "PiSSA, autocast": ({**AUTOCAST, "adapter": PISSA}, "float32", torch.bfloat16),
    # At a rate that moves it well beyond the rounding of bf16 in three steps.
    "LoRA, bf16 weights": (
        {**BF16, "adapter": LORA, "trainer": {"bf16": False, "learning_rate": 1e-2}},
        "float32",
        torch.bfloat16,
    ),
}


def run(folder: Path, *, steps: int = STEPS, **sections: dict) -> Path:
    recipe = {**SMALL, **{k: {**SMALL.get(k, {}), **v} for k, v in sections.items()}}
    recipe["trainer"] = {**recipe["trainer"], "max_steps": steps}
    recipe["run"] = {**SMALL["run"], "dir": str(folder / "run")}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert train_main([str(folder / "recipe.yaml")]) == 0
    return folder / "run"


def scored(run_dir: Path, steps: int = STEPS) -> ScoredTokens:
    return ScoredTokens.load(step_folder(run_dir, steps) / TRAINED_LOGPS)


def load(path: Path, **options: torch.dtype):
    return AutoModelForCausalLM.from_pretrained(path, **options).eval()


@pytest.fixture(scope="module", params=RUNS, ids=str)
def case(request, tmp_path_factory) -> tuple[Path, str, torch.dtype]:
    sections, stored, computed = RUNS[request.param]
    return run(tmp_path_factory.mktemp("run"), **sections), stored, computed


def test_the_export_loaded_plainly_is_the_trained_policy(case):
    run_dir, stored, computed = case
    policy = load(run_dir / "policy")
    assert str(policy.dtype) == f"torch.{stored}"
    gap = scored(run_dir).gap_of(policy)
    assert gap.tokens > 50 and gap.mean <= ROUNDING[computed]
    # The comparison can tell policies apart: the base is several times as far.
    base = scored(run_dir).gap_of(load(POLICY, dtype=policy.dtype))
    assert base.kl > 3 * gap.kl
    summary = json.loads((run_dir / "summary.json").read_text())["policy"]
    assert summary["gap"]["mean"] == pytest.approx(gap.mean) and summary["explained"]
    assert summary["dtype"] == stored


def test_the_files_beside_the_weights_are_the_bases_own(case):
    run_dir, stored, _ = case
    policy = run_dir / "policy"
    for name in ("generation_config.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (policy / name).read_bytes() == (POLICY / name).read_bytes()
    ours, base = (json.loads((p / "config.json").read_text()) for p in (policy, POLICY))
    assert ours.pop("dtype") == stored
    base.pop("dtype")
    assert ours == base


def test_masters_below_the_rounding_of_bf16_are_another_policy(write_sft, tmp_path):
    """Small steps of one direction: a float32 reader sees them, and a run under autocast does not.

    24 steps at 1e-5 are 2.4e-4, half the distance of two bfloat16 weights near 0.1.
    """
    trainer = {"bf16": True, "learning_rate": 1e-5, "max_steps": 24}
    assert train_main([str(write_sft(trainer=trainer))]) == 0
    run_dir = tmp_path / "recipe"
    tokens = scored(run_dir, 24)
    export = tokens.gap_of(load(run_dir / "policy"))
    masters = tokens.gap_of(load(step_folder(run_dir, 24), dtype=torch.float32))

    assert masters.kl > 5 * export.kl
    assert json.loads((run_dir / "summary.json").read_text())["policy"]["explained"]


def test_gap_is_the_formula_in_float64():
    p = torch.tensor([-0.5, -1.25, -3.0])
    q = torch.tensor([-0.75, -1.0, -3.0])
    d = (q - p).double()
    expected = LogProbGap(float(d.abs().mean()), 0.25, float((d.exp() - 1 - d).mean()), tokens=3)
    gap = logprob_gap(p, q)
    assert (gap.mean, gap.max, gap.tokens) == (expected.mean, expected.max, 3)
    # expm1 and exp - 1 differ by the rounding of exp(d) near 1, which is half an ulp of 1.
    assert abs(gap.kl - expected.kl) < 4 * torch.finfo(torch.float64).eps


def test_log_probs_are_those_of_the_softmax_with_temperature():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 11, generator=generator)
    ids = torch.randint(11, (7,), generator=generator)
    wide = (logits.double() / 0.7).log_softmax(-1)
    expected = torch.stack([wide[t, ids[t + 1]] for t in range(6)])
    # Eleven terms of a sum in float32, each within a few ulps of values below 8.
    assert torch.allclose(token_logps(logits, ids, 0.7).double(), expected, atol=1e-5, rtol=0)


def test_scored_tokens_survive_their_file_and_padding_on_either_side(tmp_path):
    policy = load(POLICY, dtype=torch.float32)
    row = torch.arange(5, 17)
    padded = torch.stack([torch.cat([row, row[:2]]), torch.cat([row[:2], row])])
    attention = torch.ones_like(padded)
    attention[0, 12:], attention[1, :2] = 0, 0
    kept = attention.bool().clone()
    kept[0, :6], kept[1, :8] = False, False
    with torch.no_grad():
        logps = token_logps(policy(input_ids=row[None]).logits[0], row)[5:]
    tokens = ScoredTokens(padded, attention, kept, torch.cat([logps, logps]))
    tokens.save(tmp_path / "tokens.safetensors")
    gap = ScoredTokens.load(tmp_path / "tokens.safetensors").gap_of(policy)
    assert gap.tokens == 12 and gap.max == 0.0
