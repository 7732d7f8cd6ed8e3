"""Sets of real numbers, however they are written: intervals, unions, inequalities, set-builder.

A set is a sorted list of disjoint pieces with their endpoints evaluated at a sampled point, so that
endpoints may hold names.
"""

from functools import singledispatch
from typing import NamedTuple

from rlvr.verifier.exact import Undefined
from rlvr.verifier.identity import agree
from rlvr.verifier.numeric import COMPARED, value
from rlvr.verifier.point import Point, Value
from rlvr.verifier.polynomial import signs
from rlvr.verifier.sample import Sample
from rlvr.verifier.tree import (
    INFINITE,
    INFINITY,
    Bracket,
    Builder,
    Call,
    Group,
    Indexed,
    Name,
    Neg,
    Node,
    Numbers,
    Operation,
    Quantity,
    Relation,
    Sequence,
    Set,
    Sum,
    names_of,
)

FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
INEQUALITIES = {"<", ">", "<=", ">=", "!="}
_POINTS = 8


class Piece(NamedTuple):
    """The numbers from ``low`` to ``high``; the flags say whether the ends belong."""

    low: Value
    has_low: bool
    high: Value
    has_high: bool


def subject(node: Node) -> Node | None:
    """Return the one quantity that a relation speaks of, or None: ``x`` in ``2 < x \\le 3``."""
    if not isinstance(node, Relation):
        return None
    # a <= x <= b speaks of x, whatever the ends are called.
    if len(node.sides) == 3 and is_name(node.sides[1]):
        middle = node.sides[1]
        return (
            None
            if names_of(middle) & names_of(node.sides[0])
            | names_of(middle) & names_of(node.sides[2])
            else middle
        )
    named = [side for side in node.sides if is_name(side)]
    if len(named) == 1:
        others = set().union(*(names_of(s) for s in node.sides if s is not named[0]))
        if not names_of(named[0]) & others:
            return named[0]
    free = set().union(*map(names_of, node.sides))
    return Name(free.pop()) if len(free) == 1 else None


def is_name(node: Node) -> bool:
    return isinstance(node, Name | Indexed | Call)


def looks_like_set(node: Node) -> bool:
    """Return whether a tree can only be a set or a condition, and no number."""
    match node:
        case Bracket(opening, closing, items):
            mixed = (opening, closing) not in (("(", ")"), ("[", "]"))
            return len(items) == 2 and (mixed or any(item in INFINITE for item in items))
        case Relation(_, operators):
            return any(op in ("in", "notin") or op in INEQUALITIES for op in operators)
        case Sum(items):
            return any(looks_like_set(item) for item in items)
        case Neg(item) | Group(item):
            return looks_like_set(item)
        case Sequence(_, items):
            return any(looks_like_set(item) for item in items if isinstance(item, Relation))
    return isinstance(node, Operation | Builder | Set | Numbers)


def _end(node: Node, at: Point) -> Value:
    if node == INFINITY:
        return at.context.inf
    if node == Neg(INFINITY):
        return at.context.ninf
    number = value(node, at)
    if at.context.im(number) != 0:
        raise Undefined("an endpoint that is not real")
    return at.context.re(number)


@singledispatch
def pieces(node: Node, at: Point) -> list[Piece]:
    """Return the set that ``node`` describes.

    Raises:
        Undefined: it describes no set of real numbers.
    """
    raise Undefined(f"a {type(node).__name__} is no set")


@pieces.register
def _(node: Group, at: Point) -> list[Piece]:
    return pieces(node.item, at)


@pieces.register
def _(node: Quantity, at: Point) -> list[Piece]:
    return pieces(node.value, at)


@pieces.register
def _(node: Bracket, at: Point) -> list[Piece]:
    if len(node.items) != 2:
        raise Undefined("a tuple is no interval")
    low, high = (_end(item, at) for item in node.items)
    # Named ends may come out in either order at a sampled point; another point decides.
    if low > high:
        raise Undefined("an interval that runs backwards")
    return [Piece(low, node.opening == "[", high, node.closing == "]")]


@pieces.register
def _(node: Set, at: Point) -> list[Piece]:
    ends = [_end(item, at) for item in node.items]
    return merged([Piece(end, True, end, True) for end in ends], at)


@pieces.register
def _(node: Operation, at: Point) -> list[Piece]:
    return _combined(node.name, pieces(node.left, at), pieces(node.right, at), at)


@pieces.register
def _(node: Sum, at: Point) -> list[Piece]:
    match node.items:
        case (left, Neg(right)):  # A - B
            return _combined("setminus", pieces(left, at), pieces(right, at), at)
    raise Undefined("a sum is no set")


@pieces.register
def _(node: Numbers, at: Point) -> list[Piece]:
    zero, endless = at.context.mpf(0), at.context.inf
    if node.name == "R":
        return [Piece(-endless, False, endless, False)]
    if node.name in ("R+", "R>0"):
        return [Piece(zero, False, endless, False)]
    raise Undefined("no set of real intervals")


@pieces.register
def _(node: Builder, at: Point) -> list[Piece]:
    held = pieces(node.condition, at)
    # {0 < x | x < 1}: both sides are conditions.
    if isinstance(node.element, Relation):
        return _combined("cap", held, pieces(node.element, at), at)
    if not isinstance(node.element, Name):
        raise Undefined("a set of expressions")
    return held


@pieces.register
def _(node: Sequence, at: Point) -> list[Piece]:
    """Return the set of several conditions on one quantity: all of them, or any with 'or'."""
    if not any(isinstance(item, Relation) for item in node.items):
        return pieces(Set(node.items), at)
    subjects = [subject(item) for item in node.items]
    if None in subjects and node.joint != "or":
        raise Undefined("conditions on no single quantity")
    if len({item for item in subjects if item}) > 1:
        raise Undefined("conditions on several quantities")
    parts = [pieces(item, at) for item in node.items]
    result = parts[0]
    for part in parts[1:]:
        result = _combined("cup" if node.joint == "or" else "cap", result, part, at)
    # "x < 1, x > 2" has no solution as "and", so the comma meant "or".
    if not result and node.joint == ",":
        return merged([piece for part in parts for piece in part], at)
    return result


@pieces.register
def _(node: Relation, at: Point) -> list[Piece]:
    """Return the values of the subject of a relation that make it true."""
    quantity = subject(node)
    if quantity is None:
        raise Undefined("a relation with no single subject")
    result = [Piece(at.context.ninf, False, at.context.inf, False)]
    links = zip(node.sides, node.operators, node.sides[1:], strict=False)
    for left, op, right in links:
        result = _combined("cap", result, _solutions(left, op, right, quantity, at), at)
    return result


def _solutions(left: Node, op: str, right: Node, quantity: Node, at: Point) -> list[Piece]:
    """Return the values of ``quantity`` for which ``left op right``."""
    everything = [Piece(at.context.ninf, False, at.context.inf, False)]
    if op in ("in", "notin"):
        if left != quantity:
            raise Undefined("a membership of something else")
        held = pieces(right, at)
        return held if op == "in" else _combined("setminus", everything, held, at)
    # Read from the quantity: 2 < x is x > 2.
    if right == quantity:
        left, op, right = right, FLIPPED.get(op, op), left
    if left == quantity and not names_of(quantity) & names_of(right):
        return _half_line(op, _end(right, at), at)
    if not isinstance(quantity, Name):
        raise Undefined("a relation that is not solved")
    return _polynomial(left, op, right, quantity.name, at)


def _half_line(op: str, end: Value, at: Point) -> list[Piece]:
    low, high = at.context.ninf, at.context.inf
    if op in ("<", "<="):
        return [Piece(low, False, end, op == "<=")]
    if op in (">", ">="):
        return [Piece(end, op == ">=", high, False)]
    if op == "=":
        return [Piece(end, True, end, True)]
    if op == "!=":
        return [Piece(low, False, end, False), Piece(end, False, high, False)]
    raise Undefined(f"the relation {op}")


def _polynomial(left: Node, op: str, right: Node, name: str, at: Point) -> list[Piece]:
    """Solve a relation of low degree: ``2x < 8``, ``|x - 2| < 3``, ``x^2 \\ge 9``."""
    if op not in COMPARED:
        raise Undefined(f"the relation {op}")
    ctx, allowed = at.context, COMPARED[op]
    # The line is cut at the roots; each cell belongs or not by its sign.
    ends, between = signs(left, right, name, at)
    points = [ctx.ninf, *ends, ctx.inf]
    held = [
        Piece(a, False, b, False)
        for a, b, sign in zip(points, points[1:], between, strict=False)
        if sign in allowed
    ]
    held += [Piece(end, True, end, True) for end in ends if 0 in allowed]
    return merged(held, at)


def _same(first: Value, second: Value, at: Point) -> bool:
    if first == second:
        return True
    if not (at.context.isfinite(first) and at.context.isfinite(second)):
        return False
    return agree(first, second, at)


def merged(parts: list[Piece], at: Point) -> list[Piece]:
    """Return the union of pieces, sorted and disjoint."""
    result: list[Piece] = []
    # Closed ends before open ones at the same place.
    for part in sorted(parts, key=lambda piece: (piece.low, not piece.has_low)):
        if part.low == part.high and not (part.has_low and part.has_high):
            continue
        if not result:
            result.append(part)
            continue
        last = result[-1]
        # [1, 2) and [2, 3] meet, (1, 2) and (2, 3) leave out 2.
        touches = _same(part.low, last.high, at) and (part.has_low or last.has_high)
        if not touches and (part.low >= last.high or _same(part.low, last.high, at)):
            result.append(part)
        elif _same(part.high, last.high, at):
            result[-1] = last._replace(has_high=last.has_high or part.has_high)
        elif part.high > last.high:
            result[-1] = last._replace(high=part.high, has_high=part.has_high)
    return result


def _complement(parts: list[Piece], at: Point) -> list[Piece]:
    result: list[Piece] = []
    # From the left: what lies before each piece, with the ends that the piece lacks.
    low, has_low = at.context.ninf, False
    for piece in merged(parts, at):
        if piece.low > low or (piece.low == low and has_low and not piece.has_low):
            result.append(Piece(low, has_low, piece.low, not piece.has_low))
        low, has_low = piece.high, not piece.has_high
    if low < at.context.inf:
        result.append(Piece(low, has_low, at.context.inf, False))
    return result


def _combined(op: str, first: list[Piece], second: list[Piece], at: Point) -> list[Piece]:
    if op == "cup":
        return merged(first + second, at)
    if op == "cap":
        # De Morgan: the intersection is the complement of the union of complements.
        return _complement(_complement(first, at) + _complement(second, at), at)
    if op == "setminus":
        return _combined("cap", first, _complement(second, at), at)
    raise Undefined(f"the operation {op}")


def same_set(first: Node, second: Node) -> bool | None:
    """Return whether two trees describe one set of reals; None where one describes none."""
    judged = None
    for seed in range(_POINTS):
        # Several points: endpoints with names could agree at one by chance.
        at = Point(Sample(seed), 400)
        try:
            left, right = merged(pieces(first, at), at), merged(pieces(second, at), at)
        except (Undefined, ValueError):
            continue
        # Disjoint and sorted: equal sets have equal pieces, place by place.
        if len(left) != len(right):
            return False
        for a, b in zip(left, right, strict=True):
            if (a.has_low, a.has_high) != (b.has_low, b.has_high):
                return False
            if not (_same(a.low, b.low, at) and _same(a.high, b.high, at)):
                return False
        judged = True
        # Without names every point is the same.
        if not names_of(first) | names_of(second):
            break
    return judged
