"""The table of launch/README.md: every file has a row, and every cell a test or a reason."""

import ast
import importlib
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
README = (LAUNCH / "README.md").read_text()
FEATURES = ["masks", "adapters", "β > 0", "delta", "resume", "free_gradients", "sampler"]
TEST = re.compile(r"`(tests/[\w/]+\.py::\w+(?:\[[^`]*\])?)`")


def rows() -> dict[str, list[str]]:
    """Return the cells of each launch file, in the order of FEATURES."""
    lines = [line.strip("| ").split(" | ") for line in README.splitlines() if line[:1] == "|"]
    start = lines.index(["file", *FEATURES])
    table = {}
    for name, *cells in lines[start + 2 :]:
        if len(cells) != len(FEATURES):
            break  # the next table
        table[name.strip("`")] = cells
    return table


def notes() -> dict[str, str]:
    """Return the text of each number and letter below the table."""
    found = re.findall(r"^(?:- )?(\w+)\. (.+(?:\n +.+)*)", README, re.MULTILINE)
    return {key: " ".join(text.split()) for key, text in found}


def named_tests(file: str, note: str) -> list[str]:
    return [name.replace("FILE", Path(file).stem) for name in TEST.findall(note)]


def test_every_launch_file_has_a_row_and_every_row_a_file():
    files = {path.name for path in LAUNCH.iterdir() if path.suffix in (".yaml", ".sh")}
    assert set(rows()) == files


def test_every_cell_names_a_test_or_says_why_there_is_none():
    table, known = rows(), notes()
    used = {cell for cells in table.values() for cell in cells}
    assert used == set(known), "a cell without its note, or a note without a cell"
    for key, note in known.items():
        assert TEST.search(note) if key.isdigit() else note.startswith("untested: "), key


def ids_of(function: Any) -> set[str]:
    """Return the names that pytest gives the cases of a test with one parametrisation."""
    ids: set[str] = set()
    for mark in getattr(function, "pytestmark", []):
        if mark.name == "parametrize":
            values = [getattr(case, "values", case) for case in mark.args[1]]
            texts = ["-".join([v] if isinstance(v, str) else map(str, v)) for v in values]
            ids.update(map(str, mark.kwargs.get("ids", texts)))
    return ids


def test_every_test_of_the_table_exists():
    known = notes()
    named: set[str] = set()
    for file, cells in rows().items():
        named.update(test for cell in cells for test in named_tests(file, known[cell]))
    assert len(named) > 30
    for test in named:
        path, function, case = re.fullmatch(r"(.+)::(\w+)(?:\[(.*)\])?", test).groups()
        tree = ast.parse((ROOT / path).read_text())
        assert function in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, test
        if case is not None:
            assert case in ids_of(getattr(importlib.import_module(Path(path).stem), function)), test
