"""Dynamic sampling on the pocket policy: what is in the loss, what is not, and how it goes on."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_engines import train_with

from rlvr.checkpoints.runs import checkpoints
from rlvr.data.datasets import pocket
from rlvr.files import read_jsonl
from rlvr.train import main as train_main
from rlvr.training.sampling import MAX_EMPTY
from rlvr.training.trainer import RLVRTrainer

POLICY = Path(__file__).parent.parent / "recipes" / "pocket" / "policy"
SAFE = {"builder": "safe", "rank": 8, "principal_density": 0.5, "low_density": 0.5}
DAPO = {"name": "dapo", "max_rounds": 4}


def problems(folder: Path, solvable: list[bool]) -> str:
    """Write pocket problems, the others with a gold answer that nobody gives; return a word."""
    path = folder / f"problems-{len(solvable)}.jsonl"
    rows = pocket(split="train", size=len(solvable), seed=3).rows
    with open(path, "w") as file:
        for row, is_solvable in zip(rows, solvable, strict=True):
            answer = row["answer"] if is_solvable else "123456"
            file.write(json.dumps({"problem": row["problem"], "answer": answer}) + "\n")
    return f"data={{name: jsonl, path: {path}}}"


@pytest.fixture
def half(tmp_path) -> str:
    return problems(tmp_path, [number % 2 == 0 for number in range(64)])


@pytest.fixture
def in_the_loss(monkeypatch) -> list[dict[str, Any]]:
    """Return a list that receives what each real forward pass of the loss gets."""
    seen: list[dict[str, Any]] = []
    compute = RLVRTrainer._compute_loss

    def record(self, model, inputs):
        seen.append({key: value.clone() for key, value in inputs.items()})
        return compute(self, model, inputs)

    monkeypatch.setattr(RLVRTrainer, "_compute_loss", record)
    return seen


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "model.safetensors")


def same(first: Path, second: Path) -> bool:
    one, other = weights(first), weights(second)
    return all(torch.equal(one[name], other[name]) for name in one)


def rows(run_dir: Path) -> list[dict]:
    """Return the metrics of each step, without times and what is measured at every start anew."""
    left_out = ("seconds", "time", "moved")
    return [
        {key: value for key, value in row.items() if not any(word in key for word in left_out)}
        for row in read_jsonl(run_dir / "metrics.jsonl")
    ]


def test_every_group_in_the_loss_has_variance_and_no_prompt_comes_twice(train, half, in_the_loss):
    trainer = {"num_generations": 4, "max_steps": 4}
    run_dir = train(algorithm={"name": "dapo"}, trainer=trainer, words=[half])
    found = rows(run_dir)
    assert sum(row["sampling/useful_share"] for row in found) < 0.6 * len(found)
    assert max(row["sampling/rounds"] for row in found) > 1
    assert len(in_the_loss) == len(found) == 4
    for step, row in zip(in_the_loss, found, strict=True):
        groups = defaultdict(list)
        for prompt, advantage in zip(step["prompt_ids"].tolist(), step["advantages"], strict=True):
            groups[tuple(prompt)].append(float(advantage))
        assert len(groups) == 4 and all(len(values) == 4 for values in groups.values())
        assert all(max(values) > min(values) for values in groups.values())
        assert step["completion_mask"].any(dim=1).all()
        assert row["sampling/zero_variance_in_loss"] == 0.0 == row["sampling/empty_steps"]
        assert row["sampling/kept_groups"] == 4
        assert row["frac_reward_zero_std"] == pytest.approx(1 - row["sampling/useful_share"])


def test_without_it_the_same_prompts_put_useless_groups_into_the_loss(train, half):
    run_dir = train(algorithm="grpo", trainer={"num_generations": 4}, words=[half])
    assert max(row["frac_reward_zero_std"] for row in rows(run_dir)) >= 0.4
    assert "sampling/rounds" not in rows(run_dir)[0]


SLICES = [
    pytest.param(2, 8, id="equal slices"),
    # one group over 8 slices would be half a completion each: a second one fills up, masked
    pytest.param(8, 2, id="filled slices"),
]


@pytest.mark.parametrize(("slices", "size"), SLICES)
def test_a_batch_that_stays_short_is_cut_to_its_useful_groups(
    train, tmp_path, in_the_loss, slices, size
):
    trainer = {
        "num_generations": 4,
        "gradient_accumulation_steps": slices,
        "per_device_train_batch_size": size,
        "shuffle_dataset": False,
        "max_steps": 5,
    }
    # One or three problems of each four can be solved, so that some steps keep an odd count.
    solvable = [number % 4 < (1 if number < 16 else 3) for number in range(20)]
    word = problems(tmp_path, solvable)
    run_dir = train(algorithm={"name": "dapo", "max_rounds": 1}, trainer=trainer, words=[word])
    seen, kept = iter(in_the_loss), set()
    for row in rows(run_dir):
        groups = int(row["sampling/kept_groups"])
        kept.add(groups)
        if not groups:
            continue
        parts = [next(seen) for _ in range(slices)]
        masks = torch.cat([one["completion_mask"].any(dim=1) for one in parts])
        assert int(masks.sum()) == 4 * groups
        assert len(masks) == 4 * (groups if slices == 2 else groups + groups % 2)
        tokens = sum(int(one["completion_mask"].sum()) for one in parts)
        assert {int(one["num_items_in_batch"]) for one in parts} == {tokens}
        assert row["sampling/zero_variance_in_loss"] == 0.0
    assert next(seen, None) is None and kept & {1, 3}


def test_metrics_are_of_all_that_was_generated(train, half, monkeypatch):
    judged: list[torch.Tensor] = []
    judge = RLVRTrainer._calculate_rewards

    def record(self, *args):
        rewards = judge(self, *args)
        if self._selected is None:
            judged.append(rewards)
        return rewards

    monkeypatch.setattr(RLVRTrainer, "_calculate_rewards", record)
    rewards = [{"name": "math", "wrong": -1.0}]
    trainer = {"num_generations": 4, "max_steps": 1}
    run_dir = train(algorithm="dapo", trainer=trainer, words=[half], rewards=rewards)
    (row,) = rows(run_dir)
    every = torch.cat(judged)
    assert len(judged) == row["sampling/rounds"] > 1
    assert len(every) == 4 * row["sampling/generated_groups"]
    assert row["reward"] == row["rewards/math/mean"] == pytest.approx(every.mean().item())
    assert row["rewards/math/correct"] == pytest.approx((every > 0).float().mean().item())
    groups = every.view(-1, 4)
    useful = groups[groups.amax(dim=1) > groups.amin(dim=1)][:4]
    assert row["reward_kept"] == pytest.approx(useful.mean().item())
    assert row["reward_kept"] != pytest.approx(row["reward"])
    rollouts = read_jsonl(run_dir / "rollouts.jsonl")
    assert [one["rewards"]["math"] for one in rollouts] == useful.flatten().tolist()[:8]


GRPO = {"algorithm": {"name": "grpo", "dynamic_sampling": True}}
FREED = {"mask": SAFE, "optimizer": {"free_gradients": True}}
EMPTY = [
    pytest.param({"mask": SAFE}, id="mask"),
    pytest.param({"trainer": {"gradient_accumulation_steps": 2}}, id="accumulated"),
    pytest.param({}, id="no mask", marks=pytest.mark.slow),
    pytest.param(FREED, id="freed gradients", marks=pytest.mark.slow),
    pytest.param(GRPO, id="grpo with a KL term", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("sections", EMPTY)
def test_a_batch_without_a_useful_group_changes_nothing(train, tmp_path, sections):
    """One useful step fills the moments; then momentum and weight decay would move weights."""
    word = problems(tmp_path, [True] * 4 + [False] * 60)
    trainer = {
        "shuffle_dataset": False,
        "weight_decay": 0.1,
        "max_steps": 4,
        "save_steps": 1,
        "per_device_train_batch_size": 16,
        "num_generations": 4,
        **sections.get("trainer", {}),
    }
    steps = trainer.get("gradient_accumulation_steps", 1)
    trainer["per_device_train_batch_size"] //= steps
    algorithm = {"name": "dapo", **sections.get("algorithm", {}), "max_rounds": 1}
    others = {k: v for k, v in sections.items() if k not in ("trainer", "algorithm")}
    run_dir = train(words=[word], trainer=trainer, algorithm=algorithm, **others)
    assert [row["sampling/empty_steps"] for row in rows(run_dir)] == [0, 1, 2, 3]
    assert [row["grad_norm"] > 0 for row in rows(run_dir)] == [True, False, False, False]
    first, *_, last = checkpoints(run_dir)
    assert same(first, last)
    states = [torch.load(folder / "optimizer.pt")["state"] for folder in (first, last)]
    for name, state in states[0].items():
        assert all(torch.equal(value, states[1][name][key]) for key, value in state.items())
    assert {row["rewards"]["math"] for row in read_jsonl(run_dir / "rollouts.jsonl")[-8:]} == {0.0}


def test_a_run_without_useful_groups_ends_and_says_why(write_recipe, tmp_path, capsys):
    word = problems(tmp_path, [False] * 64)
    path = write_recipe(algorithm=DAPO, trainer={"max_steps": 50, "max_completion_length": 4})
    assert train_main([str(path), word]) != 0
    message = capsys.readouterr().err
    assert f"in {MAX_EMPTY} generations in a row" in message and "4 rounds" in message
    assert "algorithm.max_rounds" in message
    assert len(rows(tmp_path / "recipe")) == MAX_EMPTY - 1


RESUMED = [
    pytest.param({}, id="a step a generation"),
    pytest.param(
        {
            "gradient_accumulation_steps": 2,
            "per_device_train_batch_size": 4,
            "steps_per_generation": 4,
            "num_iterations": 2,
        },
        id="iterations and slices",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize("trainer", RESUMED)
def test_a_stopped_run_goes_on_in_the_same_bits(train, write_recipe, tmp_path, trainer):
    trainer = {"num_generations": 4, "max_steps": 4, "save_steps": 2, **trainer}
    # 14 prompts: the stream passes over them more than once
    word = problems(tmp_path, [number % 3 > 0 for number in range(14)])
    sections = {"mask": SAFE, "algorithm": {"name": "dapo", "max_rounds": 2}}
    whole = train("whole", trainer=trainer, words=[word], **sections)
    stopped = train("stopped", trainer={**trainer, "max_steps": 2}, words=[word], **sections)
    path = write_recipe("stopped", trainer=trainer, **sections)
    assert train_main([str(path), word, "--resume"]) == 0
    assert same(checkpoints(whole)[-1], checkpoints(stopped)[-1])
    assert read_jsonl(whole / "rollouts.jsonl") == read_jsonl(stopped / "rollouts.jsonl")
    assert rows(whole) == rows(stopped)
    assert any(row.get("sampling/rounds", 0) > 1 for row in rows(whole))


LAUNCHED = [pytest.param(name, marks=pytest.mark.slow) for name in ("ddp", "fsdp2", "zero3")]


@pytest.mark.parametrize("engine", LAUNCHED)
def test_two_processes_share_groups_and_rounds(write_recipe, tmp_path, engine):
    """6 completions each of groups of 4: the second group of three lies on both processes."""
    word = problems(tmp_path, [number > 7 and number % 2 > 0 for number in range(64)])
    trainer = {
        "per_device_train_batch_size": 6,
        "num_generations": 4,
        "max_steps": 5,
        "save_steps": 1,
        "shuffle_dataset": False,
    }
    path = write_recipe(
        algorithm={"name": "dapo", "max_rounds": 2}, trainer=trainer, plugins=["fsdp_on_cpu"]
    )
    train_with(engine, path, word)
    run_dir = tmp_path / "recipe"
    found = rows(run_dir)
    assert len(found) == 5 and {row["sampling/zero_variance_in_loss"] for row in found} == {0.0}
    assert found[0]["sampling/empty_steps"] == 1.0 and found[0]["grad_norm"] == 0.0
    kept = [row["sampling/kept_groups"] for row in found]
    assert kept[0] == 0 and max(kept) == 3
    first, *_, last = checkpoints(run_dir)
    base = load_file(POLICY / "model.safetensors")
    moved = [
        any(not torch.equal(base[name].float(), weight) for name, weight in weights(folder).items())
        for folder in (first, last)
    ]
    assert moved == [False, True]
