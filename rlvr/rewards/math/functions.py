"""The innermost pieces of an answer: numbers, names, functions and commands."""

from fractions import Fraction

from rlvr.rewards.math.brackets import Brackets
from rlvr.rewards.math.cursor import Node, number
from rlvr.rewards.math.lexer import Unreadable

DECORATIONS = set(
    "vec hat bar overline tilde dot ddot widehat overrightarrow mathring widetilde boxed".split()
)
BIG = {"sum", "prod"}
STARTERS = (
    DECORATIONS
    | {"frac", "sqrt", "binom", "mathbb", "lim", "int", "lfloor", "lceil", "emptyset", "dots"}
    | BIG
)


class Functions(Brackets):
    """The part of the grammar that reads one atom."""

    def atom(self) -> Node:
        token = self.peek()
        if token.kind == "num":
            self.take()
            # 0.1\overline{6}; 12\overline{AB} is a product.
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

    def function(self) -> Node:
        """Return a named function of a bracketed argument, or of the factors that follow it."""
        name = self.take().value
        # "min" after a number is minutes, not a minimum.
        if self.at("}") or (name in ("min", "max") and not self.at("(", "{")):
            return ("text", name)
        name = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}.get(name, name)
        power, base = None, None
        while self.at("^", "_"):
            if self.take().value == "^":
                power = self.script()
            else:
                base = self.script(raised=False)
        # log^2 without an argument: the superscript is the argument.
        if name == "log" and power is not None and not self.starts():
            arguments, power = [power], None
        elif self.at("("):
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
        # sin^{-1} is the inverse, sin^2 x the square of the value.
        if power == ("neg", ("num", Fraction(1))) and name in ("sin", "cos", "tan"):
            return ("fn", "arc" + name, arguments)
        return ("pow", node, power)

    def bare_argument(self) -> Node:
        if self.at("-"):
            self.take()
            return ("neg", self.bare_argument())
        # sin 2x is sin(2x): factors belong to the argument until a sign.
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
        if name in ("lim", "int"):
            return self.unevaluated(name)
        if name == "emptyset":
            return ("set", [])
        if name == "dots":
            return ("sym", "dots")
        if name in DECORATIONS:
            inner = self.piece()
            # \overline{AB} is the segment AB: the bar adds nothing.
            if name in ("overline", "overrightarrow") and inner[0] == "mul":
                return inner
            return inner if name == "boxed" else ("sub", inner, ("text", name))
        raise Unreadable(f"the command \\{name}")

    def root(self) -> Node:
        degree: Node = ("num", Fraction(2))
        if self.at("["):
            self.take()
            items, _ = self.inside()
            self.expect("]")
            degree = items[0]
        inner = self.arguments()[0] if self.at("(") else self.piece(whole=True)
        return ("pow", inner, ("div", ("num", Fraction(1)), degree))

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
                bounds[mark] = self.script(raised=False)
        low = bounds.get("_")
        if low is None or low[0] != "rel" or low[2] != ["="] or "^" not in bounds:
            raise Unreadable(f"a {name} without plain bounds")
        return ("big", name, low[1][0], low[1][1], bounds["^"], self.term())

    def unevaluated(self, name: str) -> Node:
        """Return a limit or an integral, which is compared part by part."""
        bounds: list[Node] = []
        while self.at("_", "^"):
            self.take()
            bounds.append(self.group() if self.at("{") else self.script(raised=False))
        return ("fn", name, [*bounds, self.term()])
