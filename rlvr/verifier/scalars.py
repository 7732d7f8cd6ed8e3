"""Two numbers or expressions: their values, their units, their marks."""

from collections import Counter
from collections.abc import Callable
from fractions import Fraction

from rlvr.verifier.conventions import Conventions
from rlvr.verifier.exact import TooLarge, Undefined, exact
from rlvr.verifier.identity import equal, is_constant, values
from rlvr.verifier.quantities import is_quantity, same_quantity, stems
from rlvr.verifier.rounding import places_of, rounds
from rlvr.verifier.same import Same
from rlvr.verifier.sample import Sample
from rlvr.verifier.text import words
from rlvr.verifier.tree import (
    Apply,
    Based,
    Big,
    Const,
    Degrees,
    Name,
    Neg,
    Node,
    Num,
    Percent,
    Power,
    Product,
    Quantity,
    Quotient,
    Ratio,
    Root,
    Sum,
    Words,
    substitute,
    walk,
)

MAX_ITEMS = 60  # that are not written alike


def is_undefined(node: Node) -> bool:
    """Return whether a constant has no finite value; infinity itself is an answer."""
    if isinstance(node, Ratio):
        return False
    try:
        exact(node)
    except TooLarge:
        return False
    except Undefined:
        return True
    return False


def matched(gold: list[Node], answer: list[Node], same: Callable[[Node, Node], bool]) -> bool:
    """Return whether the items are the same in some order."""
    if len(gold) != len(answer):
        return False
    # Items that are written alike need no comparison: long lists are mostly made of them.
    alike = Counter(gold) & Counter(answer)
    for item in [item for item in alike if is_undefined(item)]:
        del alike[item]
    gold, left = (
        list((Counter(gold) - alike).elements()),
        list((Counter(answer) - alike).elements()),
    )
    if len(gold) > MAX_ITEMS:
        return False
    for item in gold:
        # Greedy is enough: `same` is close to an equivalence, so any match will do.
        place = next((i for i, other in enumerate(left) if same(item, other)), None)
        if place is None:
            return False
        left.pop(place)
    return True


def same_scalars(gold: Node, answer: Node, same: Same) -> bool:
    """Compare two numbers or expressions; a percent sign, degrees or a unit may be left out."""
    if isinstance(gold, Words) and isinstance(answer, Words):
        return (
            words(gold.text) == words(answer.text)
            or bool(stems(gold.text))
            and stems(gold.text) == stems(answer.text)
        )
    # A percent is no angle and no length: two different marks never agree.
    marks = {_mark(node) for node in (gold, answer)} - {None}
    if len(marks) > 1 and marks != {Degrees, Quantity}:
        return False
    if is_quantity(gold) or is_quantity(answer):
        return same_quantity(gold, answer, same)
    if isinstance(gold, Percent) != isinstance(answer, Percent):
        return _percent(gold, answer, same.how)
    if isinstance(gold, Degrees) != isinstance(answer, Degrees):
        bare = (node.item if isinstance(node, Degrees) else node for node in (gold, answer))
        return equal(*bare) or equal(gold, answer)
    if isinstance(gold, Based) or isinstance(answer, Based):
        pair = gold, answer
        return all(isinstance(n, Based) for n in pair) and exact(gold) == exact(answer)
    if isinstance(gold, Ratio) or isinstance(answer, Ratio):
        return _same_ratios(gold, answer, same)
    try:
        if equal(gold, answer) or _congruent(gold, answer, same):
            return True
        return same.how.rounded and (is_rounded(gold, answer) or is_rounded(answer, gold))
    except (Undefined, ValueError):
        return False


def _mark(node: Node) -> type[Node] | None:
    marked = next((k for k in (Percent, Degrees, Ratio) if isinstance(node, k)), None)
    return Quantity if is_quantity(node) else marked


def _percent(gold: Node, answer: Node, how: Conventions) -> bool:
    """Compare a percentage with a plain number: ``50\\%`` may be given as ``50`` or ``0.5``."""
    if equal(gold, answer):
        return True
    if isinstance(gold, Percent):
        return equal(gold.item, answer)
    return how.percent and isinstance(answer, Percent) and equal(gold, answer.item)


def is_rounded(decimal: Node, other: Node) -> bool:
    """Return whether a decimal of at least 6 places is the rounded value of a number without end.

    ``0.333333`` is 1/3 as far as it goes, ``0.33`` is not; ``0.30000000000000004`` is a double.
    """
    sign = -1 if isinstance(decimal, Neg) else 1
    number = decimal.item if isinstance(decimal, Neg) else decimal
    if not isinstance(number, Num) or not is_constant(other):
        return False
    given = number.value * sign
    places = places_of(given)
    if places is None:
        return False
    value = exact(other)
    if value is not None:
        return rounds(given, places, value)
    try:
        (held,), at = values([other], Sample(0), real=True)
    except Undefined:
        return False
    gap = abs(held - at.number(given))
    # At most half a unit of the last place.
    return gap * 2 <= at.context.mpf(10) ** -places


def _same_ratios(gold: Node, answer: Node, same: Same) -> bool:
    if not (isinstance(gold, Ratio) and isinstance(answer, Ratio)):
        clock = any(isinstance(node, Ratio) and node.clock for node in (gold, answer))
        return not clock and equal(gold, answer)
    left, right = gold.parts, answer.parts
    if len(left) != len(right):
        return False
    if all(same(g, a) for g, a in zip(left, right, strict=True)):
        # 9:05 is a time, and 9:5 a ratio.
        return gold.clock == answer.clock
    # 4:30 is a time of day, and not 2:15.
    if gold.clock and answer.clock or any(map(is_quantity, left + right)):
        return False
    zero = Num(Fraction(0))
    if any(equal(part, zero) for part in left + right):
        return False
    # a : b = c : d where a d = b c.
    return all(
        equal(Product((left[0], a)), Product((right[0], g)))
        for g, a in zip(left, right, strict=True)
    )


def _congruent(gold: Node, answer: Node, same: Same) -> bool:
    """Return whether two trees beyond evaluation are built alike from equal parts."""
    match gold, answer:
        case (Sum(left), Sum(right)) | (Product(left), Product(right)):
            return not is_undefined(gold) and matched(list(left), list(right), same)
        case Apply(name, left), Apply(other, right):
            if name != other or len(left) != len(right):
                return False
            return all(same(g, a) for g, a in zip(left, right, strict=True))
        case (
            (Power(a, b), Power(c, d)) | (Quotient(a, b), Quotient(c, d)) | (Root(a, b), Root(c, d))
        ):
            return not is_undefined(gold) and same(a, c) and same(b, d)
        case Neg(left), Neg(right):
            return same(left, right) and not _is_infinite(gold)
        case Big(kind, variable, low, high, body), Big():
            if kind != answer.kind or not isinstance(answer.variable, Name):
                return False
            renamed = substitute(answer.body, answer.variable, variable)
            bounds = same(low, answer.low) and same(high, answer.high)
            return bounds and same(body, renamed)
    return gold == answer and not isinstance(gold, Const)


def _is_infinite(node: Node) -> bool:
    return any(part == Const("inf") for part in walk(node)) and not isinstance(node, Neg)
