"""The KL of one optimizer step, and the bound of ratio clipping beside it."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import VARIED

from rlvr.checkpoints.reader import read_weights
from rlvr.checkpoints.runs import step_folder
from rlvr.files import read_jsonl
from rlvr.training.step_kl import clip_bound, step_sums

KEYS = ("kl_step", "kl_step_completion", "kl_step_bound", "kl_step_outside")


def test_estimate_is_the_kl_where_every_completion_is_drawn():
    """Two positions of a vocabulary of three, all nine completions weighted by their chance."""
    generator = torch.Generator().manual_seed(0)
    old = torch.randn(2, 3, generator=generator, dtype=torch.float64).log_softmax(-1)
    new = (old + 0.1 * torch.randn(2, 3, generator=generator)).log_softmax(-1)
    found = 0.0
    for pair in itertools.product(range(3), repeat=2):
        before, after = (x[[0, 1], list(pair)][None] for x in (old, new))
        kl = step_sums(before, after, torch.ones(1, 2), 0.2, 0.28)[0].item()
        found += math.exp(before.sum()) * kl
    exact = (new.exp() * (new - old)).sum().item()
    assert found == pytest.approx(exact, rel=1e-12)


def test_bound_holds_for_every_ratio_inside_the_range():
    """Brute force over the ratios of completions of two tokens that clipping allows."""
    low, high = 0.2, 0.28
    ratios = torch.linspace(1 - low, 1 + high, 201, dtype=torch.float64).log()
    first, second = (x.reshape(-1) for x in torch.meshgrid(ratios, ratios, indexing="ij"))
    changes = torch.stack([first, second], 1)
    bound = clip_bound(2.0, low, high)
    assert changes.sum(1).abs().max().item() == pytest.approx(bound, rel=1e-12)  # and is attained
    sums = [step_sums(torch.zeros(1, 2), c[None], torch.ones(1, 2), low + 1e-9, high + 1e-9)
            for c in changes[::97]]  # fmt: skip
    assert all(s[0] <= bound and s[3] == 0 for s in sums)
    assert clip_bound(10.0, 0.1, 0.4) == pytest.approx(10 * math.log(1.4))
    assert clip_bound(10.0, 1.0, 0.4) == math.inf


def test_padding_counts_for_nothing_and_leaving_the_range_is_counted():
    before = torch.zeros(3, 3)
    after = torch.tensor([[0.3, 0.0, 99.0], [-0.3, 0.1, 0.1], [99.0, 99.0, 99.0]])
    kept = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0]])
    kl, tokens, completions, outside = step_sums(before, after, kept, 0.2, 0.28).tolist()
    changes = [0.3, 0.0, -0.3, 0.1, 0.1]
    assert kl == pytest.approx(sum(math.exp(c) * c - math.exp(c) + 1 for c in changes), rel=1e-6)
    assert (tokens, completions, outside) == (5, 2, 2)


def test_a_small_step_is_half_its_squared_change():
    change = torch.full((1, 4), 1e-5, dtype=torch.float64)
    kl = step_sums(torch.zeros(1, 4), change, torch.ones(1, 4), 0.2, 0.2)[0].item()
    assert kl == pytest.approx(4 * 0.5e-10, rel=1e-4)


def test_logged_every_few_steps_and_changes_no_bit(train: Callable[..., Path]):
    steps = {"max_steps": 3, "save_steps": 3, "epsilon_high": 0.28}
    run = train("measured", rewards=VARIED, run={"kl_every": 2}, trainer=steps)
    rows = {row["step"]: row for row in read_jsonl(run / "metrics.jsonl")}
    assert [step for step, row in rows.items() if KEYS[0] in row] == [1, 3]
    for step in (1, 3):
        kl, completion, bound, outside = (rows[step][key] for key in KEYS)
        length = rows[step]["completions/mean_length"]
        assert 0 < kl and completion == pytest.approx(kl * length, rel=1e-5)
        assert bound == pytest.approx(length * math.log(1.28), rel=1e-5)
        assert 0 <= outside <= 1
    plain = train("plain", rewards=VARIED, run={"kl_every": 0}, trainer=steps)
    assert not any(key in row for row in read_jsonl(plain / "metrics.jsonl") for key in KEYS)
    weights = dict(read_weights(step_folder(plain, 3)))
    for name, weight in read_weights(step_folder(run, 3)):
        assert torch.equal(weight, weights[name]), name


def test_a_step_of_several_batches_is_measured_whole(train: Callable[..., Path]):
    """The KL of the first step is that of its 16 completions, in one batch or in two."""
    trainer = {"max_steps": 1, "learning_rate": 1e-4}
    whole = train("whole", rewards=VARIED, trainer=trainer)
    parts = train(
        "parts",
        rewards=VARIED,
        trainer={
            **trainer,
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 2,
        },
    )
    first, second = (read_jsonl(run / "metrics.jsonl")[0] for run in (whole, parts))
    assert first["kl_step"] == pytest.approx(second["kl_step"], rel=1e-3)
    assert first["kl_step_bound"] == pytest.approx(second["kl_step_bound"], rel=1e-6)


def test_a_step_that_moves_far_leaves_the_range(train: Callable[..., Path]):
    run = train("far", rewards=VARIED, trainer={"max_steps": 1, "learning_rate": 0.05})
    row = read_jsonl(run / "metrics.jsonl")[0]
    assert row["kl_step_outside"] > 0.1
    assert row["kl_step_completion"] > row["kl_step_bound"]
