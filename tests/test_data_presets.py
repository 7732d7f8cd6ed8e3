"""Benchmarks and presets: their number of problems, and local copies of them."""

import pytest
from test_data import write

from rlvr.data import load_rows
from rlvr.schema import RecipeError

COUNTS = {
    "aime24": 30,
    "aime25": 30,
    "amc23": 40,
    "math500": 500,
    "minerva": 272,
    "olympiadbench": 675,
}


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_a_benchmark_has_its_number_of_problems(name, count, tmp_path):
    problems = [{"problem": f"What is {n}+1?", "answer": str(n + 1)} for n in range(count)]
    path = write(tmp_path / "whole.jsonl", problems)
    assert len(load_rows({"name": name, "path": path}, "data")) == count
    # Two fewer: of OlympiadBench there are copies with 674 and with 675.
    for other in (problems[:-2], [*problems, {"problem": "What is 1+1?", "answer": "2"}]):
        path = write(tmp_path / "other.jsonl", other)
        with pytest.raises(RecipeError, match="should have"):
            load_rows({"name": name, "path": path}, "data")


def test_a_preset_reads_a_local_copy_with_the_hubs_columns(tmp_path):
    records = [
        {"question": "q3", "gt_answer": "1", "level": 3},
        {"question": "q1", "gt_answer": "2", "level": 1},
    ]
    path = write(tmp_path / "zoo.jsonl", records)
    rows = load_rows({"name": "simplerl", "path": path}, "data")
    assert [row["problem"] for row in rows] == ["q3"]
    path = write(tmp_path / "gsm.jsonl", [{"question": "q", "answer": "1+1\n#### 1,002"}])
    assert load_rows({"name": "gsm8k", "path": path}, "data")[0]["answer"] == "1002"
    with pytest.raises(RecipeError, match="revision"):
        load_rows({"name": "gsm8k", "path": path, "revision": "main"}, "data")
