"""Two numbers or expressions: their values, their units, their marks."""

from collections.abc import Callable
from fractions import Fraction

from rlvr.rewards.math.cursor import Node
from rlvr.rewards.math.exact import TooLarge, Undefined, exact
from rlvr.rewards.math.identity import equal, values
from rlvr.rewards.math.sets import names_of
from rlvr.rewards.math.text import words
from rlvr.rewards.math.units import same_quantity

MAX_ITEMS = 60
Same = Callable[[Node, Node], bool]


def is_undefined(node: Node) -> bool:
    """Return whether a constant has no finite value; infinity itself is an answer."""
    if node[0] == "ratio":
        return False
    try:
        exact(node)
    except TooLarge:
        return False
    except Undefined:
        return True
    return False


def matched(gold: list[Node], answer: list[Node], same: Same) -> bool:
    """Return whether the items are the same in some order."""
    if len(gold) != len(answer) or len(gold) > MAX_ITEMS:
        return False
    left = list(answer)
    for item in gold:
        # Greedy is enough: `same` is close to an equivalence, so any match will do.
        place = next((i for i, other in enumerate(left) if same(item, other)), None)
        if place is None:
            return False
        left.pop(place)
    return True


def same_scalars(gold: Node, answer: Node, same: Same) -> bool:
    """Compare two numbers or expressions; a percent sign, degrees or a unit may be left out."""
    if gold[0] == answer[0] == "text":
        return words(gold[1]) == words(answer[1])
    # A percent is no angle and no length: two different marks never agree.
    marks = {node[0] for node in (gold, answer)} & {"pct", "deg", "unit", "ratio"}
    if len(marks) > 1 and not (marks == {"deg", "unit"} and _in_degrees(gold, answer)):
        return False
    if "unit" in (gold[0], answer[0]):
        return same_quantity(gold, answer, same)
    for mark in ("pct", "deg"):
        if (gold[0] == mark) != (answer[0] == mark):
            bare = [node[1] if node[0] == mark else node for node in (gold, answer)]
            return equal(*bare) or equal(gold, answer)
    if gold[0] == answer[0] == "based":
        return int(gold[1], gold[2]) == int(answer[1], answer[2])
    if "based" in (gold[0], answer[0]):
        return False
    if "ratio" in (gold[0], answer[0]):
        return _same_ratios(gold, answer, same)
    try:
        if equal(gold, answer) or _congruent(gold, answer, same):
            return True
        return _rounded(gold, answer) or _rounded(answer, gold)
    except (Undefined, ValueError):
        return False


def _in_degrees(gold: Node, answer: Node) -> bool:
    return any(node[0] == "unit" and node[2].startswith("deg") for node in (gold, answer))


def _rounded(decimal: Node, other: Node) -> bool:
    """Return whether a decimal of at least 6 places is the rounded value of a number without end.

    ``0.333333`` is 1/3 as far as it goes, ``0.33`` is not.
    """
    sign = -1 if decimal[0] == "neg" else 1
    number = decimal[1] if sign < 0 else decimal
    if number[0] != "num" or other[0] == "num":
        return False
    given = number[1] * sign
    # The number of decimals: the smallest k with 10^k x whole.
    places = next((k for k in range(6, 21) if (given * 10**k).denominator == 1), None)
    if places is None or (given * 10**5).denominator == 1:
        return False
    try:
        (value,), at = values([other], 0, "positive")
    except Undefined:
        return False
    if names_of(other) or at.context.im(value) != 0:
        return False
    gap = abs(value - at.context.mpf(given.numerator) / given.denominator)
    # At most half a unit of the last place.
    return gap * 2 <= at.context.mpf(10) ** -places


def _same_ratios(gold: Node, answer: Node, same: Same) -> bool:
    if gold[0] != answer[0]:
        return equal(gold, answer)
    left, right = gold[1], answer[1]
    if len(left) != len(right):
        return False
    if all(same(g, a) for g, a in zip(left, right, strict=True)):
        return True
    if any(part[0] == "unit" for part in left + right):
        return False
    # a : b = c : d where a d = b c.
    cross = [
        (("mul", [left[0], a]), ("mul", [right[0], g])) for g, a in zip(left, right, strict=True)
    ]
    zero = ("num", Fraction(0))
    return not any(equal(part, zero) for part in left + right) and all(equal(*c) for c in cross)


def _congruent(gold: Node, answer: Node, same: Same) -> bool:
    """Return whether two trees beyond evaluation are built alike from equal parts."""
    if gold[0] != answer[0] or len(gold) != len(answer) or gold[0] in ("num", "sym", "const"):
        return gold == answer and gold[0] != "const"
    if is_undefined(gold):
        return False
    if gold[0] in ("add", "mul"):
        return matched(gold[1], answer[1], same)
    if gold[0] == "fn" and (gold[1] != answer[1] or len(gold[2]) != len(answer[2])):
        return False
    if gold[0] == "fn":
        return all(same(g, a) for g, a in zip(gold[2], answer[2], strict=True))
    if gold[0] in ("pow", "div"):
        return all(same(g, a) for g, a in zip(gold[1:], answer[1:], strict=True))
    return False
