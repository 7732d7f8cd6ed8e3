"""The verifier as a service: any text, any process, its conventions, and the rung behind it."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from rlvr import runtime
from rlvr.isolation.pool import MOST_WORKERS, WorkerPool
from rlvr.rewards.math import Conventions, forget, math, verify, verify_batch
from rlvr.verifier.service import DEADLINE_S

ENDLESS = "7" * 5_000
TEXTS = [
    ENDLESS,
    f"-{ENDLESS}",
    ",".join(["1", *["000"] * 1_700]),
    f"{ENDLESS}.5",
    f"0.{ENDLESS}",
    f"\\frac{{{ENDLESS}}}{{3}}",
    f"\\frac{{1}}{{{ENDLESS}}}",
    f"{ENDLESS}_8",
    f"{ENDLESS}!",
    f"x^{{{ENDLESS}}}",
    f"1e{ENDLESS}",
    "12345678901_2",
    "29_2",
    "777_{99}",
    "1_{1}",
    "9^{9^{9^9}}",
    "\\lfloor 10^{10^{10}} \\rfloor",
    "\\sum_{k=1}^{10^{30}} k",
    "\ud800",
    "\x00",
    "\\",
    "{" * 3_000,
    "(" * 3_000 + "1" + ")" * 3_000,
    "\\frac{1}{" * 2_000,
    "\\sqrt{" * 2_000 + "2" + "}" * 2_000,
    "|" * 5_000,
    " " * 50_000,
    "1 " * 5_000,
    "a" * 50_000,
    "\\begin{pmatrix}" * 500,
    "\\log_0 5",
    "\\sqrt[0]{5}",
    "\\binom{x}{10^9}",
    "\\gcd(0,0)",
    "5 \\bmod 0",
]


@pytest.mark.parametrize("form", ["\\boxed{{{}}}", "{}", "The answer is {}", "#### {}"])
def test_every_pair_of_texts_gets_a_verdict_in_time(form):
    verify("x", "\\boxed{y}")  # the workers are up
    for gold in ("5", "x+1", "(1,2)"):
        for text in TEXTS:
            start = time.monotonic()
            verdict = verify(gold, form.format(text))
            assert verdict.status in ("wrong", "unparsable", "timeout"), (text[:40], verdict)
            # Half a second for the extraction, and the slack of a busy machine.
            assert time.monotonic() - start < DEADLINE_S + 4
    for text in TEXTS:
        assert verify(text, "\\boxed{5}").status != "correct"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (ENDLESS, ENDLESS),
        ("1" + "000" * 1_666, "1" + ",000" * 1_666),
        ("+".join(["x"] * 300), "300x"),
        ("(" * 150 + "x" + ")" * 150, "x"),
        ("\\frac{1}{1+" * 30 + "x" + "}" * 30, "\\frac{1}{1+" * 30 + "x" + "}" * 30),
        ("\\sqrt{1+" * 40 + "2" + "}" * 40, "\\sqrt{1+" * 40 + "2" + "}" * 40 + "+0"),
        (", ".join(map(str, range(200))), ", ".join(map(str, reversed(range(200))))),
        ("x^{300}-1", "(x-1)(" + "+".join(f"x^{{{k}}}" for k in range(300)) + ")"),
    ],
)
def test_long_and_deep_answers_are_judged(gold, answer):
    assert verify(gold, f"\\boxed{{{answer}}}").status == "correct"


@pytest.mark.parametrize("gold", ["\\pm 6", "1 \\text{ box } 3 \\text{ pens}", "-\\infty", "2:3"])
@pytest.mark.parametrize(
    "answer", ["5 \\text{ cm}", "\\$3.47", "4 \\text{ boxes}", "\\pm(1+i)", "7\\%"]
)
def test_no_pair_of_forms_compares_itself_without_end(gold, answer):
    for pair in ((gold, answer), (answer, gold)):
        verdict = verify(pair[0], f"\\boxed{{{pair[1]}}}")
        assert verdict.status == "wrong" and "deeply" not in verdict.detail


def test_an_unknown_way_and_a_gold_that_is_no_text_are_clear_errors():
    with pytest.raises(ValueError, match="extract: must be one of .*boxed.*'nonsense'"):
        verify("5", "\\boxed{5}", extract="nonsense")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="gold must be text, got int 5"):
        verify(5, "\\boxed{5}")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="pair 1: response must be text, got NoneType"):
        verify_batch([("5", "5"), ("5", None)])  # pyright: ignore[reportArgumentType]


def test_the_module_of_the_reward_stays_a_module():
    import rlvr.rewards.math as door

    assert door.verify("1/2", "\\boxed{0.5}").status == "correct"
    assert callable(door.math)


CONVENTIONS = [
    ("rounded", "\\frac{1}{3}", "0.333333", True),
    ("rounded", "\\pi", "3.14159265", True),
    ("rounded", "\\frac{1}{3}", "0.33", None),
    ("percent", "50", "50\\%", False),
    ("percent", "0.25", "0.25\\%", False),
    ("percent", "25\\%", "25", None),
    ("percent", "0.5", "50\\%", None),
    ("ordered", "1, 2", "2, 1", True),
    ("ordered", "x=1 \\text{ or } x=2", "2, 1", True),
    ("ordered", "x=1, y=2", "2, 1", None),
]


@pytest.mark.parametrize(("option", "gold", "answer", "default"), CONVENTIONS)
def test_a_convention_is_an_option(option, gold, answer, default):
    """``default``: whether the pair is rewarded by default; None: the option decides nothing."""
    rewarded = {}
    for value in (False, True):
        (verdict,) = math([f"\\boxed{{{answer}}}"], [gold], **{option: value})
        rewarded[value] = verdict.status == "correct"
    plain = verify(gold, f"\\boxed{{{answer}}}").status == "correct"
    if default is None:
        assert rewarded[False] == rewarded[True] == plain
    else:
        assert rewarded[False] != rewarded[True]
        assert plain is default
        assert verify(gold, f"\\boxed{{{answer}}}", conventions=Conventions()).status == (
            "correct" if default else "wrong"
        )


def test_what_the_grammar_cannot_read_goes_to_math_verify_and_its_verdict_says_so():
    gold, right, wrong = "\\overset{.}{y} = 58.5", "58.5", "58.6"
    verdict = verify(gold, f"\\boxed{{{right}}}")
    assert (verdict.status, verdict.by) == ("correct", "math-verify")
    assert verify(gold, f"\\boxed{{{wrong}}}").status == "wrong"
    assert verify(gold, f"\\boxed{{{right}}}", math_verify=False).status == "gold_unparsable"
    (reward,) = math([f"\\boxed{{{right}}}"], [gold], math_verify=False)
    assert reward.status == "gold_unparsable"
    # What our grammar reads is its own, right or wrong.
    assert verify("184_9", "\\boxed{184_5}").by == ""
    assert verify("1/2", "\\boxed{x}").by == ""


def test_workers_are_this_ranks_share_of_the_machine(monkeypatch):
    monkeypatch.setattr(runtime, "cores", lambda: 192)
    assert WorkerPool("jobs:run").size == MOST_WORKERS
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert WorkerPool("jobs:run").size <= 192 // 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "300")
    assert WorkerPool("jobs:run").size == 1


def forked(count: int) -> list[int]:
    """Fork ``count`` children that verify while threads verify here; return their exit codes."""
    going = threading.Event()
    going.set()

    def work(me: int) -> None:
        number = 0
        while going.is_set():
            verify(f"{me}x+{number}", f"\\boxed{{{number}+{me}x}}")
            number += 1

    threads = [threading.Thread(target=work, args=(me,)) for me in range(8)]
    for thread in threads:
        thread.start()
    codes = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            # A hang ends as a signal, which is no 0.
            signal.alarm(60)
            forget()
            good = verify("7", "\\boxed{7}").status == "correct"
            if number % 8 == 0:
                good = (
                    good and verify("2y+1", f"\\boxed{{1+2y+0\\cdot {number}}}").status == "correct"
                )
            os._exit(0 if good else 1)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    going.clear()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    return codes


@pytest.mark.parametrize(
    "count", [16, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_forks_of_a_threaded_parent_neither_hang_nor_leave_workers(count):
    # In a process of its own: the test process has threads of other tests.
    code = f"import test_verifier_service as t; print(set(t.forked({count})))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=os.path.dirname(__file__),
        capture_output=True,
        text=True,
    )
    assert result.stdout == "{0}\n", result.stderr
