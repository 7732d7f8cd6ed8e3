"""Filters drop what they say by id; the order of rows is a function of the seed and the ids."""

import json
import math
import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from rlvr.data import generation_prompt, load_prepared, overlaps, parse_dataset
from rlvr.data.filters import shuffled
from rlvr.data.rows import Row
from rlvr.schema import RecipeError

POLICY = Path(__file__).parent.parent / "recipes" / "pocket" / "policy"
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


def test_a_length_is_in_characters_or_in_tokens_of_the_whole_prompt(load, tmp_path):
    assert load(ROWS, max_chars=12).dropped == {"too long": ["c"]}
    tokenizer = AutoTokenizer.from_pretrained(POLICY)
    rows = [{"id": n, "problem": n, "answer": "1"} for n in ("1+1", "1+1+1+1")]
    spec = {"name": "jsonl", "path": write(tmp_path / "x.jsonl", rows)}
    render = parse_dataset(spec, "data").render
    count = len(tokenizer(generation_prompt(tokenizer, render("1+1")))["input_ids"])
    for limit, kept in ((count - 1, []), (count, ["1+1"]), (count + 4, ["1+1", "1+1+1+1"])):
        parsed = parse_dataset({**spec, "max_prompt_tokens": limit}, "data")
        if kept:
            assert ids(load_prepared(parsed, "data", tokenizer=tokenizer)) == kept
        else:
            with pytest.raises(RecipeError, match="2 prompt too long"):
                load_prepared(parsed, "data", tokenizer=tokenizer)


def test_difficulty_is_a_measured_pass_rate_with_both_bounds_kept(load, tmp_path):
    rates = [{"id": "a", "pass_rate": 1.0}, {"id": "b", "pass_rate": 0.25}]
    path = write(tmp_path / "rates.jsonl", rates)
    loaded = load(ROWS, pass_rates=path, min_pass_rate=0.25, max_pass_rate=0.9)
    assert ids(loaded) == ["b"] and loaded.dropped == {"no pass rate": ["c"], "too easy": ["a"]}
    assert load(ROWS, pass_rates=path, min_pass_rate=0.3).dropped["too hard"] == ["b"]
    other = write(tmp_path / "other.jsonl", [{"id": "z", "pass_rate": 0.5}])
    with pytest.raises(RecipeError, match="none of the ids"):
        load(ROWS, pass_rates=other)
    for bad in ({"id": "a", "pass_rate": 1.5}, {"id": "a"}, {"id": "a", "pass_rate": math.nan}, 3):
        with pytest.raises(RecipeError, match="line 1"):
            load(ROWS, pass_rates=write(tmp_path / "bad.jsonl", [bad]))


def test_duplicates_are_found_whatever_their_spelling(load):
    copies = [
        {"id": "d", "problem": "what  is 1+1?\n", "answer": "2"},
        {"id": "e", "problem": "What is １+1?", "answer": "3"},
        {"id": "f", "problem": "What is 1-1?", "answer": "0"},
    ]
    loaded = load([*ROWS, *copies], deduplicate=True)
    assert ids(loaded) == ["a", "b", "c", "f"]
    assert loaded.dropped == {"duplicate": ["d"], "duplicate with another answer": ["e"]}


def test_two_rows_of_one_id_are_an_error_with_its_fix(load):
    with pytest.raises(RecipeError, match="two rows have the id 'a'; name another"):
        load([*ROWS, {"id": "a", "problem": "other", "answer": "1"}])
    twice = [{"problem": "p", "answer": "1"}] * 2
    with pytest.raises(RecipeError, match="deduplicate"):
        load(twice)
    assert len(load(twice, deduplicate=True).rows) == 1


PROBLEM = (
    "A farmer has seventeen brown sheep and twice as many white goats in a long narrow field "
    "beside the old stone bridge. How many animals stand there?"
)
DISC = (
    "Six red discs of equal size touch each other and the sides of a square tray, and one disc in "
    "the corner has area"
)
PHRASE = "where m and n are relatively prime positive integers with m larger than n find m plus n"


def test_rows_that_overlap_a_benchmark_are_dropped(load, tmp_path):
    benchmark = [
        {"id": 0, "problem": PROBLEM, "answer": "51"},
        {"id": 1, "problem": PROBLEM, "answer": "51"},
        {"id": 2, "problem": f"{DISC} m/n, {PHRASE}.", "answer": "1"},
        {"id": 3, "problem": f"{DISC[::-1]} m/n, {PHRASE}.", "answer": "1"},
        {"id": 4, "problem": "Compute the sum of the first forty odd primes.", "answer": "1"},
        {"id": 5, "problem": "7-3+8*5", "answer": "44"},
    ]
    path = write(tmp_path / "benchmark.jsonl", benchmark)
    words = PROBLEM.split()
    records = {
        "whole": PROBLEM.upper(),
        "inside": f"Read this. {PROBLEM} Explain.",
        "thirteen": " ".join(words[3:16]) + " and then some other words",
        "twelve": " ".join(words[3:15]) + " and then some other words",
        "phrase": f"Some cone has volume m/n, {PHRASE}.",
        "half": f"Find: one disc in the corner has area m/n, {PHRASE}.",
        "short": "Please compute the sum of the first forty odd primes, quickly!",
        "signs": "7+3-8*5",
        "exact": "7-3+8*5",
    }
    rows = [{"id": name, "problem": text, "answer": "1"} for name, text in records.items()]
    loaded = load(rows, decontaminate=[{"name": "jsonl", "path": path}])
    assert ids(loaded) == ["twelve", "phrase", "signs"]
    assert set(loaded.dropped) == {f"overlaps {path}"}


def test_overlaps_name_the_problems_that_a_row_holds():
    def row(id: str, problem: str) -> Row:
        return Row(id=id, problem=problem, answer="1", source="x")

    other = "Compute the sum of the first forty odd primes."
    benchmark = [row("a", PROBLEM), row("b", PROBLEM), row("c", f"{DISC} m/n, {PHRASE}."),
                 row("d", f"{DISC[::-1]} m/n, {PHRASE}."), row("e", other)]  # fmt: skip
    rows = {
        "same": PROBLEM.upper(),
        "inside": f"Read this. {PROBLEM} Explain.",
        "both": f"First: {PROBLEM} Then: {other}",
        "phrase": f"Some cone has volume m/n, {PHRASE}.",
        "none": "What is 1+1?",
    }
    found = overlaps([row(*pair) for pair in rows.items()], benchmark, 13)
    assert {one.row: (one.problems, one.exact) for one in found} == {
        "same": (("a", "b"), True),
        "inside": (("a", "b"), False),
        "both": (("a", "b", "e"), False),
    }


def test_the_order_is_the_seeds_whatever_the_order_of_the_file(load):
    rows = [{"id": str(n), "problem": f"p{n}", "answer": "1"} for n in range(50)]
    mixed = random.Random(0).sample(rows, 50)
    first, second = load(rows, shuffle=1), load(mixed, shuffle=1)
    assert ids(first) == ids(second) != ids(load(rows))
    assert ids(load(rows, shuffle=2)) != ids(first)
    assert ids(load(rows, shuffle=1, limit=7)) == ids(first)[:7]
    assert [row["id"] for row in shuffled(first.rows, 1)] == ids(first)
