"""Quantities with units: converted where both units are known, left out where one is not given."""

import re
from collections.abc import Callable
from fractions import Fraction

from rlvr.rewards.math.cursor import Node

_TABLE = {
    "length": "m meter metre=1 km kilometer kilometre=1000 dm=0.1 cm centimeter centimetre=0.01 "
    "mm millimeter millimetre=0.001 nm nanometer=1e-9 inch in=0.0254 foot ft feet=0.3048 "
    "yard yd=0.9144 mile mi=1609.344",
    "mass": "g gram=0.001 kg kilogram=1 mg milligram=1e-6 t ton tonne=1000",
    "time": "s sec second=1 min minute=60 h hr hour=3600 day=86400 week=604800 ms=0.001",
    "volume": "gallon=0.003785411784 l liter litre=0.001 ml milliliter millilitre=1e-6",
    "energy": "j joule=1 kj=1000",
    "money": "dollar usd=1 cent=0.01",
    "euros": "euro eur=1",
    "angle": "degree deg=1",
    "morning": "am=1",
    "afternoon": "pm=1",
}
UNITS = {
    name: (dimension, Fraction(size))
    for dimension, line in _TABLE.items()
    for names, size in re.findall(r"((?:[a-z]+ ?)+)=([0-9.e-]+)", line)
    for name in names.split()
}
_FACTOR = re.compile(r"(square|cubic|sq|cu)?\.? ?([a-zA-Z]+)\.? ?\^?([0-9])?")


_ANGLE = (("angle^1",), Fraction(1))


def _known(text: str) -> tuple[tuple[str, ...], Fraction] | None:
    """Return (dimensions, size in SI) of a unit such as ``cm^2`` or ``km/h``, if it is known."""
    size, dimensions = Fraction(1), []
    for place, part in enumerate(re.split(r"/| per ", text.strip().casefold())):
        match = _FACTOR.fullmatch(part.strip())
        if not match:
            return None
        prefix, name, power = match.groups()
        # Plurals; two letters must remain, so that "s" and "ms" stay themselves.
        name = name if name in UNITS else re.sub(r"(?<=[a-z]{2})e?s$", "", name)
        name = {"inch": "inch", "inche": "inch", "feet": "foot"}.get(name, name)
        if name not in UNITS:
            name = name + "e" if name + "e" in UNITS else name
        if name not in UNITS:
            return None
        exponent = int(power or {"square": 2, "sq": 2, "cubic": 3, "cu": 3}.get(prefix or "", 1))
        dimension, factor = UNITS[name]
        # Parts after the first stand below a slash or "per".
        size *= (factor**exponent) ** (-1 if place else 1)
        dimensions.append(f"{dimension}^{exponent * (-1 if place else 1)}")
    return tuple(sorted(dimensions)), size


def _split(node: Node) -> tuple[Node, tuple[tuple[str, ...], Fraction] | None]:
    if node[0] == "deg":
        return node, _ANGLE
    if node[0] != "unit":
        return node, None
    known = _known(node[2])
    if known and known[0] == ("angle^1",):
        return ("deg", node[1]), _ANGLE
    return node[1], known


def same_quantity(gold: Node, answer: Node, same: Callable[[Node, Node], bool]) -> bool:
    """Return whether two quantities are the same; a unit that only one of them has is left out."""
    (left, unit), (right, other) = _split(gold), _split(answer)
    if any(node[0] == "unit" and node[2].count(" ") > 3 for node in (gold, answer)):
        return gold == answer
    if unit is None or other is None or unit == other:
        return same(left, right)
    if unit[0] != other[0]:
        return False
    return same(("mul", [left, ("num", unit[1])]), ("mul", [right, ("num", other[1])]))
