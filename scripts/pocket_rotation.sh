#!/usr/bin/env bash
# RL on the pocket policy from the base, from the base with another seed, and from a rotated base,
# then the overlap of the moved weights, block by block, beside that of independent masks and of runs
# that agree on nothing but the size of each weight. Arguments: a folder, and overrides of the recipe,
# such as trainer.learning_rate=3e-5 trainer.max_steps=200.
set -euo pipefail
out=${1:-runs/rotation}
shift || true
policy=recipes/pocket/policy
rotated=$out/rotated
mkdir -p "$out"
# Block 1: values rotated and heads reordered; block 3: values rotated alone; 0 and 2 as they were.
[ -d "$rotated" ] || rlvr rotate "$policy" "$rotated" --layers 1 3 --permute 1
train() { [ -f "$out/$1/summary.json" ] || rlvr train recipes/pocket/base.yaml run.dir="$out/$1" eval=null "${@:2}"; }
train first trainer.seed=0 "$@"
train second trainer.seed=1 "$@"
train turned trainer.seed=0 model.path="$(realpath "$rotated")" "$@"
python - "$out" "$policy" "$rotated" <<'PYTHON'
"""Jaccard index of the update masks of two runs, each against its own base, by block."""
import sys
from pathlib import Path

from rlvr.checkpoints.reader import open_checkpoint
from rlvr.geometry import overlap
from rlvr.geometry.names import kind_of, layer_of, targets_of
from rlvr.geometry.sparsity import update_mask_bf16

out, policy, rotated = map(Path, sys.argv[1:])
bases = {"first": policy, "second": policy, "turned": rotated}
bases = {run: open_checkpoint(base) for run, base in bases.items()}
tuned = {run: open_checkpoint(out / run) for run in bases}


def moved(run: str, name: str):
    base = bases[run][name].load()
    mask = update_mask_bf16(base, tuned[run][name].load())
    return mask, overlap.chance_by_size(base, mask)


runs = ("other_seed", "rotated")
print("block", "kind", *(f"{c}_{run}" for run in runs for c in ("jaccard", "random", "rounding")), sep=",")
for name in targets_of(open_checkpoint(policy), ["linear"]):
    first, chance = moved("first", name)
    cells = []
    for mask, other in (moved("second", name), moved("turned", name)):
        found, random = overlap.pairwise_jaccard([first, mask])
        cells += [found, random, overlap.jaccard_expected(chance, other)]
    print(layer_of(name), kind_of(name), *(f"{cell:.4f}" for cell in cells), sep=",")
PYTHON
