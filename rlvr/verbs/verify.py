"""``rlvr verify``: a file of rows, judged by the math verifier, and the table of disagreements."""

import json
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from tqdm import tqdm

from rlvr.files import replacing
from rlvr.rewards import Status, Verdict
from rlvr.rewards.math import verify_batch
from rlvr.schema import RecipeError

CHUNK = 2_000  # rows judged between two moves of the progress bar
Row = dict[str, Any]


def run(options: Namespace) -> int:
    if options.deadline <= 0:
        raise RecipeError(f"--deadline: {options.deadline:g} is no time; give seconds above 0")
    if not options.cases.is_file():
        raise RecipeError(f"{options.cases} does not exist; check the path")
    if not options.out.parent.is_dir():
        raise RecipeError(f"--out: {options.out.parent} is no folder; make it first")
    # samefile sees through links and ./ in either path.
    if options.out.exists() and options.out.samefile(options.cases):
        raise RecipeError(f"--out: {options.out} is the input; name another file")
    judged = judge_file(options.cases, options.out, options.extract, options.deadline)
    print(summary(judged))
    return 0


def read_cases(path: Path) -> Iterator[Row]:
    """Yield the rows of a JSONL file; the error for a bad row names its line and its fix."""
    with open(path, encoding="utf-8") as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _row(line, f"{path}, line {number}")
        except UnicodeDecodeError as error:
            raise RecipeError(f"{path}: not UTF-8 text ({error})") from error


def _row(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise RecipeError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise RecipeError(f"{where}: expected an object, got {type(row).__name__}")
    for key in ("gold", "response"):
        if key not in row:
            raise RecipeError(f"{where}: {key!r} is missing; a row is {{gold, response, ...}}")
    # Unquoted numbers are what people write; bool is an int in Python.
    if isinstance(row["gold"], int | float) and not isinstance(row["gold"], bool):
        row["gold"] = str(row["gold"])
    for key in ("gold", "response"):
        if not isinstance(row[key], str):
            raise RecipeError(f"{where}: {key!r} is {row[key]!r}; write it as a string")
    return row


def judge_file(cases: Path, out: Path, extract: Any, deadline_s: float) -> list[Row]:
    """Judge every row, write them in order, and return what the summary needs of each.

    The file appears under its name when it is complete.
    """
    rows = read_cases(cases)
    judged: list[Row] = []
    with replacing(out) as temporary:
        with (
            open(temporary, "w", encoding="utf-8") as file,
            tqdm(unit=" rows", desc="verify") as bar,
        ):
            # Chunks bound the memory: a file may hold millions of rows.
            while chunk := list(islice(rows, CHUNK)):
                pairs = [(row["gold"], row["response"]) for row in chunk]
                verdicts = verify_batch(pairs, extract=extract, deadline_s=deadline_s)
                for row, verdict in zip(chunk, verdicts, strict=True):
                    file.write(json.dumps(_scored(row, verdict)) + "\n")
                    # Only what the summary reads: the responses may not fit in memory.
                    kept = {key: row[key] for key in ("label", "tag") if key in row}
                    judged.append({**kept, "status": verdict.status})
                bar.update(len(chunk))
    return judged


def _scored(row: Row, verdict: Verdict) -> Row:
    # The rewards of `math` by default; null where the gold answer cannot be read.
    reward = 1.0 if verdict.status == "correct" else 0.0
    return {
        **row,
        "reward": None if verdict.status == "gold_unparsable" else reward,
        "status": verdict.status,
        "extracted": verdict.answer,
        "detail": verdict.detail,
        "by": verdict.by,
    }


def summary(judged: list[Row]) -> str:
    """Return the counts by status and, of rows with a label, the disagreements by tag."""
    counts = Counter(row["status"] for row in judged)
    lines = [f"{len(judged)} rows"]
    lines += [f"  {status:<16} {counts[status]}" for status in get_args(Status) if counts[status]]
    labelled = [row for row in judged if row.get("label") in (True, False)]
    if labelled:
        head = f"{'tag':<16} {'rows':>6} {'agree':>8} {'false positives':>16}"
        lines += ["", f"{head} {'false negatives':>16}"]
        tags = sorted({str(row.get("tag", "-")) for row in labelled})
        # A row is in the group of its tag and in "all".
        for tag in [*tags, "all"]:
            group = [row for row in labelled if tag in (str(row.get("tag", "-")), "all")]
            positives = sum(row["status"] == "correct" and not row["label"] for row in group)
            negatives = sum(row["status"] != "correct" and row["label"] for row in group)
            agree = 1 - (positives + negatives) / len(group)
            lines.append(f"{tag:<16} {len(group):>6} {agree:>8.2%} {positives:>16} {negatives:>16}")
    return "\n".join(lines)
