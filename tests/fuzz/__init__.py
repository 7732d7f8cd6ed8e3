r"""Pairs of a gold answer and an answer that are right, or wrong, by construction.

Each generator takes a random source and returns (gold, answer). A wrong pair differs in value, in
form that carries meaning, or in words that turn the meaning round; a right pair says one thing in
two ways. ``WRONG`` and ``RIGHT`` hold the generators by the name of their kind.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from fractions import Fraction
from random import Random

Pair = tuple[str, str]
Generator = Callable[[Random], Pair]
WRONG: dict[str, Generator] = {}
RIGHT: dict[str, Generator] = {}
NAMES = "xyztuvpq"


def wrong(function: Generator) -> Generator:
    WRONG[function.__name__.replace("_", " ")] = function
    return function


def right(function: Generator) -> Generator:
    RIGHT[function.__name__.replace("_", " ").removesuffix(" same")] = function
    return function


def pairs(kinds: dict[str, Generator], count: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """Yield ``count`` tuples (kind, gold, answer), the kinds in turns."""
    rng, names = Random(seed), list(kinds)
    for index in range(count):
        kind = names[index % len(names)]
        yield (kind, *kinds[kind](rng))


def name(rng: Random) -> str:
    return rng.choice(NAMES)


def number(rng: Random, low: int = 2, high: int = 99) -> int:
    return rng.randint(low, high)


def other(rng: Random, value: int, low: int = 2, high: int = 99) -> int:
    """Return another number than ``value``."""
    return rng.choice([n for n in (value - 1, value + 1, *range(low, high, 7)) if n != value])


def frac(value: Fraction) -> str:
    sign = "-" if value < 0 else ""
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def fraction(rng: Random) -> Fraction:
    while True:
        value = Fraction(rng.randint(1, 40), rng.randint(2, 30))
        if value.denominator > 1:
            return value


def cases(x: str, first: str, op: str, at: int, second: str, word: str = "\\text{if } ") -> str:
    rest = {"\\ge": "<", ">": "\\le", "<": "\\ge", "\\le": ">"}[op]
    return (
        f"\\begin{{cases}} {first} & {word}{x}{op} {at} \\\\ {second} & {word}{x}{rest} {at} "
        "\\end{cases}"
    )


def load() -> None:
    """Import the modules of this folder, each of which registers its kinds."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


load()
