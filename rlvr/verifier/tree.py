"""The tree of an answer: what its text means, before anything is evaluated.

Every node is frozen and holds tuples, so that equal trees compare equal and can be keys.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any


@dataclass(frozen=True, slots=True)
class Node:
    """Anything that an answer can say."""


Nodes = tuple[Node, ...]
# Names that are functions before a bracket: f(x + 1) is a call, a(x + 1) a product.
USUAL_FUNCTIONS = ("f", "g", "h", "F", "G", "phi", "varphi", "psi")


@dataclass(frozen=True, slots=True)
class Num(Node):
    """A numeral, exactly: ``3``, ``0.25``, ``2\\frac{1}{2}``."""

    value: Fraction


@dataclass(frozen=True, slots=True)
class Name(Node):
    """A letter that stands for a quantity: ``x``, ``\\alpha``."""

    name: str


@dataclass(frozen=True, slots=True)
class Const(Node):
    """``pi``, ``e``, ``i`` or ``inf``."""

    name: str


@dataclass(frozen=True, slots=True)
class Words(Node):
    """Words of a language: ``\\text{even}``."""

    text: str


@dataclass(frozen=True, slots=True)
class Neg(Node):
    item: Node


@dataclass(frozen=True, slots=True)
class Sum(Node):
    items: Nodes


@dataclass(frozen=True, slots=True)
class Product(Node):
    items: Nodes


@dataclass(frozen=True, slots=True)
class Quotient(Node):
    top: Node
    bottom: Node


@dataclass(frozen=True, slots=True)
class Power(Node):
    base: Node
    exponent: Node


@dataclass(frozen=True, slots=True)
class Root(Node):
    """``\\sqrt[degree]{item}``; an odd root of a negative number is negative."""

    item: Node
    degree: Node


@dataclass(frozen=True, slots=True)
class PlusMinus(Node):
    """``\\pm item`` (sign 1) or ``\\mp item`` (sign -1)."""

    sign: int
    item: Node


@dataclass(frozen=True, slots=True)
class Apply(Node):
    """A known function of its arguments: ``\\sin x``, ``n!`` (``factorial``), ``|x|`` (``abs``)."""

    function: str
    arguments: Nodes


@dataclass(frozen=True, slots=True)
class Call(Node):
    """A named function of its arguments: ``f(x)``, ``P(2, 3)``."""

    function: Node
    arguments: Nodes


@dataclass(frozen=True, slots=True)
class Indexed(Node):
    """A name with an index or a decoration: ``x_1``, ``\\bar{x}``, ``f'``."""

    base: Node
    index: Node


@dataclass(frozen=True, slots=True)
class Percent(Node):
    item: Node


@dataclass(frozen=True, slots=True)
class Degrees(Node):
    item: Node


@dataclass(frozen=True, slots=True)
class Quantity(Node):
    """A value with a unit or a noun: ``5 \\text{ cm}``, ``5 apples``."""

    value: Node
    unit: str


@dataclass(frozen=True, slots=True)
class Based(Node):
    """A numeral in a base, kept apart from the number that it stands for: ``1011_2``."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Ratio(Node):
    """``2 : 3``; ``clock`` is true where the text can be a time of day, such as ``4:30``."""

    parts: Nodes
    clock: bool = False


@dataclass(frozen=True, slots=True)
class Big(Node):
    """A finite ``sum`` or ``prod`` of ``body`` over ``variable`` from ``low`` to ``high``."""

    kind: str
    variable: Node
    low: Node
    high: Node
    body: Node


@dataclass(frozen=True, slots=True)
class Bracket(Node):
    """A tuple or an interval: ``(1, 2]``."""

    opening: str
    closing: str
    items: Nodes


@dataclass(frozen=True, slots=True)
class Set(Node):
    items: Nodes


@dataclass(frozen=True, slots=True)
class Builder(Node):
    """``{element | condition}``."""

    element: Node
    condition: Node


@dataclass(frozen=True, slots=True)
class Operation(Node):
    """``cup``, ``cap``, ``setminus`` or ``triangle`` of two sets."""

    name: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Relation(Node):
    """A chain such as ``1 < x \\le 2``: one operator between each two sides."""

    sides: Nodes
    operators: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Matrix(Node):
    rows: tuple[Nodes, ...]


@dataclass(frozen=True, slots=True)
class Cases(Node):
    """A piecewise definition: (value, condition) of each row; a condition may be Words."""

    rows: tuple[tuple[Node, Node], ...]


@dataclass(frozen=True, slots=True)
class Sequence(Node):
    """Several items, joined by ``,`` or ``and`` or ``or``."""

    joint: str
    items: Nodes


@dataclass(frozen=True, slots=True)
class Where(Node):
    """An item with a condition in words: ``n^2 \\text{ for } n \\ge 3``."""

    item: Node
    condition: Node


@dataclass(frozen=True, slots=True)
class Labelled(Node):
    """An item after a label with a colon: ``\\text{line: } y = x``."""

    label: str
    item: Node


@dataclass(frozen=True, slots=True)
class Numbers(Node):
    """A set of numbers by its letter and marks: ``R``, ``Z+``."""

    name: str


@dataclass(frozen=True, slots=True)
class Group(Node):
    """A relation or words in parentheses of their own."""

    item: Node


ONE, MINUS_ONE, ZERO, HALF = (Num(Fraction(*n)) for n in ((1,), (-1,), (0,), (1, 2)))
INFINITY = Const("inf")
INFINITE = (INFINITY, Neg(INFINITY))


@cache
def _fields(kind: type[Node]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def _flat(value: object) -> Iterator[Node]:
    if isinstance(value, Node):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _flat(part)


def parts(node: Node) -> Iterator[Node]:
    """Yield the nodes right below ``node``."""
    for name in _fields(type(node)):
        yield from _flat(getattr(node, name))


def walk(node: Node) -> Iterator[Node]:
    """Yield ``node`` and every node below it."""
    waiting = [node]
    while waiting:
        one = waiting.pop()
        yield one
        waiting.extend(parts(one))


def _changed(value: Any, change: Callable[[Node], Node]) -> Any:
    if isinstance(value, Node):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_changed(part, change) for part in value)
    return value


def rebuilt(node: Node, change: Callable[[Node], Node]) -> Node:
    """Return ``node`` with ``change`` applied to each node right below it."""
    names = _fields(type(node))
    return type(node)(*(_changed(getattr(node, name), change) for name in names))


def substitute(node: Node, old: Node, new: Node) -> Node:
    """Return the tree with every ``old`` in it replaced by ``new``."""
    return new if node == old else rebuilt(node, lambda part: substitute(part, old, new))


def names_of(node: Node) -> set[str]:
    """Return the names that occur in a tree."""
    return {part.name for part in walk(node) if isinstance(part, Name)}


def unwrap(node: Node) -> Node:
    """Return what a group holds."""
    return unwrap(node.item) if isinstance(node, Group) else node
