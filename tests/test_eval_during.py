"""The held-out accuracy on the way is that of the end: one code, the same completions."""

import json

from conftest import SMALL


def test_the_evaluation_of_the_last_step_is_that_of_the_export(train):
    held_out = {"name": "pocket", "split": "test", "size": 12}
    section = {"data": held_out, "verifier": {"name": "math"}, "every": 2, "max_new_tokens": 24}
    trainer = {**SMALL["trainer"], "max_steps": 4, "save_steps": 4}
    run_dir = train(trainer=trainer, data={**SMALL["data"], "size": 16}, eval=section)
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    evaluated = {row["step"]: row for row in rows if "eval/accuracy" in row}
    assert list(evaluated) == [2, 4]
    # In fp32 the exported policy is the trained one, bit for bit.
    last = (run_dir / "eval" / "during" / "step-000004.jsonl").read_bytes()
    assert last == (run_dir / "eval" / "final.jsonl").read_bytes()
    summary = json.loads((run_dir / "summary.json").read_text())
    assert evaluated[4]["eval/accuracy"] == 100 * summary["accuracy_after"]["mean"]
    assert evaluated[4]["eval/truncated"] == summary["truncated"]
