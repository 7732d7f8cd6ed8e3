"""Whether two trees are one answer: by the form they have, down to numbers."""

from collections.abc import Callable
from fractions import Fraction

from rlvr.verifier.conventions import DEFAULT, Conventions
from rlvr.verifier.identity import equal, proportional
from rlvr.verifier.matrices import holds_matrix, rows_of
from rlvr.verifier.names import (
    both_signs,
    has_sign,
    is_approximation,
    is_computation,
    is_scalar,
    named,
    renamed_argument,
    renamed_parameter,
    with_factors,
)
from rlvr.verifier.quantities import compound, is_quantity, stems
from rlvr.verifier.scalars import is_undefined, matched, same_scalars
from rlvr.verifier.sets import FLIPPED, INEQUALITIES, looks_like_set, same_set
from rlvr.verifier.tree import (
    ONE,
    Apply,
    Bracket,
    Builder,
    Call,
    Cases,
    Group,
    Indexed,
    Labelled,
    Name,
    Neg,
    Node,
    Num,
    Numbers,
    Operation,
    Product,
    Quotient,
    Relation,
    Sequence,
    Set,
    Sum,
    Where,
    Words,
    substitute,
    unwrap,
    walk,
)

_MINUS = Num(Fraction(-1))


def equivalent(gold: Node, answer: Node, how: Conventions = DEFAULT) -> bool:
    """Return whether ``answer`` is the answer ``gold``, up to the name of a parameter."""
    gold, answer = with_factors(gold, answer)
    if same(gold, answer, how):
        return True
    renamed = renamed_parameter(gold, answer)
    return renamed is not None and same(gold, renamed, how)


def same(gold: Node, answer: Node, how: Conventions = DEFAULT) -> bool:
    """Return whether ``answer`` is the answer ``gold``: by the first rule that speaks of both."""
    if gold == answer:
        return not is_undefined(gold)
    # The order matters: what stands around an answer before lists, lists before relations before
    # sets before tuples.
    for rule in _RULES:
        judged = rule(gold, answer, how)
        if judged is not None:
            return judged
    return same_scalars(gold, answer, _with(how), how)


def _with(how: Conventions) -> Callable[[Node, Node], bool]:
    return lambda gold, answer: same(gold, answer, how)


def _all_same(gold: tuple[Node, ...], answer: tuple[Node, ...], how: Conventions) -> bool:
    if len(gold) != len(answer):
        return False
    return all(same(g, a, how) for g, a in zip(gold, answer, strict=True))


# What stands around an answer


def _grouped(gold: Node, answer: Node, how: Conventions) -> bool | None:
    """``(x = 3)`` is ``x = 3``."""
    if not (isinstance(gold, Group) or isinstance(answer, Group)):
        return None
    return same(unwrap(gold), unwrap(answer), how)


def _labelled(gold: Node, answer: Node, how: Conventions) -> bool | None:
    """``line: y = x`` is ``y = x``, and ``maximum: 5`` is not ``minimum: 5``."""
    match gold, answer:
        case Labelled(label, item), Labelled(other, value):
            return _same_label(label, other) and same(item, value, how)
        case Labelled(label, item), other:
            return _unlabelled(label, item, other, how)
        case other, Labelled(label, item):
            return _unlabelled(label, item, other, how, turned=True)
    return None


def _unlabelled(
    label: str, item: Node, other: Node, how: Conventions, *, turned: bool = False
) -> bool:
    name, _ = named(other)
    if isinstance(name, Words) and not _same_label(label, name.text):
        return False
    return same(other, item, how) if turned else same(item, other, how)


def _same_label(label: str, other: str) -> bool:
    left, right = stems(label), stems(other)
    if left <= right or right <= left:
        return True
    # "max" and "maximum": one begins like the other.
    (first, *more), (second, *others) = sorted(left), sorted(right)
    short, long = sorted((first, second), key=len)
    return not more and not others and len(short) >= 3 and long.startswith(short)


def _conditioned(gold: Node, answer: Node, how: Conventions) -> bool | None:
    """``n^2 for n >= 3`` is not ``n^2 for n >= 5``; the answer may leave the condition out."""
    match gold, answer:
        case Where(item, condition), Where(value, given):
            return same(item, value, how) and _same_condition(condition, given, how)
        case Where(item, condition), Sequence():
            return same(Sequence(",", (item, condition)), answer, how)
        case Where(item, _), _:
            return same(item, answer, how)
        case Sequence(), Where(value, given):
            return same(gold, Sequence(",", (value, given)), how)
        case _, Where(value, given):
            return _is_harmless(given) and same(gold, value, how)
    return None


def _same_condition(gold: Node, answer: Node, how: Conventions) -> bool:
    if isinstance(gold, Words) and isinstance(answer, Words):
        return stems(gold.text) == stems(answer.text)
    if isinstance(gold, Words) or isinstance(answer, Words):
        # "where k is an integer" and "k in Z" say one thing; other words are not understood.
        return all(_is_harmless(node) for node in (gold, answer))
    return same(gold, answer, how)


def _is_harmless(condition: Node) -> bool:
    """Return whether a condition only says where its names live, or what no divisor is."""
    match condition:
        case Words(text):
            return not any(char.isdigit() for char in text) and bool(
                stems(text) & {"integer", "real", "natural", "constant", "arbitrary"}
            )
        case Relation(_, operators):
            return set(operators) <= {"in", "!="}
    return False


def _approximated(gold: Node, answer: Node, how: Conventions) -> bool | None:
    r"""A gold answer ``\pi \approx 3.14`` allows both sides."""
    if not isinstance(gold, Relation) or not is_approximation(gold):
        return None
    return any(same(side, answer, how) for side in gold.sides)


def _piecewise(gold: Node, answer: Node, how: Conventions) -> bool | None:
    r"""``|x|`` is x where x >= 0 and -x elsewhere: by rows, or by values in every case."""
    if not (isinstance(gold, Cases) or isinstance(answer, Cases)):
        return None
    if isinstance(gold, Cases) and isinstance(answer, Cases) and _same_rows(gold, answer, how):
        return True
    if any(isinstance(n, Relation | Sequence | Bracket | Set) for n in (gold, answer)):
        return None
    return equal(gold, answer)


def _same_rows(gold: Cases, answer: Cases, how: Conventions) -> bool:
    left = [Where(*row) for row in gold.rows]
    right = [Where(*row) for row in answer.rows]

    def alike(first: Node, second: Node) -> bool:
        assert isinstance(first, Where) and isinstance(second, Where)
        same_item = same(first.item, second.item, how)
        return same_item and _same_condition(first.condition, second.condition, how)

    return matched(list(left), list(right), alike)


# Lists


def _is_domain(node: Node) -> bool:
    match node:
        case Relation(sides=(_, Numbers()), operators=("in",)):
            return True
    return False


def _items(node: Node) -> list[Node]:
    listed = node.items if isinstance(node, Sequence | Set) else (node,)
    name, held = named(node)
    if isinstance(name, Bracket) and isinstance(held, Bracket):
        if len(name.items) == len(held.items):
            # (x, y) = (1, 2) is x = 1 and y = 2.
            pairs = zip(name.items, held.items, strict=True)
            return [Relation(pair, ("=",)) for pair in pairs]
    if name is not None and isinstance(held, Set | Sequence):
        listed = held.items
    return both_signs(listed)


def _listed(gold: Node, answer: Node, how: Conventions) -> bool | None:
    """``2, 3`` is ``3 and 2``; ``x = 1, y = 2`` is not ``2, 1``: names keep their values."""
    if not any(isinstance(n, Sequence) or has_sign(n) for n in (gold, answer)):
        return None
    parts = [compound(n) or n for n in (gold, answer)]
    if any(is_quantity(part) and not isinstance(part, Sequence) for part in parts):
        if not any(isinstance(part, Sequence) for part in parts):
            return same(parts[0], parts[1], how)
    if looks_like_set(gold) or looks_like_set(answer):
        judged = same_set(gold, answer)
        if judged is not None:
            return judged
    if isinstance(gold, Bracket) or isinstance(answer, Bracket):
        return _same_coordinates(gold, answer, how)
    left, right = _items(gold), _items(answer)
    if _says_other(gold, answer) and all(isinstance(item, Name) for item in left + right):
        return False
    if len(left) != len(right):
        # "k = 2, k in Z" has as many items as "k = 2" once the domain is left out.
        left, right = ([n for n in side if not _is_domain(n)] for side in (left, right))
    if len(left) != len(right):
        return False
    return _same_items(left, right, how)


def _says_other(gold: Node, answer: Node) -> bool:
    """Return whether one list is joined by "and", the other by "or": p and q is not p or q."""
    joints = {node.joint for node in (gold, answer) if isinstance(node, Sequence)}
    return joints == {"and", "or"}


def _same_items(left: list[Node], right: list[Node], how: Conventions) -> bool:
    keys = [[named(item)[0] for item in side] for side in (left, right)]
    distinct = None not in keys[0] and len({str(key) for key in keys[0]}) == len(left)
    # Distinct names on both sides pair the items.
    if distinct and None not in keys[1]:
        places = {str(key): item for key, item in zip(keys[1], right, strict=True)}
        if set(places) == {str(key) for key in keys[0]}:
            return all(same(g, places[str(k)], how) for k, g in zip(keys[0], left, strict=True))
    # Names that the answer leaves out keep their order, unless they only number one quantity.
    if distinct and set(keys[1]) == {None} and len({_letter(key) for key in keys[0]}) == len(left):
        return _all_same(tuple(left), tuple(right), how)
    if how.ordered:
        return _all_same(tuple(left), tuple(right), how)
    return matched(left, right, _with(how))


def _letter(name: Node | None) -> str:
    """Return a name without its index: x_1 and x_2 are two values of x."""
    return str(name.base if isinstance(name, Indexed) else name)


def _same_coordinates(gold: Node, answer: Node, how: Conventions) -> bool:
    """``(1, 2)`` is ``x = 1, y = 2``."""
    sides = []
    for node in (gold, answer):
        if isinstance(node, Bracket):
            if (node.opening, node.closing) != ("(", ")"):
                return False
            sides.append(node.items)
        else:
            sides.append(tuple(_items(node)))
    # A plain list is no point: 1, 2 may come in any order, (1, 2) may not.
    return _all_same(sides[0], sides[1], how)


# Relations


def _related(gold: Node, answer: Node, how: Conventions) -> bool | None:
    """``f(x) = 2x`` is ``2x`` and ``f(t) = 2t``; ``2x + 2y = 2`` is ``x + y = 1``."""
    if not (isinstance(gold, Relation) or isinstance(answer, Relation)):
        return None
    if is_computation(gold) or is_computation(answer):
        values = [_computed(node) for node in (gold, answer)]
        return None not in values and same(values[0], values[1], how)  # pyright: ignore[reportArgumentType]
    (gold_name, gold_value), (name, given) = named(gold), named(answer)
    if gold_name is not None and name is not None:
        if not _interchangeable(gold_name, name, how):
            return _same_relation(gold, answer, how)
        given = renamed_argument(gold_name, name, given)
        plain = not isinstance(gold_value, Relation) and not isinstance(given, Relation)
        return plain and same(gold_value, given, how) or _same_relation(gold, answer, how)
    if gold_name is not None or name is not None:
        return _half_named(gold, answer, gold_value, given, how)
    if (gold_value, given) != (gold, answer):
        return same(gold_value, given, how)
    if looks_like_set(gold) or looks_like_set(answer):
        return _same_sets(gold, answer, how)
    return _same_relation(gold, answer, how)


def _computed(node: Node) -> Node | None:
    """Return the value of ``1 + 1 = 2``; None where the sides differ, or of a plain equation."""
    if not isinstance(node, Relation):
        return node
    if not is_computation(node):
        return None
    return node.sides[-1] if all(equal(s, node.sides[-1]) for s in node.sides) else None


def _half_named(gold: Node, answer: Node, left: Node, right: Node, how: Conventions) -> bool:
    if not isinstance(left, Relation) and not isinstance(right, Relation):
        return same(left, right, how)
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        if gold.operators == answer.operators == ("=",):
            return _same_relation(gold, answer, how)
    return (left, right) != (gold, answer) and same(left, right, how)


def _interchangeable(gold_name: Node, name: Node, how: Conventions) -> bool:
    """Return whether two names can stand for one quantity: ``y`` for ``f(x)``, not x_1 for x_2."""
    if isinstance(gold_name, Words) and isinstance(name, Words):
        return _same_label(gold_name.text, name.text)
    if gold_name == name or same(gold_name, name, how):
        return True
    # y' = y is a law for y, and no name for it.
    if _primes(gold_name) != _primes(name):
        return False
    # x_1 and x_2 are two quantities, x_1 and y_1 may be one.
    if isinstance(gold_name, Indexed) and isinstance(name, Indexed):
        return not same(gold_name.base, name.base, how)
    kinds = Name | Indexed | Call | Words | Bracket
    return isinstance(gold_name, kinds) and isinstance(name, kinds)


def _primes(node: Node) -> int:
    return sum(part == Words("prime") for part in walk(node))


def _difference(node: Relation) -> Node:
    return Sum((node.sides[0], Product((_MINUS, node.sides[1]))))


def _same_relation(gold: Node, answer: Node, how: Conventions) -> bool:
    """Return whether one relation is the other times a constant, positive for an inequality."""
    if not isinstance(gold, Relation) or not isinstance(answer, Relation):
        return False
    if len(gold.operators) != len(answer.operators):
        return False
    if len(gold.operators) > 1:
        return _same_chain(gold, answer, how)
    op, other = gold.operators[0], answer.operators[0]
    flip = -1 if op in FLIPPED and FLIPPED[op] == other else 1
    if op != other and flip == 1:
        return False
    scalar = all(is_scalar(side) for side in gold.sides + answer.sides)
    if op not in INEQUALITIES | {"="} or not scalar:
        pairs = zip(gold.sides, answer.sides, strict=True)
        return all(_alike(g, a, how) for g, a in pairs)
    sign = proportional(_difference(gold), _difference(answer))
    if not sign and op == "=":
        # y = 1/x is xy = 1.
        sign = proportional(*(_fraction(_difference(node))[0] for node in (gold, answer)))
    # Multiplying an inequality by a negative number turns it around.
    return sign != 0 and (op not in FLIPPED or sign == flip)


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


def _same_chain(gold: Relation, answer: Relation, how: Conventions) -> bool:
    if gold.operators == answer.operators:
        return all(_alike(g, a, how) for g, a in zip(gold.sides, answer.sides, strict=True))
    # 1 < x < 2 read from the right is 2 > x > 1.
    turned = tuple(FLIPPED.get(op, op) for op in answer.operators[::-1])
    sides = zip(gold.sides, answer.sides[::-1], strict=True)
    return gold.operators == turned and all(_alike(g, a, how) for g, a in sides)


def _alike(gold: Node, answer: Node, how: Conventions) -> bool:
    """Return whether two sides of a chain are the same function of equal arguments, or equal.

    A chain of constants puts given expressions in order: it names them, so that ``sin(2 pi/5)``
    and ``sin(3 pi/5)`` are two of them though they are equal.
    """
    if isinstance(gold, Apply) and isinstance(answer, Apply) and gold.function == answer.function:
        return _all_same(gold.arguments, answer.arguments, how)
    return same(gold, answer, how)


# Sets, matrices and tuples


def _as_sets(gold: Node, answer: Node, how: Conventions) -> bool | None:
    """``x > 3`` is ``(3, \\infty)``; ``\\{1, 2\\}`` is ``\\{2, 1\\}``."""
    if not (looks_like_set(gold) or looks_like_set(answer)):
        return None
    return _same_sets(gold, answer, how)


def _same_sets(gold: Node, answer: Node, how: Conventions) -> bool:
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
        return listed and matched(_items(gold), _items(answer), _with(how))
    match gold, answer:
        case Relation(), Relation():
            return _same_relation(gold, answer, how)
        case Bracket(), Bracket():
            return _same_tuples(gold, answer, how)
        case Operation(name, a, b), Operation(other, c, d):
            if name == "setminus":
                return other == name and same(a, c, how) and same(b, d, how)
            return name == other and matched([a, b], [c, d], _with(how))
        case Builder(element, condition), Builder(given, conditions):
            return same(element, given, how) and same(condition, conditions, how)
    return gold == answer


def _membership(node: Node) -> Node:
    match node:
        case Relation((_, held), ("in",)):
            return held
    return node


def _is_listed(node: Node) -> bool:
    return isinstance(node, Set | Sequence) or is_scalar(node)


def _same_matrices(gold: Node, answer: Node, how: Conventions) -> bool | None:
    r"""``2 \begin{pmatrix} 1 & 2 \end{pmatrix}`` is ``\begin{pmatrix} 2 & 4 \end{pmatrix}``."""
    if not (holds_matrix(gold) or holds_matrix(answer)) or _is_number(gold, answer):
        return None
    rows = rows_of(gold), rows_of(answer)
    if rows[0] is None or rows[1] is None:
        return False
    if [len(row) for row in rows[0]] != [len(row) for row in rows[1]]:
        return False
    return _all_same(sum(rows[0], ()), sum(rows[1], ()), how)


def _is_number(*nodes: Node) -> bool:
    """Return whether matrices only occur in determinants, which are numbers."""
    return all(not holds_matrix(_without_determinants(node)) for node in nodes)


def _without_determinants(node: Node) -> Node:
    for part in list(walk(node)):
        if isinstance(part, Apply) and part.function == "det":
            node = substitute(node, part, Name("determinant"))
    return node


def _as_tuples(gold: Node, answer: Node, how: Conventions) -> bool | None:
    """``P(-1, 4)`` is ``(-1, 4)``."""
    points = [_point(node) for node in (gold, answer)]
    if not any(isinstance(node, Bracket) for node in (gold, answer)):
        return None
    return _same_tuples(points[0], points[1], how)


def _point(node: Node) -> Node:
    match node:
        case Call(Name(letter), items) if len(items) > 1 and letter.isupper():
            return Bracket("(", ")", items)
    return node


def _same_tuples(gold: Node, answer: Node, how: Conventions) -> bool:
    if not isinstance(gold, Bracket) or not isinstance(answer, Bracket):
        return False
    brackets = (gold.opening, gold.closing) == (answer.opening, answer.closing)
    # With two items the brackets decide: (1, 2) may be an interval, and [1, 2] is another.
    if len(gold.items) == 2 and not brackets:
        return False
    return _all_same(gold.items, answer.items, how)


_RULES = (
    _grouped,
    _labelled,
    _conditioned,
    _approximated,
    _piecewise,
    _listed,
    _related,
    _as_sets,
    _same_matrices,
    _as_tuples,
)
