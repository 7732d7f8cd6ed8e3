"""Files and hub datasets become rows, prompts are written once, and filters say what they drop."""

import json
import math
import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from rlvr.data import generation_prompt, load_prepared, load_rows, parse_dataset, with_prefill
from rlvr.data.rows import Row, plain_columns
from rlvr.schema import RecipeError

ROOT = Path(__file__).parent.parent
POLICY = ROOT / "recipes" / "pocket" / "policy"
ROWS = [
    {"id": "a", "problem": "What is 1+1?", "answer": "2", "level": 1},
    {"id": "b", "problem": "What is 2+2?", "answer": "4", "level": 3},
    {"id": "c", "problem": "Was ist 3·3? é\u2028{x}\U0001f600", "answer": "9", "level": 5},
]


def write(path: Path, rows: list) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return str(path)


@pytest.fixture
def load(tmp_path):
    """Return a function from records and options to the loaded rows."""

    def load(records: list, **options):
        spec = {"name": "jsonl", "path": write(tmp_path / "rows.jsonl", records), **options}
        return load_prepared(parse_dataset(spec, "data"), "data")

    return load


def ids(loaded) -> list[str]:
    return [row["id"] for row in loaded.rows]


def test_jsonl_parquet_and_a_local_dataset_give_the_same_rows(tmp_path, monkeypatch):
    import datasets
    import pyarrow
    from pyarrow.parquet import write_table

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    write_table(pyarrow.Table.from_pylist(ROWS), folder / "train.parquet")
    specs = [
        {"name": "jsonl", "path": write(tmp_path / "rows.jsonl", ROWS)},
        {"name": "parquet", "path": str(folder / "train.parquet")},
        {"name": "hub", "path": str(folder), "split": "train"},
    ]
    found = [load_rows(spec, "data", ["level"]) for spec in specs]
    without_source = [[{k: v for k, v in row.items() if k != "source"} for row in r] for r in found]
    assert without_source == [ROWS] * 3
    for change, word in ({"split": "tset"}, "tset"), ({"config": "no"}, "no"):
        with pytest.raises(RecipeError, match=word):
            load_rows({**specs[2], **change}, "data")
    with pytest.raises(RecipeError, match="cannot load"):
        load_rows({"name": "hub", "path": str(tmp_path / "nothing")}, "data")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(RecipeError, match="parquet"):
        load_rows({"name": "parquet", "path": str(tmp_path / "bad.parquet")}, "data")


def test_columns_are_mapped_nested_ones_too(load):
    record = {
        "prompt": [{"role": "user", "content": "Add 1 and 1."}],
        "reward_model": {"ground_truth": "2"},
        "extra_info": {"index": 7},
        "cases": [{"stdin": "1"}],
    }
    columns = {
        "problem": "prompt",
        "answer": "reward_model.ground_truth",
        "id": "extra_info.index",
        "tests": "cases",
    }
    (row,) = load([record], columns=columns).rows
    assert row["problem"] == "Add 1 and 1." and row["answer"] == "2" and row["id"] == "7"
    assert row["tests"] == [{"stdin": "1"}]  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("given", "extract", "answer"),
    [
        ("72", "auto", "72"),
        (72, "auto", "72"),
        (27.0, "auto", "27"),
        (0.1, "auto", "0.1"),
        (-3, "auto", "-3"),
        (10**30, "auto", "1" + "0" * 30),
        ("48/2 = <<48/2=24>>24\n#### 1,072", "auto", "1072"),
        ("#### 5", "text", "#### 5"),
        ("so $\\boxed{1}$ and $\\boxed{\\frac{1}{2}}$.", "boxed", "\\frac{1}{2}"),
        (["$2$"], "auto", "$2$"),
        (["2", 2, " 2 "], "auto", "2"),
        ("  x ", "auto", "x"),
        ("né", "auto", "né"),
    ],
)
def test_answers_become_text(load, given, extract, answer):
    (row,) = load([{"problem": "p", "answer": given}], extract=extract).rows
    assert row["answer"] == answer


@pytest.mark.parametrize(
    "answer", [None, "", "  ", math.nan, math.inf, "NaN", True, [], [[1]], {"a": 1}, "#### "]
)
def test_rows_without_an_answer_are_an_error_or_counted(load, answer):
    bad = {"id": "bad", "problem": "p", "answer": answer}
    with pytest.raises(RecipeError, match="1 rows with no answer: bad.*drop_invalid"):
        load([*ROWS, bad])
    loaded = load([*ROWS, bad], drop_invalid=True)
    assert ids(loaded) == ["a", "b", "c"] and loaded.dropped == {"no answer": ["bad"]}


@pytest.mark.parametrize(
    "answer", [["1/2", "0.5"], [1, 2], ["New York", "NYC"], ["x", "y", "z"], ["#### 1", 2.5]]
)
def test_a_list_of_several_answers_is_an_error_with_its_fix_or_counted(load, answer):
    bad = {"id": "bad", "problem": "p", "answer": answer}
    with pytest.raises(RecipeError, match="a list of several answers .write one text.*: bad"):
        load([*ROWS, bad])
    dropped = load([*ROWS, bad], drop_invalid=True).dropped
    assert list(dropped.values()) == [["bad"]]


def test_a_benchmark_of_several_values_joins_them(tmp_path):
    rows = [{"question": "p", "final_answer": ["$1$", "$2$"]}]
    spec = {"name": "olympiadbench", "path": write(tmp_path / "o.jsonl", rows), "size": 1}
    assert load_rows(spec, "data")[0]["answer"] == "$1$, $2$"


USER = {"role": "user", "content": "What is 1+1?"}
MESSAGES = [
    ([{"role": "system", "content": "x"}, USER], "system + user"),
    ([USER, {"role": "assistant", "content": "x"}], "user + assistant"),
    ([USER, {"role": "assistant", "content": "2"}, USER], "user + assistant + user"),
    ([USER, USER], "user + user"),
    ([{"role": "developer", "content": "x"}, USER], "developer + user"),
    ([{"content": "x"}, USER], "None + user"),
]


@pytest.mark.parametrize(("problem", "roles"), MESSAGES)
def test_messages_that_would_be_lost_are_an_error_whose_fix_works(load, problem, roles):
    record = {"id": "bad", "problem": problem, "answer": "2"}
    with pytest.raises(RecipeError) as error:
        load([record])
    message = str(error.value)
    assert f"a problem of {roles} messages" in message and "data.system" in message
    record = {"id": "bad", "answer": "2", "prompt": problem}
    (column,) = re.findall(r"prompt\.\d\.content", message)
    (row,) = load([record], columns={"problem": column}).rows
    assert row["problem"] == USER["content"]


@pytest.mark.parametrize("problem", [None, "", " \n", 3, [{"role": "system", "content": "x"}]])
def test_rows_without_a_problem_are_an_error(load, problem):
    with pytest.raises(RecipeError, match="no problem: bad"):
        load([{"id": "bad", "problem": problem, "answer": "1"}])


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('{"problem": "p"}\n', "line 1: no column 'answer'; it has problem"),
        ('{"problem": "p", "answer": "1"}\n{"problem"\n', "line 2: not JSON"),
        ("[1, 2]\n", "line 1: expected an object"),
        ("", "no rows"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_file_that_is_no_dataset_is_named_with_its_line(tmp_path, text, word):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(RecipeError, match=word):
        load_rows({"name": "jsonl", "path": str(path)}, "data")


def test_bytes_that_are_no_utf8_are_said_so(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"problem": "\xff", "answer": "1"}\n')
    with pytest.raises(RecipeError, match="UTF-8"):
        load_rows({"name": "jsonl", "path": str(path)}, "data")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"colums": {}}, "did you mean 'columns'"),
        ({"prompt": "no place"}, r"data.prompt"),
        ({"prompt": "{problem}{problem}"}, r"data.prompt"),
        ({"limit": 0}, "data.limit"),
        ({"min_pass_rate": 0.5}, "data.pass_rates"),
        ({"pass_rates": "x", "min_pass_rate": 0.9, "max_pass_rate": 0.1}, "min_pass_rate"),
        ({"decontaminate": [{"name": "math50"}]}, r"decontaminate\[0\].*math500"),
        ({"keep": {"levle": [1]}}, "levle"),
        ({"max_prompt_tokens": 5}, "policy"),
        ({"pass_rates": "/nowhere"}, "does not exist"),
    ],
)
def test_options_without_sense_are_refused(load, options, word):
    with pytest.raises(RecipeError, match=word):
        load(ROWS, **options)


def test_records_are_kept_by_the_values_of_a_column(load):
    loaded = load(ROWS, keep={"level": [3, 4, 5]})
    assert ids(loaded) == ["b", "c"] and loaded.dropped == {"not kept": ["a"]}


def test_golds_that_the_verifier_cannot_parse_are_dropped_by_id(tmp_path):
    spec = {"name": "jsonl", "path": write(tmp_path / "x.jsonl", ROWS), "check_gold": True}
    parsed = parse_dataset(spec, "data")
    loaded = load_prepared(parsed, "data", unparsable=lambda rows: [r["id"] == "b" for r in rows])
    assert ids(loaded) == ["a", "c"] and loaded.dropped == {"gold unparsable": ["b"]}


def test_a_problem_stands_in_its_prompt_letter_for_letter():
    hostile = "{problem} {0} {{x}} %s $y$ \\boxed{} {system} <|user|>"
    spec = {"name": "pocket", "split": "test", "size": 1, "system": "S {a}"}
    for prompt in ("plain", "boxed", "Solve {problem} for {x}."):
        spec["prompt"] = prompt
        system, user = parse_dataset(spec, "data").render(hostile)
        assert system == {"role": "system", "content": "S {a}"}
        assert user["role"] == "user" and hostile in user["content"]
    assert (
        "\\boxed{}" in parse_dataset({**spec, "prompt": "boxed"}, "data").render("1")[1]["content"]
    )


def test_thoughts_are_opened_once_whatever_the_template_writes():
    tokenizer = AutoTokenizer.from_pretrained(POLICY)
    messages = [{"role": "user", "content": "1+1"}]
    plain = generation_prompt(tokenizer, messages)
    opened = with_prefill(tokenizer, "<think>\n", "data")
    assert generation_prompt(opened, messages) == plain + "<think>\n"
    assert generation_prompt(with_prefill(opened, "<think>\n", "data"), messages) == (
        plain + "<think>\n"
    )
    assert generation_prompt(tokenizer, messages) == plain
    without = opened.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
    assert "<think>" not in without
    quoted = with_prefill(tokenizer, 'say "x" {{ y }}\\n é', "data")
    assert generation_prompt(quoted, messages) == plain + 'say "x" {{ y }}\\n é'


def test_columns_of_mixed_types_reach_a_reward_unchanged():
    from datasets import Dataset

    contents = [{"a": 1}, {"b": [1, "x"]}, [1, "x"], None, "text"]
    base = {"problem": "p", "answer": "1", "source": "s"}
    rows = [
        Row(**{**base, "id": str(n), "mixed": value, "numbers": [n], "other": 1})
        for n, value in enumerate(contents)
    ]
    kept = plain_columns(rows, ["mixed", "numbers", "absent"])
    table = Dataset.from_list([dict(row) for row in kept])
    assert set(table.column_names) == {"id", "problem", "answer", "source", "mixed", "numbers"}
    values = [json.loads(value) if value is not None else None for value in table["mixed"]]
    assert values == contents and table["numbers"][3] == [3]
