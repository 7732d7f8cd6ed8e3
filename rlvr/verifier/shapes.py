"""Sets, matrices and tuples."""

from rlvr.verifier.lists import items_of
from rlvr.verifier.matrices import holds_matrix, rows_of
from rlvr.verifier.names import (
    is_scalar,
)
from rlvr.verifier.relations import same_relation
from rlvr.verifier.same import Same, all_same
from rlvr.verifier.scalars import matched
from rlvr.verifier.sets import looks_like_set, same_set
from rlvr.verifier.tree import (
    Apply,
    Bracket,
    Builder,
    Call,
    Name,
    Node,
    Operation,
    Relation,
    Sequence,
    Set,
    substitute,
    walk,
)


def as_sets(gold: Node, answer: Node, same: Same) -> bool | None:
    """``x > 3`` is ``(3, \\infty)``; ``\\{1, 2\\}`` is ``\\{2, 1\\}``."""
    if not (looks_like_set(gold) or looks_like_set(answer)):
        return None
    return _same_sets(gold, answer, same)


def _same_sets(gold: Node, answer: Node, same: Same) -> bool:
    match gold, answer:
        case Builder(Name() as old, _), Builder(Name() as new, _):
            # {x | x < 3} and {t | t < 3}: the bound name does not matter. No token has a space.
            bound = Name("element of the set")
            gold, answer = substitute(gold, old, bound), substitute(answer, new, bound)
    judged = same_set(gold, answer)
    if judged is not None:
        return judged
    gold, answer = _membership(gold), _membership(answer)
    if isinstance(gold, Set) or isinstance(answer, Set):
        listed = _is_listed(gold) and _is_listed(answer)
        return listed and matched(items_of(gold), items_of(answer), same)
    match gold, answer:
        case Relation(), Relation():
            return same_relation(gold, answer, same)
        case Bracket(), Bracket():
            return _same_tuples(gold, answer, same)
        case Operation(name, a, b), Operation(other, c, d):
            if name == "setminus":
                return other == name and same(a, c) and same(b, d)
            return name == other and matched([a, b], [c, d], same)
        case Builder(element, condition), Builder(given, conditions):
            return same(element, given) and same(condition, conditions)
    return gold == answer


def _membership(node: Node) -> Node:
    match node:
        case Relation((_, held), ("in",)):
            return held
    return node


def _is_listed(node: Node) -> bool:
    return isinstance(node, Set | Sequence) or is_scalar(node)


def same_matrices(gold: Node, answer: Node, same: Same) -> bool | None:
    r"""``2 \begin{pmatrix} 1 & 2 \end{pmatrix}`` is ``\begin{pmatrix} 2 & 4 \end{pmatrix}``."""
    if not (holds_matrix(gold) or holds_matrix(answer)) or _is_number(gold, answer):
        return None
    rows = rows_of(gold), rows_of(answer)
    if rows[0] is None or rows[1] is None:
        return False
    if [len(row) for row in rows[0]] != [len(row) for row in rows[1]]:
        return False
    return all_same(sum(rows[0], ()), sum(rows[1], ()), same)


def _is_number(*nodes: Node) -> bool:
    """Return whether matrices only occur in determinants, which are numbers."""
    return all(not holds_matrix(_without_determinants(node)) for node in nodes)


def _without_determinants(node: Node) -> Node:
    for part in list(walk(node)):
        if isinstance(part, Apply) and part.function == "det":
            node = substitute(node, part, Name("determinant"))
    return node


def as_tuples(gold: Node, answer: Node, same: Same) -> bool | None:
    """``P(-1, 4)`` is ``(-1, 4)``."""
    points = [_point(node) for node in (gold, answer)]
    if not any(isinstance(node, Bracket) for node in (gold, answer)):
        return None
    return _same_tuples(points[0], points[1], same)


def _point(node: Node) -> Node:
    match node:
        case Call(Name(letter), items) if len(items) > 1 and letter.isupper():
            return Bracket("(", ")", items)
    return node


def _same_tuples(gold: Node, answer: Node, same: Same) -> bool:
    if not isinstance(gold, Bracket) or not isinstance(answer, Bracket):
        return False
    brackets = (gold.opening, gold.closing) == (answer.opening, answer.closing)
    # With two items the brackets decide: (1, 2) may be an interval, and [1, 2] is another.
    if len(gold.items) == 2 and not brackets:
        return False
    return all_same(gold.items, answer.items, same)
