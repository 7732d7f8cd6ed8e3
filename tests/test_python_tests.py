"""Tests of programs: only the right value passes, every form of tests is read, in order."""

import time
from typing import Any

import pytest

from rlvr.isolation.sandbox import missing_protections
from rlvr.rewards import Verdict, python_tests

MODE = "best_effort" if missing_protections() else "required"
DEADLINE, SLACK = 0.7, 4.0  # seconds; the slack is the start and end of a sandbox on a busy machine
ECHO = [{"stdin": "3\n", "stdout": "3"}]
ADD = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]


def judge(program: str, tests: Any, seconds: float = 5.0) -> Verdict:
    completion = f"<think>hm</think>\n```python\n{program}\n```\n"
    start = time.monotonic()
    (verdict,) = python_tests([completion], [tests], seconds=seconds, sandbox=MODE)
    assert time.monotonic() - start < seconds + SLACK
    return verdict


FORGED = {
    "exits with success": "import os\nos._exit(0)",
    "exits in the call": "import os\ndef add(a, b): os._exit(0)",
    "system exit": "import sys\nsys.exit(0)",
    "system exit in the call": "def add(a, b): raise SystemExit(0)",
    "always equal": "class E:\n    def __eq__(s, o): return True\ndef add(a, b): return E()",
    "equal integer": (
        "class E(int):\n    def __eq__(s, o): return True\n    __hash__ = int.__hash__\n"
        "def add(a, b): return E(7)"
    ),
    "prints the report": (
        'import os\nline = b\'{"passed": 2, "of": 2, "failure": null}\\n\'\n'
        "for n in range(1, 64):\n    try: os.write(n, line)\n    except OSError: pass\n"
        "def add(a, b): return 0\n"
    ),
    "reads frames": (
        "import sys, gc\ndef add(a, b):\n    frame = sys._getframe()\n    texts = []\n"
        "    while frame:\n        texts += [str(frame.f_locals), str(frame.f_code.co_consts)]\n"
        "        frame = frame.f_back\n    texts += [str(o) for o in gc.get_objects()]\n"
        "    return 3 if any('add(1, 2) == 3' in t for t in texts) else None"
    ),
    "patches builtins": (
        "import builtins, json\nbuiltins.AssertionError = type('N', (Exception,), {})\n"
        "json.dumps = lambda *a, **k: '{\"value\": true}'\ndef add(a, b): return 0"
    ),
    "answers before it is asked": (
        "import os\nfor n in range(3, 64):\n"
        "    try: os.write(n, b'{\"value\": 4}\\n' * 100)\n    except OSError: pass\n"
    ),
    "endless": "def add(a, b):\n    while True: pass",
    "deep": "def add(a, b):\n    x = []\n    for _ in range(100000): x = [x]\n    return x",
    "wide": "def add(a, b):\n    x = [0]\n    for _ in range(60): x = [x, x]\n    return x",
    "huge": "def add(a, b): return 1 << (1 << 28)",
    "wrong": "def add(a, b): return a - b",
    "missing": "def sub(a, b): return a - b",
    "no python": "def add(a, b) return 3",
}


@pytest.mark.parametrize("program", FORGED.values(), ids=FORGED.keys())
def test_only_the_right_value_passes_an_assertion(program):
    assert judge(program, ADD, DEADLINE).status == "wrong"


@pytest.mark.parametrize(
    ("program", "test"),
    [
        ("def all(x): return True\ndef f(): return [False]", "assert all(f())"),
        ("class math:\n    isclose = staticmethod(lambda a, b: True)\ndef f(): return 2",
         "import math\nassert math.isclose(f(), 1)"),
        ("class math:\n    isclose = staticmethod(lambda a, b: True)\ndef f(): return 2",
         "assert math.isclose(f(), 1)"),
        ("class T:\n    def __bool__(s): return True\ndef f(): return T()", "assert f()"),
        ("class T:\n    def __eq__(s, o): return True\ndef f(): return T()", "assert 5 == f()"),
        ("class T:\n    def __ne__(s, o): return True\ndef f(): return T()", "assert f() != 5"),
        ("class T:\n    def __lt__(s, o): return True\ndef f(): return T()", "assert f() < 5"),
        ("class T:\n    def __eq__(s, o): return True\ndef f(): return [T()]", "assert f() == [5]"),
        ("def f(): raise SystemExit", "try:\n    f()\nexcept Exception: raise"),
    ],
)  # fmt: skip
def test_what_the_program_redefines_does_not_decide(program, test):
    assert judge(program, [test]).status == "wrong"


def test_assertions_reach_functions_classes_exceptions_and_changed_arguments():
    program = """
import math
from collections import Counter, OrderedDict
def area(r): return math.pi * r * r
def order(items): items.sort()
def count(text): return Counter(text)
def pairs(): return {(1, 2): {3}, None: frozenset([b"x", 1j])}
def evens():
    yield from (0, 2, 4)
def fail(): raise ValueError("no")
class Stack:
    def __init__(self): self.items = []
    def push(self, item):
        self.items.append(item)
        return self
    def __len__(self): return len(self.items)
if __name__ == "__main__":
    raise RuntimeError("imported, not run")
"""
    tests = [
        "assert math.isclose(area(2), 12.566370614359172)",
        "xs = [3, 1, 2]\norder(xs)\nassert xs == [1, 2, 3]",
        "assert count('aab') == {'a': 2, 'b': 1}",
        "assert pairs() == {(1, 2): {3}, None: frozenset([b'x', 1j])}",
        "assert list(evens()) == [0, 2, 4]",
        "try:\n    fail()\n    assert False\nexcept ValueError as e:\n    assert str(e) == 'no'",
        "s = Stack()\ns.push(1).push((2, 3))\nassert len(s) == 2 and s.items == [1, (2, 3)]",
        "def check(candidate):\n    assert candidate(1) > 3\n\ncheck(area)",
    ]
    for test in tests:
        verdict = judge(program, [test])
        assert verdict.status == "correct", (test, verdict)


FORMS = [
    (
        {"inputs": ["1 2\n", "3 4"], "outputs": ["3\n", "7"]},
        "print(sum(map(int, input().split())))",
    ),
    ({"inputs": [[1, 2]], "outputs": [3], "fn_name": "add"}, "def add(a, b): return a + b"),
    ('[{"stdin": "1", "stdout": "a \\nb\\n\\n"}]', "print('a')\nprint('b')"),
    (
        {"inputs": [[[1, 2]], [[3]]], "outputs": [3, [3]], "fn_name": "add"},
        "class Solution:\n    def add(self, xs: List[int]) -> int: return sum(xs)",
    ),
    (
        {"inputs": [[1]], "outputs": [[1, [2]]], "fn_name": "pair"},
        "def pair(x: int) -> Tuple[int, Any]: return (x, (2,))",
    ),
    ({"inputs": [["1", "2"]], "outputs": [["a", "b"]]}, "print('a')\nprint('b')"),
    ("assert add(1, 2) == 3", "def add(a, b): return a + b"),
    ([{"stdin": None, "stdout": "x", "extra": 1}, "assert y == 2"], "y = 2\nprint('x')"),
]


@pytest.mark.parametrize(("tests", "program"), FORMS)
def test_every_form_of_tests_is_read(tests, program):
    verdict = judge(program, tests)
    assert verdict.status == "correct", verdict


@pytest.mark.parametrize(
    "tests",
    [[], None, "", "{}", "[1]", [{"stdin": "x"}], ["assert ("], {"inputs": [1], "outputs": []},
     {"inputs": [[1]], "outputs": [1], "fn_name": "a;b"},
     {"inputs": [[1, 2]], "outputs": [2], "fn_name": "max"},
     {"inputs": [], "outputs": [], "fn_name": "f"}, [{"stdin": 1, "stdout": "x"}]],
)  # fmt: skip
def test_rows_without_usable_tests_are_said_so(tests):
    assert judge("print(3)", tests).status == "gold_unparsable"


@pytest.mark.parametrize(
    ("completion", "status"),
    [
        ("```python\nprint(3)\n```", "correct"),
        ("```\nprint(3)\n```\n```text\nprint(4)\n```", "correct"),
        ("1. So:\n   ```python\n   if 1:\n       print(3)\n   ```", "correct"),
        ("```python\r\nprint(3)\r\n```\r\n", "correct"),
        ('````python\nx = """\n```\n"""\nprint(3)\n````', "correct"),
        ("```python\nprint(3)\n```\n```python\nprint(4)\n```", "wrong"),
        ("```python\nprint(3)\n```\n```python\nprint(3)", "unparsable"),
        ("print(3)", "unparsable"),
        ("```python\nprint(3)\n```\nIt prints:\n```\n3\n```", "correct"),
        ("```\nprint(3)\n```\nIt prints:\n```\n3\n```", "correct"),
        ("```\nx = 4\nprint(x)\n```\n```\n3\n```", "wrong"),
        ("```python\n\n```", "unparsable"),
        ("<think>```python\nprint(3)\n```", "truncated"),
        ("<think>```python\nprint(3)\n```</think>", "unparsable"),
    ],
)
def test_the_last_closed_block_is_the_program(completion, status):
    (verdict,) = python_tests([completion], [ECHO], sandbox=MODE)
    assert verdict.status == status


def test_programs_run_side_by_side_in_order():
    programs = [f"```python\nprint({number % 3})\n```" for number in range(9)]
    verdicts = python_tests(programs, [[{"stdin": "", "stdout": "1"}]] * 9, sandbox=MODE)
    assert [v.status == "correct" for v in verdicts] == [number % 3 == 1 for number in range(9)]


@pytest.mark.parametrize(
    ("program", "tolerance", "status"),
    [
        ("print(2 / 3)", 1e-6, "correct"),
        ("print('0.66667 a')", 1e-4, "wrong"),
        ("print(0.66667)", 1e-4, "correct"),
        ("print(0.66667)", 0.0, "wrong"),
        ("print(0.67)", 1e-4, "wrong"),
        ("print('nan')", 0.5, "wrong"),
    ],
)
def test_an_output_may_differ_by_the_tolerance(program, tolerance, status):
    pair = [{"stdin": "", "stdout": "0.6666666667"}]
    (verdict,) = python_tests(
        [f"```python\n{program}\n```"], [pair], tolerance=tolerance, sandbox=MODE
    )
    assert verdict.status == status


@pytest.mark.parametrize(
    ("body", "outputs", "status"),
    [
        ("2 / 3", [0.6666667], "correct"),
        ("[2 / 3, (1,)]", [[0.6666667, [1]]], "correct"),
        ("0.7", [0.6666667], "wrong"),
        ("2", [1], "wrong"),
        ("'0.6666667'", [0.6666667], "wrong"),
        ("[[3]]", [3], "wrong"),
        ("True", [0.0], "wrong"),
    ],
)
def test_the_value_of_a_function_may_differ_by_the_tolerance(body, outputs, status):
    tests = {"inputs": [[]], "outputs": outputs, "fn_name": "f"}
    program = f"```python\ndef f(): return {body}\n```"
    assert python_tests([program], [tests], tolerance=1e-3, sandbox=MODE)[0].status == status
