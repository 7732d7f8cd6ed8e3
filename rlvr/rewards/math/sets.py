"""Sets of real numbers, however they are written: intervals, unions, inequalities, set-builder.

A set is a sorted list of disjoint pieces (low, low belongs, high, high belongs) with the endpoints
evaluated at a sampled point, so that endpoints may hold names.
"""

from typing import Any

from rlvr.rewards.math.cursor import Node
from rlvr.rewards.math.exact import Undefined
from rlvr.rewards.math.identity import agree
from rlvr.rewards.math.numeric import Point, value

Piece = tuple[Any, bool, Any, bool]
FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
INEQUALITIES = {"<", ">", "<=", ">=", "!="}


def names_of(node: object) -> set[str]:
    """Return the names that occur in a tree."""
    if isinstance(node, tuple) and len(node) == 2 and node[0] == "sym":
        return {node[1]}
    if isinstance(node, tuple | list):
        return set().union(*(names_of(part) for part in node)) if node else set()
    return set()


def subject(node: Node) -> Node | None:
    """Return the one quantity that a relation speaks of, or None: ``x`` in ``2 < x \\le 3``."""
    if node[0] != "rel":
        return None
    names = [side for side in node[1] if is_name(side) or (side[0] == "fn" and side[1] == "abs")]
    names = [side for side in names if side[0] != "fn" or is_name(side[2][0])]
    if len(names) != 1:
        return None
    others = set().union(*(names_of(side) for side in node[1] if side is not names[0]))
    return None if names_of(names[0]) & others else names[0]


def is_name(node: Node) -> bool:
    return node[0] in ("sym", "sub", "call")


def looks_like_set(node: Node) -> bool:
    """Return whether a tree can only be a set or a condition, and no number."""
    kind = node[0]
    if kind == "br":
        mixed = (node[1], node[2]) not in (("(", ")"), ("[", "]"))
        infinite = any(item in _INFINITE for item in node[3])
        return len(node[3]) == 2 and (mixed or infinite)
    if kind == "rel":
        if any(op in ("in", "notin") for op in node[2]):
            return True
        return any(op in INEQUALITIES for op in node[2])
    if kind == "add":
        return any(looks_like_set(item) for item in node[1])
    if kind in ("neg", "paren"):
        return looks_like_set(node[1])
    if kind == "seq":
        return any(looks_like_set(item) for item in node[2] if item[0] == "rel")
    return kind in ("op", "build", "set", "numbers")


_INF = ("const", "inf")
_INFINITE = (_INF, ("neg", _INF))


def _end(node: Node, at: Point) -> Any:
    if node == _INF:
        return at.context.inf
    if node == ("neg", _INF):
        return at.context.ninf
    number = value(node, at)
    if at.context.im(number) != 0:
        raise Undefined("an endpoint that is not real")
    return at.context.re(number)


def pieces(node: Node, at: Point) -> list[Piece]:
    """Return the set that ``node`` describes.

    Raises:
        Undefined: it describes no set of real numbers.
    """
    kind = node[0]
    if kind == "paren":
        return pieces(node[1], at)
    if kind == "br" and len(node[3]) == 2:
        low, high = (_end(item, at) for item in node[3])
        if low > high:
            raise Undefined("an interval that runs backwards")
        return [(low, node[1] == "[", high, node[2] == "]")]
    if kind == "set":
        ends = [_end(item, at) for item in node[1]]
        return merged([(end, True, end, True) for end in ends], at)
    if kind == "op":
        return _combined(node[1], pieces(node[2], at), pieces(node[3], at), at)
    if kind == "add" and len(node[1]) == 2 and node[1][1][0] == "neg":
        return _combined("setminus", pieces(node[1][0], at), pieces(node[1][1][1], at), at)
    if kind == "numbers":
        low = at.context.mpf(0)
        whole = {"R": (at.context.ninf, False), "R+": (low, False), "R>0": (low, False)}
        if node[1] in whole:
            return [(*whole[node[1]], at.context.inf, False)]
        raise Undefined("no set of real intervals")
    if kind == "build" and node[1][0] in ("sym", "rel"):
        held = pieces(node[2], at)
        return _combined("cap", held, pieces(node[1], at), at) if node[1][0] == "rel" else held
    if kind == "seq":
        return _conditions(node, at)
    if kind == "rel":
        return _solutions(node, at)
    if kind == "unit":
        return pieces(node[1], at)
    raise Undefined(f"a {kind} is no set")


def _conditions(node: Node, at: Point) -> list[Piece]:
    """Return the set of several conditions on one quantity: all of them, or any with 'or'."""
    if all(item[0] != "rel" for item in node[2]):
        return pieces(("set", node[2]), at)
    subjects = [subject(item) for item in node[2]]
    if None in subjects and node[1] != "or":
        raise Undefined("conditions on no single quantity")
    if len({str(item) for item in subjects if item}) > 1:
        raise Undefined("conditions on several quantities")
    parts = [pieces(item, at) for item in node[2]]
    result = parts[0]
    for part in parts[1:]:
        result = _combined("cup" if node[1] == "or" else "cap", result, part, at)
    # "x < 1, x > 2" has no solution as "and", so the comma meant "or".
    if not result and node[1] == ",":
        return merged([piece for part in parts for piece in part], at)
    return result


def _solutions(node: Node, at: Point) -> list[Piece]:
    """Return the values of the subject of a relation that make it true."""
    quantity = subject(node)
    if quantity is None:
        raise Undefined("a relation with no single subject")
    place = next(i for i, side in enumerate(node[1]) if side is quantity)
    ctx = at.context
    result: list[Piece] = [(ctx.ninf, False, ctx.inf, False)]
    for index, op in enumerate(node[2]):
        # A chain a < x < b: only the signs next to the subject bound it.
        if place not in (index, index + 1):
            continue
        other = node[1][index + 1] if place == index else node[1][index]
        # Read from the subject: 2 < x is x > 2.
        op = str(op) if place == index else FLIPPED.get(op, str(op))
        if op in ("in", "notin"):
            part = pieces(other, at)
            result = _combined("cap" if op == "in" else "setminus", result, part, at)
            continue
        end = _end(other, at)
        part = {
            "<": (ctx.ninf, False, end, False),
            "<=": (ctx.ninf, False, end, True),
            ">": (end, False, ctx.inf, False),
            ">=": (end, True, ctx.inf, False),
        }.get(op, (end, True, end, True))
        if op not in FLIPPED and op not in ("=", "!="):
            raise Undefined(f"the relation {op}")
        result = _combined("setminus" if op == "!=" else "cap", result, [part], at)
    if quantity[0] == "fn":
        # The subject is |x|: keep what is at least 0, and add its mirror image.
        inside = _combined("cap", result, [(ctx.mpf(0), True, ctx.inf, False)], at)
        mirror = [(-end, has_end, -start, has_start) for start, has_start, end, has_end in inside]
        return merged(inside + mirror, at)
    return result


def _same(first: Any, second: Any, at: Point) -> bool:
    if first == second:
        return True
    if not (at.context.isfinite(first) and at.context.isfinite(second)):
        return False
    return agree(first, second, at)


def merged(parts: list[Piece], at: Point) -> list[Piece]:
    """Return the union of pieces, sorted and disjoint."""
    result: list[Piece] = []
    # Closed ends before open ones at the same place.
    for low, has_low, high, has_high in sorted(parts, key=lambda p: (p[0], not p[1])):
        if low == high and not (has_low and has_high):
            continue
        if result:
            last_low, last_has_low, last, has_last = result[-1]
            touches = _same(low, last, at) and (has_low or has_last)
            if touches or (low < last and not _same(low, last, at)):
                if _same(high, last, at):
                    result[-1] = (last_low, last_has_low, last, has_last or has_high)
                elif high > last:
                    result[-1] = (last_low, last_has_low, high, has_high)
                continue
        result.append((low, has_low, high, has_high))
    return result


def _complement(parts: list[Piece], at: Point) -> list[Piece]:
    result, low, has_low = [], at.context.ninf, False
    for start, has_start, end, has_end in merged(parts, at):
        if start > low or (start == low and has_low and not has_start):
            result.append((low, has_low, start, not has_start))
        low, has_low = end, not has_end
    if low < at.context.inf:
        result.append((low, has_low, at.context.inf, False))
    return result


def _combined(op: str, first: list[Piece], second: list[Piece], at: Point) -> list[Piece]:
    if op == "cup":
        return merged(first + second, at)
    if op == "cap":
        # De Morgan: the intersection is the complement of the union of complements.
        outside = _complement(first, at) + _complement(second, at)
        return _complement(outside, at)
    if op == "setminus":
        return _combined("cap", first, _complement(second, at), at)
    raise Undefined(f"the operation {op}")


def same_set(first: Node, second: Node) -> bool | None:
    """Return whether two trees describe one set of reals; None where one describes none."""
    judged = None
    for seed in range(3):
        # Three points: endpoints with names could agree at one by chance.
        at = Point(seed, "positive", 400)
        try:
            left, right = merged(pieces(first, at), at), merged(pieces(second, at), at)
        except (Undefined, ValueError):
            continue
        if len(left) != len(right):
            return False
        for a, b in zip(left, right, strict=True):
            if a[1] != b[1] or a[3] != b[3]:
                return False
            if not (_same(a[0], b[0], at) and _same(a[2], b[2], at)):
                return False
        judged = True
    return judged
