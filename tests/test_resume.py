"""A run goes on from a checkpoint of any step, inside a generation or in a later epoch."""

import pytest
import torch
from safetensors.torch import load_file
from trl.trainer.utils import RepeatSampler

from rlvr.checkpoints.runs import checkpoints
from rlvr.files import read_jsonl
from rlvr.train import main as train_main
from rlvr.training.generations import EpochOrder

SAFE = {"builder": "safe", "rank": 8, "principal_density": 0.5, "low_density": 0.5}
SLICED = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
FOUR_STEPS = {**SLICED, "steps_per_generation": 4, "num_iterations": 2}
GENERATIONS = [
    pytest.param({"num_iterations": 2}, id="iterations", marks=pytest.mark.slow),
    pytest.param({**SLICED, "steps_per_generation": 4}, id="slices", marks=pytest.mark.slow),
    pytest.param({**FOUR_STEPS, "beta": 0.1}, id="iterations, slices and a KL term"),
    pytest.param({**FOUR_STEPS, "logging_steps": 2}, id="rare logs", marks=pytest.mark.slow),
    pytest.param({**SLICED, "steps_per_generation": 6}, id="a generation that ends within a step"),
    pytest.param({"data": 4}, id="two steps an epoch"),
]


def weights(run_dir) -> dict[str, torch.Tensor]:
    return load_file(checkpoints(run_dir)[-1] / "model.safetensors")


def rows(run_dir) -> list[dict]:
    """Return the metrics of each step, without times and what is measured at every start anew."""
    left_out = ("seconds", "time", "moved")
    return [
        {key: value for key, value in row.items() if not any(word in key for word in left_out)}
        for row in read_jsonl(run_dir / "metrics.jsonl")
    ]


@pytest.mark.parametrize("trainer", GENERATIONS)
def test_a_run_stopped_at_any_step_goes_on_in_the_same_bits(train, write_recipe, trainer):
    trainer = {"weight_decay": 0.1, "max_steps": 6, "save_steps": 3, **trainer}
    sections = {"mask": SAFE, "data": {"size": trainer.pop("data", 64)}}
    whole = train("whole", trainer=trainer, **sections)
    stopped = train("stopped", trainer={**trainer, "max_steps": 3}, **sections)
    path = write_recipe("stopped", trainer=trainer, **sections)
    assert train_main([str(path), "--resume", "trainer.max_steps=5"]) == 0
    assert train_main([str(path), "--resume"]) == 0
    first, second = weights(whole), weights(stopped)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert read_jsonl(whole / "rollouts.jsonl") == read_jsonl(stopped / "rollouts.jsonl")
    if trainer.get("logging_steps", 1) == 1:
        assert [row["step"] for row in rows(whole)] == [1, 2, 3, 4, 5, 6]
    for row, expected in zip(rows(stopped), rows(whole), strict=True):
        assert row == expected


def test_the_prompts_of_any_epoch_are_those_that_trl_would_draw():
    def sampler() -> RepeatSampler:
        return RepeatSampler(range(7), mini_repeat_count=2, batch_size=3, repeat_count=2, seed=5)

    one = sampler()
    epochs = [list(one) for _ in range(4)]
    assert epochs[0] != epochs[1]
    for number in (2, 0, 3):
        order = EpochOrder(sampler(), 5, lambda number=number: number)
        assert list(order) == list(order) == epochs[number] and len(order) == len(epochs[number])


def test_resuming_a_finished_run_takes_no_step(train, write_recipe):
    run_dir = train(mask=SAFE, trainer={"max_steps": 1})
    (run_dir / "summary.json").unlink()
    before = weights(run_dir)
    assert train_main([str(write_recipe(mask=SAFE, trainer={"max_steps": 1})), "--resume"]) == 0
    assert [path.name for path in checkpoints(run_dir)] == ["step-000001"]
    assert all(torch.equal(before[name], weight) for name, weight in weights(run_dir).items())
    assert (run_dir / "summary.json").is_file()
