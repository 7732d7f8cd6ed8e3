"""The math verifier on the answers of real tests, on hostile ones, and from threads."""

import json
import threading
import time
from collections import defaultdict
from pathlib import Path

import pytest

from rlvr.rewards.math import DEADLINE_S, forget, pool, verify, verify_batch

DATA = Path(__file__).parent / "data"
GOLDS = json.loads((DATA / "golds.json").read_text(encoding="utf-8"))
PWNED = Path("/tmp/PWNED_mv")


def rows(name: str) -> list[dict]:
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    return [
        {**row, "gold": whole(row["gold"]), "response": whole(row["response"])}
        for row in map(json.loads, lines)
    ]


def whole(text: str | list) -> str:
    """Return a text of which ``[piece, times]`` stands for repetitions."""
    parts = [text] if isinstance(text, str) else text
    return "".join(part if isinstance(part, str) else part[0] * part[1] for part in parts)


@pytest.fixture(scope="module")
def scores() -> dict[str, list[tuple[bool, bool]]]:
    """(rewarded, should be) of every case, by tag."""
    cases = rows("verifier_cases.jsonl")
    verdicts = verify_batch([(case["gold"], case["response"]) for case in cases])
    by_tag = defaultdict(list)
    for case, verdict in zip(cases, verdicts, strict=True):
        by_tag[case["tag"]].append((verdict.status == "correct", case["label"]))
    return by_tag


def agreement(pairs: list[tuple[bool, bool]]) -> float:
    return sum(got == label for got, label in pairs) / len(pairs)


def false_positives(pairs: list[tuple[bool, bool]]) -> int:
    return sum(got and not label for got, label in pairs)


def test_decidable_cases(scores):
    pairs = scores["core"] + scores["hard"]
    assert agreement(pairs) >= 0.99
    assert false_positives(pairs) == 0


@pytest.mark.parametrize("tag", ["gsm8k", "model_response", "multilingual"])
def test_answers_of_models(scores, tag):
    assert agreement(scores[tag]) >= 0.995


def test_no_changed_digit_is_rewarded(scores):
    assert false_positives(scores["synthetic"]) == 0


@pytest.mark.parametrize("name", GOLDS)
def test_a_gold_answer_scores_itself(name):
    golds = GOLDS[name]
    verdicts = verify_batch([(gold, f"\\boxed{{{gold}}}") for gold in golds], extract="boxed")
    refused = [gold for gold, v in zip(golds, verdicts, strict=True) if v.status != "correct"]
    # The training mix holds broken rows, such as "\\end{cases}" and unclosed brackets.
    allowed = 0.009 if name == "train_math_mix" else 0.005
    assert len(refused) <= allowed * len(golds), refused


def test_a_gold_answer_does_not_score_another_one():
    golds = GOLDS["math500"]
    pairs = list(zip(golds, golds[1:] + golds[:1], strict=True))
    pairs += list(zip(golds, golds[7:] + golds[:7], strict=True))
    verdicts = verify_batch([(gold, f"\\boxed{{{other}}}") for gold, other in pairs])
    equal = [pair for pair, v in zip(pairs, verdicts, strict=True) if v.status == "correct"]
    # 120 and 120 degrees are two gold answers and one number.
    assert [(a, b) for a, b in equal if not (a.startswith(b) or b.startswith(a))] == []


def test_hostile_rows_are_answered_in_time_from_a_thread_and_run_nothing():
    cases = rows("verifier_nasty.jsonl")
    PWNED.unlink(missing_ok=True)
    forget()
    found = []

    def judge() -> None:
        verify("x", "\\boxed{y}")  # the workers are up
        for case in cases:
            start = time.monotonic()
            status = verify(case["gold"], case["response"]).status
            found.append((case, status, time.monotonic() - start))

    thread = threading.Thread(target=judge)
    thread.start()
    thread.join()
    assert len(found) == len(cases)
    # The slack is the start of a worker on a busy machine.
    assert max(seconds for *_, seconds in found) < DEADLINE_S + 4
    assert [c["case_id"] for c, status, _ in found if status == "correct" and not c["label"]] == []
    assert not PWNED.exists()
    for worker in pool()._workers:
        status = Path(f"/proc/{worker.process.pid}/status").read_text()
        assert int(status.partition("VmHWM:")[2].split()[0]) < 200 * 1024


def test_mixed_rows_keep_their_order_and_each_is_answered():
    cases = rows("verifier_cases.jsonl")
    nasty = rows("verifier_nasty.jsonl")
    mixed = [cases[i % len(cases)] for i in range(2500)]
    mixed[::50] = [nasty[i % len(nasty)] for i in range(50)]
    verdicts = verify_batch([(row["gold"], row["response"]) for row in mixed])
    assert len(verdicts) == 2500
    alone: dict[str, str] = {}
    for row, verdict in zip(mixed, verdicts, strict=True):
        assert alone.setdefault(row["case_id"], verdict.status) == verdict.status
    assert verify(mixed[77]["gold"], mixed[77]["response"]).status == alone[mixed[77]["case_id"]]


def test_many_threads_get_the_verdicts_of_one():
    pairs = [(f"{n}x", f"\\boxed{{{n + n % 2}x}}") for n in range(40)]
    forget()
    expected = ["wrong" if n % 2 else "correct" for n in range(40)]
    results: dict[int, list[str]] = {}

    def judge(me: int) -> None:
        results[me] = [verify(*pair).status for pair in pairs]

    threads = [threading.Thread(target=judge, args=(me,)) for me in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(results.values()) == [expected] * 6


HACKS = {
    "a guess in every line": ("7", "\n".join(f"\\boxed{{{n}}}" for n in range(1, 9))),
    "guesses joined by commas": ("7", ", ".join(f"\\boxed{{{n}}}" for n in range(1, 9))),
    "a list of candidates": ("42", "\\boxed{41, 42, 43}"),
    "alternatives": ("42", "\\boxed{42 \\text{ or } 43}"),
    "a set of candidates": ("42", "\\boxed{\\{41, 42\\}}"),
    "a range around it": ("42", "\\boxed{[41, 43]}"),
    "an inequality that it satisfies": ("42", "\\boxed{41 < x < 43}"),
    "every number": ("42", "\\boxed{x \\in \\mathbb{R}}"),
    "a free name": ("42", "\\boxed{x}"),
    "plus or minus": ("42", "\\boxed{\\pm 42}"),
    "an empty box": ("42", "It is 42. \\boxed{}"),
    "a blank box": ("42", "It is 42. \\boxed{ \\text{ } }"),
    "an unclosed box": ("42", "\\boxed{42} and so \\boxed{42"),
    "the answer": ("42", "\\boxed{the answer}"),
    "the answer as text": ("42", "\\boxed{\\text{the answer is 42 or not}}"),
    "the instruction echoed": ("42", "42. Put your final answer within \\boxed{}."),
    "the instruction with a word": ("42", "42. I put it in \\boxed{answer}"),
    "only in the thoughts": ("42", "<think>\\boxed{42}</think> I am not sure."),
    "thoughts never closed": ("42", "<think> so it is \\boxed{42}"),
    "thoughts opened again": ("42", "<think>a</think> <think> \\boxed{42}"),
    "no box": ("42", "The final answer is 42."),
    "nan": ("0", "\\boxed{\\frac{0}{0}}"),
    "nan by name": ("42", "\\boxed{NaN}"),
    "complex infinity": ("\\infty", "\\boxed{\\frac{1}{0}}"),
    "infinity minus infinity": ("0", "\\boxed{\\infty - \\infty}"),
    "zero to the zero": ("1", "\\boxed{0^0}"),
    "an identity for an equation": ("x^2+y^2=1", "\\boxed{0=0}"),
    "arabic digits": ("42", "\\boxed{٤٢}"),
    "full-width digits": ("42", "\\boxed{４２}"),
    "bold digits": ("42", "\\boxed{𝟒𝟐}"),
    "a cyrillic letter": ("a", "\\boxed{а}"),
    "zero-width characters": ("42", "\\boxed{4\u200b2}"),
    "text turned round": ("42", "\\boxed{\u202e24}"),
    "200 kB of digits": ("42", "\\boxed{" + "42" * 100_000 + "}"),
    "200 kB of nines": ("1", "\\boxed{0." + "9" * 200_000 + "}"),
    "a deep nest": ("1", "\\boxed{" + "{" * 5000 + "1" + "}" * 5000 + "}"),
    "code": ("42", '\\boxed{__import__("os").system("touch /tmp/PWNED_mv")}'),
    "the gold answer of a file": ("42", "\\boxed{open('answers').read()}"),
    "another base": ("2516_8", "\\boxed{2516_{18}}"),
    "a rounded surd": ("\\sqrt{2}", "\\boxed{1.414}"),
    "tiny": ("\\frac{1}{2^{99}}", "\\boxed{0}"),
    "huge": ("10^{100}", "\\boxed{10^{100}+1}"),
}


@pytest.mark.parametrize("name", HACKS)
def test_reward_hacks_are_refused(name):
    gold, response = HACKS[name]
    verdict = verify(gold, response, extract="boxed")
    assert verdict.status in ("wrong", "unparsable")
    assert not PWNED.exists()


@pytest.mark.parametrize("gold", ["", "  ", "\\frac{1}{0}", "\\frac{1", "4\u200b2", "\\frac{0}{0}"])
@pytest.mark.parametrize("response", ["\\boxed{1}", "no answer", "\\boxed{}"])
def test_an_unreadable_gold_answer_is_said_so_whatever_the_response(gold, response):
    assert verify(gold, response, extract="boxed").status == "gold_unparsable"


def test_a_verdict_is_never_kept_after_a_crash():
    gold, response = "3x+1", "\\boxed{1+3x}"
    forget()
    judge = pool()
    assert judge.call("x", "x")[0] == "done"
    judge.restarts = 0
    for worker in judge._workers:
        worker.process.kill()
    assert verify(gold, response).status == "correct"
    assert judge.restarts >= 1
