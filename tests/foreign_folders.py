"""Checkpoints as other tools leave them: the same two weights, or what cannot be measured.

``READ`` maps a kind to a function that writes weights in it; ``REFUSED`` to one that writes a
folder, and to words that its one line of refusal holds. ``write(path, weights)`` may return the
path to name in place of ``path``.
"""

import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import Tensor

Weights = dict[str, Tensor]
Q = "model.layers.0.self_attn.q_proj.weight"


def save(path: Path, weights: Weights, config: dict | None = None) -> None:
    save_file({n: w.clone().contiguous() for n, w in weights.items()}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config or {}))


def renamed(start: str) -> Callable[[Path, Weights], None]:
    return lambda path, weights: save(path, {start + n: w for n, w in weights.items()})


def replaced(old: str, new: str) -> Callable[[Path, Weights], None]:
    return lambda path, weights: save(path, {n.replace(old, new): w for n, w in weights.items()})


def sharded(end: str) -> Callable[[Path, Weights], None]:
    def write(path: Path, weights: Weights) -> None:
        places = {}
        for number, (name, weight) in enumerate(weights.items()):
            file = f"{end.split('.')[0]}-{number + 1:05}-of-{len(weights):05}.{end.split('.')[1]}"
            places[name] = file
            part = {name: weight.clone()}
            (save_file if end.endswith("safetensors") else torch.save)(part, path / file)
        (path / f"{end}.index.json").write_text(json.dumps({"weight_map": places}))

    return write


def torch_file(name: str, *keys: str) -> Callable[[Path, Weights], None]:
    def write(path: Path, weights: Weights) -> None:
        content: dict = {n: w.clone() for n, w in weights.items()}
        for key in reversed(keys):
            content = {key: content, "step": 3}
        torch.save(content, path / name)

    return write


def beside(name: str, content: bytes | Weights) -> Callable[[Path, Weights], None]:
    def write(path: Path, weights: Weights) -> None:
        save(path, weights)
        if isinstance(content, bytes):
            (path / name).write_bytes(content)
        else:
            torch.save(content, path / name)

    return write


def distributed(prefix: str) -> Callable[[Path, Weights], None]:
    def write(path: Path, weights: Weights) -> None:
        state = {prefix + n: w for n, w in weights.items()}
        state |= {f"optimizer.state.{n}.exp_avg": w for n, w in weights.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.save(state, checkpoint_id=path, no_dist=True)

    return write


def one_file(path: Path, weights: Weights) -> Path:
    save(path, weights)
    return path / "model.safetensors"


def linked(path: Path, weights: Weights) -> Path:
    blobs, snapshot = path / "blobs", path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    save(blobs, weights)
    for name in ("model.safetensors", "config.json"):
        (snapshot / name).symlink_to(os.path.relpath(blobs / name, snapshot))
    return snapshot


def strange_name(path: Path, weights: Weights) -> Path:
    folder = path / "Modell mit Leerzeichen, é & 'x' <b>"
    folder.mkdir()
    save(folder, weights)
    return folder


def extra_tensors(path: Path, weights: Weights) -> None:
    buffers = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.layers.0.self_attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.uint8),
        "model.layers.0.scale": torch.tensor(2.0),
        "model.norm.weight": torch.ones(8),
        "model.none": torch.ones(0, 4),
    }
    save(path, weights | buffers)


def both_formats(path: Path, weights: Weights) -> None:
    save(path, weights)
    torch.save({n: 2 * w for n, w in weights.items()}, path / "pytorch_model.bin")


def read_only(path: Path, weights: Weights) -> None:
    save(path, weights)
    for file in path.iterdir():
        file.chmod(0o444)
    path.chmod(0o555)


def old_zipless_torch(path: Path, weights: Weights) -> None:
    file = path / "pytorch_model.bin"
    torch.save(dict(weights), file, _use_new_zipfile_serialization=False)


def parameters(path: Path, weights: Weights) -> None:
    torch.save({n: torch.nn.Parameter(w) for n, w in weights.items()}, path / "pytorch_model.bin")


def strided(path: Path, weights: Weights) -> None:
    torch.save({n: w.T.contiguous().T for n, w in weights.items()}, path / "pytorch_model.bin")


READ: dict[str, Callable[[Path, Weights], Path | None]] = {
    "safetensors": save,
    "one file": one_file,
    "shards": sharded("model.safetensors"),
    "torch": torch_file("pytorch_model.bin"),
    "torch shards": sharded("pytorch_model.bin"),
    "torch before 1.6": old_zipless_torch,
    "parameters": parameters,
    "strided": strided,
    "pt": torch_file("weights.pt"),
    "pth under model": torch_file("final.pth", "model"),
    "nested": torch_file("last.pt", "model", "state_dict"),
    "lightning": torch_file("last.ckpt", "state_dict"),
    "DeepSpeed's whole module": torch_file("whole.pt", "module"),
    "distributed": distributed(""),
    "torchtitan": distributed("model."),
    "compiled": renamed("_orig_mod."),
    "DDP": renamed("module."),
    "FSDP": renamed("_fsdp_wrapped_module."),
    "activation checkpoints": replaced("self_attn", "_checkpoint_wrapped_module.self_attn"),
    "PEFT's base": renamed("base_model.model."),
    "base layers": replaced(".weight", ".base_layer.weight"),
    "without model": replaced("model.layers", "layers"),
    "vision, new": replaced("model.", "model.language_model."),
    "vision, old": renamed("language_model."),
    "linked": linked,
    "strange name": strange_name,
    "buffers": extra_tensors,
    "both formats": both_formats,
    "read-only": read_only,
    "optimizer beside": beside("optimizer.pt", {"w": torch.ones(3)}),
    "arguments beside": beside("training_args.bin", b"\x80\x04N."),
    "config is no JSON": beside("config.json", b"{oops"),
    "config is a list": beside("config.json", b"[1]"),
}


def bytes_of(name: str, content: bytes) -> Callable[[Path, Weights], None]:
    def write(path: Path, weights: Weights) -> None:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)

    return write


def quantised(config: dict) -> Callable[[Path, Weights], None]:
    return lambda path, weights: save(path, weights, {"quantization_config": config})


def codes(**tensors: Tensor) -> Callable[[Path, Weights], None]:
    def write(path: Path, weights: Weights) -> None:
        stem = Q.removesuffix("weight")
        own = {n: w for n, w in weights.items() if n != Q}
        save(path, own | {stem + name.replace("__", "."): t for name, t in tensors.items()})

    return write


def broken(place: slice, fill: bytes = b"") -> Callable[[Path, Weights], None]:
    def write(path: Path, weights: Weights) -> None:
        save(path, weights)
        content = bytearray((path / "model.safetensors").read_bytes())
        content[place] = fill
        (path / "model.safetensors").write_bytes(content)

    return write


def holding(value: float) -> Callable[[Path, Weights], None]:
    def write(path: Path, weights: Weights) -> None:
        own = {n: w.clone() for n, w in weights.items()}
        own[Q][0, 0] = value
        save(path, own)

    return write


class Payload:
    """Would make a folder when unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("/tmp/unpickled-by-rlvr",)


def pickled(path: Path, weights: Weights) -> None:
    (path / "pytorch_model.bin").write_bytes(pickle.dumps({"w": Payload()}))


def torch_pickled(path: Path, weights: Weights) -> None:
    torch.save({"w": Payload()}, path / "pytorch_model.bin")


def whole_module(path: Path, weights: Weights) -> None:
    torch.save(torch.nn.Linear(4, 4), path / "pytorch_model.bin")


def twice(path: Path, weights: Weights) -> None:
    save_file(weights, path / "a.safetensors")
    save_file(weights, path / "b.safetensors")


def missing_shard(path: Path, weights: Weights) -> None:
    sharded("model.safetensors")(path, weights)
    next(path.glob("*-00001-*")).unlink()


def shard_without_its_tensor(path: Path, weights: Weights) -> None:
    sharded("model.safetensors")(path, weights)
    save_file({"other": torch.ones(2)}, next(path.glob("*-00001-*")))


def numpy_archive(path: Path, weights: Weights) -> None:
    np.savez(path / "weights.npz", w=np.ones(3))


def zipped(path: Path, weights: Weights) -> Path:
    with zipfile.ZipFile(path / "model.zip", "w") as archive:
        archive.writestr("model.safetensors", b"x")
    return path / "model.zip"


def folder_as_file(path: Path, weights: Weights) -> None:
    (path / "model.safetensors").mkdir()


def dangling(path: Path, weights: Weights) -> None:
    (path / "model.safetensors").symlink_to(path / "gone")


def absent(path: Path, weights: Weights) -> Path:
    return path / "nowhere"


def nothing_inside(path: Path, weights: Weights) -> None:
    save(path, {})


def experts_apart(path: Path, weights: Weights) -> None:
    save(path, weights | {"model.layers.0.mlp.experts.0.w1.weight": torch.ones(8, 8)})


def adapter(**config: object) -> Callable[[Path, Weights], None]:
    def write(path: Path, weights: Weights) -> None:
        rows, columns = weights[Q].shape
        stem = "base_model.model." + Q.removesuffix("weight")
        factors = {
            f"{stem}lora_A.weight": torch.ones(2, columns),
            f"{stem}lora_B.weight": torch.ones(rows, 2),
        }
        save_file(factors, path / "adapter_model.safetensors")
        plain = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
        (path / "adapter_config.json").write_text(json.dumps(plain | config))

    return write


def adapter_without_weights(path: Path, weights: Weights) -> None:
    adapter()(path, weights)
    (path / "adapter_model.safetensors").unlink()


REFUSED: dict[str, tuple[Callable[[Path, Weights], Path | None], str]] = {
    "nothing": (lambda path, weights: None, "no weights"),
    "absent": (absent, "does not exist"),
    "GGUF": (bytes_of("model-Q4_K_M.gguf", b"GGUF" + bytes(100)), "GGUF"),
    "verl, FSDP": (bytes_of("actor/model_world_size_2_rank_0.pt", b"x"), "verl.model_merger"),
    "verl, a step": (
        bytes_of("global_step_5/actor/model_world_size_2_rank_0.pt", b"x"),
        "verl.model_merger",
    ),
    "Megatron": (bytes_of("iter_0000100/mp_rank_00/model_optim_rng.pt", b"x"), "Megatron"),
    "DeepSpeed": (
        bytes_of("global_step7/mp_rank_00_model_states.pt", b"x"),
        "zero_to_fp32.py",
    ),
    "GPTQ": (quantised({"quant_method": "gptq", "bits": 4}), "gptq"),
    "AWQ": (quantised({"quant_method": "awq", "bits": 4}), "awq"),
    "MXFP4": (quantised({"quant_method": "mxfp4"}), "mxfp4"),
    "torchao": (quantised({"quant_method": "torchao"}), "torchao"),
    "HQQ": (quantised({"quant_method": "hqq"}), "hqq"),
    "int8 of compressed-tensors": (
        codes(weight=torch.zeros(64, 64, dtype=torch.int8), weight_scale=torch.ones(64, 1)),
        "code",
    ),
    "packed int4 of compressed-tensors": (
        codes(weight_packed=torch.zeros(64, 8, dtype=torch.int32), weight_scale=torch.ones(64, 1)),
        "code",
    ),
    "GPTQ without config": (codes(qweight=torch.zeros(8, 64, dtype=torch.int32)), "GPTQ or AWQ"),
    "EXL2": (codes(q_weight=torch.zeros(8, 64, dtype=torch.int32)), "EXL2"),
    "MLX": (
        codes(
            weight=torch.zeros(64, 8, dtype=torch.uint32),
            scales=torch.ones(64, 1),
            biases=torch.ones(64, 1),
        ),
        "MLX",
    ),
    "bitsandbytes, 4 bits": (
        codes(weight=torch.zeros(2048, 1, dtype=torch.uint8), weight__absmax=torch.ones(64)),
        "bitsandbytes",
    ),
    "bitsandbytes, 8 bits": (
        codes(weight=torch.zeros(64, 64, dtype=torch.int8), SCB=torch.ones(64)),
        "bitsandbytes",
    ),
    "MXFP4 blocks": (
        codes(
            weight_blocks=torch.zeros(64, 2, 16, dtype=torch.uint8), weight_scales=torch.ones(64, 2)
        ),
        "MXFP4",
    ),
    "integers": (codes(weight=torch.zeros(64, 64, dtype=torch.int64)), "no matrix of numbers"),
    "complex": (codes(weight=torch.zeros(64, 64, dtype=torch.complex64)), "no matrix of numbers"),
    "TensorFlow": (bytes_of("tf_model.h5", b"\x89HDF"), "TensorFlow"),
    "Flax": (bytes_of("flax_model.msgpack", b"x"), "Flax"),
    "ONNX": (bytes_of("model.onnx", b"x"), "ONNX"),
    "NeMo": (bytes_of("model.nemo", b"x"), "NeMo"),
    "NumPy": (numpy_archive, "no weights"),
    "zip": (zipped, "another format"),
    "pickle": (pickled, "could run code"),
    "torch pickle": (torch_pickled, "could run code"),
    "whole module": (whole_module, "could run code"),
    "cut short": (broken(slice(-64, None)), "cut short"),
    "header": (broken(slice(0, 8), b"\xff" * 8), "cut short, damaged"),
    "random bytes": (bytes_of("model.safetensors", os.urandom(200)), "damaged"),
    "empty file": (bytes_of("model.safetensors", b""), "0 bytes"),
    "a web page": (bytes_of("model.safetensors", b"<!doctype html>"), "damaged"),
    "Git LFS": (
        bytes_of(
            "model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
        ),
        "git lfs pull",
    ),
    "torch, cut short": (bytes_of("pytorch_model.bin", b"PK\x03\x04" + bytes(90)), "damaged"),
    "index": (bytes_of("model.safetensors.index.json", b'{"weight_map": [1]}'), "no index"),
    "missing shard": (missing_shard, "is missing"),
    "shard of another": (shard_without_its_tensor, "does not hold"),
    "twice": (twice, "is in a.safetensors and in b.safetensors"),
    "a folder in place of a file": (folder_as_file, "is a folder"),
    "dangling link": (dangling, "is a link to a file"),
    "no tensors": (nothing_inside, "no matrix of numbers"),
    "NaN": (holding(float("nan")), "NaN"),
    "infinity": (holding(float("inf")), "infinity"),
    "other names": (renamed("encoder."), "lacks"),
    "other shape": (
        lambda path, weights: save(path, {n: w[:-8] for n, w in weights.items()}),
        "not of one model",
    ),
    "experts apart": (experts_apart, "lacks"),
    "adapter without weights": (adapter_without_weights, "no adapter_model"),
    "IA3": (adapter(peft_type="IA3"), "IA3"),
    "PiSSA": (adapter(init_lora_weights="pissa_niter_4"), "pissa"),
    "QALoRA": (adapter(use_qalora=True), "use_qalora"),
}
