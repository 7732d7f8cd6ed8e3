r"""Names of quantities, as ``f(x)`` in ``f(x) = 2x``, and the two values of ``\pm``."""

from typing import Any

from rlvr.rewards.math.cursor import Node
from rlvr.rewards.math.sets import names_of


def substitute(node: object, name: str, new: Node) -> Any:
    """Return the tree with every name ``name`` replaced."""
    if isinstance(node, tuple):
        if node == ("sym", name):
            return new
        return tuple(substitute(part, name, new) for part in node)
    if isinstance(node, list):
        return [substitute(part, name, new) for part in node]
    return node


def has_sign(node: object) -> bool:
    if isinstance(node, tuple):
        return bool(node) and (node[0] == "pm" or any(has_sign(part) for part in node))
    return isinstance(node, list) and any(has_sign(part) for part in node)


def _signed(node: object, sign: int) -> Any:
    if isinstance(node, tuple):
        if node and node[0] == "pm":
            inner = _signed(node[2], sign)
            return inner if node[1] * sign > 0 else ("neg", inner)
        return tuple(_signed(part, sign) for part in node)
    if isinstance(node, list):
        return [_signed(part, sign) for part in node]
    return node


def both_signs(items: list[Node]) -> list[Node]:
    """Return the items with each ``a \\pm b`` replaced by its two values."""
    result = []
    for item in items:
        result += [_signed(item, 1), _signed(item, -1)] if has_sign(item) else [item]
    return result


def nameable(node: Node) -> bool:
    """Return whether ``node`` can be the name of a quantity, as the left side of ``f(x) = 2x``."""
    kind = node[0]
    if kind in ("sym", "sub", "call", "text"):
        return True
    if kind in ("mul", "ratio"):
        return all(nameable(item) for item in node[1])
    if kind in ("div", "unit", "paren", "pm"):
        return all(nameable(item) for item in node[1:] if isinstance(item, tuple))
    if kind == "fn":
        if node[1] in ("lim", "int"):
            return True
        return node[1] in ("abs", "sin", "cos", "tan", "min", "max") and nameable(node[2][0])
    return kind == "br" and all(nameable(item) for item in node[3])


def named(node: Node) -> tuple[Node | None, Node]:
    """Return (name, value) of ``name = ... = value``: the last side before an approximation.

    Any other tree has no name and is its own value.
    """
    if node[0] != "rel" or set(node[2]) - {"=", "~"}:
        return None, node
    sides, operators = node[1], node[2]
    if operators[0] == "~" and nameable(sides[0]):
        return sides[0], sides[1]
    # x = pi ~ 3.14: the exact side counts, what follows is a rounding.
    if "~" in operators:
        sides = sides[: operators.index("~") + 1]
        if len(sides) == 1:
            return None, sides[0]
    if nameable(sides[0]):
        return sides[0], sides[-1]
    # 1 + 1 = 2: a computation, its value is the last side.
    if all(not names_of(side) and is_scalar(side) for side in sides):
        return None, sides[-1]
    # 5 = x is x = 5.
    if len(sides) == 2 and nameable(sides[1]) and not names_of(sides[0]):
        return sides[1], sides[0]
    return None, node if sides is node[1] else ("rel", sides, operators[: len(sides) - 1])


def is_scalar(node: Node) -> bool:
    return node[0] not in ("br", "set", "seq", "op", "build", "matrix", "rel", "numbers", "text")


def is_approximation(node: Node) -> bool:
    return node[0] == "rel" and "~" in node[2] and not nameable(node[1][0])
