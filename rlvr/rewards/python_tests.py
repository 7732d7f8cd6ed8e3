"""``python_tests``: the completion's program passes the row's tests, in a sandbox."""

import ast
import builtins
import json
from dataclasses import dataclass
from typing import Any

from rlvr.isolation.sandbox import (
    Limits,
    Mode,
    Outcome,
    in_parallel,
    require,
    run_script,
    run_tests,
)
from rlvr.registry import reward
from rlvr.rewards.text import conclusion, fenced_blocks
from rlvr.schema import RecipeError
from rlvr.verdict import Verdict

_LANGUAGES = ("python", "py", "python3")
# How the value of a function is compared: as APPS does, tuples are lists, and the expected value
# may stand in a list of its own. Trusted code, which runs beside the tests.
_COMPARISON = """
def _rlvr_plain(value):
    if type(value) in (list, tuple):
        return [_rlvr_plain(item) for item in value]
    return value
def _rlvr_close(left, right):
    if type(left) is list and type(right) is list:
        return len(left) == len(right) and all(map(_rlvr_close, left, right))
    if _rlvr_tolerance and float in (type(left), type(right)):
        if type(left) in (int, float) and type(right) in (int, float):
            return abs(left - right) <= _rlvr_tolerance * max(1.0, abs(right))
    return left == right
def _rlvr_same(value, expected):
    value, expected = _rlvr_plain(value), _rlvr_plain(expected)
    if _rlvr_close(value, expected):
        return True
    alone = type(expected) is list and len(expected) == 1
    return alone and _rlvr_close(value, expected[0])
"""
_STATEMENTS = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign,
    ast.AugAssign, ast.For, ast.While, ast.If, ast.With, ast.Try,
)  # fmt: skip


@dataclass(frozen=True)
class Tests:
    """The tests of one row: pairs of standard input and output, and code with assertions."""

    pairs: list[tuple[str, str]]
    code: list[str]


@reward
def python_tests(
    completions: list[str],
    tests: list[Any],
    *,
    seconds: float = 5.0,
    megabytes: int = 512,
    processes: int = 16,
    tolerance: float = 0.0,
    sandbox: Mode = "required",
    require_think: bool = False,
    correct: float = 1.0,
    wrong: float = 0.0,
) -> list[Verdict]:
    """Judge the last closed Python block after the thoughts by all of the row's ``tests``.

    ``tests`` is a list, or its JSON: ``{"stdin": …, "stdout": …}`` runs the program as a script;
    its output must be the same but for white space at the ends of lines and of the text. A string
    is Python code with assertions about what the program defines. Also taken: ``{"inputs": […],
    "outputs": […]}``, with ``"fn_name"`` for a function's arguments and value.

    Each script has ``seconds``, and so have the assertions together. Neither expected outputs nor
    assertions enter the program's sandbox (``rlvr.isolation.sandbox``). ``sandbox: best_effort``
    accepts a kernel that cannot confine programs fully.
    """
    limits = Limits(seconds, megabytes, processes)

    def judge(case: tuple[str, Any]) -> Verdict:
        return _judge(*case, limits, sandbox, require_think, tolerance)

    return in_parallel(judge, list(zip(completions, tests, strict=True)))


@reward.checks_options("python_tests")
def _check(options: dict[str, Any], where: str) -> None:
    for key, least in (("seconds", 0.1), ("megabytes", 64), ("processes", 1)):
        if options[key] < least:
            raise RecipeError(f"{where}.{key}: must be at least {least}, got {options[key]}")
    if not 0 <= options["tolerance"] < 1:
        raise RecipeError(f"{where}.tolerance: must be in [0, 1), got {options['tolerance']}")
    require(options["sandbox"], where)


def _judge(
    completion: str,
    tests: object,
    limits: Limits,
    mode: Mode,
    require_think: bool,
    tolerance: float,
) -> Verdict:
    try:
        parsed = parse_tests(tests, tolerance)
    except (ValueError, TypeError, KeyError, SyntaxError, RecursionError) as error:
        return Verdict("gold_unparsable", detail=f"tests: {error}"[:300])
    rest = conclusion(completion, require_think)
    if isinstance(rest, Verdict):
        return rest
    program = find_program(rest)
    if program is None:
        return Verdict("unparsable", detail="no closed block of Python code")
    problem = _first_failure(program, parsed, limits, mode, tolerance)
    if problem is None:
        return Verdict("correct", answer=program)
    return Verdict(problem.status, answer=program, detail=problem.detail)


def find_program(text: str) -> str | None:
    """Return the last fenced Python block of a conclusion; None without one or where it is open.

    A block without a language counts where none is called Python; of several, those that hold
    statements, since the others show output.
    """
    blocks = fenced_blocks(text) or []
    tagged = [block.text for block in blocks if block.language in _LANGUAGES]
    untagged = [block.text for block in blocks if not block.language]
    fitting = tagged or [text for text in untagged if _has_statements(text)] or untagged
    return fitting[-1] if fitting and fitting[-1].strip() else None


def _has_statements(source: str) -> bool:
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    calls = any(isinstance(n, ast.Expr) and isinstance(n.value, ast.Call) for n in body)
    return calls or any(isinstance(node, _STATEMENTS) for node in body)


def parse_tests(tests: object, tolerance: float = 0.0) -> Tests:
    """Return a row's tests; ValueError where there are none or one has another form."""
    if isinstance(tests, str):
        try:
            tests = json.loads(tests)
        except ValueError:
            # Text that is no JSON is one piece of test code.
            tests = [tests]
    if isinstance(tests, dict):
        tests = _from_columns(tests, tolerance)
    if not isinstance(tests, list) or not tests:
        raise ValueError("expected a list of at least one test")
    pairs, code = [], []
    for item in tests:
        if isinstance(item, str) and item.strip():
            # Only to find syntax errors: they are faults of the row, not of the program.
            compile(item, "tests", "exec")
            code.append(item)
        elif isinstance(item, dict) and isinstance(item.get("stdout"), str):
            pairs.append((item.get("stdin") or "", item["stdout"]))
        else:
            raise ValueError(f"{str(item)[:80]!r} is neither code nor has 'stdin' and 'stdout'")
    if not all(isinstance(stdin, str) for stdin, _ in pairs):
        raise ValueError("'stdin' must be text")
    return Tests(pairs, code)


def _from_columns(tests: dict[str, Any], tolerance: float) -> list[Any]:
    """Return the list form of ``{inputs, outputs, fn_name}``."""
    inputs, outputs, name = tests["inputs"], tests["outputs"], tests.get("fn_name")
    if len(inputs) != len(outputs):
        raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs")
    cases = zip(inputs, outputs, strict=True)
    if name is None:
        return [{"stdin": _text(stdin), "stdout": _text(stdout)} for stdin, stdout in cases]
    if not str(name).isidentifier():
        raise ValueError(f"fn_name {name!r} is no name")
    if hasattr(builtins, name):
        # The tests would call Python's own function, and every program would pass.
        raise ValueError(f"fn_name {name!r} is a function of Python itself")
    # The function, or the method of LeetCode's class Solution.
    find = f"try:\n    _rlvr_call = {name}\nexcept NameError:\n    _rlvr_call = Solution().{name}"
    setup = f"_rlvr_tolerance = {tolerance!r}\n{_COMPARISON}\n{find}"
    # repr of JSON values is Python source for them.
    checks = [f"assert _rlvr_same(_rlvr_call(*{list(a)!r}), {value!r})" for a, value in cases]
    # With the first assertion, so that a row without any has no tests.
    return [f"{setup}\n{checks[0]}", *checks[1:]] if checks else []


def _text(value: object) -> Any:
    """Return a list of lines as one text; anything else as it is."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    return value


def _first_failure(
    program: str, tests: Tests, limits: Limits, mode: Mode, tolerance: float
) -> Verdict | None:
    for number, (stdin, stdout) in enumerate(tests.pairs, 1):
        outcome = run_script(program, stdin, limits, mode)
        problem = _ending(outcome, f"input {number}")
        said = outcome.output.decode("utf-8", "replace")
        if problem is None and not same_output(said, stdout, tolerance):
            problem = Verdict("wrong", detail=f"input {number}: another output")
        if problem is not None:
            return problem
    if not tests.code:
        return None
    tester, server = run_tests(program, tests.code, limits, mode)
    # The server first: if the program did not start, the tester's failure follows from it.
    for outcome in (server, tester):
        if outcome.end == "failed":
            return _ending(outcome, "sandbox")
    if (problem := _ending(tester, "assertions")) is not None:
        return problem
    # The tester wrote this line; the program runs in another sandbox and cannot.
    report = json.loads(tester.output)
    if report["passed"] == report["of"] == len(tests.code):
        return None
    return Verdict("wrong", detail=f"assertion {report['passed'] + 1}: {report['failure']}")


def _ending(outcome: Outcome, where: str) -> Verdict | None:
    """Return the verdict on a program that did not end as it should."""
    if outcome.end == "failed":
        return Verdict("crashed", detail=f"{where}: {outcome.errors}"[:300])
    if outcome.end == "exit" and outcome.code == 0:
        return None
    # The last line of a traceback names the exception.
    last = outcome.errors.strip().rsplit("\n", 1)[-1]
    reason = {"timeout": "over the time limit", "output": "too much output"}.get(outcome.end)
    return Verdict(
        "wrong", detail=f"{where}: {reason or f'exit code {outcome.code}, {last}'}"[:300]
    )


def same_output(said: str, expected: str, tolerance: float) -> bool:
    """Return whether two outputs are the same but for white space at ends, and for rounding."""
    left, right = _lines(said), _lines(expected)
    if left == right or not tolerance or len(left) != len(right):
        return left == right
    return all(_close(a, b, tolerance) for a, b in zip(left, right, strict=True))


def _close(said: str, expected: str, tolerance: float) -> bool:
    """Return whether two lines hold the same words, and floats that differ by the tolerance."""
    left, right = said.split(), expected.split()
    if len(left) != len(right):
        return False
    for one, other in zip(left, right, strict=True):
        if one == other:
            continue
        # Whole numbers are exact: only a decimal is rounded.
        if "." not in other and "e" not in other.lower():
            return False
        try:
            gap, size = abs(float(one) - float(other)), max(1.0, abs(float(other)))
        except ValueError:
            return False
        if not gap <= tolerance * size:
            return False
    return True


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]
