"""Equations and inequalities, and names that they give."""

from fractions import Fraction

from rlvr.verifier.around import same_label
from rlvr.verifier.identity import equal, proportional
from rlvr.verifier.names import (
    is_computation,
    is_scalar,
    named,
    renamed_argument,
)
from rlvr.verifier.same import Same, all_same
from rlvr.verifier.scalars import matched
from rlvr.verifier.sets import FLIPPED, INEQUALITIES, looks_like_set
from rlvr.verifier.tree import (
    ONE,
    Apply,
    Bracket,
    Call,
    Indexed,
    Name,
    Neg,
    Node,
    Num,
    Product,
    Quotient,
    Relation,
    Sum,
    Words,
    walk,
)

_MINUS = Num(Fraction(-1))


def related(gold: Node, answer: Node, same: Same) -> bool | None:
    """``f(x) = 2x`` is ``2x`` and ``f(t) = 2t``; ``2x + 2y = 2`` is ``x + y = 1``."""
    if not (isinstance(gold, Relation) or isinstance(answer, Relation)):
        return None
    if is_computation(gold) or is_computation(answer):
        values = [_computed(node) for node in (gold, answer)]
        return None not in values and same(values[0], values[1])  # pyright: ignore[reportArgumentType]
    (gold_name, gold_value), (name, given) = named(gold), named(answer)
    if gold_name is not None and name is not None:
        if not _interchangeable(gold_name, name, same):
            return same_relation(gold, answer, same)
        given = renamed_argument(gold_name, name, given)
        plain = not isinstance(gold_value, Relation) and not isinstance(given, Relation)
        return plain and same(gold_value, given) or same_relation(gold, answer, same)
    if gold_name is not None or name is not None:
        return _half_named(gold, answer, gold_value, given, same)
    if (gold_value, given) != (gold, answer):
        return same(gold_value, given)
    if looks_like_set(gold) or looks_like_set(answer):
        return None
    return same_relation(gold, answer, same)


def _computed(node: Node) -> Node | None:
    """Return the value of ``1 + 1 = 2``; None where the sides differ, or of a plain equation."""
    if not isinstance(node, Relation):
        return node
    if not is_computation(node):
        return None
    return node.sides[-1] if all(equal(s, node.sides[-1]) for s in node.sides) else None


def _half_named(gold: Node, answer: Node, left: Node, right: Node, same: Same) -> bool:
    if not isinstance(left, Relation) and not isinstance(right, Relation):
        return same(left, right)
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        if gold.operators == answer.operators == ("=",):
            return same_relation(gold, answer, same)
    return (left, right) != (gold, answer) and same(left, right)


def _interchangeable(gold_name: Node, name: Node, same: Same) -> bool:
    """Return whether two names can stand for one quantity: ``y`` for ``f(x)``, not x_1 for x_2."""
    if isinstance(gold_name, Words) and isinstance(name, Words):
        return same_label(gold_name.text, name.text)
    if gold_name == name or same(gold_name, name):
        return True
    # y' = y is a law for y, and no name for it.
    if _primes(gold_name) != _primes(name):
        return False
    # x_1 and x_2 are two quantities, x_1 and y_1 may be one.
    if isinstance(gold_name, Indexed) and isinstance(name, Indexed):
        return not same(gold_name.base, name.base)
    kinds = Name | Indexed | Call | Words | Bracket
    return isinstance(gold_name, kinds) and isinstance(name, kinds)


def _primes(node: Node) -> int:
    return sum(part == Words("prime") for part in walk(node))


def same_relation(gold: Node, answer: Node, same: Same) -> bool:
    """Return whether one relation is the other times a constant, positive for an inequality."""
    if not isinstance(gold, Relation) or not isinstance(answer, Relation):
        return False
    if len(gold.operators) != len(answer.operators):
        return False
    if len(gold.operators) != 1:
        return _same_chain(gold, answer, same)
    op, other = gold.operators[0], answer.operators[0]
    flip = -1 if op in FLIPPED and FLIPPED[op] == other else 1
    if op != other and flip == 1:
        return False
    scalar = all(is_scalar(side) for side in gold.sides + answer.sides)
    if op not in INEQUALITIES | {"="} or not scalar:
        pairs = zip(gold.sides, answer.sides, strict=True)
        return all(_alike(g, a, same) for g, a in pairs)
    sign = proportional(_difference(gold), _difference(answer))
    if not sign and op == "=":
        # y = 1/x is xy = 1.
        sign = proportional(*(_fraction(_difference(node))[0] for node in (gold, answer)))
    # Multiplying an inequality by a negative number turns it around.
    return sign != 0 and (op not in FLIPPED or sign == flip)


def _difference(node: Relation) -> Node:
    return Sum((node.sides[0], Product((_MINUS, node.sides[1]))))


def _fraction(node: Node) -> tuple[Node, Node]:
    """Return numerator and denominator of an expression."""
    match node:
        case Quotient(top, bottom):
            (a, b), (c, d) = _fraction(top), _fraction(bottom)
            return Product((a, d)), Product((b, c))
        case Neg(item):
            top, bottom = _fraction(item)
            return Neg(top), bottom
        case Product(items):
            tops, bottoms = zip(*map(_fraction, items), strict=True)
            plain = all(bottom == ONE for bottom in bottoms)
            return Product(tops), ONE if plain else Product(bottoms)
        case Sum(items):
            total, divisor = _fraction(items[0])
            for item in items[1:]:
                top, bottom = _fraction(item)
                if bottom != ONE:
                    total, top = Product((total, bottom)), Product((top, divisor))
                    divisor = Product((divisor, bottom))
                elif divisor != ONE:
                    top = Product((top, divisor))
                total = Sum((total, top))
            return total, divisor
    return node, ONE


def _same_chain(gold: Relation, answer: Relation, same: Same) -> bool:
    if set(gold.operators) == set(answer.operators) == {"="}:
        return matched(list(gold.sides), list(answer.sides), same)
    if gold.operators == answer.operators:
        return all(_alike(g, a, same) for g, a in zip(gold.sides, answer.sides, strict=True))
    # 1 < x < 2 read from the right is 2 > x > 1.
    turned = tuple(FLIPPED.get(op, op) for op in answer.operators[::-1])
    sides = zip(gold.sides, answer.sides[::-1], strict=True)
    return gold.operators == turned and all(_alike(g, a, same) for g, a in sides)


def _alike(gold: Node, answer: Node, same: Same) -> bool:
    """Return whether two sides of a chain are the same function of equal arguments, or equal.

    A chain of constants puts given expressions in order: it names them, so that ``sin(2 pi/5)``
    and ``sin(3 pi/5)`` are two of them though they are equal.
    """
    if isinstance(gold, Apply) and isinstance(answer, Apply) and gold.function == answer.function:
        return all_same(gold.arguments, answer.arguments, same)
    return same(gold, answer)
