"""Measure what only a GPU can tell, in calls that each end within eight minutes.

    python scripts/gpu_suite.py kernel   # the fused step: right, and how fast
    python scripts/gpu_suite.py fsdp2    # masks under accelerate in bf16: leak 0
    python scripts/gpu_suite.py train    # step time, its split and peak memory, by arm
    python scripts/gpu_suite.py train --shape Qwen2.5-7B --arms mask5 lora
    python scripts/gpu_suite.py mask     # mask build and geometry of a 1.5B shape
    python scripts/gpu_suite.py vllm     # vLLM colocated, with and without sleep mode

No network, and nothing but this repository and what is installed. Weights are random and of the
true shapes; the tokenizer and the problems are the pocket policy's. Each figure is a row of
launch/MEASURED.md, with hardware and versions. What does not end in time is named, and --arms goes
on with it. ``--toy`` does the same at a toy size, also without a GPU.
"""

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
POCKET = ROOT / "recipes" / "pocket"
MEASURED = ROOT / "launch" / "MEASURED.md"
HEADER = """# Measured

Rows of `python scripts/gpu_suite.py`, newest last.

| date | part | case | figures | hardware | versions |
|---|---|---|---|---|---|
"""
LIMIT_S = 480.0
MASK = {"builder": "random"}
ARMS: dict[str, dict[str, Any]] = {
    "plain": {},  # TRL's own trainer
    "dense": {},
    "mask50": {"mask": {**MASK, "density": 0.5}},
    "mask5": {"mask": {**MASK, "density": 0.05}},
    "mask5-freed": {
        "mask": {**MASK, "density": 0.05},
        "optimizer": {"free_gradients": True},
    },
    "mask1": {"mask": {**MASK, "density": 0.01}},
    "lora": {"adapter": {"builder": "lora", "rank": 32}},
    "pissa": {"adapter": {"builder": "pissa", "rank": 32}},
}
Figures = dict[str, Any]


class Clock:
    """Seconds since the call began, and what is left of its eight minutes."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    @property
    def left(self) -> float:
        return LIMIT_S - (time.monotonic() - self.start)


def hardware() -> tuple[str, str]:
    """Return the device, and the versions that a figure depends on."""
    import torch

    from rlvr import runtime

    device = "CPU"
    if torch.cuda.is_available():
        device = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    known = runtime.versions()
    names = ("torch", "triton", "transformers", "trl", "peft", "accelerate", "vllm")
    return device, ", ".join(f"{name} {known[name]}" for name in names if name in known)


def write_row(file: Path, part: str, case: str, figures: Figures) -> None:
    """Print a row, and append it to the table."""
    text = ", ".join(f"{name} {_shown(value)}" for name, value in figures.items())
    print(f"{part:<8} {case:<28} {text}", flush=True)
    device, versions = hardware()
    if not file.exists():
        file.write_text(HEADER, encoding="utf-8")
    date = datetime.date.today().isoformat()
    with open(file, "a", encoding="utf-8") as table:
        table.write(f"| {date} | {part} | {case} | {text} | {device} | {versions} |\n")


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def kernel(options: argparse.Namespace, clock: Clock) -> Iterator[tuple[str, Figures]]:
    """Compare the fused step with the eager one in each mode, and its time with fused AdamW."""
    import bench_optimizer
    import torch

    from rlvr.optim import fused

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name, (dtype, bf16_update) in bench_optimizer.MODES.items():
        stochastic = bf16_update == "stochastic"
        master = dtype == torch.bfloat16 and not stochastic
        for compact in (False, True):
            gradients = torch.float32 if compact else dtype
            mode = fused.Mode(dtype, gradients, compact, master, stochastic)
            case = f"{name}, {'freed' if compact else 'whole'} gradients"
            yield case, {"agrees": fused.kernel_agrees(device, mode)}
    shapes = [(64, 48)] if options.toy else [(8960, 1536), (1536, 1536)]
    given = argparse.Namespace(
        shapes=shapes * (1 if options.toy else 8),
        device=str(device),
        steps=2 if options.toy else 20,
    )
    for name in bench_optimizer.MODES:
        for density in (0.01, 0.05, 0.5):
            if clock.left < 30:
                raise TimeoutError(f"{name} at {density}")
            cells = bench_optimizer.measure(name, density, given)
            row = dict(zip(bench_optimizer.HEADER, cells, strict=True))
            yield (
                f"{name}, d = {density}",
                {"ms": row["step ms"], "/ fused AdamW": row["/ fused"], "bytes": row["bytes"]},
            )


def fsdp2(options: argparse.Namespace, clock: Clock) -> Iterator[tuple[str, Figures]]:
    """Train the pocket policy through accelerate's FSDP2 in bf16, and read the leak."""
    import torch

    gpus = torch.cuda.device_count()
    for case, words in {
        "float32 weights, bf16 compute": ["trainer.bf16=true"],
        "bf16 weights": ["model.dtype=bfloat16", "trainer.bf16=false"],
    }.items():
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            words = [*words, f"run.dir={run}", "eval=null", "trainer.max_steps=3"]
            words += ["trainer.gradient_accumulation_steps=2", "trainer.learning_rate=1e-3"]
            if options.toy:
                words += ["trainer.per_device_train_batch_size=8"]
            if not gpus:
                words.append("plugins=[fsdp_on_cpu]")
            command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
            command += [str(ROOT / "launch" / "fsdp2.yaml"), "--num_processes", str(gpus or 2)]
            command += ["--main_process_port", "0", "-m", "rlvr.train"]
            run_process([*command, str(POCKET / "mask_random.yaml"), *words], clock)
            provenance = json.loads((run / "provenance.json").read_text())
            rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            leak = max(row["mask_leak"] for row in rows if "mask_leak" in row)
            yield (
                f"{case}, {provenance['processes']} processes",
                {"engine": provenance["engine"], "leak": leak, "moved": rows[-1].get("moved")},
            )


def run_process(command: list[str], clock: Clock) -> str:
    """Run a command in what is left of the time; return what it printed."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=max(1.0, clock.left),
    )
    if result.returncode:
        sys.exit(f"error: {' '.join(command[-4:])} failed:\n{result.stderr[-3000:]}")
    return result.stdout


def write_checkpoint(folder: Path, shape: str, *, toy: bool) -> Path:
    """Write random bf16 weights of a shape, with the pocket policy's tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config
    from transformers.initialization import no_init_weights

    from rlvr.costs.shapes import PUBLISHED

    sizes = PUBLISHED[shape]
    config = Qwen2Config(
        hidden_size=64 if toy else sizes.hidden,
        intermediate_size=128 if toy else sizes.intermediate,
        num_hidden_layers=2 if toy else sizes.layers,
        num_attention_heads=4 if toy else sizes.heads,
        num_key_value_heads=2 if toy else sizes.kv_heads,
        vocab_size=256 if toy else sizes.vocab,
        tie_word_embeddings=sizes.tied,
    )
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.tie_weights()
    torch.manual_seed(0)
    noise = 0.02 * torch.randn(1 << 20)
    for parameter in model.parameters():
        for part in parameter.data.view(-1).split(noise.numel()):
            part.copy_(noise.roll(7)[: part.numel()] if parameter.ndim > 1 else 1.0)
    model.save_pretrained(folder)
    for file in (POCKET / "policy").iterdir():
        if not (folder / file.name).exists() and file.suffix != ".safetensors":
            shutil.copy(file, folder / file.name)
    return folder


def train(options: argparse.Namespace, clock: Clock) -> Iterator[tuple[str, Figures]]:
    """Train each arm for some steps in a process of its own."""
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        model = write_checkpoint(Path(folder) / "model", options.shape, toy=options.toy)
        for arm in options.arms or ARMS:
            if clock.left < (20 if options.toy else 90):
                raise TimeoutError(f"--arms {' '.join([*ARMS][[*ARMS].index(arm) :])}")
            command = [sys.executable, __file__, "arm", "--arms", arm, "--model", str(model)]
            command += ["--toy"] if options.toy else []
            printed = run_process([*command, "--shape", options.shape], clock)
            yield (
                f"{options.shape}{' (toy)' * options.toy}, {arm}",
                json.loads(printed.splitlines()[-1]),
            )


def arm_recipe(arm: str, model: Path, folder: Path, *, toy: bool) -> Path:
    """Write the recipe of an arm and return its path."""
    import yaml

    length = 16 if toy else 1024
    recipe = {
        "base": str(POCKET / "base.yaml"),
        "model": {"path": str(model), "dtype": "bfloat16"},
        "rewards": [{"name": "overlong", "max_length": length, "buffer": length // 2}],
        "eval": None,
        "run": {"dir": str(folder / "run"), "kl_every": 0},
        "trainer": {
            "bf16": True,
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 2,
            "num_generations": 8,
            "max_completion_length": length,
            "gradient_checkpointing": True,
            "max_steps": 3,
        },
        **ARMS[arm],
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@contextmanager
def timed(owner: Any, name: str, seconds: dict[str, float], label: str) -> Iterator[None]:
    """Add the time of each call of ``owner.name`` to ``seconds[label]``."""
    import torch

    before: Callable[..., Any] = getattr(owner, name)

    def call(*arguments: Any, **keywords: Any) -> Any:
        start = time.perf_counter()
        try:
            return before(*arguments, **keywords)
        finally:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[label] = seconds.get(label, 0.0) + time.perf_counter() - start

    setattr(owner, name, call)
    yield


def measure_arm(options: argparse.Namespace) -> None:
    """Take an arm's steps in this process and print the figures as JSON."""
    from rlvr import runtime

    runtime.prepare_environment()
    import torch
    from bench_step import plain_trainer

    from rlvr.config import load_recipe
    from rlvr.training.plan import check_recipe
    from rlvr.training.session import build_trainer

    (arm,) = options.arms
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = arm_recipe(arm, Path(options.model), folder, toy=options.toy)
        plan = check_recipe(load_recipe(path))
        make = plain_trainer if arm == "plain" else build_trainer
        trainer: Any = make(plan, folder / "run")
        trainer.args.save_strategy = "no"
        steps = trainer.args.max_steps
        with (
            timed(trainer, "_generate_and_score_completions", seconds, "rollout"),
            timed(trainer, "training_step", seconds, "step"),
        ):
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            trainer.train()
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    passes = seconds["step"] - seconds["rollout"]
    figures = {"s a step": seconds["step"] / steps, "rollout s": seconds["rollout"] / steps}
    figures |= {"forward, backward s": passes / steps, "peak GB": peak / 1e9}
    print(json.dumps(figures))


def mask(options: argparse.Namespace, clock: Clock) -> Iterator[tuple[str, Figures]]:
    """Build the safe mask of a shape, and report the geometry of an update of it."""
    import torch
    from safetensors.torch import load_file, save_file

    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        folder = Path(name)
        base = write_checkpoint(folder / "base", "Qwen2.5-1.5B", toy=options.toy)
        command = [
            sys.executable,
            "-m",
            "rlvr.cli",
            "mask",
            "build",
            str(base),
            "--builder",
            "safe",
        ]
        command += [f"rank={8 if options.toy else 64}", "principal_density=0.5", "low_density=0.5"]
        start = time.perf_counter()
        run_process([*command, "--out", str(folder / "mask.safetensors")], clock)
        yield "safe mask of 1.5B", {"s": time.perf_counter() - start}
        tuned = folder / "tuned"
        shutil.copytree(base, tuned)
        for file in tuned.glob("*.safetensors"):
            weights = load_file(file)
            for weight in weights.values():
                weight.add_(1e-3 * torch.randn(weight.shape, dtype=torch.float32).to(weight.dtype))
            save_file(weights, file, metadata={"format": "pt"})
        start = time.perf_counter()
        words = ["geometry", str(base), str(tuned), "--fast", "--out", str(folder / "geometry")]
        run_process([sys.executable, "-m", "rlvr.cli", *words], clock)
        yield "geometry --fast of 1.5B", {"s": time.perf_counter() - start}


def vllm(options: argparse.Namespace, clock: Clock) -> Iterator[tuple[str, Figures]]:
    """Sample with vLLM in the process of the run, asleep while the policy trains."""
    from importlib.util import find_spec

    if find_spec("vllm") is None:
        print("vllm     not installed here: nothing to measure", flush=True)
        return
    for sleeps in ("false", "true"):
        with tempfile.TemporaryDirectory() as name:
            run = Path(name) / "run"
            words = ["trainer.use_vllm=true", "trainer.vllm_mode=colocate", "run.kl_every=1"]
            words += [f"trainer.vllm_enable_sleep_mode={sleeps}", f"run.dir={run}", "eval=null"]
            words += ["trainer.max_steps=3", "trainer.vllm_gpu_memory_utilization=0.2"]
            command = [sys.executable, "-m", "rlvr.train", str(POCKET / "mask_random.yaml")]
            start = time.perf_counter()
            run_process([*command, *words], clock)
            rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            gaps = [row["sampler_gap"] for row in rows if "sampler_gap" in row]
            figures = {"sampler_gap": max(gaps), "s in all": time.perf_counter() - start}
            yield f"colocated, sleep mode {sleeps}", figures


PARTS = {"kernel": kernel, "fsdp2": fsdp2, "train": train, "mask": mask, "vllm": vllm}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", choices=[*PARTS, "arm"])
    parser.add_argument("--shape", default="Qwen2.5-1.5B")
    parser.add_argument("--arms", nargs="+", choices=ARMS)
    parser.add_argument("--toy", action="store_true", help="a toy size, also without a GPU")
    parser.add_argument("--out", type=Path, default=MEASURED, help="the table to append to")
    parser.add_argument("--dir", default=None, help="where checkpoints are written for a while")
    parser.add_argument("--model", help=argparse.SUPPRESS)
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
        if not options.toy:
            parser.error("there is no GPU; --toy runs the same at a toy size")
    if options.part == "arm":
        measure_arm(options)
        return
    clock = Clock()
    try:
        for case, figures in PARTS[options.part](options, clock):
            write_row(options.out, options.part, case, figures)
    except (TimeoutError, subprocess.TimeoutExpired) as error:
        sys.exit(f"error: eight minutes are over; what is left: {error}")


if __name__ == "__main__":
    main()
