"""Fixtures: the pocket policy, trained for a few steps in this process, and checkpoint folders."""

import importlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

# Read when huggingface_hub is imported: tests fill a cache of their own and never ask the hub.
os.environ["HF_HUB_CACHE"] = tempfile.mkdtemp(prefix="hub")
os.environ["HF_HUB_OFFLINE"] = "1"

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, which rlvr.policy does

import pytest
import yaml
from safetensors.torch import save_file
from torch import Tensor

from rlvr import policy as rlvr_policy
from rlvr import registry
from rlvr.registry import import_plugins
from rlvr.schema import RecipeError
from rlvr.train import main as train_main

ROOT = Path(__file__).parent.parent
POLICY = ROOT / "recipes" / "pocket" / "policy"

SMALL = {
    "model": {"path": str(POLICY)},
    "data": {"name": "pocket", "split": "train", "size": 64},
    "rewards": [{"name": "math"}],
    "trainer": {
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch",
        "per_device_train_batch_size": 16,
        "num_generations": 8,
        "max_completion_length": 32,
        "max_steps": 3,
        "bf16": False,
        "gradient_checkpointing": False,
        "seed": 1,
    },
    "run": {"kl_every": 1, "deterministic": True},
}

# With the length beside the answer nearly every group of completions has some variance. The answers
# alone leave a group of 8 without a gradient in 6 % of draws, and every processor draws its own.
VARIED = [{"name": "math"}, {"name": "overlong", "max_length": 32, "buffer": 24}]

# One group of short completions: bf16 arithmetic is slow on most CPUs. Lengths differ where no
# answer is right, so every group has a gradient.
SHORT = {"per_device_train_batch_size": 8, "max_completion_length": 16}
SHORT_REWARDS = [{"name": "math"}, {"name": "overlong", "max_length": 16, "buffer": 14}]

# What a plugin of the tests starts with.
HEAD = "import numpy as np, torch\nfrom rlvr.registry import *\nfrom rlvr.rewards import Verdict\n"
LINES = HEAD.count("\n")
BODY = LINES + 3  # the line of the body of its function, below a decorator and a signature
REGISTRIES = (registry.mask_builder, registry.reward, registry.adapter, registry.dataset)


def moved_entries(
    base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> tuple[list[str], int]:
    """Return the tensors that moved outside their mask, and how many entries moved inside."""
    leaking, moved = [], 0
    for name, weight in tuned.items():
        changed = base[name].float() != weight
        allowed = masks.get(name, torch.zeros_like(changed))
        leaking += [name] if bool((changed & ~allowed).any()) else []
        moved += int((changed & allowed).sum())
    return leaking, moved


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a small recipe with changed sections and returns its path."""

    def write(name: str = "recipe", **sections: dict | None) -> Path:
        content = {
            key: dict(value) if isinstance(value, dict) else value for key, value in SMALL.items()
        }
        content["run"] = {**SMALL["run"], "dir": str(tmp_path / name)}
        for key, value in sections.items():
            old = content.get(key)
            merges = isinstance(old, dict) and isinstance(value, dict)
            content[key] = {**old, **value} if merges else value
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


@pytest.fixture
def write_sft(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a small recipe of algorithm sft, as ``write_recipe`` does."""
    names = ("num_generations", "max_completion_length")
    trainer = {key: value for key, value in SMALL["trainer"].items() if key not in names}

    def write(name: str = "recipe", **sections: dict | None) -> Path:
        changes = {key: sections.pop(key, None) or {} for key in ("data", "trainer", "run")}
        content = {
            "algorithm": "sft",
            "model": SMALL["model"],
            "data": changes["data"] or {**SMALL["data"], "solutions": "expert"},
            "trainer": {**trainer, "per_device_train_batch_size": 8, **changes["trainer"]},
            "run": {**SMALL["run"], "dir": str(tmp_path / name), **changes["run"]},
            **sections,
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


@pytest.fixture
def train(write_recipe: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Return a function that trains a small recipe to the end and returns its run directory."""

    def run(name: str = "recipe", words: Sequence[str] = (), **sections: dict | None) -> Path:
        path = write_recipe(name, **sections)
        assert train_main([str(path), *words]) == 0
        return tmp_path / name

    return run


@pytest.fixture
def save_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes tensors as a checkpoint folder, sharded as the hub's are."""

    def save(name: str, tensors: Mapping[str, Tensor], shards: int = 1, **files: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file, text in {"config.json": "{}", **files}.items():
            (folder / file).write_text(text)
        if shards == 1:
            save_file(dict(tensors), folder / "model.safetensors")
            return folder
        places = {}
        for shard in range(shards):
            part = {key: tensors[key] for key in list(tensors)[shard::shards]}
            file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
            save_file(part, folder / file, metadata={"format": "pt"})
            places |= dict.fromkeys(part, file)
        index = {"metadata": {}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return folder

    return save


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Return a copy of the pocket policy, to be broken."""
    return Path(shutil.copytree(POLICY, tmp_path / "base"))


@pytest.fixture
def no_model_is_loaded(monkeypatch) -> None:
    load = rlvr_policy.AutoModelForCausalLM.from_pretrained

    def refuse(*args, **kwargs):
        assert kwargs.get("device_map") == "meta", "weights were loaded"
        return load(*args, **kwargs)

    monkeypatch.setattr(rlvr_policy.AutoModelForCausalLM, "from_pretrained", refuse)


@pytest.fixture
def plugin(tmp_path, monkeypatch) -> Iterator[Callable[..., None]]:
    """Return a function that writes a module of one's own and imports it as a plugin."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two texts may come in one second
    before = [(dict(kind.functions), dict(kind.checks)) for kind in REGISTRIES]

    def forget() -> None:
        sys.modules.pop("my_code", None)
        for kind, (functions, checks) in zip(REGISTRIES, before, strict=True):
            kind.functions, kind.checks = dict(functions), dict(checks)

    def write(text: str, head: str = HEAD) -> None:
        forget()
        (tmp_path / "my_code.py").write_text(head + text)
        importlib.invalidate_caches()
        import_plugins(["my_code"])

    yield write
    forget()


def message_of(error: pytest.ExceptionInfo[RecipeError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text
