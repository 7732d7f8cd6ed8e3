"""Supervised fine-tuning under the seam of RLVR: its loss, its mask, its start, its resume."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import moved_entries
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlvr.checkpoints.runs import checkpoints, require_newest
from rlvr.files import read_jsonl
from rlvr.masks import load_mask
from rlvr.train import main as train_main

POLICY = Path(__file__).parent.parent / "recipes" / "pocket" / "policy"
SAFE = {"builder": "safe", "rank": 8, "principal_density": 0.5, "low_density": 0.5}
# Lengths differ, one row has its end token already, and one its opening alone.
ROWS = [
    ("1+2*3-4", "<think>\n1+6-4\n7-4\n3\n</think>\\boxed{3}"),
    ("9-8+7*6", "<think>\n9-8+42\n1+42\n43\n</think>\\boxed{43}<|end|>"),
    ("5*5-5*4", "</think>\\boxed{5}"),
    ("2*2+3*3", "<think>\n4+3*3\n4+9\n13\n</think>\\boxed{13}"),
]


@pytest.fixture
def tune(write_sft: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Return a function that trains a small SFT recipe to its end and returns the run directory."""

    def run(name: str = "recipe", **sections: dict | None) -> Path:
        assert train_main([str(write_sft(name, **sections))]) == 0
        return tmp_path / name

    return run


@pytest.fixture
def rows_file(tmp_path: Path) -> dict:
    """Return a data section of the four rows above."""
    path = tmp_path / "rows.jsonl"
    lines = [{"problem": p, "answer": "0", "rationale": s} for p, s in ROWS]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"name": "jsonl", "path": str(path), "columns": {"solution": "rationale"}}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def token_ids(problem: str, solution: str) -> tuple[list[int], list[int]]:
    """Return prompt and completion, tokenised by hand: a token a character but for the named."""
    vocabulary = AutoTokenizer.from_pretrained(POLICY).get_vocab()

    def ids(text: str) -> list[int]:
        found = []
        while text:
            named = (token for token in vocabulary if len(token) > 1 and text.startswith(token))
            token = next(named, text[0])
            found.append(vocabulary[token])
            text = text.removeprefix(token)
        return found

    body = ids(solution.removesuffix("<|end|>"))
    return ids(f"<|user|>{problem}<|assistant|>"), [*body, vocabulary["<|end|>"]]


def log_probs(folder: Path, problem: str, solution: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probs over the vocabulary before each completion token, and the tokens."""
    policy = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    prompt, completion = token_ids(problem, solution)
    with torch.no_grad():
        logits = policy(torch.tensor([prompt + completion])).logits[0]
    return logits[len(prompt) - 1 : -1].log_softmax(-1), torch.tensor(completion)


def test_the_loss_is_that_of_the_completions_and_one_end_token(tune, rows_file):
    # Two uneven slices of two rows: the mean is over tokens, not over rows or slices.
    slices = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 1}
    run_dir = tune(data=rows_file, trainer=slices)
    total, count, right = 0.0, 0, 0
    for problem, solution in ROWS:
        log_p, tokens = log_probs(POLICY, problem, solution)
        total -= log_p.gather(1, tokens[:, None]).sum().item()
        right += int((log_p.argmax(-1) == tokens).sum())
        count += len(tokens)
    row = read_jsonl(run_dir / "metrics.jsonl")[0]
    assert row["loss"] == pytest.approx(total / count, rel=1e-5)  # float32 against float64
    prompts = sum(len(token_ids(*pair)[0]) for pair in ROWS)
    assert row["num_tokens"] == prompts + count
    assert 0 < right < count and row["step_time"] > 0


def test_the_kl_on_the_data_is_the_exact_one_of_the_policy_before_the_step(tune, rows_file):
    trainer = {"per_device_train_batch_size": 4, "max_steps": 2, "save_steps": 1}
    run_dir = tune(data=rows_file, trainer=trainer, mask=SAFE)
    first, second = read_jsonl(run_dir / "metrics.jsonl")
    assert first["kl_to_base_on_data"] == 0.0
    total, count = 0.0, 0
    for problem, solution in ROWS:
        log_p, _ = log_probs(checkpoints(run_dir)[0], problem, solution)
        log_q, _ = log_probs(POLICY, problem, solution)
        total += (log_p.exp() * (log_p - log_q)).sum().item()
        count += len(log_p)
    assert second["kl_to_base_on_data"] == pytest.approx(total / count, rel=1e-3)
    assert second["kl_to_base_on_data"] > 1e-4 and "kl_to_base" not in second


def test_nothing_moves_outside_the_mask(tune):
    hard = {"weight_decay": 0.1, "max_grad_norm": 0.01, "gradient_accumulation_steps": 2}
    run_dir = tune(mask=SAFE, trainer=hard)
    assert [row["mask_leak"] for row in read_jsonl(run_dir / "metrics.jsonl")] == [0.0] * 3
    base, tuned = weights(POLICY), weights(checkpoints(run_dir)[-1])
    masks = load_mask(run_dir / "mask.safetensors")
    leaking, moved = moved_entries(base, tuned, masks)
    assert not leaking
    assert moved > 0.9 * sum(int(mask.sum()) for mask in masks.values())
    assert json.loads((run_dir / "summary.json").read_text())["mask_leak"] == 0


def test_the_mask_is_that_of_an_rlvr_run(tune, train):
    short = {"max_steps": 1}
    ours, theirs = tune("sft", mask=SAFE, trainer=short), train("rl", mask=SAFE, trainer=short)
    ours, theirs = (json.loads((run / "provenance.json").read_text()) for run in (ours, theirs))
    assert ours["mask"] == theirs["mask"] and ours["base_weights"] == theirs["base_weights"]


@pytest.mark.slow
def test_a_dense_mask_is_no_mask_bit_for_bit(tune):
    trainer = {"weight_decay": 0.1}
    free, masked = tune("a", trainer=trainer), tune("b", trainer=trainer, mask={"builder": "dense"})
    first, second = weights(checkpoints(free)[-1]), weights(checkpoints(masked)[-1])
    assert all(torch.equal(first[name], second[name]) for name in first)


RESUMED = {
    "dense, a second epoch": ({}, {"size": 20}, {}),
    "masked, rare logs": ({"mask": SAFE}, {"size": 64}, {"logging_steps": 4}),
    # Dropout draws from the generators that the checkpoint restores.
    "LoRA, slices": (
        {"adapter": {"builder": "lora", "rank": 4, "dropout": 0.2}},
        {"size": 36},
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
    ),
}


@pytest.mark.parametrize(("sections", "data", "trainer"), RESUMED.values(), ids=RESUMED)
def test_a_resumed_run_ends_in_the_bits_of_one_that_never_stopped(
    tune, write_sft, sections, data, trainer
):
    data = {"name": "pocket", "split": "train", "solutions": "expert", **data}
    trainer = {"weight_decay": 0.1, "max_steps": 6, "save_steps": 3, **trainer}
    whole = tune("whole", data=data, trainer=trainer, **sections)
    stopped = tune("stopped", data=data, trainer={**trainer, "max_steps": 3}, **sections)
    path = write_sft("stopped", data=data, trainer=trainer, **sections)
    assert train_main([str(path), "--resume"]) == 0
    first, second = (weights(run / "policy") for run in (whole, stopped))
    assert all(torch.equal(first[name], second[name]) for name in first)
    left_out = ("time", "moved")  # moved is measured at each start anew
    metrics = [
        [
            {key: value for key, value in row.items() if not any(word in key for word in left_out)}
            for row in read_jsonl(run / "metrics.jsonl")
        ]
        for run in (whole, stopped)
    ]
    assert metrics[0] == metrics[1] and metrics[0][-1]["step"] >= 4


@pytest.mark.slow
def test_measuring_the_kl_changes_no_bit(tune):
    adapter = {"builder": "lora", "rank": 4, "dropout": 0.2}
    runs = [tune(f"{every}", adapter=adapter, run={"kl_every": every}) for every in (0, 1)]
    first, second = (weights(run / "policy") for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_a_delta_and_bf16_masters_resume_in_the_same_bits(tune, write_sft):
    sections = {
        "mask": SAFE,
        "model": {"path": str(POLICY), "dtype": "bfloat16"},
        "run": {"checkpoint": "delta"},
    }
    trainer = {"weight_decay": 0.1, "max_steps": 4, "save_steps": 2}
    whole = tune("whole", trainer=trainer, **sections)
    stopped = tune("stopped", trainer={**trainer, "max_steps": 2}, **sections)
    assert train_main([str(write_sft("stopped", trainer=trainer, **sections)), "--resume"]) == 0
    first, second = (weights(require_newest(run)) for run in (whole, stopped))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], base) for name, base in weights(POLICY).items())


NINE = "lora rslora dora lora_plus mica pissa milora olora geora".split()


@pytest.mark.parametrize(
    "builder",
    [pytest.param(name, marks=[] if name == "pissa" else pytest.mark.slow) for name in NINE],
)
def test_an_adapter_starts_at_the_base_policy_and_leaves_the_base_alone(tune, builder):
    run_dir = tune(adapter={"builder": builder, "rank": 4}, trainer={"max_steps": 2})
    provenance = json.loads((run_dir / "provenance.json").read_text())
    assert provenance["base_weights_after"] == provenance["base_weights"]
    first, second = read_jsonl(run_dir / "metrics.jsonl")
    assert first["kl_to_base_on_data"] < 1e-9 < 1e-8 < second["kl_to_base_on_data"]


def test_a_run_directory_holds_what_an_rlvr_run_does_but_rollouts(tune):
    evaluation = {
        "data": {"name": "pocket", "split": "test", "size": 8},
        "verifier": {"name": "math"},
        "max_new_tokens": 32,
    }
    run_dir = tune(eval=evaluation, geometry={"every": 1})
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["accuracy_after"]["n"] == 8 and summary["kl_to_base"]["mean"] > 0
    assert summary["seconds_per_step"] > 0 and not (run_dir / "rollouts.jsonl").exists()
    rows = read_jsonl(run_dir / "metrics.jsonl")
    wanted = {"loss", "grad_norm", "learning_rate", "mean_token_accuracy", "entropy", "moved"}
    assert wanted | {"geometry/sparsity_from_base"} <= rows[0].keys()
    assert rows[0]["loss"] > rows[-1]["loss"]
