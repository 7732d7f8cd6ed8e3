"""``python_tests``: the completion's program passes the row's tests, in a sandbox."""

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

_LANGUAGES = ("python", "py", "python3", "")


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
        return _judge(*case, limits, sandbox, require_think)

    return in_parallel(judge, list(zip(completions, tests, strict=True)))


@reward.checks_options("python_tests")
def _check(options: dict[str, Any], where: str) -> None:
    for key, least in (("seconds", 0.1), ("megabytes", 64), ("processes", 1)):
        if options[key] < least:
            raise RecipeError(f"{where}.{key}: must be at least {least}, got {options[key]}")
    require(options["sandbox"], where)


def _judge(
    completion: str, tests: object, limits: Limits, mode: Mode, require_think: bool
) -> Verdict:
    try:
        parsed = parse_tests(tests)
    except (ValueError, TypeError, KeyError, SyntaxError, RecursionError) as error:
        return Verdict("gold_unparsable", detail=f"tests: {error}"[:300])
    rest = conclusion(completion, require_think)
    if isinstance(rest, Verdict):
        return rest
    program = find_program(rest)
    if program is None:
        return Verdict("unparsable", detail="no closed block of Python code")
    problem = _first_failure(program, parsed, limits, mode)
    if problem is None:
        return Verdict("correct", answer=program)
    return Verdict(problem.status, answer=program, detail=problem.detail)


def find_program(text: str) -> str | None:
    """Return the last fenced Python block of a conclusion; None without one or where it is open."""
    blocks = fenced_blocks(text)
    fitting = [block.text for block in blocks or [] if block.language in _LANGUAGES]
    return fitting[-1] if fitting and fitting[-1].strip() else None


def parse_tests(tests: object) -> Tests:
    """Return a row's tests; ValueError where there are none or one has another form."""
    if isinstance(tests, str):
        try:
            tests = json.loads(tests)
        except ValueError:
            # Text that is no JSON is one piece of test code.
            tests = [tests]
    if isinstance(tests, dict):
        tests = _from_columns(tests)
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


def _from_columns(tests: dict[str, Any]) -> list[Any]:
    """Return the list form of ``{inputs, outputs, fn_name}``."""
    inputs, outputs, name = tests["inputs"], tests["outputs"], tests.get("fn_name")
    if len(inputs) != len(outputs):
        raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs")
    cases = zip(inputs, outputs, strict=True)
    if name is None:
        return [{"stdin": stdin, "stdout": stdout} for stdin, stdout in cases]
    if not str(name).isidentifier():
        raise ValueError(f"fn_name {name!r} is no name")
    # repr of JSON values is Python source for them.
    return [f"assert {name}(*{list(values)!r}) == {value!r}" for values, value in cases]


def _first_failure(program: str, tests: Tests, limits: Limits, mode: Mode) -> Verdict | None:
    for number, (stdin, stdout) in enumerate(tests.pairs, 1):
        outcome = run_script(program, stdin, limits, mode)
        problem = _ending(outcome, f"input {number}")
        if problem is None and _lines(outcome.output.decode("utf-8", "replace")) != _lines(stdout):
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


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]
