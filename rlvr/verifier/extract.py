"""Where the answer of a completion stands.

``boxed``: the last ``\\boxed{}`` after the thoughts, and nothing else. ``auto``: without any box,
also the text after ``####``, after words that announce an answer, the conclusion of the last
sentence, or a text that is nothing but an expression.
"""

import re
from typing import Literal

from rlvr.verifier.freeform import Extracted, announced_last, final_answer
from rlvr.verifier.lexer import balanced

Extract = Literal["boxed", "auto"]
TAIL = 4_000  # characters at the end in which an answer without a box is looked for


_OPENED = re.compile(r"\\(?:f?boxed|fbox)\s*\{")
_BARE = re.compile(r"\\f?(?:boxed|box)\s*([0-9]+(?:\.[0-9]+)?|[A-Za-z](?![A-Za-z]))")
_QUOTED = re.compile(r"\\boxed\s*\{\s*\}`")
_JOINER = re.compile(
    r"(?:\s|\$|\\[()\[\],;:! ]|\\q?quad|~|\\text\{\s*|\}|,|;|&|\band\b|\bor\b|\\\\"
    r"|\(?[A-Za-z](?:_\{?[A-Za-z0-9]{1,3}\}?)?\)?\s*=)*"
)


_CJK = re.compile("[\u3040-\u30ff\u4e00-\u9fff]")
_FULL_WIDTH = {0xFF10 + digit: str(digit) for digit in range(10)} | {0xFF0E: "."}
_TURN = re.compile(r"(?<=\S)\s*(?:<\|(?:im_start|im_end|eot_id|endoftext|user)\|>|</s>)")


def conclusion(response: str) -> str | None:
    """Return what follows the last ``</think>``; None where thoughts were opened and not closed.

    What a template's mark of the next turn opens is no part of it.
    """
    # Only where a mark can be: the pattern costs more than all the rest.
    if "<|" in response or "</s>" in response:
        response = _TURN.split(response, maxsplit=1)[0]
    _, closed, rest = response.rpartition("</think>")
    if closed:
        return rest if "<think>" not in rest else None
    return None if "<think>" in response else response


def _box(text: str, start: int) -> tuple[str | None, int]:
    """Return (content, end) of the box command at ``start``; content is None if it never closes."""
    opened = _OPENED.match(text, start)
    if opened:
        end = balanced(text, opened.end())
        return (None, len(text)) if end < 0 else (text[opened.end() : end - 1], end)
    bare = _BARE.match(text, start)
    return (bare.group(1), bare.end()) if bare else (None, len(text))


def _last_start(text: str, end: int) -> int:
    """Return where the last box command before ``end`` starts, or -1."""
    while end > 0:
        place = text.rfind("box", 0, end)
        if place < 0:
            return -1
        # rfind finds "box"; the command is \boxed, \fboxed or \fbox.
        start = place - 1 if text[place - 1 : place] == "\\" else place - 2
        if start >= 0 and _is_box(text, start):
            return start
        end = place
    return -1


def _is_box(text: str, start: int) -> bool:
    """Return whether a box opens: not the bare word ``\\boxed``, nor `\\boxed{}` as a quotation."""
    opens = _OPENED.match(text, start) or _BARE.match(text, start)
    return bool(opens) and not (_QUOTED.match(text, start) and text[start - 1 : start] == "`")


def boxed(text: str) -> Extracted | None:
    """Return the answer in the last box, joined with those of the same list; None without a box.

    Boxes are one list where only a comma, "and" or "or", and a name with its equals sign, stands
    between them.
    """
    start = _last_start(text, len(text))
    if start < 0:
        return None
    content, _ = _box(text, start)
    if content is None:
        return Extracted(None, "the last box is not closed")
    if not content.strip():
        return Extracted(None, "the last box is empty")
    contents = [content]
    # From the last box backwards: solutions of one equation often stand in a box each.
    while len(contents) < 40:
        before = _last_start(text, start)
        if before < 0:
            break
        earlier, end = _box(text, before)
        between = text[end:start]
        # A long text between two boxes: the earlier one is a step of the solution.
        if earlier is None or len(between) > 60 or not _joins(between):
            break
        contents.append(earlier)
        start = before
    # The same box twice is one answer.
    if len(set(contents)) == 1:
        contents = contents[:1]
    return Extracted(" , ".join(contents[::-1]))


def _joins(between: str) -> bool:
    if between.count("\n\n") or not re.search(r",|;|\band\b|\bor\b|&", between):
        return False
    return _JOINER.fullmatch(between) is not None


def last_tagged(text: str) -> str | None:
    """Return what stands in the last ``<answer>`` tag."""
    before, closed, _ = text.rpartition("</answer>")
    _, opened, inside = before.rpartition("<answer>")
    return inside if closed and opened and inside.strip() else None


def find_answer(response: str, how: Extract) -> Extracted:
    """Return the answer of ``response``.

    An unclosed or empty last box is no answer, whatever stood in the boxes before.
    """
    text = conclusion(response)
    if text is None:
        return Extracted(None, "the thoughts are not closed")
    answer = _found(text, how)
    if answer.text is not None and not answer.text.isascii() and _CJK.search(text):
        # Chinese and Japanese keyboards type full-width digits; elsewhere they are a disguise.
        return answer._replace(text=answer.text.translate(_FULL_WIDTH))
    return answer


def _found(text: str, how: Extract) -> Extracted:
    answer = boxed(text)
    # "The final answer is 5" after the last box corrects the box.
    if how == "auto" and answer is not None and answer.text is not None:
        answer = announced_last(text[-TAIL:]) or answer
    if answer is not None:
        return answer
    if how == "boxed":
        return Extracted(None, "no box")
    tagged = last_tagged(text)
    if tagged is not None:
        return Extracted(tagged.strip(), loose=True)
    # The mark of GSM8K counts wherever it stands.
    marked = text.rfind("####")
    if marked >= 0:
        return final_answer(text[marked : marked + TAIL], whole=False)
    return final_answer(text[-TAIL:] if len(text) > TAIL else text, whole=len(text) <= TAIL)
