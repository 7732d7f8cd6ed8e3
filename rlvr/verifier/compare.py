"""Whether two trees are one answer: by the form they have, down to numbers."""

from dataclasses import dataclass

from rlvr.verifier.around import approximated, conditioned, grouped, labelled, piecewise
from rlvr.verifier.conventions import DEFAULT, Conventions
from rlvr.verifier.lists import listed
from rlvr.verifier.names import renamed_parameter, with_factors
from rlvr.verifier.relations import related
from rlvr.verifier.scalars import is_undefined, same_scalars
from rlvr.verifier.shapes import as_sets, as_tuples, same_matrices
from rlvr.verifier.tree import Node

# Each says whether an answer is the gold answer, or None where it does not speak of such a pair.
# The order matters: what stands around an answer before lists, lists before relations before sets
# before tuples.
RULES = (
    grouped,
    labelled,
    conditioned,
    approximated,
    piecewise,
    listed,
    related,
    as_sets,
    same_matrices,
    as_tuples,
)


@dataclass(frozen=True)
class Comparison:
    """Compares trees, and parts of them, by one set of conventions."""

    how: Conventions

    def __call__(self, gold: Node, answer: Node) -> bool:
        """Return whether ``answer`` is ``gold``: by the first rule that speaks of such a pair."""
        if gold == answer:
            return not is_undefined(gold)
        for rule in RULES:
            judged = rule(gold, answer, self)
            if judged is not None:
                return judged
        return same_scalars(gold, answer, self)


def equivalent(gold: Node, answer: Node, how: Conventions = DEFAULT) -> bool:
    """Return whether ``answer`` is the answer ``gold``, up to the name of a parameter."""
    same = Comparison(how)
    gold, answer = with_factors(gold, answer)
    if same(gold, answer):
        return True
    renamed = renamed_parameter(gold, answer)
    return renamed is not None and same(gold, renamed)
