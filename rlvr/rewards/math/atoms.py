"""The innermost pieces of an answer: numbers, names, groups, functions, sets, matrices."""

from abc import ABC, abstractmethod
from fractions import Fraction
from typing import Any

from rlvr.rewards.math.lexer import Token, Unreadable

Node = tuple[Any, ...]
MAX_DEPTH = 60
END = Token("end", "")
OPEN = {"(", "["}
CLOSE = {")", "]"}
ENVIRONMENTS = set(
    "matrix pmatrix bmatrix vmatrix Bmatrix smallmatrix array cases aligned align gathered".split()
)
DECORATIONS = set(
    "vec hat bar overline tilde dot ddot widehat overrightarrow mathring widetilde boxed".split()
)
BIG = {"sum", "prod"}
STARTERS = (
    DECORATIONS | {"frac", "sqrt", "binom", "mathbb", "lfloor", "lceil", "emptyset", "dots"} | BIG
)


def number(text: str) -> Node:
    """Return the node of a numeral, exactly; a large exponent stays a power of ten."""
    mantissa, _, exponent = text.lower().partition("e")
    value = Fraction(mantissa.rstrip(".") or "0")
    if not exponent:
        return ("num", value)
    if abs(int(exponent)) <= 400:
        return ("num", value * Fraction(10) ** int(exponent))
    return ("mul", [("num", value), ("pow", ("num", Fraction(10)), ("num", Fraction(exponent)))])


class Atoms(ABC):
    """The tokens of one answer, the place of the reader among them, and the atoms of the grammar.

    ``bars`` counts open absolute values, whose closing bar ends an expression; ``building`` is
    true inside ``{x | ...}``, where a bar separates.
    """

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens, self.position, self.depth = tokens, 0, 0
        self.bars, self.building = 0, False

    def peek(self, ahead: int = 0) -> Token:
        index = self.position + ahead
        return self.tokens[index] if index < len(self.tokens) else END

    def take(self) -> Token:
        token = self.peek()
        self.position += 1
        return token

    def at(self, *values: str) -> bool:
        token = self.peek()
        return token.kind in ("op", "cmd", "sep", "begin", "end") and token.value in values

    def expect(self, value: str) -> None:
        if not self.at(value):
            raise Unreadable(f"expected {value!r}, found {self.peek().value!r}")
        self.take()

    def enter(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")

    @abstractmethod
    def sequence(self) -> tuple[list[Node], str]: ...

    @abstractmethod
    def sum(self) -> Node: ...

    @abstractmethod
    def term(self) -> Node: ...

    @abstractmethod
    def power(self) -> Node: ...

    @abstractmethod
    def postfix(self, base: Node) -> Node: ...

    @abstractmethod
    def script(self) -> Node: ...

    @abstractmethod
    def relation(self) -> Node: ...

    @abstractmethod
    def starts(self) -> bool: ...

    def inside(self, bars: int = 0, building: bool = False) -> tuple[list[Node], str]:
        """Return the items of a bracket's inside, where the bars of outside do not count."""
        saved = self.bars, self.building
        self.bars, self.building = bars, building
        items = self.sequence()
        self.bars, self.building = saved
        return items

    def atom(self) -> Node:
        token = self.peek()
        if token.kind == "num":
            self.take()
            repeats = "." in token.value and self.at("overline", "dot")
            return self.repeating(token.value) if repeats else number(token.value)
        if token.kind == "const":
            self.take()
            return ("const", token.value)
        if token.kind == "name":
            self.take()
            return ("const", token.value) if token.value in ("e", "i") else ("sym", token.value)
        if token.kind == "fn":
            return self.function()
        if token.kind == "text":
            self.take()
            return ("text", token.value)
        if token.kind == "begin":
            return self.environment()
        if token.kind == "cmd":
            return self.command()
        if self.at("{"):
            return self.braced()
        if self.at("\\{"):
            return self.curly("\\}")
        if self.at("(", "["):
            return self.bracket()
        if self.at("]"):  # French open interval ]a, b[
            return self.bracket()
        if self.at("|"):
            return self.absolute()
        raise Unreadable(f"unexpected {token.value!r}" if token.kind != "end" else "it breaks off")

    def repeating(self, digits: str) -> Node:
        """Return ``0.1\\overline{6}`` exactly, as 0.1 + 6/90."""
        self.take()
        period = self.take()
        if period.value == "{":
            period = self.take()
            self.expect("}")
        if period.kind != "num" or not period.value.isdigit():
            raise Unreadable("a period that is no digits")
        places = len(digits.partition(".")[2])
        nines = 10 ** len(period.value) - 1
        tail = Fraction(int(period.value), nines * 10**places)
        return ("num", number(digits)[1] + tail)

    def bracket(self) -> Node:
        opening = self.take().value
        items, joint = self.inside()
        if not self.at(")", "]", "["):
            raise Unreadable("an unclosed bracket")
        closing = self.take().value
        if opening == "]" or closing == "[":
            if not (opening in "](" and closing in "[)") or len(items) != 2:
                raise Unreadable("unpaired brackets")
            opening, closing = "(", ")"
        if len(items) == 1 and (opening, closing) in (("(", ")"), ("[", "]")):
            return ("paren", items[0]) if items[0][0] in ("rel", "text") else items[0]
        if not items or (len(items) == 1 and items[0][0] != "seq"):
            raise Unreadable("unpaired or empty brackets")
        if joint == "or":
            raise Unreadable("alternatives in brackets")
        return ("br", opening, closing, items)

    def braced(self) -> Node:
        """Return a group in invisible braces, or a plain-text ``{x | x < 3}``."""
        if self.builds():
            return self.curly("}")
        node = self.group()
        return node

    def builds(self) -> bool:
        """Return whether a plain brace opens a set-builder: a bar or colon after one name."""
        return self.peek(1).kind == "name" and self.peek(2).value in ("|", ":")

    def curly(self, closing: str) -> Node:
        """Return ``{1, 2}`` or ``{x | x < 3}``."""
        self.take()
        items, _ = self.inside(building=True)
        if self.at("|", ":"):
            self.take()
            conditions, joint = self.inside()
            self.expect(closing)
            if len(items) != 1:
                raise Unreadable("a set of several elements with a condition")
            joined = conditions[0] if len(conditions) == 1 else ("seq", joint, conditions)
            return ("build", items[0], joined)
        self.expect(closing)
        return ("set", items)

    def absolute(self) -> Node:
        self.take()
        saved = self.bars, self.building
        self.bars, self.building = 1, False
        inner = self.sum()
        self.bars, self.building = saved
        self.expect("|")
        return ("fn", "abs", [inner])

    def function(self) -> Node:
        """Return a named function of a bracketed argument, or of the factors that follow it."""
        name = self.take().value
        if self.at("}") or (name in ("min", "max") and not self.at("(", "{")):
            return ("text", name)
        name = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}.get(name, name)
        power, base = None, None
        while self.at("^", "_"):
            if self.take().value == "^":
                power = self.script()
            else:
                base = self.script()
        if self.at("(") and self.peek().kind == "op":
            arguments = self.arguments()
        elif self.at("{"):
            arguments = [self.group()]
        else:
            arguments = [self.bare_argument()]
        if not arguments:
            raise Unreadable(f"{name} of nothing")
        if name == "lg" or (base is not None and name == "log"):
            node = ("fn", "log", [arguments[0], base or ("num", Fraction(10))])
        elif name == "sqrt":
            node = ("pow", arguments[0], ("num", Fraction(1, 2)))
        else:
            node = ("fn", "log" if name == "ln" else name, arguments)
        if power is None:
            return node
        if power == ("neg", ("num", Fraction(1))) and name in ("sin", "cos", "tan"):
            return ("fn", "arc" + name, arguments)
        return ("pow", node, power)

    def bare_argument(self) -> Node:
        if self.at("-"):
            self.take()
            return ("neg", self.bare_argument())
        factors = [self.power()]
        while self.peek().kind in ("num", "name", "const") or self.at("frac", "sqrt", "/"):
            if self.at("/"):
                self.take()
                factors = [("div", ("mul", factors), self.power())]
            else:
                factors.append(self.power())
        return ("mul", factors) if len(factors) > 1 else factors[0]

    def command(self) -> Node:
        name = self.take().value
        if name == "frac":
            return ("div", self.piece(), self.piece())
        if name == "binom":
            return ("fn", "binom", [self.piece(), self.piece()])
        if name == "sqrt":
            return self.root()
        if name == "mathbb":
            return self.number_set()
        if name in ("lfloor", "lceil"):
            items, _ = self.inside()
            self.expect("r" + name[1:])
            return ("fn", name[1:], items)
        if name in BIG:
            return self.big(name)
        if name == "emptyset":
            return ("set", [])
        if name == "dots":
            return ("sym", "dots")
        if name in DECORATIONS:
            inner = self.piece()
            if name in ("overline", "overrightarrow") and inner[0] == "mul":
                return inner
            return inner if name == "boxed" else ("sub", inner, ("text", name))
        raise Unreadable(f"the command \\{name}")

    def number_set(self) -> Node:
        item = self.piece()
        name = ("const", item[1]) if item[0] in ("sym", "const") else item
        base: Node = ("numbers", name[1])
        while self.at("_", "^"):
            self.take()
            if self.at("{"):
                depth, text = 0, ""
                while self.peek().kind != "end":
                    depth += self.at("{") - self.at("}")
                    text += self.take().value
                    if depth == 0:
                        break
            else:
                text = self.take().value
            base = ("numbers", f"{base[1]}{text.strip('{}')}")
        return base

    def root(self) -> Node:
        degree: Node = ("num", Fraction(2))
        if self.at("["):
            self.take()
            items, _ = self.inside()
            self.expect("]")
            degree = items[0]
        inner = self.arguments()[0] if self.at("(") else self.piece(whole=True)
        return ("pow", inner, ("div", ("num", Fraction(1)), degree))

    def piece(self, *, whole: bool = False) -> Node:
        """Return the argument of a command: a group, or one digit unless ``whole``, or one atom."""
        token = self.peek()
        if self.at("{"):
            return self.group()
        if token.kind == "num" and not whole and len(token.value) > 1 and token.value.isdigit():
            self.tokens[self.position] = Token("num", token.value[1:])
            return number(token.value[0])
        self.enter()
        atom = self.atom()
        self.depth -= 1
        return atom

    def big(self, name: str) -> Node:
        """Return a sum or product with its bounds: (name, variable, low, high, body)."""
        bounds: dict[str, Node] = {}
        while self.at("_", "^"):
            mark = self.take().value
            if self.at("{"):
                self.take()
                bounds[mark] = self.relation()
                self.expect("}")
            else:
                bounds[mark] = self.script()
        low = bounds.get("_")
        if low is None or low[0] != "rel" or low[2] != ["="] or "^" not in bounds:
            raise Unreadable(f"a {name} without plain bounds")
        return ("big", name, low[1][0], low[1][1], bounds["^"], self.term())

    def environment(self) -> Node:
        name = self.take().value
        if name not in ENVIRONMENTS:
            raise Unreadable(f"the environment {name}")
        if name == "array" and self.at("{"):
            while not self.at("}"):
                if self.take().kind == "end":
                    raise Unreadable("an unclosed environment")
            self.take()
        rows: list[list[Node]] = [[]]
        while self.peek().kind != "end" or self.peek().value != name:
            if self.peek() is END:
                raise Unreadable("an unclosed environment")
            if self.at("&"):
                self.take()
            elif self.at("\\"):
                self.take()
                rows.append([])
            else:
                items, _ = self.inside()
                if not items and not self.at("&", "\\") and self.peek().value != name:
                    raise Unreadable(f"unexpected {self.peek().value!r}")
                if items:
                    rows[-1].append(items[0] if len(items) == 1 else ("seq", ",", items))
        self.take()
        rows = [row for row in rows if row]
        if name in ("cases", "aligned") and all(r[0][0] == "rel" and len(r) == 1 for r in rows):
            return ("seq", ",", [row[0] for row in rows])
        return ("matrix", rows)

    def arguments(self) -> list[Node]:
        self.expect("(")
        items, _ = self.inside()
        self.expect(")")
        return items

    def group(self) -> Node:
        self.expect("{")
        items, joint = self.inside()
        self.expect("}")
        if not items:
            return ("text", "")
        return items[0] if len(items) == 1 else ("seq", joint, items)
