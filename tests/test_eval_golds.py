"""Every gold answer of a benchmark scores itself: prompt, a completion that boxes it, verdict."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import POLICY, ROOT
from transformers import AutoTokenizer

from rlvr.benchmarks.problems import Chosen, LoadedBenchmark, load_benchmarks
from rlvr.data import generation_prompt
from rlvr.eval import Completion
from rlvr.eval.records import line_of, result_of

GOLDS = json.loads((ROOT / "tests" / "data" / "golds.json").read_text(encoding="utf-8"))
SHARED = ROOT.parent / "shared" / "data"  # the files themselves, where they are beside the checkout
FILES = {
    "aime24": "aime24.jsonl",
    "aime25": "aime25.jsonl",
    "amc23": "amc23.jsonl",
    "math500": "math500.jsonl",
    "minerva": "minerva_math.jsonl",
    "olympiadbench": "olympiadbench.jsonl",
    "gsm8k": "gsm8k_test.jsonl",
}
# The gold answers that cannot score themselves, by id.
EXCEPTIONS = {
    "minerva": {"minerva/5": "gold_unparsable"},  # np.arcsin(10/13): Python, and no mathematics
}


def statuses(benchmark: LoadedBenchmark) -> dict[str, str]:
    """Return the status of each row's gold answer, boxed, by id; the prompt is made of the row."""
    tokenizer: Any = benchmark.tokenizer(AutoTokenizer.from_pretrained(POLICY), {})
    drawn = []
    for row in benchmark.rows:
        prompt = generation_prompt(tokenizer, benchmark.task.render(row["problem"]))
        assert row["problem"] in prompt and "\\boxed{}" in prompt
        drawn.append(f"<think>\nSo it is clear.\n</think>\n\\boxed{{{row['answer']}}}")
    verdicts = benchmark.task.judge(benchmark.rows, drawn, [False] * len(drawn))
    results = [
        result_of(line_of(row, [Completion(text, (1,), False)], [verdict]))
        for row, text, verdict in zip(benchmark.rows, drawn, verdicts, strict=True)
    ]
    return {one.id: one.statuses[0] for one in results if one.correct != 1}


@pytest.mark.parametrize("name", [name for name in FILES if name in GOLDS])
def test_the_distinct_golds_of_a_benchmark_score_themselves(name, tmp_path):
    golds = GOLDS[name]
    rows = [{"id": f"{i}", "problem": f"p{i}", "answer": gold} for i, gold in enumerate(golds)]
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (benchmark,) = load_benchmarks([], [path], {}, Chosen())
    assert not {golds[int(id)]: status for id, status in statuses(benchmark).items()}


@pytest.mark.parametrize("name", FILES)
def test_every_gold_of_the_published_files_scores_itself(name):
    file: Path = SHARED / FILES[name]
    if not file.is_file():
        pytest.skip(f"{file} is not beside this checkout")
    (benchmark,) = load_benchmarks([name], [], {name: {"path": str(file)}}, Chosen())
    assert statuses(benchmark) == EXCEPTIONS.get(name, {})
