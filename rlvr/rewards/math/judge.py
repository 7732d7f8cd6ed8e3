"""One gold answer against one answer, in the worker process: readings of each, then comparison."""

import re
from functools import lru_cache

from rlvr.rewards.math.compare import same
from rlvr.rewards.math.cursor import Node
from rlvr.rewards.math.exact import TooLarge, Undefined, exact
from rlvr.rewards.math.lexer import Unreadable
from rlvr.rewards.math.parser import has_grouping, parse
from rlvr.rewards.math.text import (
    MAX_CHARS,
    choice,
    clean,
    is_disguised,
    is_prose,
    is_sentence,
    unwrapped,
    words,
)

_COMMA = re.compile(r"[-+]?[0-9]+,[0-9]+")
_NUMBER = re.compile(r"[-+]?(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)(?:\s?%|\s?/\s?[0-9]+)?")
_SYMBOL = re.compile(r"[<>]=?|[-+*/=]|\\(?:times|div|cdot|le|ge|leq|geq|ne|neq|approx|pm)\s*")
_QUOTED = re.compile(r"""\s*[\[({]\s*(["'])[^"']*\1\s*[,:\])}]""")
SENTENCE = 6  # a gold answer of so many words without mathematics is never given word for word
Judged = tuple[str, str]  # status, one line why


def readings(text: str) -> list[Node]:
    """Return the trees that a cleaned text can mean: with and without grouped thousands.

    Raises:
        Unreadable: there is none.
    """
    if _SYMBOL.fullmatch(text):
        return [("text", text.strip())]
    trees, reason = [], None
    for grouped in (True, False) if has_grouping(text) else (True,):
        try:
            trees.append(parse(text, grouped=grouped))
        except (Unreadable, RecursionError) as error:
            reason = error
    if _COMMA.fullmatch(text) and not has_grouping(text):
        trees.append(parse(text.replace(",", ".")))
    if not trees:
        raise Unreadable(str(reason))
    return trees


class GoldUnreadable(ValueError):
    """The gold answer is neither mathematics of this grammar nor words."""


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
    prose = is_prose(target)
    try:
        trees = readings(target)
    except Unreadable as error:
        if prose:
            return []
        raise GoldUnreadable(str(error)) from error
    if prose and len(target) > 3 and not all(_quantities(tree) for tree in trees):
        return []
    if any(_impossible(tree) for tree in trees):
        raise GoldUnreadable("it has no value")
    return trees


def _quantities(tree: Node) -> bool:
    """Return whether a tree is numbers with short words after them, as ``7 goats, 4 toys``."""
    items = tree[2] if tree[0] == "seq" else [tree]
    return all(
        item[0] == "num" or (item[0] == "unit" and item[1][0] == "num" and item[2].count(" ") < 3)
        for item in items
    )


def judge(gold: str, answer: str, loose: bool = False) -> Judged:
    """Return the status of ``answer`` against ``gold``, and why.

    ``loose``: words may stand around the answer, so that its one number is taken where the whole
    is not readable.
    """
    try:
        golds = gold_readings(gold)
    except GoldUnreadable as error:
        return "gold_unparsable", f"the gold answer: {error}"
    if len(answer) > MAX_CHARS:
        return "unparsable", f"longer than {MAX_CHARS} characters"
    if is_disguised(answer):
        return "unparsable", "invisible or look-alike characters"
    target, given = clean(gold), clean(answer)
    if not given:
        return _sentence(golds, target) or ("unparsable", "the answer is empty")
    by_letter = _choice(target, given, gold)
    if by_letter is not None:
        return by_letter
    if words(target) == words(given) and (is_prose(target) or not golds):
        return "correct", "the same words"
    if not golds:
        return _sentence(golds, target) or ("wrong", "other words")
    if _spaced(target) == _spaced(given) and re.search(r"[^\W\d_]{3}", _spaced(target)):
        return "correct", "the same text"
    sentence = _sentence(golds, target)
    if sentence is not None:
        return sentence
    try:
        answers = _answers(given)
    except Unreadable as error:
        return _loosely(golds, given, loose, str(error))
    if any(same(g, a) for g in golds for a in answers):
        return "correct", "equal"
    return _loosely(golds, given, loose, "") if loose else ("wrong", "not equal")


def _sentence(golds: list[Node], target: str) -> Judged | None:
    """Return that a gold answer is a sentence, which only its own words match; else None."""
    if not is_sentence(target) and (golds or len(target.split()) < SENTENCE):
        return None
    return "gold_unparsable", "the gold answer: a sentence, which only its own words would match"


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
        return readings(last.strip())


def _impossible(tree: Node) -> bool:
    if tree[0] == "ratio":
        return False
    try:
        exact(tree)
    except Undefined as error:
        return not isinstance(error, TooLarge)
    return False


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
        return ("correct", "the option") if right else ("wrong", f"option {named[0]}")
    if rest and words(given) == rest:
        return "correct", "the option's text"
    return None


def _loosely(golds: list[Node], given: str, loose: bool, error: str) -> Judged:
    """Judge an announced answer that has words around it by the one number in it."""
    if not loose:
        return "unparsable", error
    bare = re.sub(r"[*`]", "", given)
    numbers = [match.group() for match in _NUMBER.finditer(bare)]
    if "=" in bare:
        numbers = [m.group() for m in _NUMBER.finditer(bare.rpartition("=")[2])] or numbers
    if len(numbers) != 1:
        return ("unparsable", error) if error else ("wrong", "not equal")
    answers = readings(numbers[0].strip().rstrip(","))
    if any(same(g, a) for g in golds for a in answers):
        return "correct", "equal to the one number there"
    return "wrong", "not equal to the one number there"
