"""Answers of several items."""

from collections import Counter

from rlvr.verifier.names import (
    both_signs,
    has_sign,
    named,
)
from rlvr.verifier.quantities import compound, is_quantity
from rlvr.verifier.same import Same, all_same
from rlvr.verifier.scalars import matched
from rlvr.verifier.sets import looks_like_set, same_set, subject
from rlvr.verifier.tree import (
    Bracket,
    Indexed,
    Name,
    Node,
    Numbers,
    Relation,
    Sequence,
    Set,
)


def listed(gold: Node, answer: Node, same: Same) -> bool | None:
    """``2, 3`` is ``3 and 2``; ``x = 1, y = 2`` is not ``2, 1``: names keep their values."""
    if not any(isinstance(n, Sequence) or has_sign(n) for n in (gold, answer)):
        return None
    parts = [compound(n) or n for n in (gold, answer)]
    # Only where one was put together: the same pair again would never end.
    if parts != [gold, answer] and not any(isinstance(part, Sequence) for part in parts):
        if any(is_quantity(part) for part in parts):
            return same(parts[0], parts[1])
    if looks_like_set(gold) or looks_like_set(answer):
        judged = same_set(gold, answer)
        if judged is not None:
            return judged
    if isinstance(gold, Bracket) or isinstance(answer, Bracket):
        return _same_coordinates(gold, answer, same)
    left, right = items_of(gold), items_of(answer)
    if _says_other(gold, answer) and all(isinstance(item, Name) for item in left + right):
        return False
    if len(left) != len(right):
        # "k = 2, k in Z" has as many items as "k = 2" once the domain is left out.
        left, right = ([n for n in side if not _is_domain(n)] for side in (left, right))
    if len(left) != len(right):
        return False
    return _same_items(left, right, same)


def _says_other(gold: Node, answer: Node) -> bool:
    """Return whether one list is joined by "and", the other by "or": p and q is not p or q."""
    joints = {node.joint for node in (gold, answer) if isinstance(node, Sequence)}
    return joints == {"and", "or"}


def _same_items(left: list[Node], right: list[Node], same: Same) -> bool:
    keys = [[named(item)[0] for item in side] for side in (left, right)]
    # Distinct names on both sides pair the items.
    if None not in keys[0] + keys[1] and len({str(key) for key in keys[0]}) == len(left):
        places = {str(key): item for key, item in zip(keys[1], right, strict=True)}
        if set(places) == {str(key) for key in keys[0]}:
            return all(same(g, places[str(k)]) for k, g in zip(keys[0], left, strict=True))
    about = [[subject(item) for item in side] for side in (left, right)]
    if None not in about[0] + about[1] and len(set(about[0])) > 1 < len(set(about[1])):
        return _same_subjects(left, right, about, same)
    # Names that the answer leaves out keep their order, unless they only number one quantity. A
    # gold answer without names says nothing of an order.
    if None not in keys[0] and set(keys[1]) == {None}:
        if len({_letter(name) for name in keys[0]}) == len(left):
            return all_same(tuple(left), tuple(right), same)
    if same.how.ordered:
        return all_same(tuple(left), tuple(right), same)
    return matched(left, right, same)


def _same_subjects(
    left: list[Node], right: list[Node], about: list[list[Node | None]], same: Same
) -> bool:
    """Compare relations of several quantities: ``a < 0, b > 0`` is not ``b < 0, a > 0``."""
    if set(about[0]).isdisjoint(about[1]):
        # All of them renamed: their order is what is left.
        return all_same(tuple(left), tuple(right), same)
    if Counter(about[0]) != Counter(about[1]):
        return False
    return matched(left, right, lambda g, a: subject(g) == subject(a) and same(g, a))


def _letter(name: Node | None) -> str:
    """Return a name without its index: x_1 and x_2 are two values of x."""
    return str(name.base if isinstance(name, Indexed) else name)


def _same_coordinates(gold: Node, answer: Node, same: Same) -> bool:
    """``(1, 2)`` is ``x = 1, y = 2``."""
    sides = []
    for node in (gold, answer):
        if isinstance(node, Bracket):
            if (node.opening, node.closing) != ("(", ")"):
                return False
            sides.append(node.items)
        else:
            sides.append(tuple(items_of(node)))
    # A plain list is no point: 1, 2 may come in any order, (1, 2) may not.
    return all_same(sides[0], sides[1], same)


def _is_chain(node: Relation) -> bool:
    """Return whether one value is given to several names: ``x = y = 2``."""
    if len(node.sides) < 3 or set(node.operators) != {"="}:
        return False
    return all(isinstance(side, Name | Indexed) for side in node.sides[:-1])


def _is_domain(node: Node) -> bool:
    match node:
        case Relation(sides=(_, Numbers()), operators=("in",)):
            return True
    return False


def items_of(node: Node) -> list[Node]:
    listed = node.items if isinstance(node, Sequence | Set) else (node,)
    name, held = named(node)
    if isinstance(name, Bracket) and isinstance(held, Bracket):
        if len(name.items) == len(held.items):
            # (x, y) = (1, 2) is x = 1 and y = 2.
            pairs = zip(name.items, held.items, strict=True)
            return [Relation(pair, ("=",)) for pair in pairs]
    if isinstance(node, Relation) and _is_chain(node):
        # x = y = 2 is x = 2 and y = 2.
        return [Relation((side, node.sides[-1]), ("=",)) for side in node.sides[:-1]]
    if name is not None and isinstance(held, Set | Sequence):
        listed = held.items
    return both_signs(listed)
