"""Where in a completion an answer may stand; every search is linear in the length of the text."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

from rlvr.verdict import Verdict

OPEN, CLOSE = "<think>", "</think>"
# Possessive quantifiers (*+): no backtracking, so a line of a million spaces costs linear time.
_FENCE = re.compile(r"^[ \t]*+(`{3,}+|~{3,}+)[ \t]*+([\w+#.-]*+)[^\n`]*+$", re.MULTILINE)
_BOX = re.compile(r"\\boxed\s*\{")
# Escaped characters are matched first, so that \{ and \} are no braces.
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def conclusion(completion: str, require_think: bool) -> str | Verdict:
    """Return the text after the last ``</think>``, or the verdict that thoughts never ended.

    A completion without any tag is all conclusion, unless ``require_think``: where the prompt opens
    ``<think>``, such a completion is cut-off thoughts.
    """
    _, closed, rest = completion.rpartition(CLOSE)
    # A tag that opens after the last close: new thoughts that never ended.
    if closed and OPEN not in rest:
        return rest
    if require_think or OPEN in completion:
        return Verdict("truncated", detail=f"no {CLOSE} ends the thoughts")
    return completion


@dataclass(frozen=True)
class Block:
    """A fenced block: its language (lower case, may be empty) and its text."""

    language: str
    text: str


def fenced_blocks(text: str) -> list[Block] | None:
    """Return the fenced blocks of Markdown ``text``; None where the last one is never closed."""
    blocks: list[Block] = []
    opened: re.Match | None = None
    for match in _FENCE.finditer(text):
        fence, language = match.groups()
        if opened is None:
            opened = match
        # As CommonMark: closed by the same sign, at least as long, without a language.
        elif not language and fence[0] == opened[1][0] and len(fence) >= len(opened[1]):
            body = text[opened.end() + 1 : match.start()]
            if opened[0][0] in " \t":  # a block inside a list is indented as a whole
                body = textwrap.dedent(body)
            blocks.append(Block(opened[2].lower(), body))
            opened = None
    return None if opened else blocks


def boxes(text: str) -> list[tuple[int, str | None]]:
    """Return position and content of each outermost ``\\boxed{}``; None: its brace is open."""
    boxed: list[tuple[int, str | None]] = []
    position = 0
    while match := _BOX.search(text, position):
        depth, end = 1, None
        for brace in _BRACE.finditer(text, match.end()):
            depth += {"{": 1, "}": -1}.get(brace[0], 0)
            if depth == 0:
                end = brace.start()
                break
        if end is None:
            boxed.append((match.start(), None))
            break
        boxed.append((match.start(), text[match.end() : end]))
        # Continue at the end of this box: inner boxes are not counted.
        position = end
    return boxed


def last_tagged(text: str, tag: str = "answer") -> str | None:
    """Return what stands in the last ``<tag>…</tag>``."""
    before, closed, _ = text.rpartition(f"</{tag}>")
    _, opened, inside = before.rpartition(f"<{tag}>")
    return inside if closed and opened else None
