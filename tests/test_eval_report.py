"""The browser of completions: data that is only text, pages of bounded size."""

import json

from rlvr.data import Row, render
from rlvr.eval import Completion, Task
from rlvr.eval.records import line_of, result_of
from rlvr.reports.browser import LONGEST, MOST, bounded, browser
from rlvr.rewards import parse_reward

ENTRY = {
    **{"group": "x", "id": "x/1, sample 1", "kind": "wrong", "about": "wrong, 3 tokens"},
    **{"problem": "1+1", "answer": "2", "extracted": "3", "detail": "", "text": "3"},
}


def test_markup_of_a_policy_is_data_and_never_runs():
    text = "</script><script>alert(1)</script><!-- \u2028 &lt; \ud800"
    part = browser([{**ENTRY, "text": text}], 0)
    data = part.split('id="completions">')[1].split("</script>")[0]
    assert json.loads(data)[0]["text"] == text
    assert "alert(1)</script>" not in part


def test_a_page_is_bounded_and_says_what_it_leaves_out():
    long = {**ENTRY, "text": "a" * 200_000}
    (kept,), left_out = bounded([long])
    assert len(kept["text"]) < LONGEST + 100 and "160,000 characters left out" in kept["text"]
    assert left_out == 0
    many = (long for _ in range(1000))
    entries, left_out = bounded(many)
    assert len(entries) + left_out == 1000
    assert sum(len(one["text"]) for one in entries) <= MOST
    assert f"{left_out} more completions" in browser(entries[:1], left_out)


def test_a_completion_of_200_kilobytes_is_judged_and_kept_whole():
    row = Row(id="a", problem="1+1", answer="2", source="x")
    task = Task([row], render, parse_reward({"name": "math"}, "verifier").verdicts)
    texts = ["x" * 200_000 + "</think>\\boxed{2}", "(" * 200_000, "\\boxed{" + "1" * 200_000 + "}"]
    verdicts = task.judge([row] * 3, texts, [False, True, False])
    drawn = [Completion(text, (1,), False) for text in texts]
    line = line_of(row, drawn, verdicts)
    result = result_of(json.loads(json.dumps(line)))
    assert result.right == [True, False, False]
    assert result.statuses[1] == "truncated" and result.statuses[2] in ("unparsable", "wrong")
    assert [one["text"] for one in line["completions"]] == texts
