"""Numbers that are written in words: ``five``, ``twenty-one``, ``3 million``, ``5 ninths``."""

import re
from fractions import Fraction

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
NUMBER_WORDS = {word: value for value, word in enumerate(_SMALL)}
NUMBER_WORDS |= {word: 10 * value for value, word in enumerate(_TENS, 2)}
MULTIPLES = {
    "dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9,
    "trillion": 10**12,
}  # fmt: skip
_PARTS = {
    "half": 2, "halve": 2, "third": 3, "fourth": 4, "quarter": 4, "fifth": 5, "sixth": 6,
    "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10, "twelfth": 12, "hundredth": 100,
    "thousandth": 1000,
}  # fmt: skip


def factor(word: str) -> Fraction | None:
    """Return what a word after a number multiplies it by: ``million``, ``ninths``; else None."""
    word = word.casefold()
    if word in MULTIPLES or word.removesuffix("s") in MULTIPLES:
        return Fraction(MULTIPLES.get(word) or MULTIPLES[word.removesuffix("s")])
    # Quarters are coins and years as well.
    part = None if word.startswith("quarter") else _PARTS.get(word.removesuffix("s"))
    return None if part is None else Fraction(1, part)


def spelled(text: str) -> Fraction | None:
    """Return the number that ``text`` spells in English words and nothing else; else None."""
    words = [word for word in re.split(r"[\s-]+", text.casefold().strip()) if word != "and"]
    sign = 1
    if words and words[0] in ("negative", "minus"):
        sign, words = -1, words[1:]
    if not words or len(words) > 20:
        return None
    part = _PARTS.get(words[-1].removesuffix("s"))
    if part is not None and len(words) > 1:
        top = _whole(words[:-1])
        return None if not top else Fraction(sign * top, part)
    whole = _whole(words)
    return None if whole is None else Fraction(sign * whole)


def ordinal(text: str) -> int | None:
    """Return the place in an order that ``text`` spells: 3 of ``third``; None for anything else."""
    word = text.casefold().strip()
    places = {"first": 1, "second": 2} | {w: n for w, n in _PARTS.items() if n in range(3, 13)}
    return None if word in ("half", "halve", "quarter") else places.get(word)


def _whole(words: list[str]) -> int | None:
    total, current, last = 0, 0, None
    for word in words:
        value = NUMBER_WORDS.get(word)
        if value is not None:
            # "twenty one" adds; "one two" is no number.
            if last is not None and not (last >= 20 and 0 < value < 10):
                return None
            current, last = current + value, value
        elif word == "hundred" and 0 < current < 100:
            current, last = current * 100, None
        elif word in MULTIPLES and current:
            total, current, last = total + current * MULTIPLES[word], 0, None
        else:
            return None
    return total + current
