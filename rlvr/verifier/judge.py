"""One gold answer against one answer, in the worker process: readings of each, then comparison."""

import re
import sys
from collections.abc import Sequence as List
from functools import lru_cache
from typing import NamedTuple

from rlvr.verifier.brackets import repeating
from rlvr.verifier.compare import equivalent
from rlvr.verifier.conventions import Conventions
from rlvr.verifier.exact import TooLarge, Undefined, exact
from rlvr.verifier.lexer import Unknown, Unreadable
from rlvr.verifier.numerals import spelled
from rlvr.verifier.parser import has_grouping, parse
from rlvr.verifier.phrases import NUMBER, TURNING, phrase, said_number, tree_of
from rlvr.verifier.quantities import is_quantity
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
from rlvr.verifier.tree import Neg, Node, Num, Quantity, Ratio, Sequence, Words, walk

_COMMA = re.compile(r"[-+]?[0-9]+,[0-9]+")
_SYMBOL = re.compile(r"[<>]=?|[-+*/=]|\\(?:times|div|cdot|le|ge|leq|geq|ne|neq|approx|pm)\s*")
_QUOTED = re.compile(r"""\s*[\[({]\s*(["'])[^"']*\1\s*[,:\])}]""")
_PERIOD = re.compile(r"([-+]?)([0-9]+\.[0-9]*)\(([0-9]{1,40})\)")
_LETTER_UNIT = re.compile(r"([-+]?[0-9][0-9.,/]*) ([mgshLNJWVAK])")
_GLUED = re.compile(r"[0-9][a-zA-Z]{2}")
SENTENCE = 6  # a gold answer of so many words without mathematics is never given word for word

# Answers nest more deeply than Python's default allows, and hold longer numerals; MAX_CHARS and
# MAX_DEPTH bound both.
RECURSION, DIGITS = 8_000, 4 * MAX_CHARS


class Judged(NamedTuple):
    """A status, one line why, and whether only this grammar failed, so that another may try."""

    status: str
    detail: str
    unread: bool = False


def readings(text: str) -> list[Node]:
    """Return the trees that a cleaned text can mean: with and without grouped thousands.

    Raises:
        Unreadable: there is none.
    """
    if _SYMBOL.fullmatch(text):
        return [Words(text.strip())]
    said = phrase(text)
    if said is not None and (tree := tree_of(said)) is not None:
        return [tree]
    number = spelled(unwrapped(text)) if len(text) < 120 else None
    if number is not None:
        return [Num(number)]
    trees, reason = [], None
    period = _PERIOD.fullmatch(text)
    if period:
        sign, digits, repeated = period.groups()
        value = repeating(digits, repeated)
        trees.append(Neg(value) if sign == "-" else value)
    for grouped in (True, False) if has_grouping(text) else (True,):
        try:
            trees.append(parse(text, grouped=grouped))
        except (Unreadable, RecursionError) as error:
            reason = error
    if not trees:
        raise (Unknown if isinstance(reason, Unknown) else Unreadable)(str(reason))
    return trees


class GoldUnreadable(ValueError):
    """The gold answer is neither mathematics of this grammar nor words."""

    def __init__(self, reason: str, *, unread: bool = False) -> None:
        super().__init__(reason)
        self.unread = unread


@lru_cache(maxsize=4096)
def gold_readings(gold: str) -> list[Node]:
    """Return the trees of a gold answer; none for words, which are compared as words.

    Raises:
        GoldUnreadable: it is empty, has no value, or is no mathematics of this grammar.
    """
    if len(gold) > MAX_CHARS:
        raise GoldUnreadable(f"longer than {MAX_CHARS} characters")
    if is_disguised(gold):
        raise GoldUnreadable("invisible or look-alike characters")
    if _QUOTED.match(gold):
        raise GoldUnreadable("a list or an object of quoted texts; write the one answer itself")
    target = clean(gold)
    if not target:
        raise GoldUnreadable("it is empty")
    said = phrase(target)
    if said is not None and tree_of(said) is None:
        return []
    prose = is_prose(target)
    try:
        trees = readings(target)
    except Unreadable as error:
        if prose:
            return []
        raise GoldUnreadable(str(error), unread=isinstance(error, Unknown)) from error
    if prose and said is None and len(target) > 3 and not all(_quantities(t) for t in trees):
        return []
    if any(_impossible(tree) for tree in trees):
        raise GoldUnreadable("it has no value")
    return trees


def _quantities(tree: Node) -> bool:
    """Return whether a tree is numbers with short words after them, as ``7 goats, 4 toys``."""
    items = tree.items if isinstance(tree, Sequence) else (tree,)
    for item in items:
        if is_quantity(item) and not isinstance(item, Quantity):
            continue
        match item:
            case Num() | Quantity(Num(), _) if not isinstance(item, Quantity) or (
                item.unit.count(" ") < 3
            ):
                continue
        return False
    return True


def _impossible(tree: Node) -> bool:
    if isinstance(tree, Ratio):
        return False
    try:
        exact(tree)
    except TooLarge:
        return False
    except Undefined:
        return True
    return False


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
        answers = _answers(given)
    except Unreadable as error:
        return _loosely(golds, given, loose, error, how)
    if any(equivalent(g, a, how) for g in golds for a in answers):
        return Judged("correct", "equal")
    if any(equivalent(g, a, how) for g, a in _rarer(golds, answers, target, given)):
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


def _rarer(
    golds: list[Node], answers: list[Node], target: str, given: str
) -> list[tuple[Node, Node]]:
    """Return pairs of readings that only the other side makes likely.

    ``3,5`` is a decimal beside ``3.5``, ``2mg`` a product beside ``g``, and ``7 m`` a length beside
    ``700 cm``.
    """
    pairs = []
    grouped = has_grouping(target) or has_grouping(given)
    if not grouped and _COMMA.fullmatch(target) and re.search(r"[0-9]\.[0-9]", given):
        pairs += [(parse(target.replace(",", ".")), a) for a in answers]
    if not grouped and _COMMA.fullmatch(given) and re.search(r"[0-9]\.[0-9]", target):
        pairs += [(g, parse(given.replace(",", "."))) for g in golds]
    if _GLUED.search(target) or _GLUED.search(given):
        pairs += [(g, a) for g in _factors(target) for a in _factors(given)]
    length, other = _LETTER_UNIT.fullmatch(target), _LETTER_UNIT.fullmatch(given)
    if length and any(is_quantity(a) for a in answers):
        pairs += [(Quantity(g, length[2]), a) for g in readings(length[1]) for a in answers]
    if other and any(is_quantity(g) for g in golds):
        pairs += [(g, Quantity(a, other[2])) for g in golds for a in readings(other[1])]
    return pairs


def _factors(text: str) -> list[Node]:
    """Return the reading of a text whose letters after numbers are factors, and no units."""
    try:
        return [parse(text, units=False)]
    except Unreadable:
        return []


def _sentence(golds: list[Node], target: str) -> Judged | None:
    """Return that a gold answer is a sentence, which only its own words match; else None."""
    if not is_sentence(target) and (golds or len(target.split()) < SENTENCE):
        return None
    detail = "the gold answer: a sentence, which only its own words would match"
    return Judged("gold_unparsable", detail)


def _spaced(text: str) -> str:
    return " ".join(unwrapped(text).split())


def _answers(given: str) -> list[Node]:
    """Return the readings of an answer; of ``... = value`` the value alone may be readable."""
    try:
        return readings(given)
    except Unreadable:
        left, equals, last = given.rpartition("=")
        if not equals or left.rstrip()[-1:] in ("<", ">", "!", ":", "") or not left.strip():
            raise
        if TURNING.search(unwrapped(left)):
            raise
        return readings(last.strip())


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
