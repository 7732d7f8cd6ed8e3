"""A base that is no whole policy is one line before anything is trained; a whole one trains."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlvr.train import main as train_main

POLICY = Path(__file__).parent.parent / "recipes" / "pocket" / "policy"
WEIGHTS = load_file(POLICY / "model.safetensors")
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


def write(base: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})


def shard(base: Path) -> None:
    places = {}
    for index in range(2):
        part = {name: WEIGHTS[name] for name in sorted(WEIGHTS)[index::2]}
        save_file(part, base / f"model-{index}.safetensors", metadata={"format": "pt"})
        places |= dict.fromkeys(part, f"model-{index}.safetensors")
    (base / "model.safetensors").unlink()
    text = json.dumps({"metadata": {}, "weight_map": places})
    (base / "model.safetensors.index.json").write_text(text)


def configure(base: Path, **changes: object) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, **changes}))


def fewer_blocks(base: Path) -> None:
    configure(base, num_hidden_layers=3, layer_types=["full_attention"] * 3)


def more_blocks(base: Path) -> None:
    configure(base, num_hidden_layers=5, layer_types=["full_attention"] * 5)


def fewer_embeddings(base: Path) -> None:
    write(base, {n: w[:20].clone() if len(w) == 26 else w for n, w in WEIGHTS.items()})
    configure(base, vocab_size=20)


def wrap(prefix: str) -> Callable[[Path], None]:
    return lambda base: write(base, {prefix + name: weight for name, weight in WEIGHTS.items()})


def drop(*parts: str) -> Callable[[Path], None]:
    kept = {name: w for name, w in WEIGHTS.items() if not any(part in name for part in parts)}
    return lambda base: write(base, kept)


def put(name: str, content: bytes) -> Callable[[Path], None]:
    def change(base: Path) -> None:
        (base / name).write_bytes(content)

    return change


def cut(name: str) -> Callable[[Path], None]:
    def change(base: Path) -> None:
        content = (base / name).read_bytes()
        (base / name).write_bytes(content[: len(content) // 2])

    return change


def remove(*patterns: str) -> Callable[[Path], None]:
    def change(base: Path) -> None:
        for path in [path for pattern in patterns for path in base.glob(pattern)]:
            path.unlink()

    return change


def cut_bin(base: Path) -> None:
    (base / "model.safetensors").unlink()
    torch.save(WEIGHTS, base / "pytorch_model.bin")
    cut("pytorch_model.bin")(base)


def lose_shard(base: Path) -> None:
    shard(base)
    (base / "model-1.safetensors").unlink()


def misplace(base: Path) -> None:
    """Let the index name a tensor in the shard that does not hold it."""
    shard(base)
    part = load_file(base / "model-0.safetensors")
    del part[sorted(part)[0]]
    save_file(part, base / "model-0.safetensors", metadata={"format": "pt"})


def spoil_index(base: Path) -> None:
    shard(base)
    (base / "model.safetensors.index.json").write_text('{"weight_map": 3}')


def spoil_header(base: Path) -> None:
    content = bytearray((base / "model.safetensors").read_bytes())
    content[8:40] = b"x" * 32
    (base / "model.safetensors").write_bytes(content)


def add_token(special: bool) -> Callable[[Path], None]:
    def change(base: Path) -> None:
        from transformers import AddedToken, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(base)
        tokenizer.add_tokens([AddedToken("<extra>", special=special)])
        tokenizer.chat_template = "<extra>" + tokenizer.chat_template if special else ""
        tokenizer.save_pretrained(base)

    return change


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
BROKEN = {
    "truncated weights": (cut("model.safetensors"), ["model.safetensors", "cut short"]),
    "truncated torch weights": (cut_bin, ["pytorch_model.bin", "cut short"]),
    "a Git LFS pointer": (put("model.safetensors", POINTER), ["Git LFS pointer", "git lfs pull"]),
    "an empty file": (put("model.safetensors", b""), ["model.safetensors", "empty (0 bytes)"]),
    "a wrong header": (spoil_header, ["model.safetensors", "damaged"]),
    "no weights": (remove("*.safetensors"), ["holds no weights"]),
    "a missing shard": (lose_shard, ["model-1.safetensors is missing"]),
    "a shard without its tensor": (misplace, ["index.json names", "does not hold it"]),
    "an index that is none": (spoil_index, ["index.json", "no index of weights"]),
    "a missing tensor": (drop(Q_PROJ), ["lack", Q_PROJ, "random"]),
    "a missing kind": (drop("norm.weight"), ["lack", "layernorm.weight", "random"]),
    "no embedding": (drop("embed_tokens"), ["lack 'model.embed_tokens", "random"]),
    "DDP's names": (wrap("module."), ["hold 'module.model.", "save_pretrained"]),
    "compile's names": (wrap("_orig_mod."), ["hold '_orig_mod.model.", "save_pretrained"]),
    "PEFT's names": (wrap("base_model.model."), ["hold 'base_model.model.", "save_pretrained"]),
    "two wrappers' names": (wrap("module._orig_mod."), ["'module._orig_mod.", "save_pretrained"]),
    "names of nothing known": (wrap("policy_net."), ["lack", "random"]),
    "another width": (
        lambda base: configure(base, intermediate_size=256),
        ["shape [128, 512]", "[128, 256]", "config.json"],
    ),
    "a smaller vocabulary": (
        lambda base: configure(base, vocab_size=20),
        ["embed_tokens", "shape [26, 128]", "[20, 128]"],
    ),
    "a smaller vocabulary all through": (fewer_embeddings, ["tokenizer", "the id 20", "0 to 19"]),
    "fewer blocks": (fewer_blocks, ["model.layers.3.", "no part of the model"]),
    "more blocks": (more_blocks, ["lack 'model.layers.4."]),
    "a config that is no JSON": (put("config.json", b"{"), ["config.json", "is no JSON"]),
    "a config that is a list": (put("config.json", b"[]"), ["config.json", "a list"]),
    "an empty config": (put("config.json", b""), ["config.json", "is no JSON"]),
    "a binary config": (put("config.json", b"\xff\xfe\x00"), ["config.json", "is no JSON"]),
    "an unknown model": (
        lambda base: configure(base, model_type="no_such_model"),
        ["config.json", "no_such_model"],
    ),
    "no language model": (
        put("config.json", b'{"model_type": "vit"}'),
        ["config.json", "no language model"],
    ),
    "heads that do not fit": (
        lambda base: configure(base, num_attention_heads="four"),
        ["config.json", "num_attention_heads"],
    ),
    "no config": (remove("config.json"), ["holds no config.json"]),
    "no tokenizer": (remove("tokenizer*", "*.jinja"), ["holds no tokenizer"]),
    "a tokenizer that is no JSON": (put("tokenizer.json", b"{"), ["tokenizer", "save_pretrained"]),
    "a token more": (add_token(special=False), ["'<extra>' the id 26", "0 to 25"]),
    "a template's token more": (add_token(special=True), ["'<extra>' the id 26", "0 to 25"]),
}


@pytest.mark.parametrize(("spoil", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_base_is_one_line_at_the_check(spoil, words, base, write_recipe, capsys):
    spoil(base)
    assert refused(write_recipe(model={"path": str(base)}), capsys, words)


def refused(recipe: Path, capsys: pytest.CaptureFixture, words: list[str]) -> bool:
    assert train_main([str(recipe), "--check"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    for word in words:
        assert word in error, error
    return True


def as_run(base: Path, run: Path, *parts: str) -> Path:
    """Make a run directory, with its policy, and return one of its folders."""
    (run / "checkpoints" / "step-000003").mkdir(parents=True)
    (run / "recipe.json").write_text("{}")
    shutil.copytree(base, run / "policy")
    return run.joinpath(*parts)


def adapter_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    save_file({"lora_A": torch.ones(2)}, folder / "adapter_model.safetensors")
    return folder


def test_what_stands_beside_a_policy_says_what_to_name(base, tmp_path, write_recipe, capsys):
    run = as_run(base, tmp_path / "run")
    step = run / "checkpoints" / "step-000003"
    adapter_folder(step / "lora"), (step / "adapter").mkdir()
    sparse = run / "checkpoints" / "step-000006"
    sparse.mkdir()
    delta = bytes(8) + b'{"__metadata__":{"sha256":"'
    (sparse / "policy.delta").write_bytes(delta)
    (tmp_path / "alone.delta").write_bytes(delta)
    alone = adapter_folder(tmp_path / "adapter")
    shutil.copy(POLICY / "config.json", alone)
    policy = f"name the policy of its run, {run / 'policy'}"
    places = {
        run: ["is a run directory", policy],
        step: ["is an adapter without its base", policy],
        step / "lora": ["is an adapter without its base", policy],
        sparse: ["is a delta", policy],
        sparse / "policy.delta": ["is a delta", policy],
        tmp_path / "alone.delta": ["is a delta", "rlvr delta apply BASE DELTA OUT"],
        alone: ["is an adapter without its base", "merge_and_unload"],
        base / "model.safetensors": ["is a file", "name the folder"],
        tmp_path / "nowhere": ["does not exist"],
    }
    for place, words in places.items():
        assert refused(write_recipe(model={"path": str(place)}), capsys, words)
    shutil.rmtree(run / "policy")
    (run / "policy.delta").write_bytes(delta)
    words = ["is a run directory", f"`rlvr delta apply BASE {run / 'policy.delta'} OUT`"]
    assert refused(write_recipe(model={"path": str(run)}), capsys, words)
    (run / "policy.delta").unlink()
    words = ["is a run directory", "which the run writes at its end"]
    assert refused(write_recipe(model={"path": str(run)}), capsys, words)
