"""``rlvr geometry``: where in weight space the update between two checkpoints went.

BASE and TUNED are checkpoint folders or files, or hub ids; one argument alone is a run directory.
Writes ``matrices.csv`` (one row a matrix; units and formulas in ``matrices.columns.json``),
``summary.json``, figures and one self-contained ``report.html``.
"""

import argparse
import dataclasses
from pathlib import Path

from rlvr import __version__, runtime
from rlvr.checkpoint import write_json
from rlvr.geometry.compare import measure_pairs, open_checkpoint, summarise
from rlvr.geometry.matrix import Settings
from rlvr.geometry.names import pair_up
from rlvr.geometry.table import COLUMNS, write_table
from rlvr.schema import RecipeError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = Settings()
    parser.add_argument("paths", nargs="*", metavar="BASE TUNED | RUN", help="what to compare")
    parser.add_argument("--runs", nargs="+", default=[], help="two or more: consistency of runs")
    parser.add_argument("--out", type=Path, help="folder to write; RUN/geometry for a run")
    parser.add_argument("--targets", nargs="+", default=["linear"], help="patterns of matrices")
    parser.add_argument(
        "--rank", type=int, default=defaults.rank, help="of the principal subspace and mask"
    )
    parser.add_argument(
        "--density", type=float, default=defaults.density, help="of the principal mask"
    )
    parser.add_argument(
        "--low-density", type=float, default=defaults.low_density, help="of the low-magnitude mask"
    )
    parser.add_argument(
        "--angle-rank", type=int, default=defaults.angle_rank, help="of the principal angles"
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--exact", action="store_true", help="the default: float64 SVD of every whole matrix"
    )
    mode.add_argument(
        "--fast", action="store_true", help="from Gram matrices, with the error of each number"
    )


def run(options: argparse.Namespace) -> int:
    """Compare, write and return the exit code."""
    settings = Settings(
        rank=options.rank,
        density=options.density,
        low_density=options.low_density,
        angle_rank=options.angle_rank,
        exact=not options.fast,
    )
    paths = [Path(word) for word in options.paths]
    if len(paths) != 2:
        raise RecipeError("geometry: give BASE and TUNED")
    compare(paths[0], paths[1], options.out or Path("geometry"), settings, options.targets)
    return 0


def compare(base: Path, tuned: Path, out: Path, settings: Settings, targets: list[str]) -> None:
    """Measure every target matrix of two checkpoints and write everything to ``out``."""
    first = open_checkpoint(base)
    second = open_checkpoint(tuned, first)
    pairs = pair_up(first, second, (base, tuned), targets)
    measured = measure_pairs(pairs, (base, tuned), settings, runtime.default_device())
    rows = [item.row for item in measured]
    described = dataclasses.asdict(settings) | {"targets": targets}
    write_table(out / "matrices.csv", rows, COLUMNS, described)
    summary = {
        "base": str(base),
        "tuned": str(tuned),
        "settings": described,
        "dtypes": sorted({row["dtype"] for row in rows}),
        "left_out": len(first) - len(pairs),
        "rlvr": __version__,
        **summarise(rows),
    }
    write_json(out / "summary.json", summary)
