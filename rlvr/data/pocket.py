"""The pocket task: multi-step integer arithmetic with operator precedence.

A problem is an expression of four one-digit operands such as ``7-3+8*5`` that a solver who ignores
precedence gets wrong. A solution reduces one operator per line between ``<think>`` and
``</think>`` and puts the value in a box:

    <think>
    7-3+40
    4+40
    44
    </think>\\boxed{44}

The split of a problem is a function of its text, so that the train and the held-out set cannot
overlap, whatever the seed and however many problems are drawn.
"""

import hashlib
import os
import random
import re
from collections.abc import Iterator

HELD_OUT_SHARE = 8  # one problem in eight is held out
MAX_MAGNITUDE = 99  # of every intermediate value, by either order of reduction
_BINARY = re.compile(r"(?<=\d)[-+*]")


def split_of(problem: str) -> str:
    """Return ``"test"`` for one problem in eight and ``"train"`` for the others, by SHA-256."""
    digest = hashlib.sha256(problem.encode()).digest()
    # 256 is a multiple of 8: the share is exact for a uniform byte.
    return "test" if digest[0] % HELD_OUT_SHARE == 0 else "train"


def reduce_once(expression: str, precedence: bool) -> str:
    """Evaluate one binary operator: the first ``*`` under precedence, else the leftmost one."""
    operators = list(_BINARY.finditer(expression))
    chosen = operators[0]
    if precedence:
        chosen = next((match for match in operators if match.group() == "*"), chosen)
    # The operands reach to the neighbouring operators, or to the ends of the text.
    index = operators.index(chosen)
    # A sign belongs to the left operand only where nothing stands before it.
    start = operators[index - 1].end() if index else 0
    end = operators[index + 1].start() if index + 1 < len(operators) else len(expression)
    left, right = int(expression[start : chosen.start()]), int(expression[chosen.end() : end])
    value = {"+": left + right, "-": left - right, "*": left * right}[chosen.group()]
    return f"{expression[:start]}{value}{expression[end:]}"


def reductions(problem: str, precedence: bool = True) -> list[str]:
    """Return every line of a solution, from the first reduction to the value."""
    lines, expression = [], problem
    while _BINARY.search(expression):
        expression = reduce_once(expression, precedence)
        lines.append(expression)
    return lines


def _is_task_problem(problem: str) -> bool:
    right, naive = reductions(problem), reductions(problem, precedence=False)
    values = (int(number) for line in right + naive for number in re.findall(r"\d+", line))
    # Else a solver who ignores precedence would be right.
    return right[-1] != naive[-1] and max(values) <= MAX_MAGNITUDE


def draw_problem(rng: random.Random) -> str:
    """Draw one problem on which precedence matters, of either split."""
    while True:
        operands = [str(rng.randint(1, 9)) for _ in range(4)]
        # The empty fourth operator pads the pairs of operand and operator.
        operators = [rng.choice("+-*") for _ in range(3)] + [""]
        problem = "".join(a + b for a, b in zip(operands, operators, strict=True))
        if _is_task_problem(problem):
            return problem


def draw_split(split: str, seed: int) -> Iterator[str]:
    """Yield distinct problems of one split in an order that the seed fixes, without end."""
    rng, seen = random.Random(f"{split}-{seed}"), set()
    while True:
        problem = draw_problem(rng)
        if split_of(problem) == split and problem not in seen:
            seen.add(problem)
            yield problem


def _miscount(expression: str, before: str, rng: random.Random) -> str:
    """Return ``expression`` with the value of its last reduction off by one or ten."""
    # The reduction replaced a middle part of ``before``; that part is where the value stands.
    head = len(os.path.commonprefix([before, expression]))
    match = next((m for m in re.finditer(r"\d+", expression) if m.end() > head), None)
    if match is None:
        return expression
    wrong = max(0, int(match.group()) + rng.choice((-10, -1, 1, 10)))
    return f"{expression[: match.start()]}{wrong}{expression[match.end() :]}"


def demonstrate(
    problem: str, rng: random.Random, *, slip: float, miscount: float, direct: float
) -> str:
    """Write a fallible solution, the text that the pocket policy is pretrained on.

    Each reduction forgets precedence with probability ``slip`` and gets its value wrong with
    probability ``miscount``; with probability ``direct`` the lines are left out. A policy that
    imitates this knows the arithmetic and does not always use it: that is its room to learn.
    """
    lines, expression = [], problem
    while _BINARY.search(expression):
        before = expression
        expression = reduce_once(before, precedence=rng.random() >= slip)
        if rng.random() < miscount:
            expression = _miscount(expression, before, rng)
        lines.append(expression)
    return _solution(lines, show=rng.random() >= direct)


def expert(problem: str) -> str:
    """Return the right solution of ``problem``, line by line."""
    return _solution(reductions(problem), show=True)


def _solution(lines: list[str], *, show: bool) -> str:
    shown = "\n".join(lines) + "\n" if show else ""
    return f"<think>\n{shown}</think>\\boxed{{{lines[-1]}}}"
