"""Several sources as one dataset: each problem once, in shares, everything left out counted."""

import json

import pytest

from rlvr.cli import main as cli_main
from rlvr.data import load_prepared, load_rows, parse_dataset
from rlvr.schema import RecipeError


def rows(*numbers: int, answer: str = "1") -> list[dict]:
    return [{"id": n, "problem": f"Problem {n}?", "answer": answer, "level": n} for n in numbers]


@pytest.fixture
def mix(tmp_path):
    """Return a function from lists of records and options to the loaded mix."""

    def load(*parts: list[dict], own: dict | None = None, **options):
        specs = []
        for index, records in enumerate(parts):
            path = tmp_path / f"{index}.jsonl"
            path.write_text("".join(json.dumps(record) + "\n" for record in records))
            specs.append({"name": "jsonl", "path": str(path), **(own or {})})
        spec = {"name": "mix", "parts": specs, **options}
        return load_prepared(parse_dataset(spec, "data"), "data")

    return load


def ids(loaded) -> list[str]:
    return [row["id"] for row in loaded.rows]


def test_parts_follow_each_other_and_may_count_their_rows_alike(mix):
    other = [{**row, "problem": row["problem"] + "!"} for row in rows(1, 2)]
    assert ids(mix(rows(1, 2), other)) == ["jsonl0/1", "jsonl0/2", "jsonl1/1", "jsonl1/2"]


def test_a_problem_of_two_parts_is_the_earlier_ones_and_counted(mix):
    loaded = mix(rows(1, 2), [*rows(2, 3), *rows(1, answer="7")])
    assert ids(loaded) == ["jsonl0/1", "jsonl0/2", "jsonl1/3"]
    assert loaded.dropped == {
        "duplicate": ["jsonl1/2"],
        "duplicate with another answer": ["jsonl1/1"],
    }
    assert [row["answer"] for row in loaded.rows] == ["1", "1", "1"]


@pytest.mark.parametrize(
    ("shares", "counts"),
    [([0.5, 0.5], (4, 4)), ([0.75, 0.25], (10, 3)), ([0.1, 0.9], (0, 4)), ([0.7, 0.3], (9, 4))],
)
def test_shares_take_the_first_rows_of_each_part(mix, shares, counts):
    loaded = mix(rows(*range(10)), rows(*range(8, 14)), shares=shares)  # two are shared
    kept = ids(loaded)
    first, second = (sum(name.startswith(f"jsonl{part}/") for name in kept) for part in (0, 1))
    assert (first, second) == counts
    assert kept == sorted(kept, key=lambda name: (name[:6], int(name.split("/")[1])))
    assert len(loaded.dropped["duplicate"]) == 2
    beyond = len(loaded.dropped.get("beyond its share", []))
    assert first + second + beyond == 14


def test_the_options_of_a_part_and_of_the_whole(mix):
    loaded = mix(rows(1, 3, 4), rows(2, 5, 6), own={"keep": {"level": [3, 4, 5]}}, limit=2)
    assert ids(loaded) == ["jsonl0/3", "jsonl0/4"]
    assert loaded.dropped["not kept"] == ["jsonl0/1", "jsonl1/2", "jsonl1/6"]


def test_invalid_rows_of_a_part_are_an_error_or_counted(mix):
    bad = {"id": "bad", "problem": "p", "answer": ""}
    with pytest.raises(RecipeError, match="1 rows with no answer: .*jsonl1/bad.*drop_invalid"):
        mix(rows(1), [bad])
    loaded = mix(rows(1), [bad], drop_invalid=True)
    assert ids(loaded) == ["jsonl0/1"] and loaded.dropped["no answer"] == ["jsonl1/bad"]


POCKET = {"name": "pocket", "split": "train", "size": 4}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"parts": [POCKET]}, "at least two, got 1"),
        ({"parts": [POCKET, {"name": "gsm8q"}]}, r"data.parts\[1\].*did you mean 'gsm8k'"),
        ({"parts": [POCKET, {"name": "gsm8k", "prompt": "boxed"}]}, r"write it as data.prompt"),
        ({"shares": [0.5]}, "data.shares: need 2 above 0 that sum to 1"),
        ({"shares": [0.5, 0.6]}, "data.shares"),
        ({"shares": [1.0, 0.0]}, "data.shares"),
        ({"shares": [2, -1]}, "data.shares"),
    ],
)
def test_a_mistake_is_named_before_anything_is_read(change, word):
    spec = {"name": "mix", "parts": [POCKET, {"name": "gsm8k"}], **change}
    with pytest.raises(RecipeError, match=word):
        parse_dataset(spec, "data")


def test_a_preset_reads_the_folder_of_its_repository_alone(tmp_path, monkeypatch):
    """The repository of SimpleRL holds six datasets in folders, and names no configurations."""
    import datasets
    import pyarrow
    from pyarrow.parquet import write_table

    from rlvr.data import datasets as ours

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for folder in ("simplelr_qwen_level1to4", "simplelr_qwen_level3to5"):
        place = tmp_path / "repository" / folder
        place.mkdir(parents=True)
        table = pyarrow.Table.from_pylist([{"question": folder, "gt_answer": "1", "level": 3}])
        for split in ("train", "test"):
            write_table(table, place / f"{split}.parquet")
    found = ours.hub_rows(
        str(tmp_path / "repository"), "train", None, None, "simplelr_qwen_level3to5"
    )
    assert [record["question"] for _, record in found] == ["simplelr_qwen_level3to5"]


def test_the_answers_of_math_are_in_the_boxes_of_its_solutions(tmp_path):
    path = tmp_path / "math.jsonl"
    records = [
        {"problem": f"Problem {n}?", "level": "Level 5", "solution": f"so $\\boxed{{\\frac{n}2}}$."}
        for n in range(7500)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    found = load_rows({"name": "hendrycks_math", "path": str(path)}, "data")
    assert found[3]["answer"] == r"\frac32"
    path.write_text(path.read_text().partition("\n")[0] + "\n")
    with pytest.raises(RecipeError, match="has 1 problems and should have 7500"):
        load_rows({"name": "hendrycks_math", "path": str(path)}, "data")


def test_parts_with_other_columns_are_checked_shown_and_trained_on(write_recipe, tmp_path, capsys):
    path = tmp_path / "more.jsonl"
    more = [
        {"problem": f"{n}+{n}", "answer": answer, "solution": "by adding"}
        for n, answer in ((1, "2"), (2, "4"), (3, "\\frac{"))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in more))
    parts = [{"name": "jsonl", "path": str(path)}, {**POCKET, "size": 8}]
    data = {"name": "mix", "parts": parts, "check_gold": True}
    recipe = write_recipe("shown", data={**data, "split": None, "size": None})
    text = recipe.read_text().replace("  size: null\n", "").replace("  split: null\n", "")
    recipe.write_text(text)
    assert cli_main(["data", str(recipe)]) == 0
    output = capsys.readouterr().out
    assert "10 rows kept, 1 dropped" in output and "gold unparsable" in output
    assert cli_main(["train", str(recipe), "trainer.max_steps=1"]) == 0
