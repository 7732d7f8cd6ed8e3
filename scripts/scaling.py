"""Write launch/SCALING.md: cost against parameters and GPUs, from the formulas that --check uses.

python scripts/scaling.py           # writes the file
python scripts/scaling.py --check   # fails where the file is not what the formulas say
"""

import argparse
import sys
import textwrap
from pathlib import Path

from rlvr.costs.fit import CONTEXT_SOURCE, Deployment
from rlvr.costs.hardware import H100, VERDICT_SOURCE
from rlvr.costs.memory import Setting
from rlvr.costs.sampler import VLLM_SOURCE, Sampler
from rlvr.costs.shapes import PUBLISHED, Shape, Trained, adapter, dense, masked
from rlvr.costs.time import Batch, optimizer_seconds

FILE = Path(__file__).parent.parent / "launch" / "SCALING.md"
SHAPES = ["Qwen2.5-1.5B", "Qwen2.5-7B", "Qwen2.5-14B", "Qwen2.5-32B", "Qwen2.5-72B"]
GPUS = [1, 8, 64, 512]
ENGINES: list[str] = ["one process", "DDP", "FSDP2", "ZeRO-2", "ZeRO-3"]
PROMPT, COMPLETION, GROUPS = 1024, 8192, 16
STEP = 1024  # completions of an optimizer step
GB = 1e9
INTRODUCTION = f"""
Written by `python scripts/scaling.py` from the formulas of `rlvr/costs/`, those of `rlvr train
RECIPE --check --gpus N`. Nothing here has been measured on a GPU. GRPO with {STEP:,}
completions a step in groups of {GROUPS}, prompts of {PROMPT:,} tokens, completions of at most
{COMPLETION:,} and half of that on average; one completion a pass, checkpointed activations,
bf16 compute, flash attention, vLLM on the same GPUs with half of their memory, asleep while the
policy trains. One GPU keeps bf16 weights (masks: masters of what may move, freed gradients),
several keep float32.
"""


def arms(shape: Shape) -> dict[str, Trained]:
    return {
        "dense": dense(shape),
        "mask 50 %": masked(shape, 0.5),
        "mask 5 %": masked(shape, 0.05),
        "mask 1 %": masked(shape, 0.01),
        "LoRA r=32": adapter(shape, 32),
    }


def deployment(shape: Shape, trained: Trained, engine: str, gpus: int) -> Deployment:
    """Return GRPO on completions of 8,192 tokens: one row a pass, vLLM asleep meanwhile."""
    alone = engine == "one process"
    setting = Setting(
        shape,
        trained,
        # A single GPU keeps bfloat16 weights, with masters of what may move.
        width=2 if alone else 4,
        rows=1,
        length=PROMPT + COMPLETION,
        completion=COMPLETION,
        bf16=True,
        accumulates=STEP // gpus > 1,
        free_gradients=alone and trained.kind == "mask",
        padded=False,
    )
    # As few GPUs an engine as hold its weights in two thirds of the sampler's share.
    ranks = next(r for r in (1, 2, 4, 8) if 2 * shape.parameters / r < 0.5 * 80e9 * 2 / 3 or r == 8)
    sampler = Sampler("colocate", share=0.5, sleeps=True, ranks=min(ranks, gpus))
    return Deployment(setting, engine, gpus, sampler, Batch(STEP, STEP), 80e9)


def fastest(shape: Shape, trained: Trained, gpus: int) -> Deployment | None:
    """Return the engine that fits and takes the least time."""
    engines = [engine for engine in ENGINES if (engine == "one process") == (gpus == 1)]
    fitting = [deployment(shape, trained, engine, gpus) for engine in engines]
    fitting = [found for found in fitting if found.fits]
    return min(fitting, key=lambda found: found.seconds.total, default=None)


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def step_table() -> str:
    rows = []
    for name in SHAPES:
        for gpus in GPUS:
            cells = [name, f"{gpus}"]
            for trained in arms(PUBLISHED[name]).values():
                found = fastest(PUBLISHED[name], trained, gpus)
                cells.append(
                    "-" if found is None else f"{found.seconds.total:,.0f} ({found.engine})"
                )
            rows.append(cells)
    return table(["shape", "GPUs", *arms(PUBLISHED[SHAPES[0]])], rows)


def split_table() -> str:
    rows = []
    for name in SHAPES:
        for gpus in (8, 512):
            found = fastest(PUBLISHED[name], masked(PUBLISHED[name], 0.05), gpus)
            if found is None:
                continue
            parts = found.seconds
            shares = (parts.rollout, parts.verification, parts.passes, parts.optimizer, parts.sync)
            rows.append([name, f"{gpus}", *(f"{part / parts.total:.1%}" for part in shares)])
    return table(
        ["shape", "GPUs", "rollout", "verification", "forward, backward", "optimizer", "sync"], rows
    )


def memory_table() -> str:
    rows = []
    for name in SHAPES:
        shape = PUBLISHED[name]
        for label, trained in arms(shape).items():
            cells = [name, label]
            cases: list[tuple[str, int]] = [("one process", 1), ("DDP", 8), ("FSDP2", 8)]
            for engine, gpus in [*cases, ("FSDP2", 64), ("ZeRO-3", 8)]:
                held = deployment(shape, trained, engine, gpus).memory
                cells.append(
                    f"{(held.states + held.masks + held.base) / GB:.1f} / {held.peak / GB:.0f}"
                )
            rows.append(cells)
    columns = ["one GPU, bf16", "DDP x 8", "FSDP2 x 8", "FSDP2 x 64", "ZeRO-3 x 8"]
    return table(["shape", "arm", *columns], rows)


def sparse_table() -> str:
    """Return what one optimizer step, one checkpoint and one push to 64 samplers weigh."""
    rows = []
    for name in SHAPES:
        shape = PUBLISHED[name]
        for label, trained in arms(shape).items():
            found = deployment(shape, trained, "FSDP2", 8)
            step = optimizer_seconds(found.setting, "FSDP2", 8, H100)
            whole = 2 * shape.parameters
            # A delta holds a position, below 2 bytes at these densities, and a bf16 value.
            sparse = whole if label in ("dense", "mask 50 %") else 4 * trained.moving
            sparse = 2 * trained.entries if trained.kind == "adapter" else sparse
            seconds = sparse / (H100.network * H100.link_share)
            rows.append(
                [name, label, f"{1e3 * step:.1f}", f"{whole / GB:.1f}", f"{sparse / GB:.2f}"]
                + [f"{whole / (H100.network * H100.link_share):.2f}", f"{seconds:.3f}"]
            )
    columns = ["optimizer, ms", "weights, GB", "delta or adapter, GB", "push of weights, s"]
    return table(["shape", "arm", *columns, "of the delta, s"], rows)


def facts() -> list[str]:
    """Return the sentences whose numbers come from the formulas."""
    large, small = PUBLISHED["Qwen2.5-72B"], PUBLISHED["Qwen2.5-1.5B"]

    def states(shape: Shape, trained: Trained, engine: str, gpus: int) -> float:
        held = deployment(shape, trained, engine, gpus).memory
        return (held.states + held.masks + held.base) / GB

    alone = [states(small, trained, "one process", 1) for trained in arms(small).values()]
    wide = [states(large, trained, "FSDP2", 512) for trained in (dense(large), masked(large, 0.05))]
    whole = fastest(small, masked(small, 0.05), 8)
    assert whole is not None
    return [
        "**Where masks change the picture: states on few GPUs.** On one GPU the 1.5B shape keeps "
        f"{alone[0]:.1f} GB of moments, masters, masks and base values dense, {alone[2]:.1f} GB "
        f"at 5 % and {alone[4]:.1f} GB with LoRA r=32. That decides which run fits one machine.",
        "**Where they do not: states that are divided anyway.** Over 512 GPUs the 72B shape "
        f"keeps {wide[0]:.1f} GB of them dense and {wide[1]:.2f} GB at 5 %. Activations, gathered "
        "blocks and accumulated gradients are larger, and no mask makes them smaller.",
        "**The optimizer's time does not matter.** It is "
        f"{1e3 * whole.seconds.optimizer:.1f} ms of {whole.seconds.total:.0f} s a step of the 1.5B "
        "shape on 8 GPUs.",
        "**Gradients under FSDP2 stay whole** while passes are accumulated: accelerate sums "
        "before it divides. One pass a step avoids that, and so do freed gradients on one GPU.",
        "**Deltas and sparse pushes change what crosses a network**, by the factor of the last "
        "table: checkpoints, and samplers on other machines. The runs push whole weights today. "
        "Between the GPUs of one machine that is no part of a step worth saving.",
        "**DeepSpeed's states are dense** under any mask: a mask saves nothing there but base "
        "values.",
    ]


def filled(text: str, indent: str = "") -> str:
    """Return the text in lines of a page, its code unbroken."""
    return textwrap.fill(
        " ".join(text.split()), 100, subsequent_indent=indent, break_on_hyphens=False
    )


def page() -> str:
    sources = [*H100.sources, VERDICT_SOURCE, CONTEXT_SOURCE, VLLM_SOURCE]
    return f"""# What a run costs, from 1.5B to 72B parameters and 1 to 512 GPUs

{filled(INTRODUCTION)}

{chr(10).join(filled(f"- {fact}", "  ") for fact in facts())}

## Seconds of one optimizer step, and the engine that is fastest of those that fit (-: none fits)

{step_table()}

A mask takes the time of dense training: its forward and backward passes are the same. LoRA saves
the pass that makes the gradients of frozen weights.

## Where the time of a 5 % mask goes

{split_table()}

## GB on each GPU: states, masks and base values / peak of a step

{memory_table()}

## What a step writes, and what a delta would send

{sparse_table()}

## Numbers behind it

{chr(10).join(filled(f"- {source}", "  ") for source in sources)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    options = parser.parse_args()
    if not options.check:
        FILE.write_text(page(), encoding="utf-8")
    elif FILE.read_text(encoding="utf-8") != page():
        sys.exit(f"error: {FILE} is not what the formulas say; run python scripts/scaling.py")


if __name__ == "__main__":
    main()
