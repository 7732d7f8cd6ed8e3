"""Curvature of the pocket policy and of real architectures, and the command that measures it."""

import copy
import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from test_curvature import SETTINGS, masks_of
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from rlvr.cli import main
from rlvr.config import ModelSection
from rlvr.curvature import Prompts, draw_prompts, load, measure_curvature, measure_length
from rlvr.geometry import curvature as cv
from rlvr.geometry.fisher import logit_change
from rlvr.targets import resolve_targets

POLICY = Path(__file__).parent.parent / "recipes" / "pocket" / "policy"
DATA = {"name": "pocket", "split": "test", "size": 64}


@pytest.fixture(scope="module")
def pocket():
    section = ModelSection(str(POLICY))
    policy = load(section)
    drawn = draw_prompts(section, policy, DATA, prompts=2, samples=2, max_new_tokens=40, seed=0)
    return policy, drawn


def test_pocket_policy_against_a_plain_loop(pocket):
    """Gradients by transformers' own loss, masks in NumPy: the same means to 1e-4."""
    policy, prompts = pocket
    names = list(resolve_targets(policy, ["q_proj"]))
    found = measure_curvature(policy, prompts, names, SETTINGS, probes=0, steps=0, seed=0)
    plain = AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32)
    parameters = {n: p for n, p in plain.named_parameters() if "q_proj" in n}
    totals, count = {n: np.zeros(p.shape) for n, p in parameters.items()}, 0
    for head, group in zip(prompts.heads, prompts.completions, strict=True):
        for tokens in group:
            labels = [-100] * len(head) + tokens
            plain.zero_grad()
            loss = plain(torch.tensor([head + tokens]), labels=torch.tensor([labels])).loss
            (loss * len(tokens)).backward()
            for name, parameter in parameters.items():
                assert parameter.grad is not None
                totals[name] += parameter.grad.double().numpy() ** 2
            count += len(tokens)
    assert count == prompts.tokens.sum()
    assert len(found.rows) == len(parameters) * len(cv.MASKS)
    for row in found.rows:
        own = masks_of(row["name"], parameters[row["name"]].detach())[row["mask"]]
        expected = totals[row["name"]][own].mean() / count
        assert row["mean_curvature"] == pytest.approx(expected, rel=1e-4)
    assert found.summary["trace"] == pytest.approx(
        sum(t.sum() for t in totals.values()) / count, rel=1e-4
    )


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config, Qwen3Config])
def test_forward_mode_is_the_finite_difference(kind: type):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    tied = kind is not LlamaConfig
    config = kind(vocab_size=50, tie_word_embeddings=tied, attn_implementation="eager",
                  **sizes, **heads)  # fmt: skip
    torch.manual_seed(0)
    policy = AutoModelForCausalLM.from_config(config).double().eval().requires_grad_(False)
    (example,) = Prompts([[1, 2, 3]], [[[4, 5, 6, 7]]]).examples(policy)
    weights = dict(policy.named_parameters())
    vector = {n: 1e-2 * torch.randn_like(w) for n, w in weights.items()}
    logits, change = logit_change(example, weights, vector)
    whole = policy(torch.tensor([[1, 2, 3, 4, 5, 6, 7]])).logits[0, 2:6]
    assert example.tokens.tolist() == [4, 5, 6, 7]
    # The norms of these models compute in float32, also where the rest is float64.
    torch.testing.assert_close(logits, whole, rtol=0, atol=1e-5)
    sides = [example.logits({n: w + s * vector[n] for n, w in weights.items()})
             for s in (3e-3, -3e-3)]  # fmt: skip
    # A difference of two logits that float32 rounds by 6e-8, over 6e-3 of the change.
    error = (change - (sides[0] - sides[1]) / 6e-3).norm() / change.norm()
    assert error < 1e-4


def test_small_update_of_the_pocket_policy_has_its_kl_as_length(pocket):
    policy, prompts = pocket
    tuned = load(ModelSection(str(POLICY)), like=policy)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in tuned.parameters():
            size = 1e-3 * float(parameter.std())
            parameter += size * torch.randn(parameter.shape, generator=generator)
    cells = {n: cv.cells_of(n, p, SETTINGS) for n, p in policy.named_parameters() if "proj" in n}
    found = measure_length(policy, tuned, prompts, cells)
    assert found["fisher_over_kl"]["mean"] == pytest.approx(1, abs=0.02)
    assert 0 < found["share_outside_targets"] < 1
    same = measure_length(policy, policy, prompts, cells)
    assert same["parameters_moved"] == 0 and same["fisher_over_kl"]["mean"] is None
    assert same["kl_nats_per_token"]["mean"] == 0


def test_a_run_directory_is_all_that_the_command_needs(train: Callable[..., Path], capsys):
    run = train("learned", trainer={"max_steps": 1, "learning_rate": 1e-4})
    words = ["--prompts", "3", "--probes", "2", "--lanczos", "3", "--targets", "o_proj"]
    assert main(["curvature", str(run), *words]) == 0
    out = run / "curvature"
    with open(out / "curvature.csv") as file:
        rows = list(csv.DictReader(file))
    header = json.loads((out / "curvature.columns.json").read_text())
    assert list(header["columns"]) == list(rows[0])
    summary = json.loads((out / "curvature.json").read_text())
    assert len(rows) == summary["matrices"] * len(cv.MASKS)
    assert summary["prompts"] == 3 and len(summary["lanczos"]) == 3
    assert summary["length"]["fisher_nats_per_token"]["mean"] > 0
    assert {path.name for path in out.glob("*.png")} == {"curvature_masks.png", "fisher_length.png"}
    printed = capsys.readouterr().out
    assert "principal weights are" in printed and "Fisher length" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([str(POLICY)], "names no prompts"),
        (["a", "b", "c"], "BASE and TUNED"),
        ([str(POLICY), "--data", "pocket"], "names no prompts"),
        ([str(POLICY), "--data", "{name: pocket"], "not a YAML value"),
        ([str(POLICY), "--data", "{name: nothing}"], "unknown 'nothing'"),
        ([str(POLICY), "--data", "{name: pocket, split: test, size: 1}"], "one row"),
        (
            [str(POLICY), "--data", "{name: pocket, split: test}", "--prompts", "1"],
            "--prompts: 1 is below 2",
        ),
        ([str(POLICY), "--data", "{name: pocket, split: test}", "--rank", "0"], "--rank: 0"),
        ([str(POLICY), "--data", "{name: pocket, split: test}", "--density", "0"], "--density: 0"),
        (["/nowhere", "--data", "{name: pocket, split: test, size: 8}"], "does not exist"),
        (
            [
                str(POLICY),
                "--data",
                "{name: pocket, split: test, size: 8}",
                "--targets",
                "wrong",
                "--prompts",
                "2",
            ],
            "'wrong' matches no",
        ),
    ],
)
def test_a_mistake_is_one_message(words: list[str], message: str, capsys):
    assert main(["curvature", *words]) == 2
    assert message in capsys.readouterr().err


def save(policy, folder: Path) -> Path:
    policy.save_pretrained(folder)
    return folder


def test_a_broken_pair_is_one_message(tmp_path: Path, capsys):
    words = ["--data", "{name: pocket, split: test, size: 8}", "--prompts", "2", "--probes", "0"]
    policy = AutoModelForCausalLM.from_pretrained(POLICY)
    bare = save(policy, tmp_path / "bare")
    assert main(["curvature", str(bare), *words]) == 2
    assert "holds no tokenizer" in capsys.readouterr().err
    config = copy.deepcopy(policy.config)
    config.num_hidden_layers = 1
    config.layer_types = config.layer_types[:1]
    other = save(AutoModelForCausalLM.from_config(config), tmp_path / "shallow")
    assert main(["curvature", str(POLICY), str(other), *words, "--lanczos", "0"]) == 2
    assert "must be of one architecture" in capsys.readouterr().err
    with torch.no_grad():
        next(policy.parameters())[0, 0] = float("nan")
    broken = save(policy, tmp_path / "broken")
    assert main(["curvature", str(broken), *words]) == 2
    assert "are NaN or infinite" in capsys.readouterr().err
