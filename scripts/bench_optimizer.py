"""Time and weigh the masked optimizer against torch.optim.AdamW on the same tensors, paired.

    python scripts/bench_optimizer.py --shapes 1024x4096 1024x1024 --densities 0.01 0.05 0.5 1

The masked step, AdamW's plain step and its fused step take turns in one process, so that a machine
that slows down slows all three. The ratios are medians of paired ratios. The bytes are those of
all tensors that the masked optimizer holds, per entry of the matrices, beside the bar
1.05 x (8 d + 4 d with masters + 1/8); on a GPU also the growth of the allocated memory.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlvr.masks import Mask
from rlvr.optim import Bf16Update, MaskedAdamW

MODES: dict[str, tuple[torch.dtype, Bf16Update]] = {
    "fp32": (torch.float32, "master"),
    "bf16 master": (torch.bfloat16, "master"),
    "bf16 stochastic": (torch.bfloat16, "stochastic"),
}
WARM_UP = 2
HEADER = ("mode", "density", "step ms", "/ plain", "/ fused", "bytes", "bar", "allocated")


def make_parameters(
    shapes: list[tuple[int, ...]], dtype: torch.dtype, device: str
) -> dict[str, torch.nn.Parameter]:
    """Return parameters of the shapes, each with a gradient."""
    torch.manual_seed(0)
    parameters = {}
    for number, shape in enumerate(shapes):
        values = 0.02 * torch.randn(shape, device=device)
        parameter = torch.nn.Parameter(values.to(dtype))
        parameter.grad = 1e-3 * torch.randn_like(parameter)
        parameters[f"weight{number}"] = parameter
    return parameters


def stored_bytes(optimizer: MaskedAdamW, device: torch.device) -> int:
    """Return the bytes of every tensor on ``device`` that the optimizer holds, weights excepted."""
    storages: dict[int, int] = {}

    def visit(value: Any) -> None:
        if isinstance(value, Tensor):
            if value.device == device and not isinstance(value, torch.nn.Parameter):
                storage = value.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, dict):
            for item in value.values():
                visit(item)
        elif isinstance(value, list | tuple):
            for item in value:
                visit(item)
        elif type(value).__module__.startswith("rlvr"):
            visit(vars(value))

    visit(optimizer)
    return sum(storages.values())


def seconds(step: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def measure(mode: str, density: float, options: argparse.Namespace) -> tuple[str, ...]:
    """Return one row of the table."""
    dtype, bf16_update = MODES[mode]
    first = make_parameters(options.shapes, dtype, options.device)
    device = next(iter(first.values())).device
    mask = Mask.from_bools({n: torch.rand(p.shape) < density for n, p in first.items()})
    before = allocated(device)
    masked = MaskedAdamW(first.items(), mask, lr=1e-6, weight_decay=0.1, bf16_update=bf16_update)
    masked.step()
    grown = allocated(device) - before
    rivals = [
        torch.optim.AdamW(
            make_parameters(options.shapes, dtype, options.device).values(),
            lr=1e-6,
            weight_decay=0.1,
            foreach=False,
            fused=fused,
        )
        for fused in (False, True)
    ]
    steps = [masked.step, *(rival.step for rival in rivals)]
    rounds = [[seconds(step, device) for step in steps] for _ in range(options.steps + WARM_UP)]
    rounds = rounds[WARM_UP:]
    entries = sum(mask.numel(name) for name in mask.names)
    bar = 1.05 * ((12 if mode == "bf16 master" else 8) * mask.density() + 1 / 8)
    return (
        mode,
        f"{mask.density():.2f}",
        f"{1e3 * statistics.median(row[0] for row in rounds):.2f}",
        f"{statistics.median(row[0] / row[1] for row in rounds):.2f}",
        f"{statistics.median(row[0] / row[2] for row in rounds):.2f}",
        f"{stored_bytes(masked, device) / entries:.3f}",
        f"{bar:.3f}",
        f"{grown / entries:.3f}" if device.type == "cuda" else "-",
    )


def parse_shape(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split("x"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    default = [(1024, 4096), (1024, 1024), (256, 1024)]
    parser.add_argument("--shapes", nargs="+", type=parse_shape, default=default)
    parser.add_argument("--densities", nargs="+", type=float, default=[0.01, 0.05, 0.5, 1.0])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    print("  ".join(f"{title:>15}" for title in HEADER))
    for mode in options.modes:
        for density in options.densities:
            print("  ".join(f"{cell:>15}" for cell in measure(mode, density, options)), flush=True)


if __name__ == "__main__":
    main()
