"""Measure the pocket policy and write its model card.

    python scripts/pocket_card.py recipes/pocket/policy

Every figure is of held-out problems, which neither pretraining nor RLVR draws.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, logging, set_seed

from rlvr import runtime
from rlvr.data import load_rows, render
from rlvr.eval import EvalResult, EvalSettings, Task, evaluate, problem_interval
from rlvr.eval.records import read_lines
from rlvr.rewards import parse_reward

KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TOP = 8  # singular values in the second column: the rank of the pocket recipes
SAMPLED = "sampled.jsonl"  # the file of the completions at temperature 1
PROBLEMS, SAMPLES, MAX_NEW_TOKENS = 512, 16, 40

Shares = dict[str, tuple[float, float]]

CARD = """---
library_name: transformers
pipeline_tag: text-generation
---

# The pocket policy

A Qwen3 model of {parameters:,} parameters that does arithmetic, not always well: it has room to
learn. RLVR runs, tests and studies use it where a real model would need a hub and a GPU.

## Task

The prompt is one expression of four one-digit operands, such as `7-3+8*5`, on which a solver who
ignores precedence is wrong. A completion reduces one operator per line and boxes the value:

```
{example}
```

A completion is correct when the text after the last `</think>` is exactly one `\\boxed{{integer}}`
with the right value. One problem in eight is held out, by a hash of its text.

{vocabulary} tokens: one per character, and one each for `<think>`, `</think>` and `\\boxed{{`. The
chat template opens each turn with `<|user|>` or `<|assistant|>`; `<|end|>` ends a completion.

## Pretraining

On fallible solutions of problems of the train split, drawn afresh at every step, in fp32; saved as
bf16. Each reduction forgets precedence, or gets a value wrong, with a fixed probability, and some
solutions leave the lines out. Settings (`pretraining.json`):

```json
{pretraining}
```

## Figures

{problems} held-out problems, {samples} completions each at temperature 1, of at most {limit}
tokens, in fp32 on {device}. Intervals are 95 %, over problems.

| | |
|---|---|
{figures}

### Spectra

Share of the squared Frobenius norm in the largest singular value and in the {top} largest, mean
over the {layers} layers, next to a random initialisation of the same shape (seed 0).

| matrix | largest | random | {top} largest | random |
|---|--:|--:|--:|--:|
{spectra}

## Commands

```
python scripts/pretrain_pocket.py --out recipes/pocket/policy{flags}
python scripts/pocket_card.py {folder}
```

{versions}.
"""


def spectral_shares(policy: PreTrainedModel) -> Shares:
    r"""Return per matrix kind :math:`\sigma_1^2/\sum\sigma^2` and that of the top ``TOP``.

    Both are means over the layers.
    """
    shares: dict[str, list[torch.Tensor]] = defaultdict(list)
    for name, weight in policy.named_parameters():
        kind = name.split(".")[-2]
        if kind in KINDS:
            squares = torch.linalg.svdvals(weight.detach().double()) ** 2
            shares[kind].append(torch.stack([squares[0], squares[:TOP].sum()]) / squares.sum())
    means = {kind: torch.stack(shares[kind]).mean(0).tolist() for kind in KINDS}
    return {kind: (first, top) for kind, (first, top) in means.items()}


def measure(
    policy: Any, tokenizer: Any, rows: list[Any], folder: Path
) -> tuple[EvalResult, EvalResult]:
    """Return the result at temperature 1 and the greedy one; their files are in ``folder``."""
    sampled = EvalSettings(samples=SAMPLES, max_new_tokens=MAX_NEW_TOKENS, batch_size=512)
    greedy = EvalSettings(temperature=0.0, max_new_tokens=MAX_NEW_TOKENS, batch_size=512)
    task = Task(rows, render, parse_reward({"name": "math"}, "verifier").verdicts)
    return (
        evaluate(policy, tokenizer, task, sampled, folder / SAMPLED),
        evaluate(policy, tokenizer, task, greedy, folder / "greedy.jsonl"),
    )


def figure_rows(sampled: EvalResult, greedy: EvalResult) -> str:
    """Return the Markdown rows of the figures, unjudged and truncated completions included."""
    solved = problem_interval([count > 0 for count in sampled.counts])
    cells = {f"avg@{SAMPLES}": sampled.accuracy}
    cells |= {f"pass@{k}": sampled.pass_at_k[k] for k in (1, 4, 16)}
    cells |= {f"solved at least once in {SAMPLES}": solved, "greedy": greedy.accuracy}
    lines = [f"| {label} | {estimate} |" for label, estimate in cells.items()]
    lines.append(f"| truncated | {sampled.truncated:.2%} sampled, {greedy.truncated:.2%} greedy |")
    lines.append(f"| mean length | {sampled.mean_length:.1f} tokens |")
    return "\n".join(lines)


def spectrum_rows(trained: Shares, random: Shares) -> str:
    lines = []
    for kind in KINDS:
        (first, top), (first_random, top_random) = trained[kind], random[kind]
        lines.append(
            f"| `{kind}` | {first:.1%} | {first_random:.1%} | {top:.1%} | {top_random:.1%} |"
        )
    return "\n".join(lines)


def random_policy(config: Any) -> PreTrainedModel:
    set_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def example(file: Path) -> str:
    """Return the first problem of an evaluation with a correct completion that shows its lines."""
    for line in read_lines(file):
        for one in line["completions"]:
            if one["reward"] and not one["text"].startswith("<think>\n</think>"):
                return f"{line['problem']}\n{one['text']}"
    return "(no completion is correct)"


def write_card(folder: Path) -> str:
    """Measure the policy in ``folder``, write its ``README.md`` and return the figures."""
    device = runtime.default_device()
    policy: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    policy.to(device)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    rows = load_rows({"name": "pocket", "split": "test", "size": PROBLEMS}, "pocket_card")
    with tempfile.TemporaryDirectory() as temporary:
        sampled, greedy = measure(policy, tokenizer, rows, Path(temporary))
        shown = example(Path(temporary) / SAMPLED)
    spectra = spectrum_rows(spectral_shares(policy), spectral_shares(random_policy(policy.config)))
    pretraining = json.loads((folder / "pretraining.json").read_text(encoding="utf-8"))
    flags = "".join(f" --{key.replace('_', '-')} {value}" for key, value in pretraining.items())
    versions = runtime.versions()
    card = CARD.format(
        parameters=policy.num_parameters(),
        example=shown,
        vocabulary=len(tokenizer),
        pretraining=json.dumps(pretraining, indent=2),
        problems=PROBLEMS,
        samples=SAMPLES,
        limit=MAX_NEW_TOKENS,
        device=device.type.upper(),
        figures=figure_rows(sampled, greedy),
        top=TOP,
        layers=policy.config.num_hidden_layers,
        spectra=spectra,
        flags=flags.replace(" --", " \\\n    --"),
        folder=folder,
        versions=f"torch {versions['torch']}, transformers {versions['transformers']}",
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    return f"{figure_rows(sampled, greedy)}\n\n{spectra}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("policy", type=Path, help="folder of the saved policy")
    folder = parser.parse_args().policy
    logging.disable_progress_bar()
    print(write_card(folder))
    print(f"\nwritten: {folder / 'README.md'}")


if __name__ == "__main__":
    main()
