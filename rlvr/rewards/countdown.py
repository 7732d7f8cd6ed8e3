"""``countdown``: reach a target with given numbers, each used exactly once."""

import json
import re
from collections import Counter
from fractions import Fraction
from typing import Any

from rlvr.registry import reward
from rlvr.rewards.text import boxes, conclusion, fenced_blocks, last_tagged
from rlvr.verdict import Verdict

MAX_EXPRESSION = 1000  # characters; a countdown of fifty numbers is shorter
MAX_DEPTH = 50  # open parentheses and signs
_SPELLINGS = {"×": "*", "·": "*", "÷": "/", "−": "-", r"\times": "*", r"\cdot": "*", r"\div": "/"}
_SPELLINGS |= dict.fromkeys("⋅∙•∗✕✖＊", "*") | dict.fromkeys("–—﹣－", "-")
_SPELLINGS |= {"∕": "/", "⁄": "/", "／": "/", "＋": "+", "（": "(", "）": ")"}
_SPELLINGS |= {"[": "(", "]": ")", "\\,": " ", "\\;": " ", "\\ ": " ", "\\!": "", "\u00a0": " "}
_SPELLINGS |= {r"\left": "", r"\right": "", "$": "", r"\(": "", r"\)": "", r"\[": "", r"\]": ""}
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_TIMES = re.compile(r"(?<=[0-9)\]])\s*[xX]\s*(?=[0-9(\[])")
_SPELLED = re.compile("|".join(re.escape(w) for w in sorted(_SPELLINGS, key=len, reverse=True)))
_TOKEN = re.compile(r"\s*(?:([0-9]{1,18})(?![0-9])|([-+*/()]))")


class Unparsable(ValueError):
    """The text is no arithmetic expression."""


@reward
def countdown(
    completions: list[str],
    numbers: list[Any],
    target: list[Any],
    *,
    require_think: bool = False,
    correct: float = 1.0,
    wrong: float = 0.0,
) -> list[Verdict]:
    """Judge whether the expression uses each of ``numbers`` exactly once and equals ``target``.

    The expression is the last ``<answer>`` or ``\\boxed{}`` after the thoughts, or else the last
    line; ``= 25`` may follow it where that is true. Its value is exact (rational); it is parsed
    here and never evaluated as code.
    """
    return [_judge(*case, require_think) for case in zip(completions, numbers, target, strict=True)]


def _judge(completion: str, numbers: object, target: object, require_think: bool) -> Verdict:
    try:
        given = [_whole(value) for value in _content(numbers)]
        goal = _whole(_content(target))
    except (TypeError, ValueError) as error:
        return Verdict("gold_unparsable", detail=f"numbers or target: {error}")
    rest = conclusion(completion, require_think)
    if isinstance(rest, Verdict):
        return rest
    expression = find_expression(rest)
    if expression is None:
        return Verdict("unparsable", detail="no expression, or one that never ends")
    expression, stated = split_result(expression)
    try:
        value, used = evaluate(expression)
    except Unparsable as error:
        return Verdict("unparsable", answer=expression[:200], detail=str(error))
    except ZeroDivisionError:
        return Verdict("wrong", answer=expression, detail="division by zero")
    if Counter(used) != Counter(given):
        return Verdict("wrong", answer=expression, detail=f"uses {used}, may use {given}")
    # "3 * 8 = 25": the expression counts, and what it is said to be must be true.
    right = value == goal and stated in (None, goal)
    said = "" if stated is None else f", said to be {stated}"
    status = "correct" if right else "wrong"
    return Verdict(status, answer=expression, detail=f"its value is {value}{said}")


def _content(value: object) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or int(value) != value:
        raise ValueError(f"{value!r} is no whole number")
    return int(value)


def find_expression(text: str) -> str | None:
    """Return the text of the last answer of a conclusion, unchecked.

    An ``<answer>`` may hold a box or a fenced block, which then is the answer.
    """
    tagged = last_tagged(text)
    inside = text if tagged is None else tagged
    boxed = boxes(inside)
    if boxed:
        return boxed[-1][1]
    blocks = fenced_blocks(inside)
    if blocks:
        return blocks[-1].text.strip() or None
    if tagged is not None:
        return tagged.strip().strip("`").strip()
    lines = text.strip().rsplit("\n", 1)
    return lines[-1].strip() or None


def split_result(expression: str) -> tuple[str, Fraction | None]:
    """Return the expression and the number after its equals sign, as in ``3 * 8 + 1 = 25``."""
    left, equals, right = expression.rpartition("=")
    number = right.strip().strip("$").strip()
    if equals and re.fullmatch(r"-?[0-9]{1,18}", number) and "=" not in left:
        return left.strip(), Fraction(number)
    return expression, None


def evaluate(expression: str) -> tuple[Fraction, list[int]]:
    """Return the exact value of an expression of ``+ - * / ( )`` and the numbers in it.

    Raises:
        Unparsable: anything else, or longer or deeper than the bounds above.
        ZeroDivisionError: it divides by zero.
    """
    if len(expression) > MAX_EXPRESSION:
        raise Unparsable(f"longer than {MAX_EXPRESSION} characters")
    text = _TIMES.sub("*", _FRACTION.sub(r"((\1)/(\2))", expression))
    text = _SPELLED.sub(lambda match: _SPELLINGS[match[0]], text).strip()
    tokens, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise Unparsable(
                f"{text[position : position + 12]!r} is no number, sign or parenthesis"
            )
        tokens.append(match[1] or match[2])
        position = match.end()
    parser = _Parser(tokens)
    value = parser.sum(0)
    if parser.position != len(tokens):
        raise Unparsable(f"unexpected {tokens[parser.position]!r}")
    return value, [int(token) for token in tokens if token.isdigit()]


class _Parser:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.position = tokens, 0

    def take(self, *allowed: str) -> str | None:
        if self.position < len(self.tokens) and self.tokens[self.position] in allowed:
            self.position += 1
            return self.tokens[self.position - 1]
        return None

    def sum(self, depth: int) -> Fraction:
        value = self.product(depth)
        while sign := self.take("+", "-"):
            term = self.product(depth)
            value = value + term if sign == "+" else value - term
        return value

    def product(self, depth: int) -> Fraction:
        value = self.factor(depth)
        while sign := self.take("*", "/"):
            factor = self.factor(depth)
            value = value * factor if sign == "*" else value / factor
        return value

    def factor(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise Unparsable(f"deeper than {MAX_DEPTH} parentheses")
        if sign := self.take("+", "-"):
            value = self.factor(depth + 1)
            return value if sign == "+" else -value
        if self.take("("):
            value = self.sum(depth + 1)
            if not self.take(")"):
                raise Unparsable("a parenthesis never closes")
            return value
        if self.position == len(self.tokens) or not self.tokens[self.position].isdigit():
            raise Unparsable("a number is missing")
        self.position += 1
        return Fraction(int(self.tokens[self.position - 1]))
