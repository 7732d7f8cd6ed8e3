"""The tokens of one answer and the place of the reader among them."""

from abc import ABC, abstractmethod
from fractions import Fraction

from rlvr.verifier.lexer import Token, Unreadable
from rlvr.verifier.tree import Apply, Node, Nodes, Num, Power, Product, Quotient, Sequence, Words

MAX_DEPTH = 600  # open pieces of grammar; about 200 nested parentheses
END = Token("end", "")


def number(text: str) -> Node:
    """Return the node of a numeral, exactly; a large exponent stays a power of ten."""
    mantissa, _, exponent = text.lower().partition("e")
    value = Fraction(mantissa.rstrip(".") or "0")
    if not exponent:
        return Num(value)
    # 1e999999999 as a Fraction would fill the memory.
    if abs(int(exponent)) <= 400:
        return Num(value * Fraction(10) ** int(exponent))
    return Product((Num(value), Power(Num(Fraction(10)), Num(Fraction(exponent)))))


class Cursor(ABC):
    """The place among the tokens, and what every part of the grammar needs of the others.

    ``bars`` counts open absolute values; their closing bar ends an expression. ``building`` is
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
    def script(self, *, raised: bool = True) -> Node: ...

    @abstractmethod
    def relation(self) -> Node: ...

    @abstractmethod
    def condition(self) -> Node: ...

    @abstractmethod
    def starts(self) -> bool: ...

    @abstractmethod
    def atom(self) -> Node: ...

    def inside(self, bars: int = 0, building: bool = False) -> tuple[list[Node], str]:
        """Return the items of a bracket's inside, where the bars of outside do not count."""
        saved = self.bars, self.building
        self.bars, self.building = bars, building
        items = self.sequence()
        self.bars, self.building = saved
        return items

    def arguments(self) -> Nodes:
        self.expect("(")
        items, _ = self.inside()
        self.expect(")")
        return tuple(items)

    def group(self) -> Node:
        """Return what invisible braces hold; ``{a \\over b}`` is a fraction."""
        self.expect("{")
        items, joint = self.inside()
        if self.at("over", "choose") and len(items) == 1:
            name = self.take().value
            bottom, _ = self.inside()
            if len(bottom) != 1:
                raise Unreadable("a fraction of several items")
            pair = items[0], bottom[0]
            items = [Quotient(*pair) if name == "over" else Apply("binom", pair)]
        self.expect("}")
        if not items:
            return Words("")
        return items[0] if len(items) == 1 else Sequence(joint, tuple(items))

    def piece(self, *, whole: bool = False) -> Node:
        """Return the argument of a command: a group, or one digit unless ``whole``, or one atom."""
        token = self.peek()
        if self.at("{"):
            return self.group()
        if token.kind == "num" and not whole and len(token.value) > 1 and token.value.isdigit():
            # \frac12 is 1/2: one digit is the argument, the rest stays for the next one.
            self.tokens[self.position] = Token("num", token.value[1:])
            return number(token.value[0])
        self.enter()
        atom = self.atom()
        self.depth -= 1
        return atom
