"""Quantities: converted where both units are known, compared as words where one is not."""

import re
from collections.abc import Callable
from fractions import Fraction

from rlvr.verifier.tree import Degrees, Node, Num, Product, Quantity, Sequence, Sum
from rlvr.verifier.units import Unit, unit

ANGLE = (("angle", 1),)
# Words after a number that say something about it, and are no noun that is counted.
_SAYING = re.compile(
    r"\b(?:is|are|was|were|be|not|no|never|none|wrong|false|incorrect|isn|aren|don|doesn|than|or"
    r"|less|fewer|least|most|over|under|above|below|except|but|unless|maybe|perhaps|possibly)\b",
    re.IGNORECASE,
)
_FILLING = {"of", "the", "a", "an", "in", "total", "each", "exactly", "all", "different", "such"}


def split(node: Node) -> tuple[Node, Unit | None, str]:
    """Return the value of a quantity, its unit if it is known, and the words of the unit.

    ``3 hours 20 minutes`` is one quantity in seconds.
    """
    match node:
        case Degrees():
            return node, Unit(ANGLE, Fraction(1)), "degree"
        case Quantity(value, text):
            known = unit(text)
            if known is not None and known.dimensions == ANGLE:
                return Degrees(value), known, "degree"
            return value, known, text
        case Sum(items):
            return _added(node, items)
    return node, None, ""


def _added(node: Node, items: tuple[Node, ...]) -> tuple[Node, Unit | None, str]:
    held = [split(item) for item in items]
    units = [known for _, known, _ in held if known is not None]
    if len(units) < len(items) or len({known.dimensions for known in units}) > 1:
        return node, None, ""
    scaled = (
        Product((value, Num(known.size))) for (value, *_), known in zip(held, units, strict=True)
    )
    return Sum(tuple(scaled)), Unit(units[0].dimensions, Fraction(1)), ""


def is_quantity(node: Node) -> bool:
    """Return whether a tree is a quantity, compound ones such as ``6 feet 3 inches`` included."""
    match node:
        case Quantity():
            return True
        case Sum(items):
            return all(is_quantity(item) for item in items)
    return False


def compound(node: Node) -> Node | None:
    """Return ``3 hours and 20 minutes`` as one quantity; None for a list of separate items."""
    if not isinstance(node, Sequence) or node.joint == "or":
        return None
    held = [split(item) for item in node.items]
    units = [known for _, known, _ in held if known is not None]
    if len(units) < len(held) or len({known.dimensions for known in units}) > 1:
        return None
    falling = all(a.size > b.size for a, b in zip(units, units[1:], strict=False))
    return Sum(node.items) if falling else None


def stems(text: str) -> set[str]:
    """Return the words of a noun, in the singular."""
    words = re.findall(r"[^\W_]+", text.casefold())
    return {re.sub(r"(?<=[a-z]{2})(?:es|s)$", "", word).rstrip("e") for word in words} - _FILLING


def _same_noun(gold: str, answer: str) -> bool:
    """Return whether one noun is the other with more said: ``apples`` and ``red apples``."""
    left, right = stems(gold), stems(answer)
    return "per" not in left ^ right and (left <= right or right <= left)


def same_quantity(gold: Node, answer: Node, same: Callable[[Node, Node], bool]) -> bool:
    """Return whether two quantities are the same; a unit that only one of them has is left out.

    ``5 Hz`` is not ``5 kHz``, ``3 apples`` are not ``3 oranges``, ``200 minutes`` are
    ``3 hours 20 minutes``.
    """
    (left, known, noun), (right, other, word) = split(gold), split(answer)
    # A sum of unknown units stays as it is: its parts decide.
    if isinstance(left, Sum) and left == gold or isinstance(right, Sum) and right == answer:
        return _same_parts(left, right, same)
    if noun != word and _SAYING.search(f"{noun} {word}"):
        return False
    if any(text.count(" ") > 3 for text in (noun, word)):
        return stems(noun) == stems(word) and same(left, right)
    if known is None or other is None:
        return (not noun or not word or _same_noun(noun, word)) and same(left, right)
    if known.dimensions != other.dimensions:
        return _is_temperature(known, other) and same(_bare(left), _bare(right))
    if known == other:
        return same(left, right)
    return same(Product((left, Num(known.size))), Product((right, Num(other.size))))


def _same_parts(gold: Node, answer: Node, same: Callable[[Node, Node], bool]) -> bool:
    """Return whether two sums agree part by part: ``1 box 3 pens``."""
    match gold, answer:
        case Sum(left), Sum(right) if len(left) == len(right):
            return all(same(g, a) for g, a in zip(left, right, strict=True))
    return False


def _is_temperature(known: Unit, other: Unit) -> bool:
    """Return whether one unit is a degree and the other a degree of a scale."""
    pair = {known.dimensions, other.dimensions}
    return ANGLE in pair and bool(pair & {(("celsius", 1),), (("fahrenheit", 1),)})


def _bare(node: Node) -> Node:
    return node.item if isinstance(node, Degrees) else node
