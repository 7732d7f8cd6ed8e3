"""A grammar for answers, LaTeX and plain text alike, into trees of plain tuples.

Nodes: ``("num", Fraction)``, ``("sci", Fraction, exponent)``, ``("sym", name)``,
``("const", "pi" | "e" | "i" | "inf")``, ``("add", [..])``, ``("mul", [..])``, ``("div", a, b)``,
``("pow", a, b)``, ``("neg", a)``, ``("pm", sign, a)``, ``("fn", name, [args])``,
``("call", name, [args])``, ``("sub", base, index)``, ``("pct", a)``, ``("deg", a)``,
``("unit", a, text)``, ``("text", words)``, ``("based", digits, base)``, ``("ratio", [..])``,
``("big", "sum" | "prod", variable, low, high, body)``, ``("br", "(" | "[", ")" | "]", [..])``,
``("set", [..])``, ``("build", element, [conditions])``, ``("op", "cup" | ..., a, b)``,
``("rel", [sides], [operators])``, ``("matrix", [[..]])`` and ``("seq", "," | "or", [..])``.
Nothing is evaluated here, and no text is ever executed.
"""

import re

from rlvr.rewards.math.atoms import STARTERS, Atoms, Node, number
from rlvr.rewards.math.lexer import CONDITION, Token, Unreadable, tokenize

RELATIONS = {"=", "<", ">", "<=", ">=", "!=", "~", "in", "notin", "subset", "subseteq", "equiv"}
_CLOSERS = {")", "]", "}", "\\}", "&", "\\\\", "rfloor", "rceil"}


class Parser(Atoms):
    """Recursive descent over the tokens of one answer."""

    # Lists and relations

    def sequence(self) -> tuple[list[Node], str]:
        """Return the items between separators, and whether they are joined by commas or 'or'."""
        items, joint = [], ","
        while True:
            while self.peek().kind == "sep":
                joint = "or" if self.take().value == "or" else joint
            if self.peek().kind == "end" or (self.at(*_CLOSERS) and not self.starts()):
                break
            condition = self.condition()
            if condition is None:
                items.append(self.relation())
            elif not items or self.peek().kind != "end":
                continue
            if self.peek().kind != "sep" and not self.is_condition():
                break
        return items, joint

    def is_condition(self) -> bool:
        token = self.peek()
        if token.kind == "cmd" and token.value in ("forall", "exists"):
            return True
        first = token.value.split()[0].casefold() if token.kind == "text" else ""
        return first.strip(":") in CONDITION

    def condition(self) -> str | None:
        """Skip "for all x > 0" or "where k is an integer" up to the next separator."""
        if not self.is_condition():
            return None
        depth = 0
        while self.peek().kind != "end":
            if depth == 0 and (self.at("\\}", "}") or (self.peek().kind == "sep")):
                break
            depth += self.at("(", "[", "{", "\\{") - self.at(")", "]", "}", "\\}")
            self.take()
        return "condition"

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
        return self.mixed_sum(terms)

    def mixed_sum(self, terms: list[Node]) -> Node:
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

    def mixed(self, factors: list[Node]) -> Node | None:
        """Return the mixed number ``2\\frac{5}{8}`` or ``11 5/6`` that stands here, if one does.

        The fraction part must be proper; ``11 7/6`` in plain text is no number at all.
        """
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
        if self.at("'") or (self.at("{") and self.peek(1).value == "'"):
            braced = self.at("{") and bool(self.take())
            while self.at("'"):
                self.take()
                base = ("sub", base, ("text", "prime"))
            if braced:
                self.expect("}")
            return base
        return ("pow", base, self.script())

    def script(self) -> Node:
        """Return what stands after ``^`` or ``_``: a group, or one signed factor."""
        if self.at("{"):
            return self.group()
        if self.at("-", "+"):
            return ("neg", self.script()) if self.take().value == "-" else self.script()
        self.enter()
        atom = self.atom()
        self.depth -= 1
        if self.at("^"):
            self.take()
            return self.raised(atom)
        return atom

    def subscript(self, base: Node) -> Node:
        index = self.script()
        if base[0] == "num" and self.tokens[self.position - 1].value:
            digits = "".join(ch for ch in self.digits(base))
            if index[0] == "num" and index[1].denominator == 1 and 2 <= index[1] <= 36:
                return ("based", digits, int(index[1]))
            raise Unreadable("a number with a subscript that is no base")
        if base[0] == "based":
            raise Unreadable("two bases")
        return ("sub", base, index)

    def digits(self, base: Node) -> str:
        return str(base[1]) if base[1].denominator == 1 else str(float(base[1]))


def parse(text: str, *, grouped: bool = True) -> Node:
    """Return the tree of a cleaned answer; several items make a ``seq``.

    Raises:
        Unreadable: the whole text is not one answer in this grammar.
    """
    parser = Parser(tokenize(text, grouped=grouped))
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
