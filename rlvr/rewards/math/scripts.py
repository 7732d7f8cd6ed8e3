"""What follows an atom: powers, subscripts, bases, primes, factorials, percent, degrees, calls."""

from fractions import Fraction

from rlvr.rewards.math.cursor import Node
from rlvr.rewards.math.functions import Functions
from rlvr.rewards.math.lexer import Unreadable

_ONE = ("num", Fraction(1))


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
            elif self.at("!") and not self.peek(1).value == "=":
                self.take()
                double = self.at("!") and bool(self.take())
                base = ("fn", "factorial2" if double else "factorial", [base])
            elif self.at("%"):
                self.take()
                base = ("pct", base)
            elif self.at("'"):
                self.take()
                base = ("sub", base, ("text", "prime"))
            elif base[0] in ("sym", "sub") and self.at("(") and self.is_call(base):
                base = ("call", base, self.arguments())
            else:
                return base

    def is_call(self, base: Node) -> bool:
        """Return whether ``x(...)`` is a function of its argument, and not a product.

        f, g and h are functions; another name is one where its argument is a single number, name
        or list of them, as in ``I(0)``.
        """
        name = base
        while name[0] == "sub":
            name = name[1]
        if name[0] == "sym" and name[1] in ("f", "g", "h", "F", "G", "phi", "varphi", "psi"):
            return True
        close = self.position + 1
        while close < len(self.tokens) and self.tokens[close].kind in (
            "num",
            "name",
            "const",
            "sep",
        ):
            close += 1
        inside = self.tokens[self.position + 1 : close]
        closed = close < len(self.tokens) and self.tokens[close].value == ")"
        single = len(inside) == 1 or any(token.kind == "sep" for token in inside)
        return closed and single and name[0] == "sym"

    def raised(self, base: Node) -> Node:
        if self.at("circ") or (
            self.at("{") and self.peek(1).value == "circ" and self.peek(2).value == "}"
        ):
            self.position += 1 if self.at("circ") else 3
            if self.peek().kind in ("name", "text") and self.peek().value in ("C", "F"):
                return ("unit", base, "degree " + self.take().value)
            return ("deg", base)
        # 30^o: the letter o as a degree sign.
        if base[0] == "num" and self.peek().kind == "name" and self.peek().value == "o":
            self.take()
            return ("deg", base)
        if self.at("'") or (self.at("{") and self.peek(1).value == "'"):
            braced = self.at("{") and bool(self.take())
            while self.at("'"):
                self.take()
                base = ("sub", base, ("text", "prime"))
            if braced:
                self.expect("}")
            return base
        power = self.script()
        # f^{-1} is the inverse function, x^{-1} is 1/x.
        if base[0] == "sym" and base[1] in ("f", "g", "h") and power == ("neg", _ONE):
            return ("sub", base, ("text", "inverse"))
        return ("pow", base, power)

    def script(self, *, raised: bool = True) -> Node:
        """Return what stands after ``^`` or ``_``: a group, or one signed factor."""
        if self.at("{"):
            return self.group()
        if self.at("-", "+"):
            return ("neg", self.script()) if self.take().value == "-" else self.script()
        self.enter()
        atom = self.atom()
        self.depth -= 1
        if raised and self.at("^"):
            self.take()
            return self.raised(atom)
        return atom

    def subscript(self, base: Node) -> Node:
        index = self.script(raised=False)
        if base[0] == "num":
            digits = str(base[1])
            if (
                digits.isdigit()
                and index[0] == "num"
                and index[1].denominator == 1
                and 2 <= index[1] <= 36
            ):
                # 1011_2: a numeral in base 2, kept apart from the number it stands for.
                return ("based", digits, int(index[1]))
            raise Unreadable("a number with a subscript that is no base")
        if base[0] == "based":
            raise Unreadable("two bases")
        return ("sub", base, index)
