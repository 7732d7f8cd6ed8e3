"""Update sparsity in ``metrics.jsonl`` is that of the weights on disk."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tables

from rlvr.checkpoints.reader import open_checkpoint, read_weights
from rlvr.checkpoints.runs import step_folder
from rlvr.config import resolve_recipe
from rlvr.files import read_jsonl
from rlvr.geometry.sparsity import update_sparsity
from rlvr.training.export import write_policy

POLICY = Path(__file__).parent.parent / "recipes" / "pocket" / "policy"

KEYS = ("geometry/sparsity_from_base", "geometry/sparsity_from_previous")


def sparsity(first: Path, second: Path, names: list[str]) -> float:
    """Return the share of unchanged entries of two checkpoints over the named matrices."""
    before, after = open_checkpoint(first), open_checkpoint(second)
    pairs = [(before[name].load(), after[name].load()) for name in names]
    moved = sum((1 - update_sparsity(a, b)) * a.numel() for a, b in pairs)
    return 1 - moved / sum(a.numel() for a, _ in pairs)


@pytest.mark.parametrize("change", [{}, {"adapter": {"builder": "pissa", "rank": 4}}])
def test_logged_sparsities_are_those_of_the_policies(
    change: dict, train: Callable[..., Path], tmp_path: Path
):
    steps = {"max_steps": 4, "save_steps": 2, "learning_rate": 1e-4}
    run = train("watched", geometry={"every": 2}, trainer=steps, **change)
    rows = {row["step"]: row for row in read_jsonl(run / "metrics.jsonl")}
    assert [step for step, row in rows.items() if KEYS[0] in row] == [2, 4]
    folders = [POLICY]
    for step in (2, 4):
        folders.append(tmp_path / str(step))
        recipe = resolve_recipe(json.loads((run / "recipe.json").read_text()), "")
        write_policy(recipe, run, step_folder(run, step), folders[-1])
    names = [n for n, w in read_weights(POLICY) if w.ndim == 2 and "layers" in n]
    for step, folder, before in zip((2, 4), folders[1:], folders, strict=False):
        assert rows[step][KEYS[0]] == pytest.approx(sparsity(POLICY, folder, names), abs=1e-12)
        assert rows[step][KEYS[1]] == pytest.approx(sparsity(before, folder, names), abs=1e-12)
    assert 0 < rows[4][KEYS[0]] < 1
    assert json.loads((run / "recipe.json").read_text())["geometry"] == {"every": 2}


@pytest.mark.parametrize(
    ("builder", "steps"), [(None, [2, 4]), ("lora", [2, 4]), ("pissa", [2, 4]), ("dora", [4])]
)
def test_the_microscope_sees_the_steps_of_a_run(builder, steps, train: Callable[..., Path]):
    """A checkpoint on the way holds an adapter alone: DoRA's cannot be merged without the run."""
    change = {} if builder is None else {"adapter": {"builder": builder, "rank": 4}}
    often = {"max_steps": 4, "save_steps": 2, "learning_rate": 1e-4}
    run = train("seen", geometry={"every": 2}, trainer=often, **change)
    logged = {row["step"]: row for row in read_jsonl(run / "metrics.jsonl")}
    rows = tables.steps(run)
    assert [row["step"] for row in rows] == steps
    for row in rows:
        expected = logged[row["step"]][KEYS[0]]
        # Merged once more, in another order: float32 differs in a few of its last bits, and one in
        # 2^14 entries lies so near to the middle of two bf16 numbers that it falls to the other.
        assert row["sparsity_bf16"] == pytest.approx(expected, abs=2**-13)


def test_nothing_is_measured_unless_asked(train: Callable[..., Path]):
    rows = read_jsonl(train("plain", trainer={"max_steps": 1}) / "metrics.jsonl")
    assert rows and not any(key in row for row in rows for key in KEYS)
