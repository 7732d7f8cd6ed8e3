"""A grammar for answers, LaTeX and plain text alike: lists, relations and arithmetic.

Nothing is evaluated here, and no text is ever executed.
"""

import re
from fractions import Fraction

from rlvr.verifier.cursor import number
from rlvr.verifier.functions import STARTERS
from rlvr.verifier.lexer import CONDITION, CONNECTIVES, Token, Unknown, Unreadable, tokenize
from rlvr.verifier.scripts import Scripts
from rlvr.verifier.tree import (
    Apply,
    Bracket,
    Degrees,
    Labelled,
    Neg,
    Node,
    Num,
    Operation,
    PlusMinus,
    Product,
    Quantity,
    Quotient,
    Ratio,
    Relation,
    Sequence,
    Sum,
    Where,
    Words,
)

RELATIONS = set(
    "= < > <= >= != ~ in notin subset subseteq supset supseteq equiv perp parallel cong to "
    "rightarrow".split()
)
_CLOSERS = {")", "]", "}", "\\}", "&", "\\", "over", "choose", "rfloor", "rceil"}


class Parser(Scripts):
    """Recursive descent over the tokens of one answer."""

    # Lists and conditions

    def sequence(self) -> tuple[list[Node], str]:
        """Return the items between separators, and their joint: a comma, "and" or "or"."""
        items: list[Node] = []
        joint = ","
        while True:
            while self.peek().kind == "sep":
                # One "or" makes the whole list alternatives.
                value = self.take().value
                joint = value if value == "or" or (value == "and" and joint == ",") else joint
            if self.peek().kind == "end" or (self.at(*_CLOSERS) and not self.starts()):
                break
            # A condition before everything says what the answer is about: it is no item.
            if self.is_condition():
                condition = self.condition()
                if items:
                    items[-1] = Where(items[-1], condition)
                continue
            items.append(self.relation())
            if self.is_condition():
                items[-1] = Where(items[-1], self.condition())
            if self.peek().kind != "sep":
                break
        return items, joint

    def is_condition(self) -> bool:
        token = self.peek()
        if token.kind == "cmd" and token.value in ("forall", "exists"):
            return True
        first = token.value.split()[0].casefold() if token.kind == "text" else ""
        return first.strip(":") in CONDITION

    def condition(self) -> Node:
        """Return the relation after "if", "for" or "where"; its words where it is none."""
        start, said = self.position, self.take().value.casefold()
        while self.peek().kind == "text" and set(said.split()) <= CONNECTIVES:
            said = f"{said} {self.take().value.casefold()}"
        if set(re.findall(r"\w+", said)) <= CONNECTIVES:
            here = self.position
            try:
                relation = self.relation()
                if self.peek().kind in ("sep", "end") or self.at(*_CLOSERS):
                    # "where k is an integer": words about a name, and no quantity.
                    is_words = isinstance(relation, Quantity)
                    return Words(f"{said} {relation.unit}") if is_words else relation
            except Unreadable:
                pass  # no relation: all of it is words
            self.position = here
        self.position, depth, words = start, 0, []
        while self.peek().kind != "end":
            if depth == 0 and (self.at("\\}", "}", "&", "\\") or self.peek().kind == "sep"):
                break
            depth += self.at("(", "[", "{", "\\{") - self.at(")", "]", "}", "\\}")
            words.append(self.take().value)
        return Words(" ".join(words))

    def relation(self) -> Node:
        if self.peek().kind == "label":
            return Labelled(self.take().value, self.relation())
        if self.peek().kind == "text" and self.peek(1) == Token("op", ":", self.peek(1).spaced):
            label = self.take().value
            self.take()
            return Labelled(label, self.relation())
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
        return Relation(tuple(sides), tuple(operators)) if operators else sides[0]

    def union(self) -> Node:
        left = self.ratio()
        while True:
            token = self.peek()
            # Plain text writes unions with the letter U between spaces.
            name = "cup" if token == Token("name", "U", True) else token.value
            if name not in ("cup", "cap", "setminus", "triangle") or token.kind == "text":
                return left
            self.take()
            left = Operation(name, left, self.ratio())

    def ratio(self) -> Node:
        start = self.position
        parts = [self.sum()]
        while self.at(":") and not self.building:
            self.take()
            parts.append(self.sum())
        if len(parts) == 1:
            return parts[0]
        return Ratio(tuple(parts), _is_clock(self.tokens[start : self.position]))

    # Arithmetic

    def sum(self) -> Node:
        self.enter()
        terms = [self.term()]
        while self.at("+", "-", "pm", "mp"):
            sign = self.take().value
            term = self.term()
            if sign == "-":
                term = Neg(term)
            elif sign != "+":
                term = PlusMinus(1 if sign == "pm" else -1, term)
            terms.append(term)
        self.depth -= 1
        return Sum(tuple(terms)) if len(terms) > 1 else terms[0]

    def term(self) -> Node:
        if self.at("-", "+", "pm", "mp"):
            self.enter()
            sign = self.take().value
            inner = self.term()
            self.depth -= 1
            if sign == "-":
                return Neg(inner)
            return inner if sign == "+" else PlusMinus(1 if sign == "pm" else -1, inner)
        factors = [self.power()]
        while self.extended(factors):
            pass
        return product(factors)

    def extended(self, factors: list[Node]) -> bool:
        """Take what multiplies, divides or follows ``factors`` next; return whether there was."""
        if self.at("*"):
            self.take()
            factors.append(self.signed())
        elif self.at("/"):
            self.take()
            factors[:] = [Quotient(product(factors), self.signed())]
        elif self.at("bmod", "mod", "pmod"):
            modulus = self.piece() if self.take().value == "pmod" else self.signed()
            factors[:] = [Apply("mod", (product(factors), modulus))]
        elif self.peek().kind == "text":
            if self.is_condition():
                return False
            factors[:] = [self.unit(product(factors))]
        elif isinstance(factors[-1], Degrees) and self.peek(1).value == "'":
            factors[-1] = self.minutes(factors[-1])
        elif isinstance(factors[-1], Quantity) and self.peek().kind == "num":
            # 3 hours 20 minutes: the smaller unit adds to the larger.
            factors[:] = [Sum((product(factors), self.term()))]
        elif self.starts():
            fraction = self.mixed(factors)
            if fraction is None:
                factors.append(self.power())
            else:
                factors[-1] = self.postfix(fraction)
        else:
            return False
        return True

    def signed(self) -> Node:
        if self.at("-", "+"):
            return Neg(self.signed()) if self.take().value == "-" else self.signed()
        return self.power()

    def unit(self, value: Node) -> Node:
        text = self.take().value
        while self.at("^", "/") or self.peek().kind == "text" and not self.is_condition():
            if self.at("^"):
                self.take()
                power = self.script()
                negative = isinstance(power, Neg)
                power = power.item if isinstance(power, Neg) else power
                text += f"^{'-' * negative}{power.value}" if isinstance(power, Num) else ""
            elif self.at("/"):
                if self.peek(1).kind != "text":
                    break
                self.take()
                text += "/" + self.take().value
            else:
                text += " " + self.take().value
        return Quantity(value, text)

    def minutes(self, degrees: Degrees) -> Node:
        """Return an angle written with minutes, and seconds, of arc."""
        terms = [degrees.item]
        for size, marks in ((60, ("'",)), (3600, ('"', "'"))):
            if self.peek().kind == "num" and self.peek(1).value in marks:
                terms.append(Quotient(number(self.take().value), Num(Fraction(size))))
                while self.at("'", '"'):
                    self.take()
        return Degrees(Sum(tuple(terms)))

    def mixed(self, factors: list[Node]) -> Node | None:
        """Return the mixed number ``2\\frac{5}{8}`` or ``11 5/6`` that stands here, if one does.

        The fraction part must be proper; ``11 7/6`` in plain text is no number at all.
        """
        # Juxtaposition is a product, except for a whole number before a proper fraction.
        whole = _integer(factors[-1])
        if whole is None or self.tokens[self.position - 1].kind != "num":
            return None
        start = self.position
        if self.at("frac"):
            match self.atom():
                case Quotient(Num(top), Num(bottom)) if top.denominator == bottom.denominator == 1:
                    if 0 < top < bottom:
                        return Num(whole + top / bottom)
            # No mixed number: the fraction is read again, as a factor.
            self.position = start
            return None
        top, slash, bottom = self.peek(), self.peek(1), self.peek(2)
        if top.kind == "num" and top.spaced and slash.value == "/" and bottom.kind == "num":
            over, under = _integer(number(top.value)), _integer(number(bottom.value))
            if over is None or under is None or not 0 < over < under:
                raise Unreadable("no proper mixed number")
            self.position += 3
            return Num(whole + over / under)
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


def product(factors: list[Node]) -> Node:
    match factors:
        case [Words(label), Bracket() as point]:  # center (1, 2)
            return Labelled(label, point)
    return Product(tuple(factors)) if len(factors) > 1 else factors[0]


def _integer(node: Node) -> Fraction | None:
    return node.value if isinstance(node, Num) and node.value.denominator == 1 else None


def _is_clock(tokens: list[Token]) -> bool:
    """Return whether tokens can be a time of day, such as ``4:30`` or ``7:30 pm``."""
    if [token.value for token in tokens[1:2]] != [":"] or len(tokens) not in (3, 4):
        return False
    hour, minute = tokens[0].value, tokens[2].value
    fits = hour.isdigit() and minute.isdigit() and len(hour) <= 2 and len(minute) == 2
    marked = len(tokens) == 4 and tokens[3].value.casefold() in ("am", "pm")
    return fits and int(hour) <= 24 and int(minute) < 60 and (marked or len(tokens) == 3)


def parse(text: str, *, grouped: bool = True, units: bool = True) -> Node:
    """Return the tree of a cleaned answer; several items make a ``Sequence``.

    Raises:
        Unreadable: the whole text is not one answer in this grammar.
    """
    parser = Parser(tokenize(text, grouped=grouped, units=units))
    # An answer may begin with its sign: "= 5".
    if parser.at("~", "="):
        parser.take()
    items, joint = parser.sequence()
    while parser.peek().kind == "sep" or parser.at("."):
        parser.take()
    left = parser.peek()
    if left.kind != "end":
        raise (Unknown if left.kind == "cmd" else Unreadable)(f"unexpected {left.value!r}")
    if not items:
        raise Unreadable("nothing to read")
    return items[0] if len(items) == 1 else Sequence(joint, tuple(items))


def has_grouping(text: str) -> bool:
    """Return whether a comma in ``text`` can stand between digits of one number or between two."""
    return re.search(r"(?<![0-9])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])", text) is not None
