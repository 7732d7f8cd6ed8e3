"""Units as text: their dimensions and their size in SI."""

import re
from collections import Counter
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

_PREFIXES = {
    "f": -15, "p": -12, "n": -9, "µ": -6, "u": -6, "m": -3, "c": -2, "d": -1, "k": 3, "M": 6,
    "G": 9, "T": 12,
}  # fmt: skip
_PREFIX_WORDS = {
    "nano": -9, "micro": -6, "milli": -3, "centi": -2, "deci": -1, "kilo": 3, "mega": 6, "giga": 9,
}  # fmt: skip
# Symbol and words, size, and dimensions; all of them take prefixes.
_SI = """
m meter metre = 1 m
g gram gramme = 0.001 kg
s second sec = 1 s
A ampere amp = 1 A
K kelvin = 1 K
mol mole = 1 mol
Hz hertz = 1 s^-1
N newton = 1 kg m s^-2
J joule = 1 kg m^2 s^-2
W watt = 1 kg m^2 s^-3
V volt = 1 kg m^2 s^-3 A^-1
Pa pascal = 1 kg m^-1 s^-2
C coulomb = 1 A s
F farad = 1 A^2 s^4 kg^-1 m^-2
T tesla = 1 kg s^-2 A^-1
Wb weber = 1 kg m^2 s^-2 A^-1
H henry = 1 kg m^2 s^-2 A^-2
ohm Omega = 1 kg m^2 s^-3 A^-2
L l liter litre = 0.001 m^3
eV electronvolt = 1.602176634e-19 kg m^2 s^-2
cal calorie = 4.184 kg m^2 s^-2
B byte = 8 bit
bit = 1 bit
"""
# Units without prefixes; words, in lower case.
_OTHER = """
inch in = 0.0254 m
foot ft = 0.3048 m
yard yd = 0.9144 m
mile mi = 1609.344 m
minute min = 60 s
h hr hour = 3600 s
day = 86400 s
week wk = 604800 s
fortnight = 1209600 s
year yr = 1 year
month = 1 month
decade = 10 year
century centurie = 100 year
t ton tonne = 1000 kg
lb pound = 0.45359237 kg
oz ounce = 0.028349523125 kg
gallon gal = 0.003785411784 m^3
quart qt = 0.000946352946 m^3
pint pt = 0.000473176473 m^3
cup = 0.0002365882365 m^3
cc = 0.000001 m^3
acre = 4046.8564224 m^2
hectare ha = 10000 m^2
mph = 0.44704 m s^-1
kmh kph = 0.2777777777777777777777 m s^-1
dollar usd = 1 money
cent = 0.01 money
nickel = 0.05 money
dime = 0.1 money
euro eur = 1 euro
ruble rouble = 1 ruble
kopek kopeck = 0.01 ruble
degree deg = 1 angle
degc degcelsius celsius = 1 celsius
degf degfahrenheit fahrenheit = 1 fahrenheit
am = 1 am
pm = 1 pm
unit = 1 unit
"""


class Unit(NamedTuple):
    """Dimensions as sorted (name, exponent) pairs, and the size in their base units."""

    dimensions: tuple[tuple[str, int], ...]
    size: Fraction


def _dimensions(text: str) -> Counter[str]:
    exponents: Counter[str] = Counter()
    for part in text.split():
        name, _, exponent = part.partition("^")
        exponents[name] = int(exponent or 1)
    return exponents


def _table() -> tuple[dict[str, tuple[Fraction, Counter[str]]], ...]:
    symbols, names = {}, {}
    # Symbols take prefixes as letters (km), names as words (kilometer).
    for line in _SI.strip().splitlines():
        left, _, right = line.partition(" = ")
        size, dimensions = right.split(" ", 1)
        short = [word for word in left.split() if len(word) < 3 or word in ("mol", "cal")]
        for word in left.split():
            prefixes = _PREFIXES if word in short else _PREFIX_WORDS
            kept = symbols if word in short else names
            kept[word] = (Fraction(size), _dimensions(dimensions))
            for prefix, power in prefixes.items():
                value = Fraction(size) * Fraction(10) ** power
                kept.setdefault(prefix + word, (value, _dimensions(dimensions)))
    for line in _OTHER.strip().splitlines():
        left, _, right = line.partition(" = ")
        size, dimensions = right.split(" ", 1)
        for word in left.split():
            value = Fraction(5, 18) if word in ("kmh", "kph") else Fraction(size)
            names[word] = (value, _dimensions(dimensions))
    # Words of their own before prefixed symbols: "min" is no milli-inch, "ft" no femtotonne.
    return {key: value for key, value in symbols.items() if key not in names}, names


SYMBOLS, NAMES = _table()
_PIECE = re.compile(r"\^?\s*(-?[0-9]+)|([a-zA-Zµ]+)|(/)|([*·.\s{}()-])")
_SCALE = re.compile(r"^deg(?:ree)?s?\s+(?=[CF])|^deg(?:ree)?s?\s+(?=celsius|fahrenheit)", re.I)
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3}


def _one(word: str) -> tuple[Fraction, Counter[str]] | None:
    """Return size and dimensions of one unit word or symbol."""
    if word in SYMBOLS:
        return SYMBOLS[word]
    lower = {"feet": "foot", "inches": "inch"}.get(word.casefold(), word.casefold())
    for name in (lower, re.sub(r"(?<=[a-z]{2})e?s$", "", lower), re.sub(r"s$", "", lower)):
        if name in NAMES:
            return NAMES[name]
    # "KG" and "CM": symbols in the wrong case, where no other symbol is meant.
    matches = [value for key, value in SYMBOLS.items() if key.casefold() == lower]
    matches = matches if len(word) > 1 else []
    return matches[0] if len(matches) == 1 else None


@lru_cache(maxsize=4096)
def unit(text: str) -> Unit | None:
    """Return the unit that ``text`` writes, such as ``cm^2``, ``km/h``, ``square feet``; or None.

    ``kg m/s^2`` and ``N`` are one unit; what stands after a slash or "per" divides.
    """
    text = re.sub(r"\bper\b", "/", text.strip().rstrip("."))
    text = _SCALE.sub("deg", text)
    if not text or len(text) > 60:
        return None
    size, dimensions = Fraction(1), Counter()
    sign, ahead, last = 1, 1, None
    position = 0
    while position < len(text):
        match = _PIECE.match(text, position)
        if match is None:
            return None
        position = match.end()
        number, word, slash, _ = match.groups()
        # What exponent the unit before, or the unit to come, has.
        power = int(number) if number else _POWERS.get((word or "").casefold(), 0)
        # Everything after the slash divides: J/kg K is J/(kg K).
        if slash:
            sign, last = -1, None
        elif power and (number or word.casefold().endswith("d")):
            if last is None or abs(power) > 9:
                return None
            size, dimensions = _times(size, dimensions, last, sign * (power - 1))
            last = None
        elif power:
            ahead = power
        elif word:
            last = _one(word)
            if last is None:
                return None
            size, dimensions = _times(size, dimensions, last, sign * ahead)
            ahead = 1
    held = tuple(sorted((name, count) for name, count in dimensions.items() if count))
    return Unit(held, size) if held else None


def _times(
    size: Fraction, dimensions: Counter[str], one: tuple[Fraction, Counter[str]], power: int
) -> tuple[Fraction, Counter[str]]:
    result = Counter(dimensions)
    for name, count in one[1].items():
        result[name] += count * power
    return size * one[0] ** power, result


def is_unit(text: str) -> bool:
    """Return whether ``text`` is a unit of the table."""
    return unit(text) is not None
