"""Answers in words: set phrases, several spellings of one, and numbers with words around them."""

import re

from rlvr.verifier.text import unwrapped, words
from rlvr.verifier.tree import Node, Numbers, Set

# What is said first names the phrase.
_SPELLINGS = [
    ["yes"], ["no"], ["true"], ["false"],
    ["dne", "does not exist", "do not exist", "doesn't exist", "limit does not exist",
     "undefined", "not defined"],
    ["no solution", "no solutions", "there is no solution", "there are no solutions",
     "no solution exists", "no solutions exist", "has no solution", "empty set", "null set"],
    ["all real numbers", "all reals", "every real number", "any real number", "real numbers"],
    ["infinitely many solutions", "infinitely many", "infinite solutions",
     "infinite number of solutions", "infinitely many solution"],
    ["none", "none of these", "none of above"],
]  # fmt: skip
_PHRASES = {spelling: line[0] for line in _SPELLINGS for spelling in line}
_TREES: dict[str, Node] = {"no solution": Set(()), "all real numbers": Numbers("R")}
# Words that turn a statement about a number into its opposite, or into something vaguer.
TURNING = re.compile(
    r"\b(?:not|no|never|neither|nor|none|cannot|can't|isn't|aren't|wasn't|don't|doesn't|wrong"
    r"|false|incorrect|impossible|unlikely|doubt|deny|or|between|than|least|most|fewer|less|more"
    r"|except|but|unless|instead|rather|if|whether|maybe|perhaps|possibly|might|could|may|either"
    r"|far|close|near|nearly|almost|unknown|unsure|anything|below|above|under|over|greater|smaller|exceeds?)\b",
    re.IGNORECASE,
)
_SAYING = re.compile(
    r"\b(?:is|are|was|were|be|has|have|had|equals?|equal|answer|total|there|get|gets|gives?|needs?"
    r"|takes?|makes?|costs?|result|value|sum)\b",
    re.IGNORECASE,
)
# Not glued to a name or a power: 5x holds no number of its own.
NUMBER = re.compile(
    r"(?<![\w.])[-+]?(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)(?:\s?%|\s?/\s?[0-9]+)?"
    r"(?![a-zA-Z](?![a-zA-Z])|[0-9^_(])"
)
_MATHS = re.compile(r"[\\^_=+*<>|{}]")


def phrase(text: str) -> str | None:
    """Return the set phrase that ``text`` is, under its first name; None for anything else."""
    if len(text) > 80:
        return None
    return _PHRASES.get(re.sub(r"[.!]+$", "", words(text)).strip())


def tree_of(name: str) -> Node | None:
    """Return what a phrase says as mathematics: ``no solution`` is the empty set."""
    return _TREES.get(name)


def said_number(text: str) -> str | None:
    """Return the one number of a statement in words: 315 of ``The answer is 315``.

    None where a word turns it round, as ``not`` does, where nothing is stated, or where more
    mathematics stands there.
    """
    bare = unwrapped(text)
    numbers = list(NUMBER.finditer(bare))
    if len(numbers) != 1 or TURNING.search(bare):
        return None
    before, after = bare[: numbers[0].start()], bare[numbers[0].end() :]
    if _MATHS.search(before) or _MATHS.search(after) or not _SAYING.search(before):
        return None
    return numbers[0].group().strip().rstrip(",")
