"""Decimals that stand for a number which they round."""

from fractions import Fraction

FEWEST_PLACES = 6
FLOAT_DIGITS = 16  # of a double, as Python prints it


def places_of(value: Fraction) -> int | None:
    """Return the number of decimals, from 6 to 20; None where there are fewer or more."""
    places = next((k for k in range(21) if (value * 10**k).denominator == 1), None)
    return None if places is None or places < FEWEST_PLACES else places


def rounds(given: Fraction, places: int, value: Fraction) -> bool:
    """Return whether ``given`` is ``value`` rounded to its decimals, or the double next to it."""
    gap = abs(given - value)
    if not gap:
        return True
    digits = len(str(abs(given.numerator * 10**places // given.denominator)))
    if digits >= FLOAT_DIGITS and gap * 10 ** (FLOAT_DIGITS - 1) <= abs(value) * 5:
        return True
    # A decimal that ends is not rounded by another one: 0.123456 is not 0.1234561.
    endless = next((p for p in _odd_factors(value.denominator)), None) is not None
    return endless and gap * 2 * 10**places <= 1


def _odd_factors(number: int) -> list[int]:
    for prime in (2, 5):
        while number % prime == 0:
            number //= prime
    return [number] if number > 1 else []


def is_rounded(given: Fraction, value: Fraction) -> bool:
    """Return whether a decimal stands for an exact number, in either direction."""
    places = places_of(given)
    return places is not None and rounds(given, places, value)
