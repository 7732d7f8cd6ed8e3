"""Time an evaluation against padded ``generate`` in the order of the file.

    python scripts/bench_evaluate.py

Both draw from the pocket policy, on sums of 2 to 20 terms, so that lengths are mixed: a line of a
completion for each term. They take turns, and the ratio is of pairs of neighbours. Times are CPU
seconds of this process, which other load leaves alone; the verifier works in processes of its own.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rlvr import runtime
from rlvr.data import render
from rlvr.decoding import pad_rows
from rlvr.eval import EvalSettings, Task, evaluate
from rlvr.eval.sampling import end_token_ids, prompt_token_ids
from rlvr.rewards import parse_reward

POLICY = Path(__file__).parent.parent / "recipes" / "pocket" / "policy"


def padded(policy: Any, tokenizer: Any, rows: list[Any], settings: EvalSettings) -> int:
    """Draw by ``generate``, a batch after the other in file order; return the tokens."""
    heads = prompt_token_ids(tokenizer, [render(row["problem"]) for row in rows])
    repeated = [head for head in heads for _ in range(settings.samples)]
    ends, tokens = end_token_ids(policy, tokenizer), 0
    config: Any = GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        do_sample=True,
        top_k=0,
        eos_token_id=ends,
        pad_token_id=ends[0],
    )
    for start in range(0, len(repeated), settings.batch_size):
        ids, mask = pad_rows(
            repeated[start : start + settings.batch_size], ends[0], torch.device("cpu")
        )
        output = policy.generate(ids, attention_mask=mask, generation_config=config)
        for row in output[:, ids.shape[1] :].tolist():
            stop = next((i for i, token in enumerate(row) if token in ends), len(row) - 1)
            tokens += stop + 1
    return tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for flag, value in (("problems", 128), ("samples", 2), ("batch-size", 64), ("rounds", 3)):
        parser.add_argument(f"--{flag}", type=int, default=value)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    options = parser.parse_args()
    policy: Any = AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(POLICY)
    draw = random.Random(0)
    rows = [
        {"id": str(i), "problem": "+".join(draw.choices("123456789", k=draw.randint(2, 20)))}
        for i in range(options.problems)
    ]
    rows = [{**row, "answer": str(sum(map(int, row["problem"].split("+"))))} for row in rows]
    task = Task(rows, render, parse_reward({"name": "math"}, "verifier").verdicts)
    settings = EvalSettings(options.samples, 1.0, 1.0, options.max_new_tokens, options.batch_size)
    ratios = []
    for turn in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            result = evaluate(policy, tokenizer, task, settings, Path(folder) / "x.jsonl")
            ours = time.process_time() - began
        lengths = [length for one in result.problems for length in one.lengths]
        began = time.process_time()
        tokens = padded(policy, tokenizer, rows, settings)
        theirs = time.process_time() - began
        ratios.append((sum(lengths) / ours) / (tokens / theirs))
        runtime.say(
            f"turn {turn + 1}: {sum(lengths) / ours:.0f} tokens a CPU second, "
            f"{tokens / theirs:.0f} padded; lengths {min(lengths)} to {max(lengths)}, mean "
            f"{np.mean(lengths):.0f}"
        )
    runtime.say(f"ratio    {np.median(ratios):.2f} (median of {options.rounds} pairs)")


if __name__ == "__main__":
    main()
