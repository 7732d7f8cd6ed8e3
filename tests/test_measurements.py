"""What a run measures beside its training: no trace in its bits, no dropout in the reference."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import POLICY, VARIED
from transformers import AutoModelForCausalLM

from rlvr.checkpoints.reader import read_weights
from rlvr.config import load_recipe
from rlvr.eval.gap import ROUNDING, ScoredTokens
from rlvr.files import read_jsonl
from rlvr.schema import RunError
from rlvr.train import main as train_main
from rlvr.training.plan import check_recipe
from rlvr.training.session import build_trainer

LORA: dict[str, Any] = {"builder": "lora", "rank": 4, "dropout": 0.1}
DROPOUT: dict[str, tuple[float, dict[str, Any]]] = {
    "of attention": (0.1, {}),
    "of an adapter": (0.0, {"adapter": LORA}),
    "of both": (0.1, {"adapter": LORA}),
}


@pytest.fixture
def base(tmp_path: Path) -> Callable[[float], Path]:
    """Return a function that copies the pocket policy with dropout of the attention weights."""

    def copy(dropout: float) -> Path:
        folder = tmp_path / f"dropout-{dropout}"
        folder.mkdir(exist_ok=True)
        for path in POLICY.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        config = json.loads((POLICY / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": dropout}))
        return folder

    return copy


@pytest.fixture
def build(write_recipe: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    """Return a function that builds the trainer of a small recipe."""

    def trainer(**sections: Any) -> Any:
        path = write_recipe(**sections)
        return build_trainer(check_recipe(load_recipe(path, [])), tmp_path / "recipe")

    return trainer


@pytest.mark.parametrize("supervised", [False, True], ids=["rlvr", "sft"])
def test_measuring_leaves_no_trace(base, write_recipe, write_sft, tmp_path, supervised):
    dropout, sections = DROPOUT["of both"]
    trained = []
    for every in (0, 1):
        own = {} if supervised else {"rewards": VARIED}
        recipe = (write_sft if supervised else write_recipe)(
            f"every-{every}",
            model={"path": str(base(dropout))},
            trainer={"max_steps": 2},
            run={"kl_every": every},
            **own,
            **sections,
        )
        assert train_main([str(recipe)]) == 0
        trained.append(dict(read_weights(tmp_path / f"every-{every}" / "policy")))
    first, second = trained
    start = dict(read_weights(POLICY))
    assert any(not torch.equal(start[name].float(), first[name].float()) for name in first)
    assert all(torch.equal(second[name], weight) for name, weight in first.items())
    if not supervised:
        gaps = [row.get("start_gap") for row in read_jsonl(tmp_path / "every-1" / "metrics.jsonl")]
        assert gaps[0] <= ROUNDING[torch.float32] and gaps[1:] == [None]


@pytest.mark.parametrize(("dropout", "sections"), DROPOUT.values(), ids=DROPOUT)
def test_log_probs_beside_the_loss_have_no_dropout(base, build, dropout, sections):
    """Those of the reference, and those of the policy that drew the completions."""
    # One generation for two passes over it: TRL keeps the log-probs of its draws.
    settings = {"beta": 0.1, "num_iterations": 2}
    path = base(5 * dropout)
    trainer = build(model={"path": str(path)}, trainer=settings, rewards=VARIED, **sections)
    trainer.model.train()
    rows = [trainer.train_dataset[index // 8] for index in range(16)]
    output = trainer._generate_and_score_completions(rows)

    ids, attention = (
        torch.cat([output[f"prompt_{key}"], output[f"completion_{key}"]], 1)
        for key in ("ids", "mask")
    )
    completed = output["completion_mask"].bool()
    kept = torch.cat([torch.zeros_like(output["prompt_mask"]).bool(), completed], 1)
    plain = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    for key in ("ref_per_token_logps", "old_per_token_logps"):
        gap = ScoredTokens(ids, attention, kept, output[key][completed]).gap_of(plain)
        assert gap.tokens > 50 and gap.mean < ROUNDING[torch.float32], key
    assert trainer.model.training


def test_rollouts_have_no_dropout(base, build):
    trainer = build(model={"path": str(base(0.5))}, adapter={**LORA, "dropout": 0.5})
    trainer.model.train()
    rows = [trainer.train_dataset[index // 8] for index in range(16)]

    def drawn() -> torch.Tensor:
        torch.manual_seed(0)
        return trainer._generate_and_score_completions(rows)["completion_ids"]

    with_dropout = drawn()
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    assert torch.equal(drawn(), with_dropout)


def noise(trainer: Any) -> None:
    """Change all that the run trains, as a plugin might that loads other weights."""
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"mask": {"builder": "random", "density": 0.5}},
        {"adapter": LORA},
        {"trainer": {"beta": 0.1, "max_steps": 1}},
        {"trainer": {"bf16": True, "max_steps": 1}},
        {"algorithm": {"name": "grpo", "dynamic_sampling": True}, "rewards": VARIED},
    ],
    ids=["full", "mask", "adapter", "beta", "autocast", "dynamic sampling"],
)
def test_a_run_that_starts_elsewhere_than_its_base_stops(build, tmp_path, sections):
    trainer = build(**sections)
    noise(trainer)
    with pytest.raises(RunError, match=r"before its first step .* differ by \d") as caught:
        trainer.train()
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "recipe" / "checkpoints").glob("step-*"))
