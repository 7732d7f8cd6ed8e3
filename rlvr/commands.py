"""What the verbs of ``rlvr`` take: one function a verb; its docstring describes the verb.

It stands apart from the verbs: their libraries take seconds to import, and nothing here does, so
``--help`` and a misspelt word are answered at once.
"""

from argparse import ArgumentParser
from pathlib import Path

from rlvr.geometry.settings import ANGLE_RANK, Settings

PRESETS = ("deepscaler", "justrl", "paper", "greedy")
TARGETS = "patterns of matrices"
DELTA_VERBS = {
    "pack": ("the changed entries of two checkpoints into one file", ("base", "tuned")),
    "apply": ("the tuned checkpoint, from its base and a delta", ("base", "delta")),
    "revert": ("the base, from the tuned checkpoint and a delta", ("tuned", "delta")),
}
FIND = """Sweeps the rank of the principal part of the safe mask and prints the mask's density over
all target matrices, from exact decompositions; the rank nearest to the target is the answer. Each
pass over the model decomposes each matrix once, however many ranks it looks at: first 1, 2, 4, ...
up to the smallest dimension of all matrices, then the ranks between which the target lies."""


def train(parser: ArgumentParser) -> None:
    """Train the policy of one recipe; ``--check`` explains the run and writes nothing.

    With ``--gpus`` the check also prints what the run takes of each GPU under each engine, the
    split of a step, the largest run that fits, and the cheapest change where it does not.
    """
    parser.add_argument("recipe", help="YAML recipe")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--check", action="store_true", help="check and explain, then exit")
    parser.add_argument("--gpus", type=int, metavar="N", help="with --check: the plan for N GPUs")
    parser.add_argument(
        "--gpu-memory", type=float, default=80.0, metavar="GB", help="of each (default 80)"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")


def study(parser: ArgumentParser) -> None:
    """Train a base recipe x arms x seeds x one swept field, and report what differs.

    Each run is a process of its own, through accelerate where the study names a launch file.
    Several go on at once where there are GPUs or cores for them. A finished run is kept, an
    interrupted one resumed, and a failed one reported without stopping the others. Writes
    ``report.html``, ``table.md``, ``summary.csv`` (one row an arm), ``runs.csv`` (one row a run)
    and the figures.
    """
    parser.add_argument("study", help="YAML study: base, arms, and what else a study may state")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--jobs", type=int, help="runs at once (default: as GPUs or cores allow)")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--dry-run", action="store_true", help="write the recipes, list the runs and what is left"
    )
    mode.add_argument("--report-only", action="store_true", help="train nothing; tables, figures")


def delta(parser: ArgumentParser) -> None:
    """Store a tuned checkpoint as the entries that differ from its base, exact both ways."""
    sub_verbs = parser.add_subparsers(dest="sub_verb", required=True, metavar="SUB_VERB")
    for name, (summary, inputs) in DELTA_VERBS.items():
        sub_parser = sub_verbs.add_parser(name, help=summary, description=summary)
        for word in (*inputs, "out"):
            sub_parser.add_argument(word, type=Path, metavar=word.upper())


def verify(parser: ArgumentParser) -> None:
    """Judge rows {gold, response} with the math verifier.

    Each row comes back with ``reward``, ``status``, ``extracted`` (the answer found) and
    ``detail``. Where rows carry ``label`` (is the response right?), a table by ``tag`` counts the
    disagreements.
    """
    parser.add_argument("cases", type=Path, help="JSONL with the keys gold and response")
    parser.add_argument("--out", type=Path, required=True, help="JSONL to write")
    parser.add_argument(
        "--extract",
        choices=("auto", "boxed"),
        default="auto",
        help="auto: without a box an announced answer will do (default); boxed: no box, no reward",
    )
    parser.add_argument(
        "--deadline", type=float, default=2.0, metavar="S", help="wall time of one row (default 2)"
    )


def mask(parser: ArgumentParser) -> None:
    """Build, show or calibrate a mask without training.

    A recipe takes a mask file by ``mask: {builder: file, path: M.safetensors}``. The word
    ``plugins=[my_module]`` brings a builder of one's own, as in a recipe.
    """
    verbs = parser.add_subparsers(dest="mask_verb", required=True, metavar="build|show|calibrate")
    build = verbs.add_parser("build", help="base weights into a mask file")
    build.add_argument("model", help="hub id or folder of safetensors")
    build.add_argument("--builder", required=True, help="such as safe; its options as key=value")
    build.add_argument("--out", required=True, type=Path, help="the mask file to write")
    build.add_argument("--targets", nargs="+", default=["linear"], help=TARGETS)
    build.add_argument(
        "--measure-svd", action="store_true", help="record the overlap with the exact SVD's mask"
    )
    build.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="option of the builder, or plugins=[my_module]",
    )
    show = verbs.add_parser("show", help="densities, provenance and fingerprint of a mask file")
    show.add_argument("file", type=Path)
    find = verbs.add_parser(
        "calibrate", help="the rank at which the safe mask has a given density", description=FIND
    )
    find.add_argument("model", help="hub id or folder of safetensors")
    find.add_argument("--builder", choices=["safe"], default="safe", help="what to calibrate")
    find.add_argument("--target", type=float, default=0.7402, help="density; default: the paper's")
    find.add_argument("--principal-density", type=float, default=0.5)
    find.add_argument("--low-density", type=float, default=0.5)
    find.add_argument("--targets", nargs="+", default=["linear"], help=TARGETS)
    find.add_argument("--out", type=Path, help="write the table, as .csv or .json")


def rotate(parser: ArgumentParser) -> None:
    """Write other weights of the same policy.

    Rotates the value space of the attention heads in ``--layers`` and reorders the heads in
    ``--permute`` (random, by ``--seed``), checks in float64 that the logits did not change, and
    writes a checkpoint in the dtypes of MODEL, or in ``--dtype``. Rounding the rotated weights to
    bf16 changes logits as any rounding does; that gap is printed and written to ``rotation.json``.
    Compare runs with the rotated weights as their base.
    """
    parser.add_argument("model", help="hub id or checkpoint folder")
    parser.add_argument("out", nargs="?", help="folder to write")
    parser.add_argument("--layers", nargs="+", default=[], metavar="N", help="blocks to rotate")
    parser.add_argument("--permute", nargs="+", default=[], metavar="N", help="heads to reorder")
    parser.add_argument("--seed", type=int, default=0)
    dtypes = ("float64", "float32", "bfloat16", "float16")
    parser.add_argument("--dtype", choices=dtypes, help="default: as MODEL stores each tensor")


def geometry(parser: ArgumentParser) -> None:
    """Measure where in weight space the update between two checkpoints went.

    BASE and TUNED are checkpoint folders or files, LoRA adapters, or hub ids; one argument is a
    run directory. Writes ``matrices.csv`` (one row a matrix; units and formulas in
    ``matrices.columns.json``), ``summary.json``, figures and one self-contained ``report.html``.
    ``--runs A B C`` asks whether several runs from one base moved the same weights.
    """
    defaults = Settings()
    parser.add_argument("paths", nargs="*", metavar="BASE TUNED | RUN", help="what to compare")
    parser.add_argument("--runs", nargs="+", default=[], help="two or more: consistency of runs")
    words = "results of this verb: one page that compares them, gallery.html"
    parser.add_argument("--gallery", nargs="+", default=[], metavar="RESULT", help=words)
    parser.add_argument(
        "--out", type=Path, help="folder to write (default geometry, RUN/geometry of a run)"
    )
    parser.add_argument("--targets", nargs="+", default=["linear"], help=TARGETS)
    cut = "; at most the smaller side of a matrix"
    words = f"of the principal subspace and mask (default {defaults.rank}){cut}"
    parser.add_argument("--rank", type=int, default=defaults.rank, help=words)
    words = (
        f"of the principal angles (default a quarter of the smaller side of each matrix, at most "
        f"{ANGLE_RANK}, with --fast at most the rank){cut}"
    )
    parser.add_argument("--angle-rank", type=int, help=words)
    _add_densities(parser, defaults)
    parser.add_argument(
        "--history",
        metavar="HOW",
        help="how the run of TUNED kept its weights: masters (float32), stochastic (rounding), "
        "pure (in the file's dtype, or resumed from it), unknown (default: as the run recorded)",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--exact", action="store_true", help="the default: float64 SVD of every whole matrix"
    )
    mode.add_argument(
        "--fast", action="store_true", help="from Gram matrices, with the error of each number"
    )


def curvature(parser: ArgumentParser) -> None:
    """Ask whether the policy is sharper on a mask than elsewhere, and how far an update went.

    RUN is a run directory; BASE and TUNED are checkpoint folders or hub ids, with ``--data``.
    Samples completions of the base policy, estimates the diagonal of its Fisher information on
    them, and compares its mean on each mask with random masks of the same size. With a tuned policy
    also the Fisher length of the update and the exact KL. Writes ``curvature.csv`` (one row a
    matrix and mask; units and formulas in ``curvature.columns.json``), ``curvature.json`` and
    figures.

    In float32, on one device. Memory besides the policies: two copies of the target matrices, and
    with ``--lanczos`` one more for each of its steps.
    """
    defaults = Settings()
    parser.add_argument("paths", nargs="+", metavar="RUN | BASE [TUNED]")
    parser.add_argument("--data", help="prompts, such as '{name: pocket}' (default: those of RUN)")
    parser.add_argument(
        "--out", type=Path, help="folder to write (default curvature, RUN/curvature of a run)"
    )
    parser.add_argument("--targets", nargs="+", default=["linear"], help=TARGETS)
    numbers = (
        ("--prompts", 64, "prompts, drawn at random: the unit of every interval"),
        ("--samples", 1, "completions of each prompt"),
        ("--max-new-tokens", 512, "of a completion; the rest of a longer one is left out"),
        ("--seed", 0, "of the prompts, the completions and the probes"),
        ("--rank", defaults.rank, "of the principal mask"),
        ("--probes", 8, "Hutchinson probes, a second estimate without sampled labels; 0: none"),
        ("--lanczos", 16, "steps for the top eigenvalues; 0: none"),
    )
    for flag, value, words in numbers:
        parser.add_argument(flag, type=int, default=value, help=f"{words} (default {value})")
    _add_densities(parser, defaults)


def evaluate(parser: ArgumentParser) -> None:
    """Evaluate a policy on benchmarks, from its completions to intervals.

    MODEL is a hub id, a checkpoint folder, an adapter folder, a delta or a run directory. Writes
    ``NAME.jsonl`` (every completion with its verdict), ``NAME.json``, ``summary.json`` and one
    self-contained ``report.html`` with a browser of the completions. What is there already is not
    drawn again: a call that was stopped is simply called again. On several GPUs: ``accelerate
    launch -m rlvr.cli evaluate ...``. A benchmark's data options follow its name, such as
    ``aime24.path=aime24.jsonl`` or ``math500.limit=100``; ``plugins=[my_module]`` brings a dataset.
    """
    parser.add_argument("model", nargs="?", metavar="MODEL", help="whose completions are judged")
    parser.add_argument("overrides", nargs="*", metavar="NAME.key=value", help="of a benchmark")
    parser.add_argument(
        "--benchmark", nargs="+", default=[], metavar="NAME", help="or reasoning_gym/TASK"
    )
    parser.add_argument(
        "--data", nargs="+", type=Path, default=[], metavar="FILE", help="JSONL of your own"
    )
    parser.add_argument("--preset", choices=PRESETS, default=PRESETS[0], help="default: deepscaler")
    for flag, kind, words in (
        ("--samples", int, "completions of each problem"),
        ("--temperature", float, "of the softmax; 0 takes the likeliest token"),
        ("--top-p", float, "mass of the nucleus"),
        ("--max-new-tokens", int, "of a completion; a longer one is truncated"),
        ("--batch-size", int, "completions computed at a time (64)"),
        ("--seed", int, "of all random streams (0)"),
        ("--prompt", str, "plain, boxed, or a text that holds {problem} once"),
        ("--system", str, "a system message"),
        ("--prefill", str, "what an answer begins with"),
        ("--verifier", str, "the reward that judges (math)"),
        ("--base", str, "of an adapter or a delta, if that does not say it"),
        ("--dtype", str, "float32 or bfloat16 (default: as stored)"),
    ):
        parser.add_argument(flag, type=kind, help=words)
    parser.add_argument("--out", type=Path, help="folder to write (eval; RUN/eval of a run)")
    parser.add_argument("--all", action="store_true", help="every checkpoint of a run")
    more = parser.add_mutually_exclusive_group()
    more.add_argument("--more-samples", type=int, default=0, metavar="N", help="N more of each")
    more.add_argument(
        "--until-width", type=float, metavar="W", help="until the 95 %% interval is W points wide"
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("A", "B"),
        help="two runs, folders or .jsonl files that were evaluated, problem by problem",
    )
    parser.add_argument(
        "--rollouts", type=Path, metavar="RUN", help="browse a run's rollouts.jsonl; draws nothing"
    )


def data(parser: ArgumentParser) -> None:
    """Read a recipe's data, or a named dataset, into the one row schema.

    Prints how many rows are kept, which are dropped and why, and three prompts as the policy reads
    them. ``--validate`` asks the reward about every row's own gold answer.
    """
    parser.add_argument("target", help="YAML recipe, or the name of a dataset")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="section.key=value of a recipe, an option of the dataset, or plugins=[my_module]",
    )
    parser.add_argument("--validate", action="store_true", help="every gold must score itself")
    parser.add_argument("--out", type=Path, help="write the rows, one JSON object a line")
    parser.add_argument(
        "--against",
        nargs="+",
        default=[],
        metavar="BENCHMARK",
        help="or a JSONL file: count the rows that hold its problems, whole or 13 words in a row",
    )
    parser.add_argument("--model", help="policy: its chat template shows the prompts")
    parser.add_argument("--reward", default="math", help="what validates a dataset (math)")


def _add_densities(parser: ArgumentParser, defaults: Settings) -> None:
    for flag, value, words in (
        ("--density", defaults.density, "of the principal mask"),
        ("--low-density", defaults.low_density, "of the low-magnitude mask"),
    ):
        parser.add_argument(flag, type=float, default=value, help=f"{words} (default {value})")
