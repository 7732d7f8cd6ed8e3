"""A grammar for answers, LaTeX and plain text alike: lists, relations and arithmetic.

Nothing is evaluated here, and no text is ever executed.
"""

import re
from fractions import Fraction

from rlvr.rewards.math.cursor import Node, number
from rlvr.rewards.math.functions import STARTERS
from rlvr.rewards.math.lexer import CONDITION, Token, Unreadable, tokenize
from rlvr.rewards.math.scripts import Scripts

RELATIONS = set(
    "= < > <= >= != ~ in notin subset subseteq supset supseteq equiv perp parallel cong to "
    "rightarrow".split()
)
_CLOSERS = {")", "]", "}", "\\}", "&", "\\", "over", "choose", "rfloor", "rceil"}


class Parser(Scripts):
    """Recursive descent over the tokens of one answer."""

    def sequence(self) -> tuple[list[Node], str]:
        """Return the items between separators, and whether they are joined by commas or 'or'."""
        items, joint = [], ","
        while True:
            while self.peek().kind == "sep":
                # One "or" makes the whole list alternatives.
                joint = "or" if self.take().value == "or" else joint
            if self.peek().kind == "end" or (self.at(*_CLOSERS) and not self.starts()):
                break
            if self.skipped_condition():
                continue
            items.append(self.relation())
            if self.peek().kind != "sep" and not self.is_condition():
                break
        return items, joint

    def is_condition(self) -> bool:
        token = self.peek()
        if token.kind == "cmd" and token.value in ("forall", "exists"):
            return True
        first = token.value.split()[0].casefold() if token.kind == "text" else ""
        return first.strip(":") in CONDITION

    def skipped_condition(self) -> bool:
        """Skip "for all x > 0" or "where k is an integer" up to the next separator."""
        if not self.is_condition():
            return False
        depth = 0
        while self.peek().kind != "end":
            if depth == 0 and (self.at("\\}", "}") or self.peek().kind == "sep"):
                break
            depth += self.at("(", "[", "{", "\\{") - self.at(")", "]", "}", "\\}")
            self.take()
        return True

    def relation(self) -> Node:
        sides, operators = [self.union()], []
        while True:
            negated = self.at("not") and bool(self.take())
            token = self.peek()
            if token.kind not in ("op", "cmd") or token.value not in RELATIONS:
                break
            self.take()
            name = {"=": "!=", "in": "notin"}.get(token.value, token.value)
            operators.append(name if negated else token.value)
            sides.append(self.union())
        return ("rel", sides, operators) if operators else sides[0]

    def union(self) -> Node:
        left = self.ratio()
        while True:
            token = self.peek()
            # Plain text writes unions with the letter U between spaces.
            name = "cup" if token == Token("name", "U", True) else token.value
            if name not in ("cup", "cap", "setminus", "triangle") or token.kind == "text":
                return left
            self.take()
            left = ("op", name, left, self.ratio())

    def ratio(self) -> Node:
        parts = [self.sum()]
        while self.at(":") and not self.building:
            self.take()
            parts.append(self.sum())
        return ("ratio", parts) if len(parts) > 1 else parts[0]

    # Arithmetic

    def sum(self) -> Node:
        self.enter()
        terms = [self.term()]
        while self.at("+", "-", "pm", "mp"):
            sign = self.take().value
            term = self.term()
            if sign == "-":
                term = ("neg", term)
            elif sign != "+":
                term = ("pm", 1 if sign == "pm" else -1, term)
            terms.append(term)
        self.depth -= 1
        return ("add", terms) if len(terms) > 1 else terms[0]

    def term(self) -> Node:
        if self.at("-", "+", "pm", "mp"):
            self.enter()
            sign = self.take().value
            inner = self.term()
            self.depth -= 1
            if sign == "-":
                return ("neg", inner)
            return inner if sign == "+" else ("pm", 1 if sign == "pm" else -1, inner)
        factors = [self.power()]
        while True:
            if self.at("*"):
                self.take()
                factors.append(self.signed())
            elif self.at("/"):
                self.take()
                factors = [("div", self.product(factors), self.signed())]
            elif self.at("bmod", "mod", "pmod"):
                modulus = self.piece() if self.take().value == "pmod" else self.signed()
                factors = [("fn", "mod", [self.product(factors), modulus])]
            elif self.peek().kind == "text":
                if self.is_condition():
                    break
                factors = [self.unit(self.product(factors))]
            elif factors[-1][0] == "deg" and self.peek(1).value == "'":
                factors[-1] = self.minutes(factors[-1])
            elif self.starts():
                fraction = self.mixed(factors)
                if fraction is not None:
                    factors[-1] = self.postfix(fraction)
                    continue
                factors.append(self.power())
            else:
                break
        return self.product(factors)

    def signed(self) -> Node:
        if self.at("-", "+"):
            return ("neg", self.signed()) if self.take().value == "-" else self.signed()
        return self.power()

    @staticmethod
    def product(factors: list[Node]) -> Node:
        return ("mul", factors) if len(factors) > 1 else factors[0]

    def unit(self, value: Node) -> Node:
        text = self.take().value
        while self.at("^", "/") or self.peek().kind == "text" and not self.is_condition():
            if self.at("^"):
                self.take()
                power = self.script()
                text += f"^{power[1]}" if power[0] == "num" else ""
            elif self.at("/"):
                if self.peek(1).kind != "text":
                    break
                self.take()
                text += "/" + self.take().value
            else:
                text += " " + self.take().value
        return ("unit", value, text)

    def minutes(self, degrees: Node) -> Node:
        """Return an angle written with minutes, and seconds, of arc."""
        parts = [degrees[1]]
        for size, marks in ((60, ("'",)), (3600, ('"', "'"))):
            if self.peek().kind == "num" and self.peek(1).value in marks:
                seconds = ("num", Fraction(size))
                parts.append(("div", number(self.take().value), seconds))
                while self.at("'", '"'):
                    self.take()
        return ("deg", ("add", parts))

    def mixed(self, factors: list[Node]) -> Node | None:
        """Return the mixed number ``2\\frac{5}{8}`` or ``11 5/6`` that stands here, if one does.

        The fraction part must be proper; ``11 7/6`` in plain text is no number at all.
        """
        # Juxtaposition is a product, except for a whole number before a proper fraction.
        whole = factors[-1]
        if (
            whole[0] != "num"
            or whole[1].denominator != 1
            or self.tokens[self.position - 1].kind != "num"
        ):
            return None
        start = self.position
        if self.at("frac"):
            fraction = self.atom()
            if fraction[0] == "div" and all(
                p[0] == "num" and p[1].denominator == 1 for p in fraction[1:]
            ):
                if 0 < fraction[1][1] < fraction[2][1]:
                    return ("num", whole[1] + fraction[1][1] / fraction[2][1])
            # No mixed number: the fraction is read again, as a factor.
            self.position = start
            return None
        top, slash, bottom = self.peek(), self.peek(1), self.peek(2)
        if top.kind == "num" and top.spaced and slash.value == "/" and bottom.kind == "num":
            over, under = number(top.value), number(bottom.value)
            proper = over[0] == under[0] == "num" and 0 < over[1] < under[1]
            if not proper or over[1].denominator != 1 or under[1].denominator != 1:
                raise Unreadable("no proper mixed number")
            self.position += 3
            return ("num", whole[1] + over[1] / under[1])
        if top.kind == "num":
            raise Unreadable("two numbers side by side")
        return None

    def starts(self) -> bool:
        """Return whether a factor starts at the next token."""
        token = self.peek()
        if token.kind in ("num", "fn", "const", "begin"):
            return True
        if token.kind == "name":
            return not (token.value == "U" and token.spaced)
        if token.kind == "cmd":
            return token.value in STARTERS
        if token.kind != "op":
            return False
        if token.value == "|":
            return not self.bars and not self.building
        return token.value in ("(", "[", "{", "\\{")


def parse(text: str, *, grouped: bool = True) -> Node:
    """Return the tree of a cleaned answer; several items make a ``seq``.

    Raises:
        Unreadable: the whole text is not one answer in this grammar.
    """
    parser = Parser(tokenize(text, grouped=grouped))
    # An answer may begin with its sign: "= 5".
    if parser.at("~", "="):
        parser.take()
    items, joint = parser.sequence()
    while parser.peek().kind == "sep" or parser.at("."):
        parser.take()
    if parser.peek().kind != "end":
        raise Unreadable(f"unexpected {parser.peek().value!r}")
    if not items:
        raise Unreadable("nothing to read")
    if len(items) == 1:
        return items[0]
    return ("seq", joint, items)


def has_grouping(text: str) -> bool:
    """Return whether a comma in ``text`` can stand between digits of one number or between two."""
    return re.search(r"(?<![0-9])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])", text) is not None
