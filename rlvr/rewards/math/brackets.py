"""Everything in brackets: groups, tuples, intervals, sets, absolute values, matrices."""

from fractions import Fraction

from rlvr.rewards.math.cursor import END, Cursor, Node, number
from rlvr.rewards.math.lexer import Unreadable

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
        # French intervals: ]a, b[ is (a, b).
        if opening == "]" or closing == "[":
            if not (opening in "](" and closing in "[)") or len(items) != 2:
                raise Unreadable("unpaired brackets")
            opening, closing = "(", ")"
        if len(items) == 1 and (opening, closing) in (("(", ")"), ("[", "]")):
            # Parentheses around one number say nothing; around a relation they group it.
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
        # One open bar: the next one closes it and opens no absolute value of its own.
        self.bars, self.building = 1, False
        inner = self.sum()
        self.bars, self.building = saved
        self.expect("|")
        return ("fn", "abs", [inner])

    def number_set(self) -> Node:
        item = self.piece()
        # The letter in \mathbb{R}; \mathbb{C} and e, i may come as constants.
        name = ("const", item[1]) if item[0] in ("sym", "const") else item
        base: Node = ("numbers", name[1])
        while self.at("_", "^"):
            self.take()
            if self.at("{"):
                depth, text = 0, ""
                while self.peek().kind != "end":
                    # Braces are counted by hand: \mathbb{R}_{>0} holds no expression.
                    depth += self.at("{") - self.at("}")
                    text += self.take().value
                    if depth == 0:
                        break
            else:
                text = self.take().value
            base = ("numbers", f"{base[1]}{text.strip('{}')}")
        return base

    def environment(self) -> Node:
        name = self.take().value
        if name not in ENVIRONMENTS:
            raise Unreadable(f"the environment {name}")
        # The column format of an array, such as {cc|c}.
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
        # One relation a row: a list of conditions, not a matrix.
        if name in ("cases", "aligned") and all(r[0][0] == "rel" and len(r) == 1 for r in rows):
            return ("seq", ",", [row[0] for row in rows])
        return ("matrix", rows)

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
        # A period of k digits is the fraction digits / (10^k - 1).
        nines = 10 ** len(period.value) - 1
        tail = Fraction(int(period.value), nines * 10**places)
        return ("num", number(digits)[1] + tail)
