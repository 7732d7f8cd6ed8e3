"""Time and weigh ``rlvr geometry`` on random checkpoints of a real policy's shape.

    python scripts/bench_geometry.py --layers 28 --fast
    python scripts/bench_geometry.py --layers 2 --exact

The verb runs as a process of its own on a pair of bf16 checkpoints with ``--layers`` of the blocks;
its time is scaled to all of them, less the constant time of a tiny pair. Memory is the peak of
the resident set above that of an interpreter that has imported torch and matplotlib.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

# hidden, intermediate, rows of k and v, blocks
SHAPES = {"1.5B": (1536, 8960, 256, 28), "7B": (3584, 18944, 512, 28), "0.5B": (896, 4864, 128, 24)}
IDLE = "import rlvr.verbs.geometry, rlvr.reports.geometry, torch; torch.ones(8) @ torch.ones(8)"


def block(hidden: int, wide: int, narrow: int) -> dict[str, tuple[int, int]]:
    return {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (narrow, hidden),
        "self_attn.v_proj": (narrow, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (wide, hidden),
        "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide),
    }


def write_pair(folder: Path, shapes: dict[str, tuple[int, int]], layers: int) -> None:
    """Write base and tuned, a file per block: Gaussian weights and an update of 1e-5."""
    generator = torch.Generator().manual_seed(0)
    for layer in range(layers):
        both: list[dict[str, Tensor]] = [{}, {}]
        for name, shape in shapes.items():
            key = f"model.layers.{layer}.{name}.weight"
            base = (0.02 * torch.randn(shape, generator=generator)).bfloat16()
            update = 1e-5 * torch.randn(shape, generator=generator)
            both[0][key], both[1][key] = base, (base.float() + update).bfloat16()
        for side, tensors in zip(("base", "tuned"), both, strict=True):
            (folder / side).mkdir(parents=True, exist_ok=True)
            save_file(tensors, folder / side / f"part-{layer:03d}.safetensors")


def measured(command: list[str], log: Path) -> tuple[float, float, float]:
    """Run a process; return wall seconds, CPU seconds and the peak resident set in GiB."""
    with open(log, "w", encoding="utf-8") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text(encoding='utf-8')[-2000:]}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="1.5B")
    parser.add_argument("--layers", type=int, default=2, help="blocks to write and time")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--exact", action="store_true", help="the default")
    mode.add_argument("--fast", action="store_true")
    parser.add_argument("--folder", type=Path, help="where to put the checkpoints (kept)")
    options = parser.parse_args()
    *sizes, blocks = SHAPES[options.shape]
    layers = min(options.layers, blocks)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "base").is_dir():
            write_pair(folder, block(sizes[0], sizes[1], sizes[2]), layers)
        log = Path(temporary) / "log"
        idle = measured([sys.executable, "-c", IDLE], log)
        write_pair(Path(temporary) / "tiny", block(64, 128, 16), 1)
        flag = "--fast" if options.fast else "--exact"
        both = []
        for pair in (Path(temporary) / "tiny", folder):
            command = [sys.executable, "-m", "rlvr.cli", "geometry", str(pair / "base")]
            command += [str(pair / "tuned"), "--out", str(Path(temporary) / "out"), flag]
            both.append(measured(command, log))
        constant, measures = both
    scale = blocks / layers
    wall = constant[0] + scale * (measures[0] - constant[0])
    cpu = constant[1] + scale * (measures[1] - constant[1])
    how = "fast" if options.fast else "exact"
    print(
        f"{options.shape} {how}: {layers} of {blocks} blocks took {measures[0]:.0f} s wall, "
        f"{measures[1]:.0f} s CPU; all: {wall / 60:.1f} min wall, {cpu / 60:.1f} min CPU on "
        f"{len(os.sched_getaffinity(0))} cores; memory {measures[2] - idle[2]:.2f} GiB above "
        f"{idle[2]:.2f} GiB of the interpreter with its libraries"
    )


if __name__ == "__main__":
    main()
