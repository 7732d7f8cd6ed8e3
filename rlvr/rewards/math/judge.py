"""One gold answer against one answer, in the worker process: readings of each, then comparison."""

import re

from rlvr.rewards.math.atoms import Node
from rlvr.rewards.math.compare import same
from rlvr.rewards.math.exact import Undefined, exact
from rlvr.rewards.math.lexer import Unreadable
from rlvr.rewards.math.parser import has_grouping, parse
from rlvr.rewards.math.text import (
    MAX_CHARS,
    choice,
    clean,
    is_disguised,
    is_prose,
    unwrapped,
    words,
)

_COMMA = re.compile(r"[-+]?[0-9]+,[0-9]+")
_NUMBER = re.compile(r"[-+]?(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)(?:\s?%|\s?/\s?[0-9]+)?")
Judged = tuple[str, str]  # status, one line why


def readings(text: str) -> list[Node]:
    """Return the trees that a cleaned text can mean: with and without grouped thousands.

    Raises:
        Unreadable: there is none.
    """
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


def judge(gold: str, answer: str, loose: bool = False) -> Judged:
    """Return the status of ``answer`` against ``gold``, and why.

    ``loose``: words may stand around the answer, so that its one number is taken where the whole
    is not readable.
    """
    if len(gold) > MAX_CHARS or is_disguised(gold):
        return "gold_unparsable", "the gold answer is too long or has invisible characters"
    if len(answer) > MAX_CHARS:
        return "unparsable", f"longer than {MAX_CHARS} characters"
    if is_disguised(answer):
        return "unparsable", "invisible or look-alike characters"
    target, given = clean(gold), clean(answer)
    if not target:
        return "gold_unparsable", "the gold answer is empty"
    if not given:
        return "unparsable", "the answer is empty"
    by_letter = _choice(target, given, gold, answer)
    if by_letter is not None:
        return by_letter
    bare = [" ".join(unwrapped(text).split()) for text in (target, given)]
    if is_prose(target) or (bare[0] == bare[1] and re.search(r"[^\W\d_]{3}", bare[0])):
        right = words(target) == words(given)
        if right or len(target) > 3:
            return ("correct", "the same words") if right else ("wrong", "other words")
    try:
        golds = readings(target)
    except Unreadable as error:
        if target == given:
            return "correct", "the same text"
        if re.search(r"\w", target):
            return "wrong", f"the gold answer is compared as text: {error}"
        return "gold_unparsable", f"the gold answer: {error}"
    if any(_impossible(tree) for tree in golds):
        return "gold_unparsable", "the gold answer has no value"
    try:
        answers = _answers(given)
    except Unreadable as error:
        return _loosely(golds, given, loose, str(error))
    if any(same(g, a) for g in golds for a in answers):
        return "correct", "equal"
    return _loosely(golds, given, loose, "") if loose else ("wrong", "not equal")


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
        return "large" not in str(error)
    return False


def _choice(target: str, given: str, gold: str, answer: str) -> Judged | None:
    """Judge by the letters of two multiple-choice options, where the gold answer is one."""
    wanted, named = choice(target), choice(given)
    if wanted is None or (len(target) > 3 and not wanted[1] and "\\text" not in gold):
        return None
    letter, rest = wanted
    if rest and not is_prose(unwrapped(target)):
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
