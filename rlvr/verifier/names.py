r"""Names of quantities, as ``f(x)`` in ``f(x) = 2x``, the two values of ``\pm``, and renaming."""

from rlvr.verifier.tree import (
    Apply,
    Bracket,
    Builder,
    Call,
    Const,
    Group,
    Indexed,
    Matrix,
    Name,
    Neg,
    Node,
    Numbers,
    Operation,
    PlusMinus,
    Product,
    Quantity,
    Quotient,
    Ratio,
    Relation,
    Sequence,
    Set,
    Sum,
    Where,
    Words,
    names_of,
    parts,
    rebuilt,
    substitute,
    walk,
)

# Letters that may stand for each other where a pattern of the answer says what they are.
_CONSTANTS = set("CcKk")  # of integration
_PARAMETERS = set("kmnlj")  # integers that count solutions


def has_sign(node: Node) -> bool:
    return any(isinstance(part, PlusMinus) for part in walk(node))


def _signed(node: Node, sign: int) -> Node:
    if isinstance(node, PlusMinus):
        inner = _signed(node.item, sign)
        return inner if node.sign * sign > 0 else Neg(inner)
    return rebuilt(node, lambda part: _signed(part, sign))


def both_signs(items: tuple[Node, ...]) -> list[Node]:
    """Return the items with each ``a \\pm b`` replaced by its two values."""
    result = []
    for item in items:
        result += [_signed(item, 1), _signed(item, -1)] if has_sign(item) else [item]
    return result


def nameable(node: Node) -> bool:
    """Return whether ``node`` can be the name of a quantity, as the left side of ``f(x) = 2x``."""
    match node:
        case Name() | Indexed() | Call() | Words():
            return True
        case Product(items) | Ratio(items) | Bracket(_, _, items):
            return all(map(nameable, items))
        case Quotient(top, bottom):
            return nameable(top) and nameable(bottom)
        case Quantity(item, _) | Group(item) | PlusMinus(_, item):
            return nameable(item)
        case Apply("lim" | "int", _):
            return True
        case Apply("abs" | "sin" | "cos" | "tan" | "min" | "max", arguments):
            return nameable(arguments[0])
    return False


def named(node: Node) -> tuple[Node | None, Node]:
    """Return (name, value) of ``name = ... = value``: the last side before an approximation.

    Any other tree has no name and is its own value.
    """
    if not isinstance(node, Relation) or set(node.operators) - {"=", "~"}:
        return None, node
    sides, operators = node.sides, node.operators
    if operators[0] == "~" and nameable(sides[0]):
        return sides[0], sides[1]
    # x = pi ~ 3.14: the exact side counts, what follows is a rounding.
    if "~" in operators:
        sides = sides[: operators.index("~") + 1]
        if len(sides) == 1:
            return None, sides[0]
    # a = b = c gives no value to any of them.
    valueless = len(operators) > 1 and all(map(nameable, sides))
    if nameable(sides[0]) and not valueless:
        return sides[0], sides[-1]
    # 5 = x is x = 5.
    if len(sides) == 2 and nameable(sides[1]) and not names_of(sides[0]):
        return sides[1], sides[0]
    whole = node if sides is node.sides else Relation(sides, operators[: len(sides) - 1])
    return None, whole


def is_computation(node: Node) -> bool:
    """Return whether a tree is a chain of numbers, as ``1 + 1 = 2``."""
    if not isinstance(node, Relation) or set(node.operators) != {"="}:
        return False
    return all(not names_of(side) and is_scalar(side) for side in node.sides)


def is_scalar(node: Node) -> bool:
    return not isinstance(
        node,
        Bracket
        | Set
        | Sequence
        | Operation
        | Builder
        | Matrix
        | Relation
        | Numbers
        | Words
        | Where,
    )


def is_approximation(node: Node) -> bool:
    return isinstance(node, Relation) and "~" in node.operators and not nameable(node.sides[0])


def renamed_argument(gold_name: Node, name: Node, given: Node) -> Node:
    """Return the answer's value with the arguments of its function named as in the gold answer.

    ``f(t) = 2t`` becomes ``2x`` beside ``f(x)``; a name ``x`` that ``given`` holds already stays
    apart from the new one.
    """
    if not isinstance(gold_name, Call) or not isinstance(name, Call):
        return given
    if len(gold_name.arguments) != len(name.arguments):
        return given
    pairs = list(zip(name.arguments, gold_name.arguments, strict=True))
    pairs = [(a, b) for a, b in pairs if isinstance(a, Name) and isinstance(b, Name) and a != b]
    # Two steps, so that f(y, x) beside f(x, y) swaps. No token has a space in it.
    for place, (old, _) in enumerate(pairs):
        given = substitute(given, old, Name(f"argument {place}"))
    for _, new in pairs:
        given = substitute(given, new, Name(f"another {new.name}"))  # pyright: ignore[reportAttributeAccessIssue]
    for place, (_, new) in enumerate(pairs):
        given = substitute(given, Name(f"argument {place}"), new)
    return given


def with_factors(gold: Node, answer: Node) -> tuple[Node, Node]:
    """Return both trees with ``g(a + b)`` as a product where ``g`` also stands without a bracket.

    ``g(M - m)`` beside ``gM - gm`` multiplies; ``f(x + 1)`` beside ``f(x) + f(1)`` does not.
    """
    loose = _uncalled(gold) | _uncalled(answer)
    called = {_called(part) for node in (gold, answer) for part in walk(node)}
    both = (loose & called) - {""}
    return (_multiplied(gold, both), _multiplied(answer, both)) if both else (gold, answer)


def _called(node: Node) -> str:
    plain = isinstance(node, Call) and isinstance(node.function, Name)
    return node.function.name if plain else ""  # pyright: ignore[reportAttributeAccessIssue]


def _uncalled(node: Node) -> set[str]:
    if isinstance(node, Name):
        return {node.name}
    below = node.arguments if isinstance(node, Call) else tuple(parts(node))
    # The left side of f(x) = ... names a function, and y = f names nothing that multiplies.
    return set().union(*map(_uncalled, below))


def _multiplied(node: Node, letters: set[str]) -> Node:
    changed = rebuilt(node, lambda part: _multiplied(part, letters))
    if isinstance(changed, Call) and _called(changed) in letters and len(changed.arguments) == 1:
        return Product((changed.function, changed.arguments[0]))
    return changed


def renamed_parameter(gold: Node, answer: Node) -> Node | None:
    """Return the answer with its constant of integration, or integer, named as in the gold answer.

    ``x^2 + c`` beside ``x^2 + C``, ``2n\\pi`` beside ``2k\\pi``; None where nothing is renamed.
    """
    own, other = names_of(gold), names_of(answer)
    if len(own - other) != 1 or len(other - own) != 1:
        return None
    old, new = Name(*(other - own)), Name(*(own - other))
    letters = {old.name, new.name}
    if letters == {"c", "C"} and all(map(_numbers_constants, (gold, answer))):
        return substitute(answer, old, new)
    constant = letters <= _CONSTANTS and _is_addend(gold, new) and _is_addend(answer, old)
    counter = letters <= _PARAMETERS and all(map(_counts_solutions, (gold, answer)))
    return substitute(answer, old, new) if constant or counter else None


def _numbers_constants(node: Node) -> bool:
    """Return whether c, or C, only occurs with an index, as in C_1 e^x + C_2."""
    names = [part for part in walk(node) if isinstance(part, Name) and part.name in "cC"]
    held = [p.base for p in walk(node) if isinstance(p, Indexed) and p.base in names]
    return len(held) == len(names)


def _is_addend(node: Node, name: Name) -> bool:
    return any(isinstance(part, Sum) and name in part.items for part in walk(node))


def _counts_solutions(node: Node) -> bool:
    return any(part == Const("pi") or part == Numbers("Z") for part in walk(node))
