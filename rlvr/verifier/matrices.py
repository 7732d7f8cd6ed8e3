"""Matrices: their entries, and sums, products and powers of them."""

from fractions import Fraction

from rlvr.verifier.tree import (
    Bracket,
    Matrix,
    Name,
    Neg,
    Node,
    Nodes,
    Num,
    Power,
    Product,
    Quotient,
    Sum,
    walk,
)

Rows = tuple[Nodes, ...]
MAX_SIZE = 12  # the entries of a product grow as trees, and are compared as such


def rows_of(node: Node) -> Rows | None:
    """Return the entries of a matrix, of a tuple of rows, or of a tuple as a column.

    ``2 \\begin{pmatrix} 1 & 2 \\end{pmatrix}`` and sums, products and powers are worked out; None
    for what is no matrix.
    """
    match node:
        case Matrix(rows):
            return rows
        case Bracket(_, _, items):
            # ((1, 2), (3, 4)) has rows; (1, 2) is one column.
            nested = [item.items for item in items if isinstance(item, Bracket)]
            return tuple(nested) if len(nested) == len(items) else tuple((i,) for i in items)
        case Neg(item):
            return _scaled(Num(Fraction(-1)), rows_of(item))
        case Sum(items):
            return _folded(items, _added)
        case Product(items):
            return _multiplied(items)
        case Quotient(top, bottom):
            return _scaled(Quotient(Num(Fraction(1)), bottom), rows_of(top))
        case Power(Bracket(_, _, items) as point, Name("T")) if not any(
            isinstance(item, Bracket) for item in items
        ):
            # (1, 2)^T: a row by its spelling, so that its transpose is the column.
            return rows_of(point)
        case Power(base, exponent):
            return _power(rows_of(base), exponent)
    return None


def holds_matrix(node: Node) -> bool:
    return any(isinstance(part, Matrix) for part in walk(node))


def _folded(items: Nodes, combine) -> Rows | None:
    total = rows_of(items[0])
    for item in items[1:]:
        other = rows_of(item)
        if total is None or other is None:
            return None
        total = combine(total, other)
    return total


def _added(first: Rows, second: Rows) -> Rows | None:
    if [len(row) for row in first] != [len(row) for row in second]:
        return None
    return tuple(
        tuple(Sum(pair) for pair in zip(a, b, strict=True))
        for a, b in zip(first, second, strict=True)
    )


def _scaled(scale: Node, rows: Rows | None) -> Rows | None:
    if rows is None:
        return None
    return tuple(tuple(Product((scale, item)) for item in row) for row in rows)


def _multiplied(items: Nodes) -> Rows | None:
    # 2 A and A 2 are one matrix; the order of the matrices stays.
    scalars = tuple(item for item in items if not holds_matrix(item))
    total: Rows | None = None
    for item in items:
        if holds_matrix(item):
            rows = rows_of(item)
            if rows is None:
                return None
            total = rows if total is None else _times(total, rows)
            if total is None:
                return None
    return _scaled(Product(scalars), total) if scalars else total


def _times(first: Rows, second: Rows) -> Rows | None:
    inner = len(second)
    if any(len(row) != inner for row in first) or max(len(first), inner) > MAX_SIZE:
        return None
    columns = list(zip(*second, strict=False))
    return tuple(
        tuple(Sum(tuple(Product(p) for p in zip(row, c, strict=True))) for c in columns)
        for row in first
    )


def _power(rows: Rows | None, exponent: Node) -> Rows | None:
    if rows is None:
        return None
    if exponent == Name("T"):
        return tuple(zip(*rows, strict=False))
    if not isinstance(exponent, Num) or exponent.value not in range(1, 7):
        return None
    total: Rows | None = rows
    for _ in range(int(exponent.value) - 1):
        total = None if total is None else _times(total, rows)
    return total
