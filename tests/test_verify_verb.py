"""``rlvr verify``: rows in, rows with verdicts out, in order or not at all."""

import json

import pytest

from rlvr.cli import main

ROWS = [
    {"gold": "\\frac{1}{2}", "response": "\\boxed{0.5}", "label": True, "tag": "a", "id": 7},
    {"gold": "x+1", "response": "\\boxed{1+x}", "label": False, "tag": "a"},
    {"gold": 3, "response": "The answer is 3.", "label": True, "tag": "b"},
    {"gold": "", "response": "\\boxed{1}"},
    {"gold": "4", "response": "no idea"},
]


@pytest.fixture
def cases(tmp_path):
    path = tmp_path / "cases.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def scored(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_come_back_in_order_with_reward_and_status(cases, tmp_path, capsys):
    out = tmp_path / "scored.jsonl"
    assert main(["verify", str(cases), "--out", str(out)]) == 0
    rows = scored(out)
    assert [row["status"] for row in rows] == [
        "correct", "correct", "correct", "gold_unparsable", "unparsable",
    ]  # fmt: skip
    assert [row["reward"] for row in rows] == [1.0, 1.0, 1.0, None, 0.0]
    assert rows[0]["id"] == 7 and rows[0]["extracted"] == "0.5"
    text = capsys.readouterr().out
    assert "5 rows" in text and "gold_unparsable  1" in text
    table = {line.split()[0]: line.split()[1:] for line in text.splitlines() if "%" in line}
    assert table["a"] == ["2", "50.00%", "1", "0"]
    assert table["b"] == ["1", "100.00%", "0", "0"]


def test_boxed_wants_a_box(cases, tmp_path):
    out = tmp_path / "scored.jsonl"
    assert main(["verify", str(cases), "--out", str(out), "--extract", "boxed"]) == 0
    assert [row["reward"] for row in scored(out)] == [1.0, 1.0, 0.0, None, 0.0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 6: not valid JSON"),
        ("[1]", "line 6: expected an object"),
        ('{"gold": "1"}', "line 6: 'response' is missing"),
        ('{"gold": "1", "response": null}', "line 6: 'response' is None"),
        ('{"gold": true, "response": "1"}', "line 6: 'gold' is True"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_written(cases, tmp_path, capsys, line, message):
    cases.write_text(cases.read_text() + line + "\n")
    assert main(["verify", str(cases), "--out", str(tmp_path / "scored.jsonl")]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["cases.jsonl"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.jsonl", "--out", "o.jsonl"], "does not exist"),
        (["{cases}", "--out", "{cases}"], "is the input"),
        (["{cases}", "--out", "no/folder/o.jsonl"], "is no folder"),
        (["{cases}", "--out", "o.jsonl", "--deadline", "0"], "--deadline"),
    ],
)
def test_bad_words_are_refused(cases, tmp_path, capsys, words, message):
    assert main(["verify", *(word.format(cases=cases) for word in words)]) == 2
    assert message in capsys.readouterr().err
