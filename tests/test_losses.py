"""The loss under each algorithm word, against the formula of its paper in float64."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvr.config import load_recipe
from rlvr.training.batches import Selected
from rlvr.training.plan import check_recipe
from rlvr.training.session import build_trainer

GROUP, LENGTH = 4, 6
REWARDS = [1.0, -1.0, -1.0, 1.0, -1.0, -1.0, -1.0, 1.0]  # two groups


def batch() -> dict[str, Tensor]:
    """Return two groups with log-probs of the policy, the sampling policy and the base policy."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([6, 3, 5, 1, 4, 6, 2, 5])
    new = -2 * torch.rand(8, LENGTH, generator=generator, dtype=torch.float64)
    old = new + 0.4 * torch.randn(8, LENGTH, generator=generator, dtype=torch.float64)
    base = new + 0.3 * torch.randn(8, LENGTH, generator=generator, dtype=torch.float64)
    old[0, 0] = new[0, 0] - 2.0  # a ratio above the cap of CISPO
    mask = (torch.arange(LENGTH) < lengths[:, None]).to(torch.float64)
    return {"new": new, "old": old, "base": base, "mask": mask}


def advantages(rewards: Tensor, *, scaled: bool) -> Tensor:
    """Return (R - mean) / std of each group; TRL adds 1e-4 to the sample standard deviation."""
    groups = rewards.view(-1, GROUP)
    centred = groups - groups.mean(dim=1, keepdim=True)
    if scaled:
        centred = centred / (groups.std(dim=1, keepdim=True) + 1e-4)
    return centred.flatten()[:, None]


def surrogate(ratio: Tensor, gain: Tensor, low: float, high: float) -> Tensor:
    return torch.minimum(ratio * gain, ratio.clamp(1 - low, 1 + high) * gain)


def paper_loss(word: str, new: Tensor, old: Tensor, base: Tensor, mask: Tensor) -> Tensor:
    """Return minus the objective of the paper, over the completions of ``new``."""
    rewards = torch.tensor(REWARDS, dtype=torch.float64)[: len(new)]
    gain = advantages(rewards, scaled=word != "dr_grpo")
    ratio, lengths = (new - old).exp(), mask.sum(dim=1)
    if word == "grpo":  # eq. 3, 4
        kl = (base - new).exp() - (base - new) - 1
        tokens = surrogate(ratio, gain, 0.2, 0.2) - 0.04 * kl
        return -((tokens * mask).sum(dim=1) / lengths).mean()
    if word == "dapo":  # eq. 8
        return -(surrogate(ratio, gain, 0.2, 0.28) * mask).sum() / mask.sum()
    if word == "dr_grpo":  # section 3.2: a constant in place of the length
        return -(surrogate(ratio, gain, 0.2, 0.2) * mask).sum() / (len(new) * LENGTH)
    if word == "gspo":  # eq. 5, 7
        ratio = (((new - old) * mask).sum(dim=1, keepdim=True) / lengths[:, None]).exp()
        return -surrogate(ratio, gain, 3e-4, 4e-4).mean()
    assert word == "cispo"  # eq. 4, 5
    return -(ratio.clamp(max=5.0).detach() * gain * new * mask).sum() / mask.sum()


@pytest.fixture
def trainer_of(write_recipe, tmp_path):
    def build(word: str) -> Any:
        settings = {
            "per_device_train_batch_size": 8,
            "num_generations": GROUP,
            "max_completion_length": LENGTH,
        }
        path = write_recipe(word, algorithm=word, trainer=settings)
        trainer: Any = build_trainer(check_recipe(load_recipe(path)), tmp_path / word)
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        return trainer

    return build


def trl_loss(trainer: Any, given: dict[str, Tensor], leaf: Tensor, **extra: Tensor) -> Tensor:
    """Return the trainer's loss where the model's log-probs are ``leaf``."""
    rewards = torch.tensor(REWARDS)
    scaled = trainer.scale_rewards == "group"
    count = len(leaf)
    inputs = {
        "prompt_ids": torch.zeros(count, 1, dtype=torch.long),
        "prompt_mask": torch.ones(count, 1, dtype=torch.long),
        "completion_ids": torch.zeros(count, LENGTH, dtype=torch.long),
        "completion_mask": given["mask"].long(),
        "advantages": advantages(rewards.double(), scaled=scaled).flatten(),
        "old_per_token_logps": given["old"],
        "ref_per_token_logps": given["base"],
        "num_items_in_batch": given["mask"].sum(),
        **extra,
    }
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (leaf, leaf.detach(), None)
    return trainer._compute_loss(trainer.model, inputs)


@pytest.mark.parametrize("word", ["grpo", "dapo", "dr_grpo", "gspo", "cispo"])
def test_loss_and_gradient_are_the_papers(trainer_of, word):
    trainer, given = trainer_of(word), batch()
    ours, theirs = (given["new"].clone().requires_grad_() for _ in range(2))
    found = trl_loss(trainer, given, ours)
    expected = paper_loss(word, theirs, given["old"], given["base"], given["mask"])
    (ours_grad,) = torch.autograd.grad(found, ours)
    (theirs_grad,) = torch.autograd.grad(expected, theirs)
    assert math.isclose(found.item(), expected.item(), rel_tol=1e-9)
    assert torch.allclose(ours_grad, theirs_grad, rtol=1e-9, atol=1e-12)
    assert ours_grad.abs().sum() > 0
    ratio = (given["new"] - given["old"]).exp()
    assert ratio.min() < 0.8 and ratio.max() > 5  # both sides are clipped somewhere


@pytest.mark.parametrize("word", ["grpo", "dapo", "dr_grpo", "gspo", "cispo"])
def test_filler_is_in_no_divisor(trainer_of, word):
    """The second group only fills up: the loss is that of the first one alone."""
    trainer, given = trainer_of(word), batch()
    ours, theirs = given["new"].clone().requires_grad_(), given["new"][:4].clone().requires_grad_()
    output: dict[str, Any] = {"completion_mask": given["mask"].long()}
    trainer._mask(output, Selected([None] * 8, torch.zeros(8, 1), kept=4))  # pyright: ignore
    masked = {**given, "mask": output["completion_mask"].double()}
    extra = {key: output[key] for key in ("num_items_in_batch", "kept_share")}
    found = trl_loss(trainer, masked, ours, **extra)
    half = {key: value[:4] for key, value in given.items() if key != "new"}
    expected = paper_loss(word, theirs, half["old"], half["base"], half["mask"])
    (ours_grad,) = torch.autograd.grad(found, ours)
    (theirs_grad,) = torch.autograd.grad(expected, theirs)
    assert math.isclose(found.item(), expected.item(), rel_tol=1e-6)  # kept_share is float32
    assert torch.allclose(ours_grad[:4], theirs_grad, rtol=1e-6, atol=1e-12)
    assert (ours_grad[4:] == 0).all()


@pytest.mark.parametrize("word", ["dapo", "dr_grpo"])
def test_advantages_are_divided_by_the_deviation_of_the_group_or_not(trainer_of, word):
    trainer = trainer_of(word)
    trainer.max_rounds = 0
    rows = [trainer.train_dataset[index // GROUP] for index in range(8)]
    trainer._calculate_rewards = lambda *_: torch.tensor(REWARDS)[:, None]
    output = trainer._generate_and_score_completions(rows)
    expected = advantages(torch.tensor(REWARDS).double(), scaled=word == "dapo").flatten()
    assert torch.allclose(output["advantages"].double(), expected, rtol=1e-5)
