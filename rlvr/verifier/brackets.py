"""Everything in brackets: groups, tuples, intervals, sets, absolute values, matrices."""

from fractions import Fraction

from rlvr.verifier.cursor import END, Cursor, number
from rlvr.verifier.lexer import Unknown, Unreadable
from rlvr.verifier.tree import (
    Apply,
    Bracket,
    Builder,
    Cases,
    Const,
    Group,
    Matrix,
    Name,
    Node,
    Num,
    Numbers,
    Relation,
    Sequence,
    Set,
    Where,
    Words,
)

ENVIRONMENTS = set(
    "matrix pmatrix bmatrix vmatrix Bmatrix smallmatrix array cases aligned align gathered".split()
)


class Brackets(Cursor):
    """The part of the grammar that reads what stands in brackets."""

    def bracket(self) -> Node:
        opening = self.take().value
        items, joint = self.inside()
        if not self.at(")", "]", "["):
            raise Unreadable("an unclosed bracket")
        closing = self.take().value
        if closing == "[":
            raise Unreadable("unpaired brackets")
        if len(items) == 1 and (opening, closing) in (("(", ")"), ("[", "]")):
            # Parentheses around one number say nothing; around a relation they group it.
            return Group(items[0]) if isinstance(items[0], Relation | Words) else items[0]
        if not items or (len(items) == 1 and not isinstance(items[0], Sequence)):
            raise Unreadable("unpaired or empty brackets")
        if joint == "or":
            raise Unreadable("alternatives in brackets")
        return Bracket(opening, closing, tuple(items))

    def braced(self) -> Node:
        """Return a group in invisible braces, or a plain-text ``{x | x < 3}``."""
        return self.curly("}") if self.builds() else self.group()

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
            one = len(conditions) == 1
            return Builder(items[0], conditions[0] if one else Sequence(joint, tuple(conditions)))
        self.expect(closing)
        return Set(tuple(items))

    def absolute(self) -> Node:
        self.take()
        saved = self.bars, self.building
        # One open bar: the next one closes it and opens no absolute value of its own.
        self.bars, self.building = 1, False
        inner = self.sum()
        self.bars, self.building = saved
        self.expect("|")
        return Apply("det" if isinstance(inner, Matrix) else "abs", (inner,))

    def number_set(self) -> Node:
        item = self.piece()
        # The letter in \mathbb{R}; \mathbb{C} and e, i may come as constants.
        if not isinstance(item, Name | Const):
            raise Unreadable("a set of numbers without a letter")
        base = item.name
        while self.at("_", "^"):
            self.take()
            base += self.mark()
        return Numbers(base)

    def mark(self) -> str:
        """Return what a number set is marked with: ``>0`` in ``\\mathbb{R}_{>0}``."""
        if not self.at("{"):
            return self.take().value
        depth, text = 0, ""
        # Braces are counted by hand: the mark holds no expression.
        while self.peek().kind != "end":
            depth += self.at("{") - self.at("}")
            text += self.take().value
            if depth == 0:
                break
        return text.strip("{}")

    def environment(self) -> Node:
        name = self.take().value
        if name not in ENVIRONMENTS:
            raise Unknown(f"the environment {name}")
        # The column format of an array, such as {cc|c}.
        if name == "array" and self.at("{"):
            while not self.at("}"):
                if self.take().kind == "end":
                    raise Unreadable("an unclosed environment")
            self.take()
        rows = self.rows(name)
        # One relation a row: a list of conditions, not a matrix.
        if name in ("cases", "aligned", "array") and all(
            isinstance(r[0], Relation) and len(r) == 1 for r in rows
        ):
            return Sequence(",", tuple(row[0] for row in rows))
        if name == "cases":
            return Cases(tuple(_case(row) for row in rows))
        matrix = Matrix(tuple(tuple(row) for row in rows))
        return Apply("det", (matrix,)) if name == "vmatrix" else matrix

    def rows(self, name: str) -> list[list[Node]]:
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
                rows[-1] += self.cell(name)
        self.take()
        return [row for row in rows if row]

    def cell(self, name: str) -> list[Node]:
        if self.is_condition() and not self.is_otherwise():
            return [self.condition()]
        items, joint = self.inside()
        if not items and not self.at("&", "\\") and self.peek().value != name:
            raise Unreadable(f"unexpected {self.peek().value!r}")
        if not items:
            return []
        return [items[0] if len(items) == 1 else Sequence(joint, tuple(items))]

    def is_condition(self) -> bool:
        raise NotImplementedError

    def is_otherwise(self) -> bool:
        token = self.peek()
        return token.kind == "text" and token.value.split()[0].casefold() in ("otherwise", "else")

    def repeating(self, digits: str) -> Node:
        """Return ``0.1\\overline{6}`` exactly, as 0.1 + 6/90."""
        self.take()
        period = self.take()
        if period.value == "{":
            period = self.take()
            self.expect("}")
        if period.kind != "num" or not period.value.isdigit():
            raise Unreadable("a period that is no digits")
        return repeating(digits, period.value)


def repeating(digits: str, period: str) -> Node:
    """Return the number ``digits`` with the decimals ``period`` after them without end."""
    places = len(digits.partition(".")[2])
    # A period of k digits is the fraction digits / (10^k - 1).
    tail = Fraction(int(period), (10 ** len(period) - 1) * 10**places)
    whole = number(digits)
    assert isinstance(whole, Num)
    return Num(whole.value + tail)


def _case(row: list[Node]) -> tuple[Node, Node]:
    if len(row) == 1 and isinstance(row[0], Where):
        return row[0].item, row[0].condition
    if len(row) == 1 and isinstance(row[0], Sequence) and len(row[0].items) == 2:
        # The value and its condition in one cell: "4x + 3, x < 0".
        return row[0].items[0], row[0].items[1]
    if len(row) != 2:
        raise Unreadable("a case without its condition")
    return row[0], row[1]
