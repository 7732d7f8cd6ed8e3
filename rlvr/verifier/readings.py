"""What a text can mean: the trees of a gold answer, of an answer, and of rarer readings of both."""

import re
from fractions import Fraction
from functools import lru_cache

from rlvr.verifier.brackets import repeating
from rlvr.verifier.lexer import Unknown, Unreadable
from rlvr.verifier.numerals import ordinal, spelled
from rlvr.verifier.parser import has_grouping, parse
from rlvr.verifier.phrases import TURNING, phrase, tree_of
from rlvr.verifier.quantities import is_quantity
from rlvr.verifier.scalars import is_undefined
from rlvr.verifier.text import MAX_CHARS, clean, is_disguised, is_prose, unwrapped
from rlvr.verifier.tree import Neg, Node, Num, Quantity, Sequence, Words
from rlvr.verifier.units import is_unit

# 3,5: a decimal comma, or two items.
_COMMA = re.compile(r"[-+]?[0-9]+,[0-9]+")
# An answer that is a sign: which relation holds, which operation was used.
_SYMBOL = re.compile(r"[<>]=?|[-+*/=]|\\(?:times|div|cdot|le|ge|leq|geq|ne|neq|approx|pm)\s*")
# ["4", "5"]: a list that a dataset stored as text.
_QUOTED = re.compile(r"""\s*[\[({]\s*(["'])[^"']*\1\s*[,:\])}]""")
# 0.1(6): the digits in the parenthesis repeat.
_PERIOD = re.compile(r"([-+]?)([0-9]+\.[0-9]*)\(([0-9]{1,40})\)")
# 7 m, 9.8 m/s^2: a letter after a number is a unit only where the other side has one.
_LETTER_UNIT = re.compile(r"([-+]?[0-9][0-9.,/]*)\s*([mgshLNJWVAK][a-zA-Z0-9/^{} -]*)")
# Digits that go on: 0.333..., and 0.1818...
_ONGOING = re.compile(
    r"([-+]?)([0-9]*\.[0-9]*?)(?:([0-9])\3{2,}|([0-9]{2,12}?)\4+)(?:\.{3,}|\\[lc]?dots)"
)
# 2mg: a mass, or 2 m g.
_GLUED = re.compile(r"[0-9][a-zA-Z]{2}")


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
    place = ordinal(unwrapped(text))
    if place is not None:
        return [Quantity(Num(Fraction(place)), "ordinal")]
    trees, reason = [], None
    period = _PERIOD.fullmatch(text) or _ONGOING.fullmatch(text)
    if period:
        sign, digits, *repeated = period.groups()
        value = repeating(digits, next(filter(None, repeated)))
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
    if any(map(is_undefined, trees)):
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


def rarer_readings(
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
    if length and is_unit(length[2]) and any(is_quantity(a) for a in answers):
        pairs += [(Quantity(g, length[2]), a) for g in readings(length[1]) for a in answers]
    if other and is_unit(other[2]) and any(is_quantity(g) for g in golds):
        pairs += [(g, Quantity(a, other[2])) for g in golds for a in readings(other[1])]
    return pairs


def _factors(text: str) -> list[Node]:
    """Return the reading of a text whose letters after numbers are factors, and no units."""
    try:
        return [parse(text, units=False)]
    except Unreadable:
        return []


def answer_readings(given: str) -> list[Node]:
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
