"""The final answer of a text without a box, where words or form announce one.

A number that merely occurs in a text is no answer: it must follow ``####``, an announcement, an
equals sign or a closing word of the last sentence, or be all there is.
"""

import re
from typing import NamedTuple


class Extracted(NamedTuple):
    """The answer's text, or why there is none; ``loose`` where words stand around it."""

    text: str | None
    reason: str = ""
    loose: bool = False


# "The answer is", in the languages of the public benchmarks; never "isn't".
_ANNOUNCED = re.compile(
    r"(?:final\s+answer\s+is(?!n)|answer\s+is(?!n)|(?:option|choice)\s+is(?!n)|answer\s*(?:\**\s*)?:|answer\s*=|result\s+is|solution\s+is"
    r"|value\s+is|^A\s*:|r[ée]ponse\s+(?:finale\s+)?est|r[ée]ponse\s*:|respuesta\s+es|respuesta\s*:"
    r"|resposta\s+[ée]|risposta\s+[èe]|antwort\s+(?:ist|lautet)|antwort\s*:|ergebnis\s+ist"
    r"|ответ\s*:|ответ\s+|答案是|答案为|答案為|答案\s*[:：]|结果是|結果是|答えは|정답은|답은"
    r"|الإجابة\s+هي|الجواب\s+هو|উত্তর|उत्तर|คำตอบคือ|đáp\s+án\s+là|jawabannya\s+adalah"
    r"|i\s+think\s+it'?s)",
    re.IGNORECASE | re.MULTILINE,
)
# A last sentence that concludes: "So", "Therefore" and their translations.
_CLOSING = re.compile(
    r"^\s*(?:so|thus|therefore|hence|finally|consequently|in\s+total|we\s+(?:get|find|have|obtain)"
    r"|donc|ainsi|also|daher|somit|folglich|por\s+lo\s+tanto|as[ií]\s+que|entonces|portanto"
    r"|quindi|dunque|поэтому|значит|следовательно|итак|таким\s+образом|因此|所以|故|那么|总共|一共"
    r"|したがって|よって|따라서|그러므로|لذا|لذلك|إذن|إذا|অতএব|সুতরাং|इसलिए|अतः|ดังนั้น|vậy|do\s+đó|jadi|kwa\s+hiyo|కాబట్టి)",
    re.IGNORECASE,
)
# A number with its sign, currency, thousands, percent or denominator.
_NUMBER = re.compile(r"[-−+]?\s?[$€£]?(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)(?:\s?%|/[0-9]+)?")
_MATHS = re.compile(r"\$\$?([^$]{1,400})\$\$?|\\\((.{1,400}?)\\\)|\\\[(.{1,400}?)\\\]", re.DOTALL)
_BOLD = re.compile(r"\*\*([^*\n]{1,100})\*\*")
_SENTENCE = re.compile(r"(?<=[.!?。！？।])(?:\s+|(?<=[。！？।]))|\n+")
# What stands right before the number that a sentence states.
_EQUALS = re.compile(
    r"(?:=|:|：|\bis|\bit'?s|\best|\bist|\bes|\bsont|是|为|為|هو|هي|=\s*\$)\s*(?=[-−]?[$€£]?[0-9.])"
)
# Where an announced answer ends: a line, or a period that is no decimal point.
_STOP = re.compile(r"\n|(?<=[^0-9])\.\s|(?<=[0-9])\.(?:\s|$)|[。！？]")
_SAID = re.compile(r"\b(?:is|are|equals)\s+(?:equal\s+to\s+|approximately\s+|about\s+)?")
# "A or B": a second option after the first.
_SECOND = re.compile(r"\s*(?:,|/|&|or\b|and\b)\s*\(?[A-J](?![A-Za-z'’])")
_DENIAL = re.compile(
    r"\b(?:not|cannot|never|wrong|false|incorrect|impossible|neither|nor)\b|n['’]t\b|\\neq?(?![a-z])"
    r"|≠",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"[\s$*]*(?:is|are|was)\s+(?:not|wrong|false|incorrect|impossible)\b", re.IGNORECASE
)
_LETTER = re.compile(r"\s*\**\(?([A-J])\)?(?![A-Za-z'’])")


def final_answer(text: str, *, whole: bool) -> Extracted:
    """Return the announced answer of ``text``; ``whole`` says that nothing was cut off before."""
    _, marked, rest = text.rpartition("####")
    if marked:
        line = rest.strip().split("\n")[0]
        if not line.strip():
            return Extracted(None, "nothing follows ####")
        return Extracted(line, loose=True)
    if whole and is_expression(text):
        return Extracted(text.strip())
    # A choice followed by words of another alphabet, as in multilingual benchmarks.
    letter = re.match(r"\s*([A-J])(?=[^\x00-\x7f]|\s+[^\x00-\x7f])", text)
    if whole and letter and len(text) < 40:
        return Extracted(letter.group(1))
    announced = list(_ANNOUNCED.finditer(text))
    if announced:
        start, end = announced[-1].span()
        answer = _after(text[end:])
        if answer is not None and _is_doubted(text[:start], text[end:]):
            return Extracted(None, "the announced answer is doubted or denied")
        if answer is not None:
            return Extracted(answer, loose=True)
    sentences = [part for part in _SENTENCE.split(text) if part and part.strip()]
    if sentences:
        answer = _concluded(sentences[-1])
        if answer is not None:
            return Extracted(answer, loose=True)
    return Extracted(None, "no box and no announced answer")


_DOUBT = re.compile(
    r"\b(?:doubt|deny|not\s+(?:think|believe|sure|certain|say|mean|true)|don['’]t|doesn['’]t|unlikely"
    r"|wrong|false|incorrect|unsure|if|whether|suppose|supposing|assume|assuming|imagine|who|never"
    r"|cannot|can['’]t|nobody|no\s+one)\b",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"[.,;:!?。，；：！？\n]|\b(?:which|but|so|and|then)\b|\bit['’]s\b")


def _is_doubted(before: str, after: str) -> bool:
    """Return whether the clause that announces an answer doubts it: "I doubt that ..."."""
    asks = re.match(r"[^.!\n]{0,200}\?", after) is not None
    return asks or _DOUBT.search(_CLAUSE.split(before[-200:])[-1]) is not None


def _is_denied(sentence: str, start: int, end: int) -> bool:
    """Return whether the clause of a conclusion denies what stands from ``start`` to ``end``."""
    before = _CLAUSE.split(sentence[:start])[-1]
    return bool(_DENIAL.search(before) or _DENIED.match(sentence, end) or "?" in sentence[end:])


def announced_last(text: str) -> Extracted | None:
    """Return the answer that a text announces as its final one, after every box."""
    place = text.lower().rfind("final answer is")
    if place < 0 or re.search(r"\\f?boxed", text[place:]):
        return None
    if _is_doubted(text[:place], text[place:]):
        return None
    answer = _after(text[place + len("final answer is") :])
    # "The final answer is in the box" announces nothing.
    if not answer or not re.search(r"[0-9\\$^=]|^[A-Za-z]$", answer):
        return None
    return Extracted(answer, loose=True)


def is_expression(text: str) -> bool:
    """Return whether ``text`` is nothing but one short expression or choice."""
    bare = text.strip()
    if not bare or len(bare) > 1000 or "\n\n" in bare or _ANNOUNCED.search(bare):
        return False
    stripped = re.sub(
        r"\\[a-zA-Z]+(?:\{[a-zA-Z ]*\})?|\$|(?<=[0-9])\s*(?:[a-zA-Z%°]+\.?)$", " ", bare
    )
    if re.fullmatch(r"\(?[A-J][).:]?(?:\s+\S{1,40}){0,4}", bare):
        return True
    return not re.search(r"[^\W\d_]{3,}|\.\s|[?!]\s", stripped)


def _after(rest: str) -> str | None:
    """Return the answer that stands right after an announcement."""
    rest = rest.strip()
    rest = re.sub(r"^(?:\s|:|\*|is\b|=|≈|approximately\b|about\b)+", "", rest)
    line = _STOP.split(rest)[0].strip() if rest else ""
    if not line:
        return None
    maths = _MATHS.match(rest)
    if maths:
        return next(group for group in maths.groups() if group)
    letter = _LETTER.match(line)
    # "A = 5" and "A + B" are mathematics, not the option A.
    if letter and not re.match(r"\s*[A-J]\s*[=+*/^_(\\-]", line):
        # "A or B" is no single option.
        return line if _SECOND.match(line, letter.end()) else letter.group(1)
    bold = _BOLD.match(line)
    if bold:
        return bold.group(1)
    # "the value of x is 5": what follows the last verb is the answer.
    said = list(_SAID.finditer(line))
    if said:
        line = line[said[-1].end() :].strip()
    inner = _MATHS.search(line)
    if inner and not re.search(r"[0-9]", line[: inner.start()]):
        return next(group for group in inner.groups() if group)
    return line


def _concluded(sentence: str) -> str | None:
    """Return the answer of a last sentence: bold, maths, after ``=``, or its last number.

    What the sentence denies, or asks, is no answer.
    """
    for pattern in (_BOLD, _MATHS):
        marked = list(pattern.finditer(sentence))
        if marked:
            denied = _is_denied(sentence, *marked[-1].span())
            return None if denied else next(group for group in marked[-1].groups() if group)
    equals = list(_EQUALS.finditer(sentence))
    number = _NUMBER.match(sentence, equals[-1].end()) if equals else None
    if number is None and _CLOSING.match(sentence):
        number = next(reversed(list(_NUMBER.finditer(sentence))), None)
    if number is None or _is_denied(sentence, *number.span()):
        return None
    return number.group().strip(" ,")
