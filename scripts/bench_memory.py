"""Measure what masks cost in memory: the build of a 1.5B shape, and training against the plan.

    python scripts/bench_memory.py mask     # seconds and peak resident memory of `rlvr mask build`
    python scripts/bench_memory.py states   # a step of a few tokens: masks of 5 % against LoRA r=32
    python scripts/bench_memory.py peaks    # steps of real lengths against what --check predicts

Weights are random and of the true shapes, vocabulary included. Each arm runs in a process of its
own: the peak resident memory over a few steps of TRL's loss, less what was resident before the
model was made. The processes give freed blocks of 128 KiB and more back at once; what glibc would
keep instead depends on the order of the allocations and varies by a tenth from run to run.
"""

import argparse
import dataclasses
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)
from transformers.initialization import no_init_weights
from trl.trainer.utils import add_fused_lm_head

from rlvr.base_weights import BaseWeights
from rlvr.costs.memory import Setting, one_process
from rlvr.costs.shapes import PUBLISHED, adapter, dense, masked
from rlvr.masks import Mask
from rlvr.optim import MaskedAdamW
from rlvr.targets import linear_weights

MASK_SHAPE = Qwen2Config(
    hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
    num_key_value_heads=2, vocab_size=256, tie_word_embeddings=True,
)  # fmt: skip
KINDS = {
    "Qwen2": Qwen2Config,
    "Qwen3": Qwen3Config,
    "Llama": LlamaConfig,
    "Gemma": Gemma3TextConfig,
}
ARMS = ("dense", "mask", "freed", "stochastic", "lora")
DENSITY, LORA_RANK = 0.05, 32
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
        write_checkpoint(Path(folder), MASK_SHAPE)
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


@dataclass(frozen=True)
class Case:
    """One measurement: an arm of a published shape, on ``rows`` sequences of ``length`` tokens."""

    shape: str
    arm: str
    dtype: str = "bfloat16"
    rows: int = 1
    length: int = 8
    checkpointing: bool = True
    autocast: bool = False
    steps: int = 2

    def setting(self) -> Setting:
        """Return what the plan computes this case's memory from."""
        shape = PUBLISHED[self.shape]
        if self.arm == "lora":
            trained = adapter(shape, LORA_RANK)
        else:
            trained = dense(shape) if self.arm == "dense" else masked(shape, DENSITY)
        return Setting(
            shape,
            trained,
            width=2 if self.dtype == "bfloat16" else 4,
            rows=self.rows,
            length=self.length,
            completion=self.length,
            bf16=self.autocast or self.dtype == "bfloat16",
            checkpointing=self.checkpointing,
            masters=self.arm != "stochastic",
            free_gradients=self.arm in ("freed", "stochastic"),
            on_gpu=False,
        )


def make_policy(case: Case) -> PreTrainedModel:
    shape = PUBLISHED[case.shape]
    config = next(kind for name, kind in KINDS.items() if case.shape.startswith(name))(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab,
        tie_word_embeddings=shape.tied,
    )
    with no_init_weights():  # which take longer than the steps
        policy = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, case.dtype))
    policy.tie_weights()
    noise = 0.02 * torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))
    for parameter in policy.parameters():
        for part in parameter.data.view(-1).split(noise.numel()):
            part.copy_(noise[: part.numel()])
    assert sum(p.numel() for p in policy.parameters()) == shape.parameters
    add_fused_lm_head(policy, outputs=("log_probs", "entropy"))
    return policy


def arm_of(case: Case, policy: PreTrainedModel) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return what is trained, and its optimizer."""
    if case.arm == "lora":
        import peft

        config = peft.LoraConfig(r=LORA_RANK, target_modules="all-linear", task_type="CAUSAL_LM")
        adapted: Any = peft.get_peft_model(policy, config)
        trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
        return adapted, torch.optim.AdamW(trained, lr=1e-4)
    parameters, targets = dict(policy.named_parameters()), linear_weights(policy)
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in targets)
    chosen = [(name, parameters[name]) for name in targets]
    if case.arm == "dense":
        return policy, torch.optim.AdamW([p for _, p in chosen], lr=1e-4)
    # Each entry by chance: exact counts would take longer than the steps, and as much memory.
    mask = Mask.from_bools({name: torch.rand(weight.shape) < DENSITY for name, weight in chosen})
    update = "stochastic" if case.arm == "stochastic" else "master"
    free = case.arm in ("freed", "stochastic")
    return policy, MaskedAdamW(chosen, mask, lr=1e-4, bf16_update=update, free_gradients=free)


def forget_peak() -> None:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def warm_up(case: Case) -> None:
    """Take a small step, so that the libraries' own pages and buffers are there before."""
    layer = nn.Linear(1024, 1024, dtype=getattr(torch, case.dtype))
    rows = torch.randn(256, 1024, dtype=layer.weight.dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=case.autocast):
        heads = layer(rows).view(1, 4, 256, 256)
        attended = nn.functional.scaled_dot_product_attention(heads, heads, heads)
        nn.functional.silu(attended).float().exp().log_softmax(-1).mean().backward()
    torch.optim.AdamW(layer.parameters()).step()


def measure_one(case: Case) -> None:
    """Take the steps in this process and print the peak in bytes, base values included."""
    if case.arm == "lora":
        import peft  # noqa: F401  (its modules are no part of the model)
    warm_up(case)
    gc.collect()
    before = resident("VmRSS")
    policy = make_policy(case)
    if case.checkpointing:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
        policy.enable_input_require_grads()
    policy.train()
    trained, optimizer = arm_of(case, policy)
    base = BaseWeights(trained, getattr(optimizer, "mask", None))
    forget_peak()
    tokens = torch.randint(PUBLISHED[case.shape].vocab, (case.rows, case.length))
    attended = torch.ones_like(tokens)
    attended[:, 0] = 0  # as in a padded batch: sdpa gets a mask
    for _ in range(case.steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=case.autocast):
            output = trained(
                input_ids=tokens, attention_mask=attended, labels=tokens, fused_lm_head=True
            )
        output.log_probs.mean().neg().backward()
        del output
        clip = getattr(optimizer, "clip_grad_norm_", nn.utils.clip_grad_norm_)
        clip(trained.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    peak = resident("VmHWM") - before
    assert base.count_moved() > 0
    print(peak)


def measured(case: Case) -> int:
    """Return the bytes that ``measure_one`` prints in a process of its own."""
    command = [sys.executable, __file__, "one", json.dumps(dataclasses.asdict(case))]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(128 << 10), "OMP_NUM_THREADS": "2"}
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return int(result.stdout.split()[-1])


def compare(case: Case) -> float:
    """Print a case beside what the plan says, and return what was measured."""
    peak, predicted = measured(case), one_process(case.setting()).peak
    kind = "autocast" if case.autocast else case.dtype
    kept = "checkpointing" if case.checkpointing else "everything kept"
    print(
        f"{case.shape:<14} {case.arm:<11} {kind:<9} {case.rows} x {case.length:<5} {kept:<16} "
        f"{peak / 2**20:7,.0f} MiB, predicted {predicted / 2**20:7,.0f} ({predicted / peak:.3f})",
        flush=True,
    )
    return peak


def measure_states(options: argparse.Namespace) -> None:
    for shape in options.shapes or ("Qwen2.5-0.5B", "Qwen2.5-1.5B"):
        # The states are made while the gradients are there: the first step holds the most.
        peaks = {arm: compare(Case(shape, arm, steps=1)) for arm in ("freed", "stochastic", "lora")}
        for arm in ("freed", "stochastic"):
            ratio = peaks[arm] / peaks["lora"]
            print(f"{shape}: mask of {DENSITY:.0%}, {arm} / LoRA r={LORA_RANK}: {ratio:.3f}")


def measure_peaks(options: argparse.Namespace) -> None:
    for shape in options.shapes or ("Gemma-3-270M", "Qwen2.5-0.5B", "Qwen3-0.6B"):
        # float32: most CPUs are slow in bfloat16.
        for case in (
            Case(shape, "mask", "float32", length=256, checkpointing=False),
            Case(shape, "freed", "float32", rows=2, length=256),
            Case(shape, "dense", "float32", length=64),
            Case(shape, "lora", "float32", length=256, checkpointing=False),
            Case(shape, "lora", length=64, checkpointing=False),
            Case(shape, "mask", "float32", length=128, autocast=True),
        ):
            compare(case)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["mask", "states", "peaks", "one"])
    parser.add_argument("case", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--shapes", nargs="+", choices=PUBLISHED, help="default: those of the docs")
    parser.add_argument("--dir", default=None, help="where 2.6 GB are written for `mask`")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if options.what == "one":
        measure_one(Case(**json.loads(options.case)))
        return
    verbs = {"mask": measure_mask, "states": measure_states, "peaks": measure_peaks}
    verbs[options.what](options)


if __name__ == "__main__":
    main()
