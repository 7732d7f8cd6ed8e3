"""``choice``: the letter of a multiple-choice answer."""

import re

from rlvr.registry import reward
from rlvr.rewards.text import boxes, conclusion
from rlvr.verdict import Verdict

# An explicit answer: "The answer is (B).", "**Answer:** B", "<answer>B</answer>".
_ANCHOR = re.compile(
    r"<answer>|\b(?:answer|choice|option)\b[ \t*_]*(?::|\bis\b)|\bI\s+(?:choose|pick|select)\b",
    re.IGNORECASE,
)
# Nothing but a letter, or "Option C".
_ALONE = re.compile(r"\W{0,4}(?:(?:option|choice|answer)\W{1,4})?([A-Za-z])\W{0,4}", re.IGNORECASE)
_OPENING = r"(?:[\s*_$:(\[{]|\\(?:text|textbf|mathrm|mathbf|boxed)\b)"
_LETTER = re.compile(rf"{_OPENING}{{0,16}}([A-Z])(?![\w'’])([*_$)\]}}]{{0,8}})")
_SMALL = re.compile(rf"{_OPENING}{{0,16}}([a-z])(?![\w'’])([*_$)\]}}]{{0,8}})")
# "C because it is the largest", "(C) since ...".
_REASON = re.compile(r"\W{0,4}([A-Z])[)\]*]{0,4},?\s+(?:because|since|as|due\s+to|for\s+the)\b")
_TEXT = re.compile(r"[*_$)\]}]{0,8}\s*[.):]\s*\S|[)\]]\s*\S")
_OPTION = re.compile(r"(?<![\w\\])[(\[]?[A-Z](?:[.):\]]|$)|\b(?:or|and)\s+[(\[]?[A-Z]\b")
_END = re.compile(r"\s*(?:[.,:;)\]}\n]|</answer>|$)|[ \t]*\n")
_MORE = re.compile(r"[\s.,;:/&|]*(?:(?:or|and)\b)?[\s(*_$\[]*[A-Z](?![\w'’])")
_GOLD = re.compile(r"\s*\(?([A-Za-z])\)?\.?\s*")
_WINDOW = 64  # characters after an anchor in which the letter and its neighbours stand


@reward
def choice(
    completions: list[str],
    answer: list[str],
    *,
    letters: str = "ABCDEFGHIJ",
    require_think: bool = False,
    correct: float = 1.0,
    wrong: float = 0.0,
) -> list[Verdict]:
    """Judge the last explicit answer after the thoughts against the gold letter.

    An explicit answer is a ``\\boxed{B}``, "the answer is (B)", "Answer: B", "<answer>B</answer>",
    or a conclusion that is only the letter or gives a reason for it ("C because ..."). A box may
    hold the option's text after the letter. It is one letter of ``letters``: "A or B" is no answer,
    nor is a letter that is a word of its sentence ("the answer is A bird").
    """
    return [
        _judge(text, gold, letters, require_think)
        for text, gold in zip(completions, answer, strict=True)
    ]


def _judge(completion: str, gold: str, letters: str, require_think: bool) -> Verdict:
    match = _GOLD.fullmatch(str(gold)[:_WINDOW])
    if match is None or match[1].upper() not in letters:
        return Verdict("gold_unparsable", detail=f"the gold answer is no letter of {letters}")
    rest = conclusion(completion, require_think)
    if isinstance(rest, Verdict):
        return rest
    letter = find_letter(rest)
    if letter is None or letter not in letters:
        return Verdict("unparsable", answer=letter, detail="no single letter as the last answer")
    status = "correct" if letter == match[1].upper() else "wrong"
    return Verdict(status, answer=letter)


def find_letter(text: str) -> str | None:
    """Return the letter of the last explicit answer; None where there is none or it is not one."""
    # Bounded on purpose: a completion may be megabytes long, and patterns must stay linear.
    bare = _ALONE.fullmatch(text.strip()) if len(text) < _WINDOW else None
    if bare:
        return bare[1].upper()
    answers: list[tuple[int, str | None]] = []
    for start, content in boxes(text):
        answers.append((start, None if content is None else _whole(content)))
    for anchor in _ANCHOR.finditer(text):
        window = text[anchor.end() : anchor.end() + _WINDOW]
        letter = _LETTER.match(window) or _small(window)
        if letter is None:
            # "The answer is obvious" announces nothing; an <answer> tag without a letter is an
            # answer.
            if anchor[0].lower() == "<answer>":
                answers.append((anchor.start(), None))
            continue
        after = window[letter.end() :]
        # "A or B", "A, C": more than one letter is no answer.
        if _MORE.match(after):
            answers.append((anchor.start(), None))
        # A closed bracket or the end of a clause: "A bird" is a word of a sentence.
        elif set(letter[2]) & set(")]}") or _END.match(after):
            answers.append((anchor.start(), letter[1].upper()))
    reason = _REASON.match(text.strip()[:_WINDOW])
    if reason and not answers:
        return reason[1]
    # By position: boxes and anchors were collected one after the other.
    return max(answers, key=lambda item: item[0])[1] if answers else None


def _small(window: str) -> re.Match[str] | None:
    """Return a lower-case letter at the start where nothing but the end of a line follows it."""
    letter = _SMALL.match(window)
    # "The answer is a bird": an article, and no option.
    if letter is None or not re.match(
        r"\s*(?:[.;)\]}]\s*)?(?:$|\n|</answer>)", window[letter.end() :]
    ):
        return None
    return letter


def _whole(content: str) -> str | None:
    """Return the letter that a box holds, alone or with the text of its option after it."""
    bare = content.strip()
    letter = _LETTER.match(bare[:_WINDOW]) or _SMALL.match(bare[:_WINDOW])
    if letter is None:
        return None
    rest = bare[letter.end() :]
    if re.fullmatch(r"[\s.)\]}*_$]{0,8}", rest):
        return letter[1].upper()
    # "C. text" and "(C) text"; a second option in the text is no answer.
    closed = letter[2][:1] in (")", "]") and bool(rest.strip()) or _TEXT.match(rest)
    if not letter[1].isupper() or not closed or _OPTION.search(rest[:1000]) or len(rest) > 1000:
        return None
    return letter[1]
