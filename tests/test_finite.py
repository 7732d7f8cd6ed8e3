"""A number that is not finite stops a run: it names step and tensor, and no checkpoint holds it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import POLICY, VARIED
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from rlvr.checkpoints.reader import read_weights
from rlvr.config import load_recipe
from rlvr.schema import RunError
from rlvr.train import main as train_main
from rlvr.training.plan import check_recipe
from rlvr.training.session import build_trainer

TRAINED = "model.layers.2.mlp.up_proj.weight"
FROZEN = "model.norm.weight"
# Where in the second step a value is written, and the steps that are complete by then.
MOMENTS = {"step_begin": 1, "pre_optimizer_step": 1, "step_end": 2}


class Spoil(TrainerCallback):
    """Writes one value into a weight in the second step, as an overflow or a plugin would."""

    def __init__(self, moment: str, name: str, value: float) -> None:
        self.done, self.name, self.value = MOMENTS[moment], name, value
        setattr(self, f"on_{moment}", self.spoil)

    def spoil(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        if state.global_step == self.done:
            with torch.no_grad():
                dict(model.named_parameters())[self.name].view(-1)[7] = self.value


class SpoilGradient(TrainerCallback):
    """Makes one gradient of the second step infinite."""

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            parameter = dict(model.named_parameters())[TRAINED]
            parameter.register_hook(lambda gradient: gradient + math.inf)


@pytest.fixture(params=["rlvr", "sft"])
def start(request: pytest.FixtureRequest, write_recipe: Any, write_sft: Any) -> Callable[..., Path]:
    """Return a function that writes a recipe which saves each of two steps."""
    steps = {"max_steps": 2, "save_steps": 1}

    def write(**trainer: Any) -> Path:
        if request.param == "sft":
            return write_sft(trainer={**steps, **trainer})
        return write_recipe(trainer={**steps, **trainer}, rewards=VARIED)

    return write


def require_whole(run: Path, step: int) -> None:
    """Assert that the run left the checkpoint of ``step`` only, all of it finite, and no policy."""
    saved = [path.name for path in (run / "checkpoints").iterdir() if path.is_dir()]
    assert saved == [f"step-{step:06d}"]
    weights = read_weights(run / "checkpoints" / saved[0])
    assert all(bool(weight.isfinite().all()) for _, weight in weights)
    assert not (run / "policy").exists() and not (run / "summary.json").exists()


@pytest.mark.parametrize(
    ("moment", "name", "value"),
    [
        ("step_begin", TRAINED, math.nan),
        ("step_begin", FROZEN, math.nan),
        ("pre_optimizer_step", TRAINED, math.inf),
        ("step_end", TRAINED, math.nan),
        ("step_end", FROZEN, math.nan),
    ],
)
def test_a_weight_that_is_not_finite_stops_the_step(start, tmp_path, moment, name, value):
    run = tmp_path / "recipe"
    trainer = build_trainer(check_recipe(load_recipe(start(), [])), run)
    trainer.add_callback(Spoil(moment, name, value))
    with pytest.raises(RunError, match="step 2") as caught:
        trainer.train()
    assert name in str(caught.value) and "\n" not in str(caught.value)
    require_whole(run, 1)


def test_a_gradient_that_is_not_finite_stops_the_step(start, tmp_path):
    run = tmp_path / "recipe"
    trainer = build_trainer(check_recipe(load_recipe(start(), [])), run)
    trainer.add_callback(SpoilGradient())
    with pytest.raises(RunError, match=r"step 2: the gradient norm is (inf|nan)") as caught:
        trainer.train()
    assert TRAINED in str(caught.value)
    require_whole(run, 1)


def test_a_learning_rate_that_blows_the_weights_up_stops_the_run(start, tmp_path, capsys):
    """The weights stay finite, and what the next step computes with them does not."""
    assert train_main([str(start(learning_rate=1e30))]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: step 2: ") and "learning_rate" in error
    require_whole(tmp_path / "recipe", 1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [TRAINED, FROZEN, "model.embed_tokens.weight"])
def test_a_base_that_is_not_finite_is_refused(write_recipe, tmp_path, capsys, name, value):
    base = tmp_path / "base"
    base.mkdir()
    for path in POLICY.iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    weights = load_file(POLICY / "model.safetensors")
    weights[name].view(-1)[7] = value
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    assert train_main([str(write_recipe(model={"path": str(base)}))]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: model.path: ") and f"1 of {weights[name].numel():,}" in error
    assert name in error
