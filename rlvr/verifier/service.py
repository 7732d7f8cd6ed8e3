"""Verdicts on completions: cheap rungs here, everything else in a worker with a deadline.

The rungs: plain numbers are decided in this process; the grammar decides in a worker; what it
cannot read goes to math-verify in a worker of its own.
"""

import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple, get_args

from rlvr.isolation.pool import Outcome, WorkerPool, shared
from rlvr.verdict import Verdict
from rlvr.verifier.conventions import DEFAULT, Conventions
from rlvr.verifier.extract import Extract, find_answer
from rlvr.verifier.freeform import Extracted
from rlvr.verifier.rounding import is_rounded
from rlvr.verifier.text import MAX_CHARS

DEADLINE_S = 2.0
MEMORY_MB = 1024
CACHE = 50_000  # verdicts kept, of pairs shorter than CACHED_CHARS
CACHED_CHARS = 2_000
_SHOWN = 200  # characters of an answer in a verdict
_DIGITS = 40  # of a number that this process compares
_PLAIN = 200  # characters of a text that can be such a number
_NUMERAL = re.compile(r"\$?\s*([-+]?)([0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)\s*\$?")
_DECIMAL = re.compile(
    r"\$?\s*([-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,40})?(?:\.[0-9]{0,40})?)\s*\$?"
)
_FRACTION = re.compile(r"\$?\s*([-+]?)\\[dt]?frac\{([0-9]{1,40})\}\{([0-9]{1,40})\}\s*\$?")
Job = tuple[str, str, bool, tuple[bool, ...]]  # gold, answer, loose, conventions

_cache: OrderedDict[tuple[Job, bool], "Judgement"] = OrderedDict()
_lock = threading.Lock()


class Judgement(NamedTuple):
    """What a worker said of a job, and which rung it was."""

    status: str
    detail: str
    by: str = ""


def pool() -> WorkerPool:
    """Return the workers of the grammar; they start at the first job."""
    return shared("rlvr.verifier.judge:judge", deadline_s=DEADLINE_S, memory_mb=MEMORY_MB)


def last_rung() -> WorkerPool:
    """Return the workers of math-verify; they start when the grammar first fails."""
    path = "rlvr.verifier.last_rung:judge"
    size = max(1, pool().size // 2)
    return shared(path, size=size, deadline_s=DEADLINE_S, memory_mb=2 * MEMORY_MB)


def numeral(text: str) -> Fraction | str | None:
    """Return the number that ``text`` plainly is: exact, an endless integer as its digits."""
    text = text.strip()
    integer = _NUMERAL.fullmatch(text) if len(text) <= MAX_CHARS else None
    if integer:
        sign, digits = integer.groups()
        digits = digits.replace(",", "").lstrip("0") or "0"
        if len(digits) <= _DIGITS:
            return Fraction(int(digits) * (-1 if sign == "-" else 1))
        return ("-" if sign == "-" else "") + digits
    if len(text) > _PLAIN:
        return None
    decimal = _DECIMAL.fullmatch(text)
    if decimal and re.search("[0-9]", decimal.group(1)):
        return Fraction(decimal.group(1).replace(",", "").rstrip("."))
    fraction = _FRACTION.fullmatch(text)
    if fraction and int(fraction.group(3)):
        sign, top, bottom = fraction.groups()
        return Fraction(int(top), int(bottom)) * (-1 if sign == "-" else 1)
    return None


def _at_once(gold: str, answer: Extracted, how: Conventions) -> Verdict | Job:
    """Return the verdict of the cheap rung, or the job that a worker has to do.

    Numbers against numbers are decided here. A completion without an answer is still compared,
    with an empty one, so that a gold answer which cannot be read is found out.
    """
    target = numeral(gold)
    options = (how.rounded, how.percent, how.ordered)
    if answer.text is None:
        if target is not None:
            return Verdict("unparsable", detail=answer.reason)
        return gold[: MAX_CHARS + 1], "", False, options
    given = numeral(answer.text)
    shown = answer.text[:_SHOWN]
    if target is not None and given is not None:
        if target == given:
            return Verdict("correct", answer=shown, detail="the same number")
        # A comma may be a decimal or separate a list: the worker tries every reading.
        if not ("," in gold or "," in answer.text):
            return _other_number(target, given, shown, how)
    # One character too many is enough for the worker to refuse the length.
    return gold[: MAX_CHARS + 1], answer.text[: MAX_CHARS + 1], answer.loose, options


def _other_number(
    target: Fraction | str, given: Fraction | str, shown: str, how: Conventions
) -> Verdict:
    if how.rounded and isinstance(target, Fraction) and isinstance(given, Fraction):
        if is_rounded(given, target) or is_rounded(target, given):
            return Verdict("correct", answer=shown, detail="the same number, rounded")
    return Verdict("wrong", answer=shown, detail="another number")


def _known(job: Job, last: bool) -> Judgement | None:
    with _lock:
        kept = _cache.get((job, last))
        if kept is not None:
            _cache.move_to_end((job, last))
        return kept


def _keep(job: Job, last: bool, judged: Judgement) -> None:
    # Time-outs and crashes depend on the load of the machine: they may be asked again.
    if len(job[0]) + len(job[1]) > CACHED_CHARS or judged.status in ("timeout", "crashed"):
        return
    with _lock:
        _cache[job, last] = judged
        if len(_cache) > CACHE:
            _cache.popitem(last=False)


def _verdict(answer: Extracted, judged: Judgement) -> Verdict:
    status, detail, by = judged
    if answer.text is None:
        status, detail = (
            ("unparsable", answer.reason) if status != "gold_unparsable" else judged[:2]
        )
        return Verdict(status, detail=detail)  # pyright: ignore[reportArgumentType]
    return Verdict(status, answer=answer.text[:_SHOWN], detail=detail, by=by)  # pyright: ignore[reportArgumentType]


def _judge(jobs: list[Job], deadline_s: float, last: bool) -> list[Judgement]:
    """Return the judgement of every job: the grammar's, or math-verify's on what it cannot read."""
    begin = time.monotonic()
    outcomes = pool().map(jobs, deadline_s=deadline_s) if jobs else []
    judged, unread = [], []
    for index, outcome in enumerate(outcomes):
        if outcome.status != "done":
            judged.append(Judgement(outcome.status, str(outcome.value)))
            continue
        status, detail, again = outcome.value
        judged.append(Judgement(status, detail))
        if again and last and jobs[index][1]:
            unread.append(index)
    # A single job keeps within its caller's deadline; each of many has the whole deadline.
    left = deadline_s - (time.monotonic() - begin) if len(jobs) == 1 else deadline_s
    if unread and left > 0:
        pairs = [jobs[index][:2] for index in unread]
        for index, outcome in zip(unread, last_rung().map(pairs, deadline_s=left), strict=True):
            judged[index] = _rescued(judged[index], outcome)
    return judged


def _rescued(judged: Judgement, outcome: Outcome) -> Judgement:
    """Return math-verify's judgement; the grammar's where it could not read the pair either."""
    if outcome.status != "done" or outcome.value is None:
        return judged
    status = "correct" if outcome.value else "wrong"
    return Judgement(status, f"math-verify, since {judged.detail}", "math-verify")


def verify_batch(
    pairs: Iterable[tuple[str, str]],
    *,
    extract: Extract = "auto",
    deadline_s: float = DEADLINE_S,
    conventions: Conventions = DEFAULT,
    math_verify: bool = True,
) -> list[Verdict]:
    """Return the verdict of every (gold, response), in order, with every worker busy."""
    if extract not in get_args(Extract):
        raise ValueError(f"extract: must be one of {get_args(Extract)}, got {extract!r}")
    verdicts: list[Verdict | None] = []
    waiting: dict[Job, list[tuple[int, Extracted]]] = {}
    for index, (gold, response) in enumerate(pairs):
        if not isinstance(gold, str) or not isinstance(response, str):
            name, text = ("gold", gold) if not isinstance(gold, str) else ("response", response)
            raise TypeError(
                f"pair {index}: {name} must be text, got {type(text).__name__} {text!r}"
            )
        answer = find_answer(response, extract)
        job = _at_once(gold, answer, conventions)
        if isinstance(job, Verdict):
            verdicts.append(job)
            continue
        kept = _known(job, math_verify)
        verdicts.append(None if kept is None else _verdict(answer, kept))
        if kept is None:
            # Completions of a group often answer the same: one job for all of them.
            waiting.setdefault(job, []).append((index, answer))
    jobs = list(waiting)
    for job, judged in zip(jobs, _judge(jobs, deadline_s, math_verify), strict=True):
        _keep(job, math_verify, judged)
        for index, answer in waiting[job]:
            verdicts[index] = _verdict(answer, judged)
    return [verdict for verdict in verdicts if verdict is not None]


def verify(
    gold: str,
    response: str,
    *,
    extract: Extract = "auto",
    deadline_s: float = DEADLINE_S,
    conventions: Conventions = DEFAULT,
    math_verify: bool = True,
) -> Verdict:
    """Return whether ``response`` answers with ``gold``.

    Usable from any thread. Returns at the deadline at the latest; nothing of the response is ever
    executed. ``extract``: ``boxed`` wants a ``\\boxed{}``, ``auto`` also takes an announced answer.
    ``math_verify``: what this grammar cannot read is judged by that library.

    Raises:
        ValueError, TypeError: ``extract`` is no such way, or a text is none.
    """
    (verdict,) = verify_batch(
        [(gold, response)],
        extract=extract,
        deadline_s=deadline_s,
        conventions=conventions,
        math_verify=math_verify,
    )
    return verdict


def forget() -> None:
    """Empty the cache of verdicts."""
    with _lock:
        _cache.clear()


def _after_fork() -> None:
    # Another thread of the parent may have held the lock: in the child nobody would release it.
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
