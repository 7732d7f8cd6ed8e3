"""The innermost pieces of an answer: numbers, names, functions and commands."""

from fractions import Fraction

from rlvr.verifier.brackets import Brackets
from rlvr.verifier.cursor import number
from rlvr.verifier.lexer import Unknown, Unreadable
from rlvr.verifier.tree import (
    MINUS_ONE,
    Apply,
    Big,
    Const,
    Indexed,
    Name,
    Neg,
    Node,
    Num,
    Power,
    Product,
    Quotient,
    Relation,
    Root,
    Set,
    Words,
    substitute,
)

# Two commands for one decoration share a value.
DECORATIONS = {
    "vec": "vec", "overrightarrow": "vec", "hat": "hat", "widehat": "hat", "bar": "bar",
    "overline": "bar", "tilde": "tilde", "widetilde": "tilde", "dot": "dot", "ddot": "ddot",
    "mathring": "ring", "boxed": "",
}  # fmt: skip
BIG = {"sum", "prod"}
_OWN = set("+-*/^_=<>!,;:.|&%'()[]{}") | {"\\}", "\\", "<=", ">=", "!="}  # signs out of place
STARTERS = (
    DECORATIONS.keys()
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
        if token.kind in ("const", "name", "text"):
            self.take()
            if token.kind == "text":
                return Words(token.value)
            constant = token.kind == "const" or token.value in ("e", "i")
            return Const(token.value) if constant else Name(token.value)
        if token.kind == "fn":
            return self.function()
        if token.kind == "begin":
            return self.environment()
        if token.kind == "cmd":
            return self.command()
        return self.opened()

    def opened(self) -> Node:
        """Return what stands in the bracket that opens here."""
        token = self.peek()
        if self.at("{"):
            return self.braced()
        if self.at("\\{"):
            return self.curly("\\}")
        if self.at("(", "["):
            return self.bracket()
        if self.at("|"):
            return self.absolute()
        if token.kind == "end":
            raise Unreadable("it breaks off")
        raise (Unreadable if token.value in _OWN else Unknown)(f"unexpected {token.value!r}")

    def function(self) -> Node:
        """Return a named function of a bracketed argument, or of the factors that follow it."""
        name = self.take().value
        # "min" after a number is minutes, not a minimum.
        if self.at("}", "=") or (name in ("min", "max") and not self.at("(", "{", "\\{", "_")):
            return Words(name)
        name = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}.get(name, name)
        power, base = None, None
        while self.at("^", "_"):
            if self.take().value == "^":
                power = self.script()
            else:
                base = self.script(raised=False)
        # log^2 without an argument: the superscript is the argument.
        if name == "log" and power is not None and not self.starts():
            arguments, power = (power,), None
        else:
            arguments = self.applied()
        if not arguments:
            raise Unreadable(f"{name} of nothing")
        node = _applied(name, arguments, base)
        if power is None:
            return node
        # sin^{-1} is the inverse, sin^2 x the square of the value.
        if power == Neg(Num(Fraction(1))) and name in ("sin", "cos", "tan"):
            return Apply("arc" + name, arguments)
        return Power(node, power)

    def applied(self) -> tuple[Node, ...]:
        """Return the arguments of a function."""
        if self.at("("):
            return self.arguments()
        if self.at("{"):
            return (self.group(),)
        if self.at("\\{"):
            inner = self.curly("\\}")
            return inner.items if isinstance(inner, Set) else (inner,)
        return (self.bare_argument(),)

    def bare_argument(self) -> Node:
        if self.at("-"):
            self.take()
            return Neg(self.bare_argument())
        # sin 2x is sin(2x): factors belong to the argument until a sign.
        factors: list[Node] = [self.power()]
        while self.peek().kind in ("num", "name", "const") or self.at("frac", "sqrt", "/"):
            if self.at("/"):
                self.take()
                top = factors[0] if len(factors) == 1 else Product(tuple(factors))
                factors = [Quotient(top, self.power())]
            else:
                factors.append(self.power())
        return Product(tuple(factors)) if len(factors) > 1 else factors[0]

    def command(self) -> Node:
        name = self.take().value
        if name == "frac":
            return Quotient(self.piece(), self.piece())
        if name == "binom":
            return Apply("binom", (self.piece(), self.piece()))
        if name == "sqrt":
            return self.root()
        if name == "mathbb":
            return self.number_set()
        if name in ("lfloor", "lceil"):
            items, _ = self.inside()
            self.expect("r" + name[1:])
            return Apply(name[1:], tuple(items))
        if name in BIG:
            return self.big(name)
        if name in ("lim", "int"):
            return self.unevaluated(name)
        if name == "emptyset":
            return Set(())
        if name == "dots":
            return Name("dots")
        if name in DECORATIONS:
            return self.decorated(name)
        raise Unknown(f"the command \\{name}")

    def decorated(self, name: str) -> Node:
        inner = self.piece()
        # \overline{AB} is the segment AB: the bar adds nothing.
        if name in ("overline", "overrightarrow") and isinstance(inner, Product):
            return inner
        mark = DECORATIONS[name]
        return Indexed(inner, Words(mark)) if mark else inner

    def root(self) -> Node:
        degree: Node = Num(Fraction(2))
        if self.at("["):
            self.take()
            items, _ = self.inside()
            self.expect("]")
            if len(items) != 1:
                raise Unreadable("a root without a degree")
            degree = items[0]
        if self.at("("):
            inner = self.arguments()
            if len(inner) != 1:
                raise Unreadable("a root of several items")
            return Root(inner[0], degree)
        return Root(self.piece(whole=True), degree)

    def big(self, name: str) -> Node:
        """Return a sum or product with its bounds."""
        bounds: dict[str, Node] = {}
        while self.at("_", "^"):
            mark = self.take().value
            if self.at("{"):
                self.take()
                bounds[mark] = self.relation()
                self.expect("}")
            else:
                bounds[mark] = self.script(raised=False)
        low, high = bounds.get("_"), bounds.get("^")
        if not isinstance(low, Relation) or low.operators != ("=",) or high is None:
            raise Unreadable(f"a {name} without plain bounds")
        variable, first = low.sides
        body = self.term()
        # The i of a sum over i is no imaginary unit.
        if isinstance(variable, Const):
            body = substitute(body, variable, Name(variable.name))
            variable = Name(variable.name)
        return Big(name, variable, first, high, body)

    def unevaluated(self, name: str) -> Node:
        """Return a limit or an integral, which is compared part by part."""
        bounds: list[Node] = []
        while self.at("_", "^"):
            self.take()
            bounds.append(self.group() if self.at("{") else self.script(raised=False))
        return Apply(name, (*bounds, self.term()))


def _applied(name: str, arguments: tuple[Node, ...], base: Node | None) -> Node:
    if name == "lg" or (base is not None and name == "log"):
        return Apply("log", (arguments[0], base or Num(Fraction(10))))
    if name == "sqrt":
        return Root(arguments[0], Num(Fraction(2)))
    return Apply(name, arguments)


def is_minus_one(node: Node) -> bool:
    return node in (MINUS_ONE, Neg(Num(Fraction(1))))
