"""What every rule of comparison gets: how two parts are compared, and by which conventions."""

from typing import Protocol

from rlvr.verifier.conventions import Conventions
from rlvr.verifier.tree import Node


class Same(Protocol):
    """Tells whether an answer, or a part of one, is the gold answer, or its part."""

    @property
    def how(self) -> Conventions: ...

    def __call__(self, gold: Node, answer: Node) -> bool: ...


def all_same(gold: tuple[Node, ...], answer: tuple[Node, ...], same: Same) -> bool:
    """Return whether the items are the same, one by one."""
    if len(gold) != len(answer):
        return False
    return all(same(g, a) for g, a in zip(gold, answer, strict=True))
