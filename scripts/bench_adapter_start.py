"""Time and peak memory of an adapter's initial factors on the matrices of a 1.5B policy.

``python scripts/bench_adapter_start.py pissa geora --rank 32``: random weights with a power-law
spectrum, in the shapes of DeepSeek-R1-Distill-Qwen-1.5B, each matrix dropped before the next.
"""

import argparse
import resource
import time

import torch

from rlvr.adapters.factors import Matrix
from rlvr.adapters.initial import start_of
from rlvr.adapters.spec import build_method

LAYERS = 28
SHAPES = {
    "q_proj": (1536, 1536),
    "k_proj": (256, 1536),
    "v_proj": (256, 1536),
    "o_proj": (1536, 1536),
    "gate_proj": (8960, 1536),
    "up_proj": (8960, 1536),
    "down_proj": (1536, 8960),
}


def weight_of(shape: tuple[int, int], seed: int) -> torch.Tensor:
    """Return a matrix whose singular values fall about as i^-0.3, in bfloat16."""
    generator = torch.Generator().manual_seed(seed)
    inner = min(shape)
    left = torch.randn(shape[0], inner, generator=generator)
    right = torch.randn(inner, shape[1], generator=generator)
    values = torch.arange(1, inner + 1).float() ** -0.3
    return ((left * values) @ right / inner).bfloat16()


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("builders", nargs="+")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--layers", type=int, default=LAYERS)
    options = parser.parse_args()
    for builder in options.builders:
        method = build_method({"builder": builder, "rank": options.rank})
        before, busy, kinds = peak_megabytes(), 0.0, dict.fromkeys(SHAPES, 0.0)
        for layer in range(options.layers):
            for kind, shape in SHAPES.items():
                weight = weight_of(shape, layer)
                start, cpu = time.perf_counter(), time.process_time()
                start_of(method, Matrix(weight, f"layers.{layer}.{kind}.weight"), 0)
                kinds[kind] += time.perf_counter() - start
                busy += time.process_time() - cpu
        each = ", ".join(f"{kind} {seconds:.1f}" for kind, seconds in kinds.items())
        print(
            f"{builder}, {options.layers} layers: {sum(kinds.values()):.1f} s on "
            f"{torch.get_num_threads()} threads, {busy:.1f} s of CPU ({each}); "
            f"peak {peak_megabytes():.0f} MB, {before:.0f} MB before"
        )


if __name__ == "__main__":
    main()
