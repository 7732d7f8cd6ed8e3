"""One spelling for one mathematical text: signs, spaces and decoration of LaTeX and plain text."""

import re
import unicodedata

MAX_CHARS = 10_000  # an answer longer than this is not read

_SIGNS = {
    "−": "-", "–": "-", "—": "-", "﹣": "-", "－": "-", "×": r"\times ", "·": r"\cdot ",
    "⋅": r"\cdot ", "∙": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/", "±": r"\pm ", "∓": r"\mp ",
    "≤": r"\le ", "≦": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "≧": r"\ge ", "⩾": r"\ge ",
    "≠": r"\ne ", "≈": r"\approx ", "≡": r"\equiv ", "∞": r"\infty ", "√": r"\sqrt ",
    "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∉": r"\notin ", "∅": r"\emptyset ",
    "ø": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}",
    "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "∀": r"\forall ", "∃": r"\exists ", "°": r"^\circ ",
    "º": r"^\circ ", "′": "'", "’": "'", "％": "%", "＝": "=", "＜": "<", "＞": ">", "＋": "+",
    "，": ",", "、": ",", "；": ";", "：": ":", "（": "(", "）": ")", "［": "[", "］": "]",
    "｛": r"\{", "｝": r"\}", "∣": "|", "｜": "|", "。": ".", "…": r"\dots ", "→": r"\to ",
    "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ", "⌊": r"\lfloor ", "⌋": r"\rfloor ",
    "⌈": r"\lceil ", "⌉": r"\rceil ", "∖": r"\setminus ", "△": r"\triangle ", "∠": r"\angle ",
    "⊆": r"\subseteq ", "⊂": r"\subset ", "⊃": r"\supset ",
    "⊇": r"\supseteq ", "⊥": r"\perp ", "∥": r"\parallel ", "¬": r"\neg ",
    "∧": r"\land ", "∨": r"\lor ",
    "“": '"', "”": '"', "ℓ": r"\ell ", "ħ": r"\hbar ", "½": r"\frac{1}{2}",
    "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}",
    "⅛": r"\frac{1}{8}", "€": r"\$", "£": r"\$", "¥": r"\$", "₹": r"\$", "￥": r"\$", "＄": r"\$",
}  # fmt: skip
_GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho"
_SIGNS.update({chr(0x3B1 + i): f"\\{name} " for i, name in enumerate(_GREEK.split())})
_SIGNS.update(
    {chr(0x3C3 + i): f"\\{n} " for i, n in enumerate("sigma tau upsilon phi chi psi omega".split())}
)
_SIGNS.update({"Γ": r"\Gamma ", "Δ": r"\Delta ", "Θ": r"\Theta ", "Λ": r"\Lambda "})
_SIGNS.update({"Π": r"\Pi ", "Σ": r"\Sigma ", "Φ": r"\Phi ", "Ψ": r"\Psi ", "Ω": r"\Omega "})
_TABLE = str.maketrans(_SIGNS)
_RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ"
_LOWERED = "₀₁₂₃₄₅₆₇₈₉₊₋"
_PLAIN = "0123456789+-ni"
_KNOWN = {*_SIGNS, *_RAISED, *_LOWERED, *map(chr, range(0x2460, 0x2474))}  # and circled numbers
_SCRIPT = re.compile(f"[{_RAISED}]+|[{_LOWERED}]+")

_CURRENCY = re.compile(
    r"\b(?:Rs\.?|USD|EUR|GBP|RMB)(?=\s*[0-9])|(?<=[0-9])\s*(?:USD|EUR|RMB)\b|\\\$|\\text(?:dollar|euro)s?\b|\\pounds\b|\\euro\b"
)
# In this order: the first four restore backslashes that JSON or Python took for escapes.
_REWRITES = [
    (re.compile(r"\\?\x0c(?=rac|lo|orall)"), r"\\f"),
    (re.compile(r"\x08(?=eta|inom|egin|ar|oxed)"), r"\\b"),
    (re.compile(r"\t(?=ext|imes|heta|an\b|au\b|frac)"), r"\\t"),
    (re.compile(r"\n(?=eq\b|u\b|e\b|otin\b)"), r"\\n"),
    (re.compile(r"\\textcirc(?![a-zA-Z])|\\textdegree|\\degrees?(?![a-zA-Z])"), r"\\circ "),
    (re.compile(r"\^\s*\n\s*(?:olimits)?\s*\{?\\circ\}?"), r"^\\circ "),
    (re.compile(r"(?<![0-9a-zA-Z}^])_([a-zA-Z])_(?![0-9a-zA-Z{])"), r"\1"),
    (re.compile(r"(?<=[0-9]) ?([aApP])\.? ?[mM]\b\.?"), r" \\text{\1m}"),
    (re.compile(r"\\text\{\s*([aApP])\.? ?[mM]\.?\s*\}"), r" \\text{\1m}"),
    (re.compile(r"^(?:\\text\{)?\s*(?:[Ff]inal )?[Aa]nswer\s*:\s*\}?"), ""),
    (re.compile(r"\\(?:angle|triangle|measuredangle)(?![a-zA-Z])"), " "),
    (re.compile(r"\(\s*\\?b?mod\s*([^()]*)\)"), r"\\pmod{\1}"),
    (re.compile(r"(?<=[0-9])\s*[xX]\s*(?=10\s*(?:\^|\*\*))"), r"\\times "),
    (re.compile(r"\\\$\s*([0-9][0-9,.!\\]*[0-9]|[0-9])"), r"\1 \\text{dollars} "),
    (re.compile(r"<sup>(.{0,99}?)</sup>"), r"^{\1}"),
    (re.compile(r"<sub>(.{0,99}?)</sub>"), r"_{\1}"),
    (re.compile(r"\\\\\[[0-9.]+(?:pt|em|ex|mm)\]"), r"\\\\ "),
    (_CURRENCY, " "),
    (re.compile(r"(?<!\\)\\[()\[\]]|\$\$?"), " "),
    (re.compile(r"\{,\}|,\\!\s*|\\,\s*,\s*\\,"), ","),
    (re.compile(r"\\(?:left|right|[bB]igg?[lrm]?|middle)(?![a-zA-Z])\s*\.?"), ""),
    (re.compile(r"\\(?:displaystyle|textstyle|limits|nolimits|bf|rm|it|sf|hfill|nobreak)\b"), " "),
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![a-zA-Z])"), r"\\binom"),
    (re.compile(r"(?<=[0-9])\\[, ;:](?=[0-9]{3}(?![0-9]))"), ","),
    (re.compile(r"(?<![0-9.])([0-9]{1,3}) (?=[0-9]{3}(?![0-9]))"), r"\1,"),
    (re.compile(r"(?<=,[0-9]{3}) (?=[0-9]{3}(?![0-9]))"), ","),
    (re.compile(r"(?<!\\)\\!"), ""),
    (re.compile(r"(?<!\\)\\[,;: >]|\\q?quad|~|\\hspace\*?\{[^{}]*\}|\\mathstrut"), " "),
    (re.compile(r"\\(?:phantom|label|tag|hline|noindent|boldsymbol(?=\\))(?:\{[^{}]*\})?"), " "),
]  # fmt: skip
_DOUBLED = re.compile(r"\\\\(?=[a-zA-Z{}])")
_WRAPPERS = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|mbox|mathrm|mathbf|mathit|mathsf|operatorname"
    r"|boldsymbol|bm|hbox|mathcal|emph|underline)\*?\s*\{([^{}]*)\}"
)


def _script(match: re.Match[str]) -> str:
    run = match.group()
    if run[0] in _RAISED:
        return "^{" + "".join(_PLAIN[_RAISED.index(c)] for c in run) + "}"
    return "_{" + "".join(_PLAIN[_LOWERED.index(c)] for c in run) + "}"


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
    # Inside an environment a doubled backslash ends a row.
    if "\\" in text and "begin" not in text:
        text = _DOUBLED.sub(r"\\", text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
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
    found = re.findall(r"[^\W\d_]{2,}", re.sub(r"\\[a-zA-Z]+", " ", unwrapped(text)))
    return len(found) >= 2 and any(_VERB.fullmatch(word) for word in found)


_CHOICE = re.compile(
    r"\s*(?:\(\s*([A-J])\s*\)|\[\s*([A-J])\s*\]|([A-J])\s*(?:[.):]|$)|([A-J])\s+(?=[A-Z0-9$\\]))(.*)",
    re.DOTALL,
)


def choice(text: str) -> tuple[str, str] | None:
    """Return (letter, rest) where ``text`` names a multiple-choice option, else None."""
    match = _CHOICE.fullmatch(unwrapped(text))
    if not match:
        return None
    letter = next(group for group in match.groups()[:4] if group)
    return letter, words(match.group(5))
