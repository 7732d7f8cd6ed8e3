"""Throughput and latency of the math verifier beside TRL's ``accuracy_reward``, on the same rows.

    python scripts/bench_rewards.py --data ../shared/data

``--data`` is a folder with ``gsm8k_test.jsonl``, ``math500.jsonl`` and ``verifier_cases.jsonl``: a
row is a short solution that ends in a box, with the gold answer, with a wrong one, or as a model
wrote it. The two verifiers take turns on the same chunks of rows, so that a busy machine slows
both; ``--soak N`` judges N mixed rows of which one in a hundred is hostile.
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

from rlvr.rewards.math import forget, verify, verify_batch

CHUNK = 100
Pair = tuple[str, str]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ordinary(data: Path, rng: random.Random) -> list[Pair]:
    """Return pairs of gold answer and response as a run sees them: four of a group, one wrong."""
    golds = [str(row["answer"]) for row in read(data / "gsm8k_test.jsonl")]
    golds += [str(row["answer"]) for row in read(data / "math500.jsonl")]
    pairs = []
    for index, gold in enumerate(golds):
        other = golds[rng.randrange(len(golds))]
        for answer in (gold, gold, other):
            steps = " ".join(f"Step {k}: ${rng.randrange(99)}x + {k}$ is ${k}$." for k in range(30))
            pairs.append((gold, f"{steps}\nThe final answer to {index} is $\\boxed{{{answer}}}$."))
    cases = read(data / "verifier_cases.jsonl")
    pairs += [(r["gold"], r["response"]) for r in cases if r["tag"] == "model_response"]
    rng.shuffle(pairs)
    return pairs


def paired(pairs: list[Pair]) -> tuple[list[float], list[float]]:
    """Return the seconds of each chunk, with this verifier and with TRL's, taken in turns."""
    from trl.rewards import accuracy_reward

    ours, theirs = [], []
    verify_batch([("x+1", "\\boxed{1+x}")], extract="boxed")
    accuracy_reward([[{"content": "$\\boxed{x+1}$"}]], ["$x+1$"])
    forget()
    for start in range(0, len(pairs), CHUNK):
        chunk = pairs[start : start + CHUNK]
        begin = time.perf_counter()
        verify_batch(chunk, extract="boxed")
        middle = time.perf_counter()
        accuracy_reward(
            [[{"content": response}] for _, response in chunk], [f"${gold}$" for gold, _ in chunk]
        )
        ours.append(middle - begin)
        theirs.append(time.perf_counter() - middle)
    return ours, theirs


def latencies(pairs: list[Pair]) -> list[float]:
    """Return the seconds of single calls, none of them answered from the cache."""
    forget()
    seconds = []
    for gold, response in dict.fromkeys(pairs):
        begin = time.perf_counter()
        verify(gold, response, extract="boxed")
        seconds.append(time.perf_counter() - begin)
    return sorted(seconds)


def soak(data: Path, pairs: list[Pair], count: int, rng: random.Random) -> None:
    nasty = [(r["gold"], r["response"]) for r in read(data / "verifier_nasty.jsonl")]
    cases = [(r["gold"], r["response"]) for r in read(data / "verifier_cases.jsonl")]
    rows = [
        rng.choice(nasty) if rng.random() < 0.01 else rng.choice(pairs + cases)
        for _ in range(count)
    ]
    forget()
    begin = time.perf_counter()
    verdicts = verify_batch(rows)
    seconds = time.perf_counter() - begin
    alone = {row: verify(*row).status for row in rng.sample(rows, 200)}
    order = all(alone[r] == v.status for r, v in zip(rows, verdicts, strict=True) if r in alone)
    print(f"soak: {len(verdicts)} of {count} rows answered in {seconds:.1f} s, in order: {order}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--soak", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(0)
    pairs = ordinary(options.data, rng)
    ours, theirs = paired(pairs[: options.rows])
    ratio = statistics.median(t / o for o, t in zip(ours, theirs, strict=True))
    rows = min(options.rows, len(pairs))
    print(f"rlvr: {rows / sum(ours):.0f} rows/s   TRL: {rows / sum(theirs):.0f} rows/s")
    print(f"ratio: {sum(theirs) / sum(ours):.1f} in all, {ratio:.1f} median over chunks")
    seconds = latencies(pairs[: options.rows])
    p50, p99 = seconds[len(seconds) // 2], seconds[int(len(seconds) * 0.99)]
    print(f"one call: p50 {p50 * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms, max {seconds[-1] * 1e3:.1f}")
    if options.soak:
        soak(options.data, pairs, options.soak, rng)


if __name__ == "__main__":
    main()
