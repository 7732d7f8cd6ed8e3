"""What stands around an answer: groups, labels, conditions, approximations, cases."""

from rlvr.verifier.identity import equal
from rlvr.verifier.names import (
    is_approximation,
    named,
)
from rlvr.verifier.phrases import TURNING
from rlvr.verifier.quantities import stems
from rlvr.verifier.same import Same
from rlvr.verifier.scalars import matched
from rlvr.verifier.tree import (
    Bracket,
    Cases,
    Group,
    Labelled,
    Node,
    Relation,
    Sequence,
    Set,
    Where,
    Words,
    unwrap,
)


def grouped(gold: Node, answer: Node, same: Same) -> bool | None:
    """``(x = 3)`` is ``x = 3``."""
    if not (isinstance(gold, Group) or isinstance(answer, Group)):
        return None
    return same(unwrap(gold), unwrap(answer))


def labelled(gold: Node, answer: Node, same: Same) -> bool | None:
    """``line: y = x`` is ``y = x``, and ``maximum: 5`` is not ``minimum: 5``."""
    match gold, answer:
        case Labelled(label, item), Labelled(other, value):
            return same_label(label, other) and same(item, value)
        case Labelled(label, item), other:
            return _unlabelled(label, item, other, same)
        case other, Labelled(label, item):
            return _unlabelled(label, item, other, same, turned=True)
    return None


def _unlabelled(label: str, item: Node, other: Node, same: Same, *, turned: bool = False) -> bool:
    name, _ = named(other)
    # "wrong: 5" labels nothing.
    if TURNING.search(label):
        return False
    if isinstance(name, Words) and not same_label(label, name.text):
        return False
    return same(other, item) if turned else same(item, other)


def same_label(label: str, other: str) -> bool:
    left, right = stems(label), stems(other)
    if left <= right or right <= left:
        return True
    # "max" and "maximum": one begins like the other.
    (first, *more), (second, *others) = sorted(left), sorted(right)
    short, long = sorted((first, second), key=len)
    return not more and not others and len(short) >= 3 and long.startswith(short)


def conditioned(gold: Node, answer: Node, same: Same) -> bool | None:
    """``n^2 for n >= 3`` is not ``n^2 for n >= 5``; the answer may leave the condition out."""
    match gold, answer:
        case Where(item, condition), Where(value, given):
            return same(item, value) and _same_condition(condition, given, same)
        case Where(item, condition), Sequence():
            return same(Sequence(",", (item, condition)), answer)
        case Where(item, _), _:
            return same(item, answer)
        case Sequence(), Where(value, given):
            return same(gold, Sequence(",", (value, given)))
        case _, Where(value, given):
            return _is_harmless(given) and same(gold, value)
    return None


def _same_condition(gold: Node, answer: Node, same: Same) -> bool:
    if isinstance(gold, Words) and isinstance(answer, Words):
        return stems(gold.text) == stems(answer.text)
    if isinstance(gold, Words) or isinstance(answer, Words):
        # "where k is an integer" and "k in Z" say one thing; other words are not understood.
        return all(_is_harmless(node) for node in (gold, answer))
    return same(gold, answer)


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


def approximated(gold: Node, answer: Node, same: Same) -> bool | None:
    r"""A gold answer ``\pi \approx 3.14`` allows both sides."""
    if not isinstance(gold, Relation) or not is_approximation(gold):
        return None
    return any(same(side, answer) for side in gold.sides)


def piecewise(gold: Node, answer: Node, same: Same) -> bool | None:
    r"""``|x|`` is x where x >= 0 and -x elsewhere: by rows, or by values in every case."""
    if not (isinstance(gold, Cases) or isinstance(answer, Cases)):
        return None
    if isinstance(gold, Cases) and isinstance(answer, Cases) and _same_rows(gold, answer, same):
        return True
    if any(isinstance(n, Relation | Sequence | Bracket | Set) for n in (gold, answer)):
        return None
    return equal(gold, answer)


def _same_rows(gold: Cases, answer: Cases, same: Same) -> bool:
    left = [Where(*row) for row in gold.rows]
    right = [Where(*row) for row in answer.rows]

    def alike(first: Node, second: Node) -> bool:
        assert isinstance(first, Where) and isinstance(second, Where)
        same_item = same(first.item, second.item)
        return same_item and _same_condition(first.condition, second.condition, same)

    return matched(list(left), list(right), alike)
