"""One gold answer against one answer, in the worker process: readings of each, then comparison."""

import re
import sys
from collections.abc import Sequence as List
from typing import NamedTuple

from rlvr.verifier.compare import equivalent
from rlvr.verifier.conventions import Conventions
from rlvr.verifier.lexer import Unknown, Unreadable
from rlvr.verifier.phrases import NUMBER, TURNING, phrase, said_number
from rlvr.verifier.readings import (
    GoldUnreadable,
    answer_readings,
    gold_readings,
    rarer_readings,
    readings,
)
from rlvr.verifier.text import (
    MAX_CHARS,
    choice,
    clean,
    is_disguised,
    is_prose,
    is_sentence,
    unwrapped,
    words,
)
from rlvr.verifier.tree import Node, Quantity, Words, walk

SENTENCE = 6  # a gold answer of so many words without mathematics is never given word for word

# Answers nest more deeply than Python's default allows, and hold longer numerals; MAX_CHARS and
# MAX_DEPTH bound both.
RECURSION, DIGITS = 8_000, 4 * MAX_CHARS


class Judged(NamedTuple):
    """A status, one line why, and whether only this grammar failed, so that another may try."""

    status: str
    detail: str
    unread: bool = False


def judge(gold: str, answer: str, loose: bool = False, options: List[bool] = ()) -> Judged:
    """Return the status of ``answer`` against ``gold``, and why.

    ``loose``: words may stand around the answer, so that its one number is taken where the whole
    is not readable. ``options`` are the fields of ``Conventions``.
    """
    sys.setrecursionlimit(RECURSION)
    sys.set_int_max_str_digits(DIGITS)
    try:
        return _judge(gold, answer, loose, Conventions(*options))
    except RecursionError:
        return Judged("unparsable", "nested too deeply")


def _judge(gold: str, answer: str, loose: bool, how: Conventions) -> Judged:
    try:
        golds = gold_readings(gold)
    except GoldUnreadable as error:
        return Judged("gold_unparsable", f"the gold answer: {error}", error.unread)
    if len(answer) > MAX_CHARS:
        return Judged("unparsable", f"longer than {MAX_CHARS} characters")
    if is_disguised(answer):
        return Judged("unparsable", "invisible or look-alike characters")
    target, given = clean(gold), clean(answer)
    if not given:
        return _sentence(golds, target) or Judged("unparsable", "the answer is empty")
    return _in_words(golds, target, given, gold) or _as_mathematics(
        golds, target, given, loose, how
    )


def _in_words(golds: list[Node], target: str, given: str, gold: str) -> Judged | None:
    """Judge what words decide: options, set phrases, the same text; None for mathematics."""
    by_letter = _choice(target, given, gold)
    if by_letter is not None:
        return by_letter
    said, answered = phrase(target), phrase(given)
    if said is not None and answered is not None:
        same = said == answered
        return Judged("correct", "the same words") if same else Judged("wrong", "other words")
    if words(target) == words(given) and (is_prose(target) or not golds):
        return Judged("correct", "the same words")
    if not golds:
        return _sentence(golds, target) or Judged("wrong", "other words")
    if _spaced(target) == _spaced(given) and re.search(r"[^\W\d_]{3}", _spaced(target)):
        return Judged("correct", "the same text")
    return _sentence(golds, target)


def _as_mathematics(
    golds: list[Node], target: str, given: str, loose: bool, how: Conventions
) -> Judged:
    try:
        answers = answer_readings(given)
    except Unreadable as error:
        return _loosely(golds, given, loose, error, how)
    if any(equivalent(g, a, how) for g in golds for a in answers):
        return Judged("correct", "equal")
    if any(equivalent(g, a, how) for g, a in rarer_readings(golds, answers, target, given)):
        return Judged("correct", "equal")
    number = said_number(given)
    if number is not None and any(equivalent(g, a, how) for g in golds for a in readings(number)):
        return Judged("correct", "equal to the one number stated")
    # Words around a number; what is mathematics as a whole says what it says.
    worded = any(isinstance(p, Words | Quantity) for tree in answers for p in walk(tree))
    return (
        _loosely(golds, given, loose, None, how)
        if loose and worded
        else Judged("wrong", "not equal")
    )


def _sentence(golds: list[Node], target: str) -> Judged | None:
    """Return that a gold answer is a sentence, which only its own words match; else None."""
    if not is_sentence(target) and (golds or len(target.split()) < SENTENCE):
        return None
    detail = "the gold answer: a sentence, which only its own words would match"
    return Judged("gold_unparsable", detail)


def _spaced(text: str) -> str:
    return " ".join(unwrapped(text).split())


def _choice(target: str, given: str, gold: str) -> Judged | None:
    """Judge by the letters of two multiple-choice options, where the gold answer is one."""
    wanted, named = choice(target), choice(given)
    if wanted is None or (len(target) > 3 and not wanted[1] and "\\text" not in gold):
        return None
    letter, rest = wanted
    if rest and not (
        is_prose(unwrapped(target)) or re.match(r"\s*\(?[A-J][.):]", unwrapped(target))
    ):
        return None
    if named is not None:
        right = named[0] == letter and not (rest and named[1] and rest != named[1])
        right = right and not TURNING.match(named[1])
        return Judged("correct", "the option") if right else Judged("wrong", f"option {named[0]}")
    if rest and words(given) == rest:
        return Judged("correct", "the option's text")
    return None


def _loosely(
    golds: list[Node], given: str, loose: bool, error: Unreadable | None, how: Conventions
) -> Judged:
    """Judge an answer that has words around it by the one number in it."""
    unread = Judged("unparsable", str(error), isinstance(error, Unknown))
    stated = said_number(given) if error else None
    if not loose and stated is None:
        return unread
    if TURNING.search(unwrapped(given)):
        return Judged("unparsable", "a number that the words around it deny or leave open")
    bare = re.sub(r"[*`]", "", given)
    numbers = [match.group() for match in NUMBER.finditer(bare)]
    if "=" in bare:
        numbers = [m.group() for m in NUMBER.finditer(bare.rpartition("=")[2])] or numbers
    if len(numbers) != 1:
        return unread if error else Judged("wrong", "not equal")
    answers = readings(numbers[0].strip().rstrip(","))
    if any(equivalent(g, a, how) for g in golds for a in answers):
        return Judged("correct", "equal to the one number there")
    return Judged("wrong", "not equal to the one number there")
