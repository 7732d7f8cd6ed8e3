"""What follows an atom: powers, subscripts, bases, primes, factorials, percent, degrees, calls."""

from fractions import Fraction

from rlvr.verifier.functions import Functions, is_minus_one
from rlvr.verifier.lexer import Unreadable
from rlvr.verifier.numerals import NUMBER_WORDS
from rlvr.verifier.tree import (
    USUAL_FUNCTIONS,
    Apply,
    Based,
    Call,
    Degrees,
    Indexed,
    Name,
    Neg,
    Node,
    Num,
    Percent,
    Power,
    Quantity,
    Words,
)

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Scripts(Functions):
    """The part of the grammar that reads an atom with everything that is attached to it."""

    def power(self) -> Node:
        self.enter()
        base = self.postfix(self.atom())
        self.depth -= 1
        return base

    def postfix(self, base: Node) -> Node:
        while True:
            if self.at("^"):
                self.take()
                base = self.raised(base)
            elif self.at("_"):
                self.take()
                base = self.subscript(base)
            elif self.at("!") and self.peek(1).value != "=":
                self.take()
                # n!! is the double factorial, and x != y a relation.
                double = self.at("!") and bool(self.take())
                base = Apply("factorial2" if double else "factorial", (base,))
            elif self.at("%"):
                self.take()
                base = Percent(base)
            elif self.at("'"):
                self.take()
                base = Indexed(base, Words("prime"))
            elif isinstance(base, Name | Indexed) and self.at("(") and self.is_call(base):
                base = Call(base, self.arguments())
            else:
                return base

    def is_call(self, base: Node) -> bool:
        """Return whether ``x(...)`` is a function of its argument, and not a product.

        f, g and h are functions; another name is one where its argument is a single number, name
        or list of them, as in ``I(0)`` or ``P(-1, 4)``.
        """
        name = base
        while isinstance(name, Indexed):
            name = name.base
        if not isinstance(name, Name):
            return False
        if name.name in USUAL_FUNCTIONS:
            return True
        # Only what is as simple as an argument; x(a + b) multiplies.
        close = self.position + 1
        while close < len(self.tokens) and (
            self.tokens[close].kind in ("num", "name", "const", "sep")
            or self.tokens[close].value in ("-", "+")
        ):
            close += 1
        inside = self.tokens[self.position + 1 : close]
        closed = close < len(self.tokens) and self.tokens[close].value == ")"
        listed = any(token.kind == "sep" for token in inside)
        return closed and (listed or (len(inside) == 1 and inside[0].kind != "op"))

    def raised(self, base: Node) -> Node:
        # 90^\circ and 90^{\circ}; with C or F a temperature.
        if self.at("circ") or (
            self.at("{") and self.peek(1).value == "circ" and self.peek(2).value == "}"
        ):
            self.position += 1 if self.at("circ") else 3
            if self.peek().kind in ("name", "text") and self.peek().value in ("C", "F"):
                return Quantity(base, "degree " + self.take().value)
            return Degrees(base)
        # 30^o: the letter o as a degree sign.
        if isinstance(base, Num) and self.peek().kind == "name" and self.peek().value == "o":
            self.take()
            return Degrees(base)
        if self.at("'") or (self.at("{") and self.peek(1).value == "'"):
            return self.primed(base)
        power = self.script()
        # f^{-1} is the inverse function, x^{-1} is 1/x.
        if isinstance(base, Name) and base.name in ("f", "g", "h") and is_minus_one(power):
            return Indexed(base, Words("inverse"))
        return Power(base, power)

    def primed(self, base: Node) -> Node:
        braced = self.at("{") and bool(self.take())
        while self.at("'"):
            self.take()
            base = Indexed(base, Words("prime"))
        if braced:
            self.expect("}")
        return base

    def script(self, *, raised: bool = True) -> Node:
        """Return what stands after ``^`` or ``_``: a group, or one signed factor."""
        if self.at("{"):
            return self.group()
        if self.at("-", "+"):
            return Neg(self.script()) if self.take().value == "-" else self.script()
        self.enter()
        atom = self.atom()
        self.depth -= 1
        if raised and self.at("^"):
            self.take()
            return self.raised(atom)
        return atom

    def subscript(self, base: Node) -> Node:
        index = self.script(raised=False)
        if isinstance(base, Based):
            raise Unreadable("two bases")
        if not isinstance(base, Num):
            return Indexed(base, index)
        radix = _radix(index)
        if base.value.denominator != 1 or base.value < 0 or radix is None:
            raise Unreadable("a number with a subscript that is no base")
        return based(str(base.value), radix)


def based(digits: str, radix: int) -> Node:
    """Return a numeral in a base.

    Raises:
        Unreadable: the base has no such digit.
    """
    if any(digit not in _DIGITS[:radix] for digit in digits.lower()):
        raise Unreadable(f"{digits} is no numeral in base {radix}")
    return Based(digits.lower(), radix)


def _radix(index: Node) -> int | None:
    """Return the base that a subscript names: ``8``, ``\\text{eight}``."""
    if isinstance(index, Words):
        index = Num(Fraction(NUMBER_WORDS.get(index.text.casefold(), 0)))
    if isinstance(index, Num) and index.value.denominator == 1 and 2 <= index.value <= 36:
        return int(index.value)
    return None
