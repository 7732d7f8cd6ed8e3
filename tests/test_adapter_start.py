"""The start of an adapter: checked, drawn once, and stored for a resume."""

import copy
import json
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from test_adapters import LOW_RANK, attach

from rlvr.adapters.spec import build_method
from rlvr.registry import adapter as registry
from rlvr.schema import RecipeError, RunError


@pytest.mark.parametrize(
    ("dtype", "options", "words"),
    [
        ("float32", {"r": 8, "init_lora_weights": "pissa"}, "writes to the base weights"),
        ("bfloat16", {"r": 8, "init_lora_weights": "pissa"}, "away from the base policy"),
        ("float32", {"r": 8, "init_lora_weights": False}, "away from the base policy"),
    ],
)
def test_a_start_that_is_not_the_base_is_refused(dtype, options, words):
    spec = {"builder": "peft", "method": "LoraConfig", "options": options}
    with pytest.raises(RecipeError, match=words):
        attach(spec, dtype)


def test_an_adapter_that_trains_nothing_is_refused(tmp_path, monkeypatch):
    plugin = (
        "import dataclasses\n"
        "from rlvr.adapters.methods import Method, lora\n"
        "from rlvr.registry import adapter\n"
        "@adapter\n"
        "def frozen_lora(*, rank: int) -> Method:\n"
        "    return dataclasses.replace(lora(rank=rank), trains=())\n"
    )
    (tmp_path / "frozen_plugin.py").write_text(plugin)
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("frozen_plugin")
    try:
        with pytest.raises(RecipeError, match="trains nothing"):
            attach({"builder": "frozen_lora", "rank": 4})
    finally:
        del registry.functions["frozen_lora"], sys.modules["frozen_plugin"]


@pytest.mark.parametrize("builder", LOW_RANK)
def test_a_start_is_the_same_whatever_was_drawn_before(builder):
    spec = {"builder": builder, "rank": 4}
    first = attach(spec, layer="layers.2.", seed=3).start["initial"]
    torch.manual_seed(17)
    assert attach(spec, layer="layers.2.", seed=3).start["initial"] == first
    if build_method(spec).factors.__class__.__name__ == "partial":
        assert attach(spec, layer="layers.2.", seed=4).start["initial"] != first


def test_stored_factors_are_used_again_and_damaged_ones_are_made_anew(tmp_path, capsys):
    spec, options = {"builder": "pissa", "rank": 4}, {"run_dir": tmp_path, "base_hash": "x"}
    first = attach(spec, **options).start
    path = tmp_path / "initial_adapter.safetensors"
    written = path.stat().st_mtime_ns
    assert attach(spec, **options).start == first and path.stat().st_mtime_ns == written
    with pytest.raises(RunError, match="base_weights"):
        attach(spec, run_dir=tmp_path, base_hash="y")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert json.loads(metadata["sha256"]) == first["initial"]
    changed = copy.deepcopy(tensors)
    next(iter(changed.values()))[0, 0] += 1e-3
    capsys.readouterr()
    for damage in (
        lambda: save_file(changed, path, metadata=metadata),
        lambda: path.write_bytes(path.read_bytes()[:100]),
    ):
        damage()
        assert attach(spec, **options).start == first
        assert f"{path}: damaged" in capsys.readouterr().out


def test_the_report_tells_the_initialisations_apart():
    reports = {
        name: attach({"builder": name, "rank": 8}).start["matrices"]
        for name in ("lora", "pissa", "milora", "geora", "mica")
    }
    rows = {name: report["up_proj"] for name, report in reports.items()}
    assert rows["pissa"]["overlap"] == pytest.approx(1.0, abs=1e-4)
    assert rows["milora"]["overlap"] == pytest.approx(0.0, abs=1e-4)
    assert rows["mica"]["overlap"] == pytest.approx(0.0, abs=1e-4)
    assert rows["geora"]["overlap"] < 0.1 and rows["lora"]["overlap"] is None
    assert rows["pissa"]["share"] > rows["geora"]["share"] > rows["milora"]["share"] > 0
    assert rows["lora"]["share"] == rows["mica"]["share"] == 0
    assert rows["mica"]["trainable"] < rows["lora"]["trainable"] == 4 * 8 * (128 + 512)
