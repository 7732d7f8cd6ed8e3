"""Whether two trees are one answer: by the form they have, down to numbers."""

from fractions import Fraction

from rlvr.rewards.math.cursor import Node
from rlvr.rewards.math.exact import Undefined
from rlvr.rewards.math.identity import agree, values
from rlvr.rewards.math.names import (
    both_signs,
    has_sign,
    is_approximation,
    is_scalar,
    named,
    substitute,
)
from rlvr.rewards.math.scalars import is_undefined, matched, same_scalars
from rlvr.rewards.math.sets import FLIPPED, INEQUALITIES, looks_like_set, same_set

_MINUS = ("num", Fraction(-1))


def same(gold: Node, answer: Node) -> bool:
    """Return whether ``answer`` is the answer ``gold``."""
    if gold == answer:
        return not is_undefined(gold)
    # The order of these tests matters: lists before relations before sets before tuples.
    if gold[0] == "paren" or answer[0] == "paren":
        return same(*(node[1] if node[0] == "paren" else node for node in (gold, answer)))
    # A gold answer "pi ~ 3.14" allows both sides.
    if is_approximation(gold):
        return any(same(side, answer) for side in gold[1]) or same(gold[1][0], answer)
    if "seq" in (gold[0], answer[0]) or has_sign(gold) or has_sign(answer):
        return _same_lists(gold, answer)
    if "rel" in (gold[0], answer[0]):
        return _same_relations(gold, answer)
    if looks_like_set(gold) or looks_like_set(answer):
        return _same_sets(gold, answer)
    if "matrix" in (gold[0], answer[0]):
        return _same_matrices(gold, answer)
    if "br" in (gold[0], answer[0]):
        return _same_tuples(gold, answer)
    return same_scalars(gold, answer, same)


def _is_domain(node: Node) -> bool:
    return node[0] == "rel" and node[2] == ["in"] and node[1][1][0] == "numbers"


def _items(node: Node) -> list[Node]:
    listed = node[2] if node[0] == "seq" else node[1] if node[0] == "set" else [node]
    name, held = named(node)
    if name is not None and name[0] == held[0] == "br" and len(name[3]) == len(held[3]):
        # (x, y) = (1, 2) is x = 1 and y = 2.
        return [("rel", [n, v], ["="]) for n, v in zip(name[3], held[3], strict=True)]
    if name is not None and held[0] in ("set", "seq"):
        listed = held[-1]
    return both_signs(listed)


def _same_lists(gold: Node, answer: Node) -> bool:
    """Compare where one side lists several items, in any order; names pair them where given."""
    if looks_like_set(gold) or looks_like_set(answer):
        judged = same_set(gold, answer)
        if judged is not None:
            return judged
    if "br" in (gold[0], answer[0]):
        items = [node[3] if node[0] == "br" else _items(node) for node in (gold, answer)]
        brackets = [node[1:3] for node in (gold, answer) if node[0] == "br"]
        if any(pair != ("(", ")") for pair in brackets) or len(items[0]) != len(items[1]):
            return False
        return all(same(g, a) for g, a in zip(*items, strict=True))
    left, right = _items(gold), _items(answer)
    if len(left) != len(right):
        # "k = 2, k in Z" has as many items as "k = 2" once the domain is left out.
        left, right = ([n for n in side if not _is_domain(n)] for side in (left, right))
    if len(left) != len(right):
        return False
    # Distinct names on both sides pair the items; else any order will do.
    keys = [[named(item)[0] for item in side] for side in (left, right)]
    if None not in keys[0] + keys[1] and len({str(key) for key in keys[0]}) == len(left):
        places = {str(key): item for key, item in zip(keys[1], right, strict=True)}
        if set(places) == {str(key) for key in keys[0]}:
            return all(same(g, places[str(k)]) for k, g in zip(keys[0], left, strict=True))
    return matched(left, right, same)


def _same_relations(gold: Node, answer: Node) -> bool:
    gold_name, gold_value = named(gold)
    name, given = named(answer)
    if gold_name is not None and name is not None:
        if not _interchangeable(gold_name, name):
            return _same_equations(gold, answer)
        # f(x) = 2x and g(t) = 2t are one function.
        given = _renamed(gold_name, name, given)
        if gold_value[0] != "rel" and given[0] != "rel" and same(gold_value, given):
            return True
        return _same_equations(gold, answer)
    if gold_name is not None or name is not None:
        if "rel" not in (gold_value[0], given[0]):
            return same(gold_value, given)
        if gold[0] == answer[0] == "rel" and gold[2] == answer[2] == ["="]:
            return _same_equations(gold, answer)
        return same(gold_value, given) if (gold_value, given) != (gold, answer) else False
    if (gold_value, given) != (gold, answer):
        return same(gold_value, given)
    if looks_like_set(gold) or looks_like_set(answer):
        return _same_sets(gold, answer)
    if gold[0] != answer[0]:
        return False
    return _same_equations(gold, answer)


def _interchangeable(gold_name: Node, name: Node) -> bool:
    """Return whether two names can stand for one quantity: ``y`` for ``f(x)``, not x_1 for x_2."""
    if gold_name == name or same(gold_name, name):
        return True
    # x_1 and x_2 are two quantities, x_1 and y_1 may be one.
    if gold_name[0] == name[0] == "sub":
        return not same(gold_name[1], name[1])
    return all(node[0] in ("sym", "sub", "call", "text", "br") for node in (gold_name, name))


def _renamed(gold_name: Node, name: Node, given: Node) -> Node:
    """Return the answer's value with the argument of its function named as in the gold answer."""
    if gold_name[0] == name[0] == "call" and len(gold_name[2]) == len(name[2]):
        for old, new in zip(name[2], gold_name[2], strict=True):
            if old[0] == new[0] == "sym" and old != new:
                given = substitute(given, old[1], new)
    return given


def _difference(node: Node) -> Node:
    return ("add", [node[1][0], ("mul", [_MINUS, node[1][1]])])


def _same_equations(gold: Node, answer: Node) -> bool:
    """Return whether one relation is the other times a constant, positive for an inequality."""
    if len(gold[2]) != len(answer[2]):
        return False
    if len(gold[2]) > 1:
        if gold[2] == answer[2]:
            return all(_alike(g, a) for g, a in zip(gold[1], answer[1], strict=True))
        # 1 < x < 2 read from the right is 2 > x > 1.
        turned = [FLIPPED.get(op, op) for op in answer[2][::-1]]
        sides = zip(gold[1], answer[1][::-1], strict=True)
        return gold[2] == turned and all(_alike(g, a) for g, a in sides)
    op, other = gold[2][0], answer[2][0]
    flip = -1 if op in FLIPPED and FLIPPED[op] == other else 1
    if op != other and flip == 1:
        return False
    if op not in INEQUALITIES | {"="} or not all(is_scalar(s) for s in gold[1] + answer[1]):
        return all(_alike(g, a) for g, a in zip(gold[1], answer[1], strict=True))
    ratios = []
    # Sampled ratios of (left - right): a constant one means the same relation.
    for seed, kind in ((0, "positive"), (1, "positive"), (2, "integer"), (3, "integer")):
        try:
            (left, right), at = values([_difference(gold), _difference(answer)], seed, kind)
        except Undefined:
            continue
        # A point that solves the equation gives 0 / 0.
        if agree(left, 0, at) or agree(right, 0, at):
            continue
        ratios.append((right / left, at))
        sign = at.context.re(right / left) * flip
        # Multiplying an inequality by a negative number turns it around.
        if op in FLIPPED and sign <= 0:
            return False
    if len(ratios) < 2:
        return False
    first, start = ratios[0]
    for ratio, at in ratios[1:]:
        gap = abs(ratio - first)
        # 80 bits of slack below the precision that is left after the range of magnitudes.
        bits = min(at.context.prec - at.span, start.context.prec - start.span) - 80
        if gap and at.context.mag(gap) > at.context.mag(abs(first)) - bits:
            return False
    return True


def _alike(gold: Node, answer: Node) -> bool:
    """Return whether two sides of a chain are the same function of equal arguments, or equal.

    A chain of constants puts given expressions in order: it names them, so that ``sin(2 pi/5)``
    and ``sin(3 pi/5)`` are two of them though they are equal.
    """
    if gold[0] == answer[0] == "fn" and gold[1] == answer[1]:
        pairs = zip(gold[2], answer[2], strict=False)
        return len(gold[2]) == len(answer[2]) and all(same(g, a) for g, a in pairs)
    return same(gold, answer)


def _same_sets(gold: Node, answer: Node) -> bool:
    if gold[0] == answer[0] == "build" and gold[1][0] == answer[1][0] == "sym":
        # {x | x < 3} and {t | t < 3}: the bound name does not matter. No token has a space.
        new = ("sym", "element of the set")
        gold, answer = (substitute(node, node[1][1], new) for node in (gold, answer))
    judged = same_set(gold, answer)
    if judged is not None:
        return judged
    sides = []
    for node in (gold, answer):
        inside = node[0] == "rel" and node[2] == ["in"]
        sides.append(node[1][1] if inside else node)
    gold, answer = sides
    if gold[0] == "set" or answer[0] == "set":
        listed = _listed(gold) and _listed(answer)
        return listed and matched(_items(gold), _items(answer), same)
    if gold[0] == answer[0] == "rel":
        return _same_equations(gold, answer)
    if gold[0] == answer[0] == "br":
        return _same_tuples(gold, answer)
    if gold[0] == answer[0] == "op":
        return gold[1] == answer[1] and matched(list(gold[2:]), list(answer[2:]), same)
    if gold[0] == answer[0] == "build":
        return same(gold[1], answer[1]) and same(gold[2], answer[2])
    return gold == answer


def _listed(node: Node) -> bool:
    return node[0] in ("set", "seq") or is_scalar(node)


def _same_tuples(gold: Node, answer: Node) -> bool:
    if gold[0] != answer[0] or len(gold[3]) != len(answer[3]):
        return False
    # With two items the brackets decide: (1, 2) may be an interval, and [1, 2] is another.
    if len(gold[3]) == 2 and gold[1:3] != answer[1:3]:
        return False
    return all(same(g, a) for g, a in zip(gold[3], answer[3], strict=True))


def _same_matrices(gold: Node, answer: Node) -> bool:
    rows = []
    for node in (gold, answer):
        if node[0] == "matrix":
            rows.append(node[1])
        elif node[0] == "br":
            nested = all(item[0] == "br" for item in node[3])
            # A plain tuple is a column vector: one entry a row.
            rows.append([i[3] if nested else [i] for i in node[3]])
        else:
            return False
    if [len(row) for row in rows[0]] != [len(row) for row in rows[1]]:
        return False
    pairs = zip(sum(rows[0], []), sum(rows[1], []), strict=True)
    return all(same(g, a) for g, a in pairs)
