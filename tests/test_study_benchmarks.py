"""A study's tables of benchmarks: what ``rlvr evaluate`` left in each run, by preset."""

import json
from pathlib import Path
from typing import Any

from rlvr.studies.results import Cell
from rlvr.studies.tables import benchmark_tables


def evaluated(folder: Path, run: str, preset: str, **scores: float) -> dict[str, Any]:
    """Write what an evaluation leaves in a run and return the run's row."""
    (folder / run / "eval").mkdir(parents=True)
    benchmarks = {name: {"accuracy": {"mean": score}} for name, score in scores.items()}
    content = {"preset": preset, "benchmarks": benchmarks}
    (folder / run / "eval" / "summary.json").write_text(json.dumps(content))
    return {"run": run}


def test_scores_are_averaged_over_seeds_and_presets_are_kept_apart(tmp_path):
    dense = {
        0: evaluated(tmp_path, "a", "paper", aime24=0.3, math500=0.8),
        1: evaluated(tmp_path, "b", "paper", aime24=0.2, math500=0.9, amc23=0.5),
    }
    safe = {0: evaluated(tmp_path, "c", "greedy", aime24=0.4), 1: {"run": "not evaluated"}}
    cells = [Cell("dense", None, dense, 2, {}, {}), Cell("safe", None, safe, 2, {}, {})]
    tables = benchmark_tables(tmp_path, cells)
    assert list(tables) == [
        "benchmarks, preset greedy (avg@n in per cent)",
        "benchmarks, preset paper (avg@n in per cent)",
    ]
    (greedy,), (paper,) = tables.values()
    assert greedy == {"arm": "safe", "seeds": "1", "aime24": "40.00", "average": "40.00"}
    # Only what both seeds have, the average last: (30 + 80) / 2 and (20 + 90) / 2.
    assert list(paper) == ["arm", "seeds", "aime24", "math500", "average"]
    assert paper["aime24"].startswith("25.00 [") and paper["average"] == "55.00 [55.00, 55.00]"


def test_without_an_evaluation_there_is_no_such_table(tmp_path):
    assert benchmark_tables(tmp_path, [Cell("dense", None, {0: {"run": "x"}}, 1, {}, {})]) == {}
