"""Measure what masks cost: the build of a 1.5B shape, and training memory against LoRA.

    python scripts/bench_memory.py mask      # seconds and peak resident memory of `rlvr mask build`
    python scripts/bench_memory.py states    # weights + gradients + optimizer state of a 0.3B shape

Weights are random and bfloat16. The mask is the safe one of rank 64 at default settings, of every
linear layer of Qwen2.5-1.5B's blocks. The states are those of a 5 % mask with freed gradients and
of PEFT's LoRA of rank 32 under ``torch.optim.AdamW``, each in a process of its own: the peak
resident memory over three steps of a few tokens, less what was resident before the model was made.
Both processes give freed blocks of 128 KiB and more back at once; what glibc would keep instead
depends on the order of the allocations and varies by a tenth from run to run.
"""

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM, Qwen2Config

from rlvr.masks import build_mask, parse_spec
from rlvr.optim import MaskedAdamW
from rlvr.targets import linear_weights

SHAPES = {
    "1.5B": Qwen2Config(
        hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
        num_key_value_heads=2, vocab_size=256, tie_word_embeddings=True,
    ),
    "0.3B": Qwen2Config(
        hidden_size=1024, intermediate_size=2816, num_hidden_layers=24, num_attention_heads=16,
        num_key_value_heads=16, vocab_size=1024, tie_word_embeddings=True,
    ),
}  # fmt: skip
DENSITY, LORA_RANK, STEPS, TOKENS = 0.05, 32, 3, 8
MASK = "--builder safe rank=64 principal_density=0.5 low_density=0.5".split()


def write_checkpoint(folder: Path, config: Qwen2Config) -> None:
    """Write random weights of a shape, a file per layer, so that memory holds one at a time."""
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {
            n: p.shape for n, p in AutoModelForCausalLM.from_config(config).named_parameters()
        }
    files: dict[str, dict[str, torch.Size]] = {}
    for name, shape in shapes.items():
        part = name.split(".")[2] if ".layers." in name else "rest"
        files.setdefault(f"model-{part}.safetensors", {})[name] = shape
    torch.manual_seed(0)
    for file, part in files.items():
        save_file(
            {n: 0.02 * torch.randn(s, dtype=torch.bfloat16) for n, s in part.items()}, folder / file
        )
    places = {name: file for file, part in files.items() for name in part}
    index = json.dumps({"metadata": {}, "weight_map": places})
    (folder / "model.safetensors.index.json").write_text(index)


def measure_mask(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        write_checkpoint(Path(folder), SHAPES["1.5B"])
        command = [sys.executable, "-m", "rlvr.cli", "mask", "build", folder, *MASK]
        start = time.perf_counter()
        subprocess.run([*command, "--out", f"{folder}/mask.safetensors"], check=True)
        seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy, peak = used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20
    print(f"safe mask of the 1.5B shape: {seconds:.0f} s, {busy:.0f} s of CPU, {peak:.2f} GiB")


def resident(field: str) -> int:
    """Return a line of this process's status in bytes: VmRSS is now, VmHWM the most so far."""
    line = next(line for line in open("/proc/self/status") if line.startswith(field))
    return int(line.split()[1]) * 1024


def make_policy() -> nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(SHAPES["0.3B"], dtype=torch.bfloat16)


def masked() -> tuple[nn.Module, MaskedAdamW]:
    policy = make_policy()
    parameters, targets = dict(policy.named_parameters()), linear_weights(policy)
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in targets)
    spec = parse_spec({"builder": "random", "density": DENSITY})
    mask = build_mask(spec, ((name, parameters[name].detach()) for name in targets))
    trained = [(name, parameters[name]) for name in targets]
    return policy, MaskedAdamW(trained, mask, lr=1e-4, free_gradients=True)


def lora() -> tuple[nn.Module, torch.optim.Optimizer]:
    import peft

    config = peft.LoraConfig(r=LORA_RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    policy: Any = peft.get_peft_model(make_policy(), config)  # pyright: ignore[reportArgumentType]
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    return policy, torch.optim.AdamW(trained, lr=1e-4)


def measure_one(name: str) -> None:
    """Take the steps in this process and print the peak in bytes."""
    if name == "lora":
        import peft  # noqa: F401  (its modules are no part of the model)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    policy, optimizer = {"masked": masked, "lora": lora}[name]()
    tokens = torch.randint(SHAPES["0.3B"].vocab_size, (1, TOKENS))
    for _ in range(STEPS):
        policy(input_ids=tokens, labels=tokens).loss.backward()
        if isinstance(optimizer, MaskedAdamW):
            optimizer.clip_grad_norm_(policy.parameters(), 1.0)
        else:
            nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    print(resident("VmHWM") - before)


def measure_states(options: argparse.Namespace) -> None:
    peaks = {}
    for name in ("masked", "lora"):
        command = [sys.executable, __file__, "one", name]
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(128 << 10)}
        result = subprocess.run(
            command, check=True, capture_output=True, text=True, env=environment
        )
        peaks[name] = int(result.stdout.split()[-1])
        print(f"{name:<8} {peaks[name] / 2**20:7.0f} MiB")
    ratio = peaks["masked"] / peaks["lora"]
    print(f"mask of {DENSITY:.0%}, freed gradients / LoRA r={LORA_RANK}: {ratio:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["mask", "states", "one"])
    parser.add_argument("name", nargs="?", choices=["masked", "lora"], help=argparse.SUPPRESS)
    parser.add_argument("--dir", default=None, help="where 2.6 GB are written for `mask`")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if options.what == "one":
        measure_one(options.name)
    else:
        {"mask": measure_mask, "states": measure_states}[options.what](options)


if __name__ == "__main__":
    main()
