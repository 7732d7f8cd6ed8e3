"""``rlvr rotate``: the rotated checkpoint, and the gaps of its logits."""

import json
import os
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from rlvr import runtime
from rlvr.checkpoints.companions import companions
from rlvr.checkpoints.folders import INDEX, SAFETENSORS, model_folder
from rlvr.checkpoints.names import canonical
from rlvr.checkpoints.plain import open_plain
from rlvr.config import ModelSection
from rlvr.files import write_json
from rlvr.policy import load_policy
from rlvr.rotation import attention_layers, heads_of, permute, random_order, random_rotation, rotate
from rlvr.schema import RecipeError, RunError

MAX_GAP = 1e-10  # of logits in float64, relative to the largest
_LENGTH, _PROMPTS = 32, 4
_DTYPES = ("float64", "float32", "bfloat16", "float16")


def run(options: Namespace) -> int:
    """Rotate, check, write and return the exit code."""
    runtime.prepare_environment()
    words = {"--layers": list(options.layers), "--permute": list(options.permute)}
    out = options.out
    for chosen in words.values():
        # A list of numbers before OUT takes OUT with it.
        if out is None and chosen and not _is_numbers(chosen[-1]):
            out = chosen.pop()
    if out is None:
        raise RecipeError("rotate: OUT is missing; write rlvr rotate MODEL OUT --layers 1 2")
    layers, permuted = (_numbers(flag, chosen) for flag, chosen in words.items())
    # None means all blocks, so only two empty lists mean nothing.
    if layers == [] == permuted:
        raise RecipeError("rotate: nothing to do; name blocks with --layers or --permute")
    gaps = intervene(options.model, Path(out), layers, permuted, options.seed, options.dtype)
    runtime.say(
        f"{out}: logits in float64 differ by {gaps['float64']:.1e} (relative), after rounding to "
        f"the stored dtypes by {gaps['stored']:.1e}"
    )
    return 0


def _is_numbers(word: str) -> bool:
    return all(part.isdigit() for part in word.split(",")) or word == "all"


def _numbers(flag: str, words: Sequence[str]) -> list[int] | None:
    if list(words) == ["all"]:
        return None
    for word in words:
        if not _is_numbers(word) or word == "all":
            raise RecipeError(f"{flag}: {word!r} is no block index; write for example {flag} 1 2")
    return sorted({int(part) for word in words for part in word.split(",")})


def intervene(
    source: str,
    out: Path,
    layers: list[int] | None,
    permuted: list[int] | None,
    seed: int,
    dtype: str | None,
) -> dict[str, float]:
    """Write the rotated policy to ``out`` and return the relative gaps of its logits.

    ``layers`` and ``permuted`` are block indices, ``None`` for all.

    Raises:
        RecipeError: ``out`` exists, a block does not, or its attention is of another kind.
        RunError: the float64 logits moved by more than ``MAX_GAP``; nothing is written.
    """
    if out.exists():
        raise RecipeError(f"{out}: exists; choose another name")
    section = _section(source)
    model = _float64_policy(section)
    tokens = _tokens(model.config.vocab_size)
    before = _logits(model, tokens)
    changed = _change(model, layers, permuted, seed)
    gap = _gap(before, _logits(model, tokens))
    if not gap <= MAX_GAP:
        raise RunError(
            f"the logits moved by {gap:.1e} (relative, in float64), above {MAX_GAP:.0e}; this "
            "architecture has something that rotate does not know, and nothing was written"
        )
    weights = {name: model.get_parameter(name).detach() for name in changed}
    del model
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        _write(model_folder(source), temporary, weights, dtype)
        written = _float64_policy(_section(str(temporary.resolve())))
        gaps = {"float64": gap, "stored": _gap(before, _logits(written, tokens))}
        done = {"source": source, "rotated": layers, "permuted": permuted, "seed": seed}
        write_json(temporary / "rotation.json", {**done, "relative_logit_gap": gaps})
        temporary.chmod(0o755)
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return gaps


def _section(source: str) -> ModelSection:
    # Eager attention computes its softmax in float32.
    wide: Any = "float64"
    return ModelSection(source, dtype=wide, attn_implementation="sdpa")


def _float64_policy(section: ModelSection) -> PreTrainedModel:
    model = load_policy(section)
    # The grouped product of stacked experts knows no float64; a loop over them does.
    model.set_experts_implementation("eager")
    return model


def _tokens(vocabulary: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocabulary, (_PROMPTS, _LENGTH), generator=generator)


@torch.no_grad()
def _logits(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    with _norms_in_float64(model):
        return model.eval()(input_ids=tokens.to(model.device)).logits.double().cpu()


@contextmanager
def _norms_in_float64(model: Any) -> Iterator[None]:
    """Replace norms that compute in float32 whatever their input: their steps are 1e-7 wide."""
    norms = [module for module in model.modules() if type(module).__name__.endswith("RMSNorm")]
    unknown = next((m for m in norms if not hasattr(m, "variance_epsilon")), None)
    if unknown is not None:
        raise RecipeError(
            f"rotate: {type(unknown).__name__} is a norm of a kind that it does not know; it knows "
            "those of Qwen, Llama and Mixtral"
        )
    for module in norms:
        module.forward = partial(_norm, module.weight, module.variance_epsilon)
    try:
        yield
    finally:
        for module in norms:
            # The instance attribute hid the method of the class.
            del module.forward


def _norm(weight: Tensor, epsilon: float, hidden: Tensor) -> Tensor:
    # As RMSNorm of Qwen and Llama, in the dtype of its input.
    return weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + epsilon)


def _gap(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max() / first.abs().max())


def _change(
    model: PreTrainedModel, layers: list[int] | None, permuted: list[int] | None, seed: int
) -> list[str]:
    """Rotate and permute in place; return the names of the parameters that may have changed."""
    attention = attention_layers(model)
    everywhere = sorted(attention)
    layers = everywhere if layers is None else layers
    permuted = everywhere if permuted is None else permuted
    for layer in (*layers, *permuted):
        if layer not in attention:
            there = f"0 to {everywhere[-1]}" if everywhere else "none that rotate knows"
            raise RecipeError(f"block {layer} is not in the model; there are: {there}")
    modules = {id(module): name for name, module in model.named_modules()}
    names = []
    for layer in sorted({*layers, *permuted}):
        module = attention[layer]
        where = modules[id(module)]
        heads = heads_of(module, model.config, where)
        # One stream a block, so that --layers 3 rotates block 3 as --layers 1 2 3 does.
        generator = torch.Generator().manual_seed(seed * 100_003 + layer)
        if layer in layers:
            rotate(module, heads, random_rotation(heads.dimension, generator))
        if layer in permuted:
            permute(module, heads, random_order(heads, generator))
        names += [f"{where}.{name}" for name, _ in module.named_parameters()]
    return names


def _write(source: Path, out: Path, weights: dict[str, Tensor], dtype: str | None) -> None:
    """Write a checkpoint with ``weights`` in place of the source's; the rest keeps its bits."""
    stored = open_plain(source)
    names = {canonical(name): name for name in stored}
    values = {names[canonical(name)]: weight for name, weight in weights.items()}
    files: dict[str, dict[str, Tensor]] = {}
    for name, entry in stored.items():
        # A .bin checkpoint is written as one safetensors file.
        safe = entry.where.endswith(".safetensors")
        original = entry.load()
        kind = original.dtype if dtype is None else getattr(torch, dtype)
        tensor = values.get(name, original).to(kind).contiguous()
        files.setdefault(entry.where if safe else SAFETENSORS, {})[name] = tensor
    for file, tensors in files.items():
        save_file(tensors, out / file, metadata={"format": "pt"})
    copied = companions(source)
    if len(files) > 1:
        # Names and shards are those of the source, so its index still holds.
        copied[INDEX] = source / INDEX
    for name, path in copied.items():
        (out / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, out / name)
    if dtype is not None:
        config = json.loads((out / "config.json").read_text(encoding="utf-8"))
        # transformers before version 5 named it so; two keys would contradict each other.
        config.pop("torch_dtype", None)
        write_json(out / "config.json", {**config, "dtype": dtype})
