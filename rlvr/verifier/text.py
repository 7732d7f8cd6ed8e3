"""One spelling for one mathematical text: signs, spaces and decoration of LaTeX and plain text."""

import re
import unicodedata

from rlvr.verifier.numerals import MULTIPLES, NUMBER_WORDS

MAX_CHARS = 10_000  # an answer longer than this is not read

# Signs of Unicode in the spelling of LaTeX, so that one grammar reads both.
_SIGNS = {
    "−": "-", "–": "-", "—": "-", "﹣": "-", "－": "-", "×": r"\times ", "·": r"\cdot ",
    "⋅": r"\cdot ", "∙": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/", "±": r"\pm ", "∓": r"\mp ",
    "≤": r"\le ", "≦": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "≧": r"\ge ", "⩾": r"\ge ",
    "≠": r"\ne ", "≈": r"\approx ", "≡": r"\equiv ", "∞": r"\infty ", "√": r"\sqrt ",
    "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∉": r"\notin ", "∅": r"\emptyset ",
    "ø": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}",
    "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "∀": r"\forall ", "∃": r"\exists ", "°": r"^\circ ",
    "℃": r"^\circ C ", "•": r"\cdot ",
    "º": r"^\circ ", "′": "'", "’": "'", "％": "%", "＝": "=", "＜": "<", "＞": ">", "＋": "+",
    "，": ",", "、": ",", "；": ";", "：": ":", "（": "(", "）": ")", "［": "[", "］": "]",
    "｛": r"\{", "｝": r"\}", "∣": "|", "｜": "|", "。": ".", "…": r"\dots ", "→": r"\to ",
    "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ", "⌊": r"\lfloor ", "⌋": r"\rfloor ",
    "⌈": r"\lceil ", "⌉": r"\rceil ", "∖": r"\setminus ", "△": r"\triangle ", "∠": r"\angle ",
    "⊆": r"\subseteq ", "⊂": r"\subset ", "⊃": r"\supset ",
    "⊇": r"\supseteq ", "⊥": r"\perp ", "∥": r"\parallel ", "¬": r"\neg ",
    "∧": r"\land ",
    "“": '"', "”": '"', "ℓ": r"\ell ", "ħ": r"\hbar ", "½": r"\frac{1}{2}",
    "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}",
    "⅛": r"\frac{1}{8}", "⅕": r"\frac{1}{5}", "⅖": r"\frac{2}{5}", "⅗": r"\frac{3}{5}",
    "⅘": r"\frac{4}{5}", "⅙": r"\frac{1}{6}", "⅚": r"\frac{5}{6}", "⅐": r"\frac{1}{7}",
    "⅑": r"\frac{1}{9}", "⅒": r"\frac{1}{10}", "⅜": r"\frac{3}{8}", "⅝": r"\frac{5}{8}",
    "⅞": r"\frac{7}{8}", "∶": ":", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]", "⟨": "(", "⟩": ")",
    "∨": r"\lor ", "✓": "", "∴": "", "″": '"',
    "€": r"\$", "£": r"\$", "¥": r"\$", "₹": r"\$", "￥": r"\$", "＄": r"\$",
}  # fmt: skip
_GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho"
_SIGNS.update({chr(0x3B1 + i): f"\\{name} " for i, name in enumerate(_GREEK.split())})
_SIGNS.update(
    {chr(0x3C3 + i): f"\\{n} " for i, n in enumerate("sigma tau upsilon phi chi psi omega".split())}
)
_SIGNS.update({"Γ": r"\Gamma ", "Δ": r"\Delta ", "Θ": r"\Theta ", "Λ": r"\Lambda "})
_SIGNS.update({"Π": r"\Pi ", "Σ": r"\Sigma ", "Φ": r"\Phi ", "Ψ": r"\Psi ", "Ω": r"\Omega "})
_TABLE = str.maketrans(_SIGNS)
# Raised and lowered digits, in one order with their plain ones.
_RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ"
_LOWERED = "₀₁₂₃₄₅₆₇₈₉₊₋"
_PLAIN = "0123456789+-ni"
_KNOWN = {*_SIGNS, *_RAISED, *_LOWERED, *map(chr, range(0x2460, 0x2474))}  # and circled numbers
_SCRIPT = re.compile(f"[{_RAISED}]+|[{_LOWERED}]+")

# Rs. 50, 50 EUR, \$50
_CURRENCY = re.compile(
    r"\b(?:Rs\.?|USD|EUR|GBP|RMB)(?=\s*[0-9])|(?<=[0-9])\s*(?:USD|EUR|RMB)\b|\\\$|\\text(?:dollar|euro)s?\b|\\pounds\b|\\euro\b"
)
_RADIX = "|".join(word for word, value in NUMBER_WORDS.items() if value > 1)
_BASE_INDEX = re.compile(
    rf"_\{{?\s*(?:\\(?:text|mathrm)\s*\{{)?\s*({_RADIX})(?![a-z])\s*\}}?\s*\}}?", re.IGNORECASE
)
_BASE_WORDS = re.compile(
    rf"(?<![0-9])([0-9]++)\s*(?:\\text\{{)?\s*(?:in\s+)?\(?base[\s-]*\}}?\s*([0-9]+|{_RADIX})\s*[)}}]*\s*$",
    re.I,
)


# 14th, 14^{th}, 14^{\text{th}}
_ORDINAL = re.compile(
    r"(?<=[0-9])(?:\s?\^?\s?\{?\s?\\(?:text|mathrm|textrm|rm)\s?\{\s?(?:st|nd|rd|th)\s?\}\s?\}?"
    r"|\s?\^\s?\{?\s?(?:st|nd|rd|th)\s?\}?(?![a-z]))"
)
# A system of equations after a brace that nothing closes.
_OPEN_SYSTEM = re.compile(
    r"\\(?:left\s*)?\{\s*(?=\\begin\s*\{(?:array|aligned|cases)\}(?:(?!\\\}).)*$)", re.DOTALL
)
# A set of which the braces were left out: x | x > 1.
_BARE_BUILDER = re.compile(r"^\s*([a-z])\s*(?:\\mid|\|)\s*([^|{}]*(?:\\[lg]e|[<>]|\\in)[^|]*)$")
# "negative 3" and "minus 3"; "a negative number" keeps its word.
_MINUS_WORD = re.compile(
    r"(?:\\text\{\s?(?:negative|minus)\s?\}|\b(?:negative|minus))\s?(?=[0-9.$\\])"
)
# "\$3 million" are dollars too, and the number word must stay next to its number.
_DOLLARS = re.compile(
    r"\\\$\s*([0-9][0-9,.]*[0-9]|[0-9])(?!\s*(?:\\text\{\s*)?(?:%s))"  # noqa: UP031
    % "|".join(MULTIPLES)
)


def _base(match: re.Match[str], group: int = 1) -> int:
    word = match.group(group).casefold()
    return int(word) if word.isdigit() else NUMBER_WORDS[word]


# In this order: the first four restore backslashes that JSON or Python took for escapes.
_REWRITES = [
    (re.compile(r"\\?\x0c(?=rac|lo|orall)"), r"\\f"),
    (re.compile(r"\x08(?=eta|inom|egin|ar|oxed)"), r"\\b"),
    (re.compile(r"\t(?=ext|imes|heta|an\b|au\b|frac)"), r"\\t"),
    (re.compile(r"\n(?=eq\b|u\b|e\b|otin\b)"), r"\\n"),
    # 90^{\textcirc}, 90 \degree
    (re.compile(r"\^?\s*\{?\s*\\(?:textcirc|textdegree|degrees?)(?![a-zA-Z])\s*\}?"), r"^\\circ "),
    # \color{red} says nothing of the answer.
    (re.compile(r"\\(?:textcolor|colorbox|color)\s*\{[^{}]*\}"), " "),
    # \underline{5} is 5.
    (re.compile(r"\\(?:underline|mathstrut|fbox|underbrace)(?=\s*\{)"), " "),
    # Signs of an argument around the answer.
    (re.compile(r"\\(?:therefore|because|checkmark|blacksquare|square|qed)(?![a-zA-Z])"), " "),
    # \implies x = 5
    (re.compile(r"^\s*(?:\\(?:implies|(?:Long)?[Rr]ightarrow|to)(?![a-zA-Z])|=>)"), " "),
    # A place in an order is no number of things: 14th is not 14 kg.
    (_ORDINAL, " ordinal "),
    (re.compile(r"(?<=[0-9])(?:st|nd|rd|th)\b"), " ordinal "),
    # What goes on without end is not what was written of it.
    (re.compile(r"(\.[0-9]+|,)\s*\.{3,}\s*$"), r"\1\\dots "),
    (re.compile(r"^\s*([0-9]+)\s+to\s+([0-9]+)\s*$"), r"\1:\2"),
    # negative 5
    (_MINUS_WORD, "-"),
    # 3 (\text{mod } 7)
    (re.compile(r"\\(?:text|mathrm|operatorname)\s*\{\s*\(?\s*mod\s*\}"), " mod "),
    # 12~345
    (re.compile(r"(?<=[0-9])~(?=[0-9]{3}(?![0-9]))"), ","),
    # 1010_{two}, and 1010 in base 2
    (_BASE_INDEX, lambda match: f"_{{{_base(match)}}}"),
    (_BASE_WORDS, lambda match: f"{match.group(1)}_{{{_base(match, 2)}}}"),
    # 90^\n\circ: a broken line in a dataset.
    (re.compile(r"\^\s*\n\s*(?:olimits)?\s*\{?\\circ\}?"), r"^\\circ "),
    # _B_: italics of Markdown.
    (re.compile(r"(?<![0-9a-zA-Z}^])_([a-zA-Z])_(?![0-9a-zA-Z{])"), r"\1"),
    # 7:30 p.m., and the same in \text{}
    (re.compile(r"(?<=[0-9]) ?([aApP])\.? ?[mM]\b\.?"), r" \\text{\1m}"),
    (re.compile(r"\\text\{\s*([aApP])\.? ?[mM]\.?\s*\}"), r" \\text{\1m}"),
    # Final answer: 5
    (re.compile(r"^(?:\\text\{)?\s*(?:[Ff]inal )?[Aa]nswer\s*:\s*\}?"), ""),
    # \angle ABC = 60^\circ: the letters name the angle by themselves.
    (re.compile(r"\\(?:angle|triangle|measuredangle)(?![a-zA-Z])"), " "),
    # 3 (mod 7)
    (re.compile(r"\(\s*\\?b?mod\s*([^()]*)\)"), r"\\pmod{\1}"),
    # 3 x 10^8
    (re.compile(r"(?<=[0-9])\s*[xX]\s*(?=10\s*(?:\^|\*\*))"), r"\\times "),
    # 12{,}345, 12,\!345
    (re.compile(r"(?<=[0-9])(?:\{,\}|,\\!)(?=[0-9])"), ","),
    (_DOLLARS, r"\1 \\text{dollars} "),
    # Degrees of which the sign was lost: "90^".
    (re.compile(r"(?<=[0-9])\s?\^\s*$"), r"^\\circ "),
    # A degree sign that JSON left escaped.
    (re.compile(r"\\u00[Bb]0"), r"^\\circ "),
    # \mathbf{R} for \mathbb{R}
    (re.compile(r"\\mathbf\s*\{\s*([RZNQC])\s*\}(?=\s*[\^_*}]|\s*$)"), r"\\mathbb{\1}"),
    (_OPEN_SYSTEM, " "),
    (_BARE_BUILDER, r"\{\1 | \2\}"),
    # HTML: x<sup>2</sup>, x<sub>1</sub>
    (re.compile(r"<sup>(.{0,99}?)</sup>"), r"^{\1}"),
    (re.compile(r"<sub>(.{0,99}?)</sub>"), r"_{\1}"),
    # \\[2pt] ends a row of a matrix.
    (re.compile(r"\\\\\[[0-9.]+(?:pt|em|ex|mm)\]"), r"\\\\ "),
    # The currency without its number word: money needs no unit.
    (_CURRENCY, " "),
    # \( 5 \), $5$
    (re.compile(r"(?<!\\)\\[()\[\]]|\$\$?"), " "),
    (re.compile(r"\{,\}|,\\!\s*|\\,\s*,\s*\\,"), ","),
    # \left( ... \right)
    (re.compile(r"\\(?:left|right|[bB]igg?[lrm]?|middle)(?![a-zA-Z])\s*\.?"), ""),
    # Styles of type.
    (re.compile(r"\\(?:displaystyle|textstyle|limits|nolimits|bf|rm|it|sf|hfill|nobreak)\b"), " "),
    # \dfrac, \tbinom: the size only.
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![a-zA-Z])"), r"\\binom"),
    # 12\,345, 12 345, 1 234 567: spaces between thousands.
    (re.compile(r"(?<=[0-9])\\[, ;:](?=[0-9]{3}(?![0-9]))"), ","),
    (re.compile(r"(?<![0-9.])([0-9]{1,3}) (?=[0-9]{3}(?![0-9]))"), r"\1,"),
    (re.compile(r"(?<=,[0-9]{3}) (?=[0-9]{3}(?![0-9]))"), ","),
    # Thin and wide spaces.
    (re.compile(r"(?<!\\)\\!"), ""),
    (re.compile(r"(?<!\\)\\[,;: >]|\\q?quad|~|\\hspace\*?\{[^{}]*\}|\\mathstrut"), " "),
    # What is set and not seen.
    (re.compile(r"\\(?:phantom|label|tag|hline|noindent|boldsymbol(?=\\))(?:\{[^{}]*\})?"), " "),
]  # fmt: skip
# JSON that was escaped twice: \\frac.
_DOUBLED = re.compile(r"\\\\(?=[a-zA-Z{}])")
# Commands that only set the type of what they hold.
_WRAPPERS = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|mbox|mathrm|mathbf|mathit|mathsf|operatorname"
    r"|boldsymbol|bm|hbox|mathcal|emph|underline)\*?\s*\{([^{}]*)\}"
)


def _script(match: re.Match[str]) -> str:
    run = match.group()
    if run[0] in _RAISED:
        return "^{" + "".join(_PLAIN[_RAISED.index(c)] for c in run) + "}"
    return "_{" + "".join(_PLAIN[_LOWERED.index(c)] for c in run) + "}"


# One interval of a union, with the brackets turned as in French: ]a, b[ is (a, b).
_FRENCH = re.compile(
    r"(^|\\c[ua]p\s*|\\in\s*|\bU\s+|[=,]\s*)([\[\](])([^\[\]]{1,200}?,[^\[\]]{1,200}?)([\[\])])"
    r"(?=\s*(?:$|\\c[ua]p|U\b|\\setminus|,))"
)


def _unturned(match: re.Match[str]) -> str:
    before, opening, inside, closing = match.groups()
    if opening != "]" and closing != "[":
        return match.group()
    return (
        f"{before}{'(' if opening == ']' else opening}{inside}{')' if closing == '[' else closing}"
    )


def is_disguised(text: str) -> bool:
    """Return whether ``text`` holds characters that show one thing and are another.

    Invisible and direction-changing marks, broken surrogates, digits of other alphabets and
    styled letters: a reader and a parser would not see the same answer.
    """
    if text.isascii():
        return False
    for char in text:
        if char.isascii() or char in _KNOWN:
            continue
        # Format, surrogate, private, unassigned, and every kind of digit that is not ASCII.
        category = unicodedata.category(char)
        if category in ("Cf", "Cs", "Co", "Cn", "Nd", "Nl", "No") or char == "\ufffd":
            return True
        # Styled mathematical letters, and full-width forms.
        if 0x1D400 <= ord(char) <= 0x1D7FF or 0xFF00 <= ord(char) <= 0xFFEF:
            return True
    return False


def clean(text: str) -> str:
    """Return ``text`` with one spelling of signs and spaces; ``$`` and delimiters become spaces.

    ``12,\\! 345`` and ``12 345`` become ``12,345``; a doubled backslash before a command outside
    an environment becomes a single one.
    """
    if not text.isascii():
        text = _SCRIPT.sub(_script, text).translate(_TABLE)
    # Long runs first: patterns that allow spaces take quadratic time on them.
    text = re.sub(r"\s{3,}", " ", text)
    # Inside an environment a doubled backslash ends a row.
    if "\\" in text and "begin" not in text:
        text = _DOUBLED.sub(r"\\", text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    if "[" in text or "]" in text:
        text = _FRENCH.sub(_unturned, text.strip())
    text = re.sub(r"\*\*(?=\S)(.{1,400}?)(?<=\S)\*\*$", r"\1", text.strip())
    text = text.strip().strip("*").rstrip(".,;: \n") if len(text) > 1 else text
    return re.sub(r"\s+", " ", text).strip()


def unwrapped(text: str) -> str:
    """Return ``text`` without its ``\\text{}`` and font commands."""
    # Wrappers nest; five levels are more than anybody writes.
    for _ in range(5):
        bare = _WRAPPERS.sub(r" \1 ", text)
        if bare == text:
            break
        text = bare
    return text


def words(text: str) -> str:
    """Return the words of a text answer: no case, articles or punctuation."""
    bare = re.sub(r"[^\w+\-/=<>^|%']+", " ", unwrapped(text).replace("_", " ").casefold())
    return " ".join(word for word in bare.split() if word not in ("the", "a", "an"))


_PROSE = re.compile(r"[^\W\d_]{3,}")
_MATHS = re.compile(r"[0-9\\^_=<>+*/|()\[\]{}]")
_NAMED = re.compile(
    r"(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|log|ln|exp|sqrt|pi|theta|alpha|beta|gamma|infty|inf|abs"
)


def is_prose(text: str) -> bool:
    """Return whether a cleaned ``text`` is words, with no mathematics to compare."""
    bare = unwrapped(text)
    if _MATHS.search(bare):
        return len(re.findall(r"[^\W\d_]{2,}", re.sub(r"\\[a-zA-Z]+", "", bare))) >= 6
    prose = _PROSE.findall(bare)
    if bare != text:
        return bool(prose)
    return any(not _NAMED.fullmatch(word) for word in prose)


_VERB = re.compile(r"(?:is|are|was|were|has|have|equals?|there|therefore|thus|because|we)", re.I)


def is_sentence(text: str) -> bool:
    """Return whether a cleaned ``text`` says something: at least two words, one of them a verb."""
    said = re.findall(r"[^\W\d_]{2,}", re.sub(r"\\[a-zA-Z]+", " ", unwrapped(text)))
    return len(said) >= 2 and any(_VERB.fullmatch(word) for word in said)


_CHOICE = re.compile(
    r"\s*(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s*:?\s+)?(?:\(\s*([A-J])\s*\)|\[\s*([A-J])\s*\]|([A-J])\s*(?:[.):]|$)|([A-J])\s+(?=[A-Z0-9$\\]))(.*)",
    re.DOTALL,
)


_ANOTHER = re.compile(r"\s*(?:[,;/&]|and|or)*\s*[(\[]?[A-J](?:[)\]]|(?![\w'’]))(?!\s*[=+*/^_])")


def choice(text: str) -> tuple[str, str] | None:
    """Return (letter, rest) where ``text`` names a multiple-choice option, else None."""
    match = _CHOICE.fullmatch(unwrapped(text))
    if not match:
        return None
    letter = next(group for group in match.groups()[:4] if group)
    # "(A) and (B)" names no single option.
    if _ANOTHER.match(match.group(5)):
        return None
    return letter, words(match.group(5))
