"""Polynomials of low degree in one name, to solve what an inequality says."""

from rlvr.verifier.exact import Undefined
from rlvr.verifier.numeric import value
from rlvr.verifier.point import Point, Value
from rlvr.verifier.tree import (
    Apply,
    Name,
    Neg,
    Node,
    Num,
    Power,
    Product,
    Quotient,
    Sum,
    names_of,
)

Coefficients = list[Value]  # from the constant term upwards


def coefficients(node: Node, name: str, at: Point) -> Coefficients:
    """Return the coefficients of ``node`` as a polynomial in ``name``.

    Raises:
        Undefined: it is none, or its degree is above 4.
    """
    if name not in names_of(node):
        return [value(node, at)]
    match node:
        case Name():
            return [at.context.mpf(0), at.context.mpf(1)]
        case Neg(item):
            return [-c for c in coefficients(item, name, at)]
        case Sum(items):
            total: Coefficients = [at.context.mpf(0)]
            for item in items:
                total = _added(total, coefficients(item, name, at), at)
            return total
        case Product(items):
            total = [at.context.mpf(1)]
            for item in items:
                total = _multiplied(total, coefficients(item, name, at), at)
            return total
        case Quotient(top, bottom) if name not in names_of(bottom):
            divisor = value(bottom, at)
            if at.negligible(divisor):
                raise Undefined("division by zero")
            return [c / divisor for c in coefficients(top, name, at)]
        case Power(base, Num(exponent)) if exponent in (1, 2, 3, 4):
            total = [at.context.mpf(1)]
            for _ in range(int(exponent)):
                total = _multiplied(total, coefficients(base, name, at), at)
            return total
    raise Undefined("no polynomial")


def _added(first: Coefficients, second: Coefficients, at: Point) -> Coefficients:
    size = max(len(first), len(second))
    zero = at.context.mpf(0)
    padded = ([*one, *[zero] * (size - len(one))] for one in (first, second))
    return [a + b for a, b in zip(*padded, strict=True)]


def _multiplied(first: Coefficients, second: Coefficients, at: Point) -> Coefficients:
    # Degree 4 at most, so that |p|^2 of a quadratic p still fits.
    if len(first) + len(second) > 6:
        raise Undefined("a high degree")
    result = [at.context.mpf(0)] * (len(first) + len(second) - 1)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            result[i + j] += a * b
    return result


def signs(left: Node, right: Node, name: str, at: Point) -> tuple[list[Value], list[int]]:
    """Return the real roots of ``left - right`` in order, and its sign between and beyond them.

    An absolute value against a constant is squared, where the constant is no negative number.

    Raises:
        Undefined: the difference is no polynomial of degree 2 at most.
    """
    for one, other, direction in ((left, right, 1), (right, left, -1)):
        if _is_absolute(one) and name not in names_of(other):
            # |p| < c is p^2 < c^2 for c >= 0, and the same signs follow.
            limit = value(other, at)
            if at.context.im(limit) != 0:
                raise Undefined("not real")
            # |p| is above every negative number.
            if limit < 0:
                return [], [direction]
            assert isinstance(one, Apply)
            inner = coefficients(one.arguments[0], name, at)
            squared = _added(_multiplied(inner, inner, at), [-limit * limit], at)
            roots, between = _quadratic(squared, at)
            return roots, [sign * direction for sign in between]
    right_side = [-c for c in coefficients(right, name, at)]
    return _quadratic(_added(coefficients(left, name, at), right_side, at), at)


def _is_absolute(node: Node) -> bool:
    return isinstance(node, Apply) and node.function == "abs" and len(node.arguments) == 1


def _quadratic(held: Coefficients, at: Point) -> tuple[list[Value], list[int]]:
    if any(at.context.im(c) != 0 for c in held):
        raise Undefined("not real")
    # x^2 + x - x^2 is of degree 1.
    while len(held) > 1 and at.negligible(held[-1]):
        held = held[:-1]
    if len(held) > 3:
        raise Undefined("a high degree")
    if len(held) == 1:
        return [], [0 if at.negligible(held[0]) else 1 if held[0] > 0 else -1]
    # The sign far to the right is that of the leading coefficient.
    top = 1 if held[-1] > 0 else -1
    if len(held) == 2:
        return [-held[0] / held[1]], [-top, top]
    constant, linear, square = held
    inside = linear * linear - 4 * square * constant
    if at.negligible(inside):
        # A double root: the sign is the same on both sides.
        return [-linear / (2 * square)], [top, top]
    if inside < 0:
        return [], [top]
    root = at.context.sqrt(inside)
    ends = sorted([(-linear - root) / (2 * square), (-linear + root) / (2 * square)])
    return ends, [top, -top, top]
