"""Verdicts on completions: cheap rungs here, everything else in a worker with a deadline."""

import re
import threading
from collections import OrderedDict
from collections.abc import Iterable
from fractions import Fraction

from rlvr.rewards.math.extract import Extract, find_answer
from rlvr.rewards.math.freeform import Extracted
from rlvr.rewards.math.text import MAX_CHARS
from rlvr.rewards.pool import WorkerPool
from rlvr.rewards.verdict import Verdict

DEADLINE_S = 2.0
CACHE = 50_000  # verdicts kept, of pairs shorter than CACHED_CHARS
CACHED_CHARS = 2_000
_SHOWN = 200  # characters of an answer in a verdict
_INTEGER = re.compile(r"\$?\s*([-+]?)([0-9]+)\s*\$?")
_DECIMAL = re.compile(
    r"\$?\s*([-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,40})?(?:\.[0-9]{0,40})?)\s*\$?"
)
_FRACTION = re.compile(r"\$?\s*([-+]?)\\[dt]?frac\{([0-9]{1,40})\}\{([0-9]{1,40})\}\s*\$?")

_pools: dict[float, WorkerPool] = {}
_cache: OrderedDict[tuple[str, str, bool], tuple[str, str]] = OrderedDict()
_lock = threading.Lock()


def pool(deadline_s: float = DEADLINE_S) -> WorkerPool:
    """Return the workers that judge within ``deadline_s``; they start at the first job."""
    with _lock:
        if deadline_s not in _pools:
            _pools[deadline_s] = WorkerPool("rlvr.rewards.math.judge:judge", deadline_s=deadline_s)
        return _pools[deadline_s]


def numeral(text: str) -> Fraction | str | None:
    """Return the number that ``text`` plainly is: exact, an endless integer as its digits."""
    text = text.strip()
    integer = _INTEGER.fullmatch(text)
    if integer:
        sign, digits = integer.groups()
        digits = digits.lstrip("0") or "0"
        if len(digits) <= 40:
            return Fraction(int(digits) * (-1 if sign == "-" else 1))
        return ("-" if sign == "-" else "") + digits
    decimal = _DECIMAL.fullmatch(text)
    if decimal and re.search("[0-9]", decimal.group(1)):
        return Fraction(decimal.group(1).replace(",", "").rstrip("."))
    fraction = _FRACTION.fullmatch(text)
    if fraction and int(fraction.group(3)):
        sign, top, bottom = fraction.groups()
        return Fraction(int(top), int(bottom)) * (-1 if sign == "-" else 1)
    return None


def _at_once(gold: str, answer: Extracted) -> Verdict | tuple[str, str, bool]:
    """Return the verdict of the cheap rungs, or the job that a worker has to do.

    Numbers against numbers are decided here. A completion without an answer is still compared,
    with an empty one, so that a gold answer which cannot be read is found out.
    """
    target = numeral(gold)
    if answer.text is None:
        if target is not None:
            return Verdict("unparsable", detail=answer.reason)
        return gold[: MAX_CHARS + 1], "", False
    given = numeral(answer.text)
    shown = answer.text[:_SHOWN]
    if target is not None and given is not None:
        if target == given:
            return Verdict("correct", answer=shown, detail="the same number")
        # A comma may be a decimal or separate a list: the worker tries every reading.
        if not ("," in gold or "," in answer.text):
            return Verdict("wrong", answer=shown, detail="another number")
    # One character too many is enough for the worker to refuse the length.
    return gold[: MAX_CHARS + 1], answer.text[: MAX_CHARS + 1], answer.loose


def _known(job: tuple[str, str, bool]) -> tuple[str, str] | None:
    with _lock:
        kept = _cache.get(job)
        if kept is not None:
            _cache.move_to_end(job)
        return kept


def _keep(job: tuple[str, str, bool], judged: tuple[str, str]) -> None:
    # Time-outs and crashes depend on the load of the machine: they may be asked again.
    if len(job[0]) + len(job[1]) > CACHED_CHARS or judged[0] in ("timeout", "crashed"):
        return
    with _lock:
        _cache[job] = judged
        if len(_cache) > CACHE:
            _cache.popitem(last=False)


def _verdict(answer: Extracted, judged: tuple[str, str]) -> Verdict:
    status, detail = judged
    if answer.text is None:
        status, detail = ("unparsable", answer.reason) if status != "gold_unparsable" else judged
        return Verdict(status, detail=detail)  # pyright: ignore[reportArgumentType]
    return Verdict(status, answer=answer.text[:_SHOWN], detail=detail)  # pyright: ignore[reportArgumentType]


def verify_batch(
    pairs: Iterable[tuple[str, str]],
    *,
    extract: Extract = "auto",
    deadline_s: float = DEADLINE_S,
) -> list[Verdict]:
    """Return the verdict of every (gold, response), in order, with every worker busy."""
    verdicts: list[Verdict | None] = []
    waiting: dict[tuple[str, str, bool], list[tuple[int, Extracted]]] = {}
    for index, (gold, response) in enumerate(pairs):
        answer = find_answer(response, extract)
        job = _at_once(gold, answer)
        if isinstance(job, Verdict):
            verdicts.append(job)
            continue
        kept = _known(job)
        verdicts.append(None if kept is None else _verdict(answer, kept))
        if kept is None:
            # Completions of a group often answer the same: one job for all of them.
            waiting.setdefault(job, []).append((index, answer))
    jobs = list(waiting)
    outcomes = pool(deadline_s).map(jobs) if jobs else []
    for job, outcome in zip(jobs, outcomes, strict=True):
        judged = (outcome.status, str(outcome.value))
        if outcome.status == "done":
            judged = (outcome.value[0], outcome.value[1])
        _keep(job, judged)
        for index, answer in waiting[job]:
            verdicts[index] = _verdict(answer, judged)
    return [verdict for verdict in verdicts if verdict is not None]


def verify(
    gold: str, response: str, *, extract: Extract = "auto", deadline_s: float = DEADLINE_S
) -> Verdict:
    """Return whether ``response`` answers with ``gold``.

    Usable from any thread. Returns at the deadline at the latest; nothing of the response is ever
    executed. ``extract``: ``boxed`` wants a ``\\boxed{}``, ``auto`` also takes an announced answer.
    """
    return verify_batch([(gold, response)], extract=extract, deadline_s=deadline_s)[0]


def forget() -> None:
    """Empty the cache of verdicts."""
    with _lock:
        _cache.clear()
