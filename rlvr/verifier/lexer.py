"""Cleaned text into tokens: numbers, names, commands, operators and text."""

import re
from dataclasses import dataclass
from fractions import Fraction

from rlvr.verifier.numerals import factor
from rlvr.verifier.units import NAMES, SYMBOLS, is_unit

MAX_TOKENS = 4000

FUNCTIONS = set(
    "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh coth asin acos atan "
    "log ln lg exp sqrt abs min max gcd lcm floor ceil sgn det".split()
)
GREEK = set(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi "
    "pi rho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma "
    "Upsilon Phi Psi Omega".split()
)
PERCENT = {"percent", "percentage", "pct", "percents"}
SEPARATORS = {"and", "or", "und", "et", "y", "o", "oder", "ou"}
WORDS = {"infty": "inf", "infinity": "inf", "inf": "inf", "oo": "inf"}
CONDITION = {
    "for", "where", "when", "with", "if", "such", "provided", "whenever", "given", "as", "all",
}  # fmt: skip
# Words after which a condition may still be a relation: "for all integers n >= 3".
CONNECTIVES = CONDITION | set(
    "that any every each only then it is integer integers real number numbers some of".split()
)
UNITS = set(
    "cm km mm nm kg mg ml kw hz khz mhz ms sq ft lb lbs oz hr hrs min mins sec secs mph kmh kph "
    "rad deg degrees degree meters meter feet inches units".split()
) | {name for name in NAMES if len(name) > 1}
_ALIASES = {
    "le": "<=", "leq": "<=", "leqslant": "<=", "leqq": "<=", "ge": ">=", "geq": ">=",
    "geqslant": ">=", "geqq": ">=", "lt": "<", "gt": ">", "ne": "!=", "neq": "!=",
    "times": "*", "cdot": "*", "ast": "*", "div": "/", "approx": "~", "simeq": "~", "sim": "~",
    "mid": "|", "vert": "|", "lvert": "|", "rvert": "|", "lbrack": "[", "rbrack": "]",
    "colon": ":", "land": "and", "lor": "or", "wedge": "and", "vee": "or", "backslash": "setminus",
    "varnothing": "emptyset", "O": "emptyset", "lbrace": "\\{", "rbrace": "\\}", "{": "\\{",
    "}": "\\}", "%": "%", "#": "#", "&": "&", "_": "_", "|": "|", "iff": "~", "prime": "'",
    "cdots": "dots", "ldots": "dots", "dotsc": "dots", "dotsb": "dots", "Vert": "|",
    "langle": "(", "rangle": ")", "epsilon": "epsilon", "varepsilon": "epsilon",
    "varphi": "phi", "vartheta": "theta",
}  # fmt: skip
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|mbox|hbox|emph)\*?\s*\{")
_FONT = re.compile(r"\\(?:math(?:rm|bf|it|sf|cal|scr|frak)|operatorname|boldsymbol|bm)\*?\s*\{")
# A number of things in words: "3 red".
_COUNTED = re.compile(r"([0-9]+(?:\.[0-9]+)?) ([^\W\d_]{2,})")
_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,12}(?![0-9.]))?"
_GROUPED = r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?"
_TOKEN = re.compile(
    rf"(?P<grouped>{_GROUPED})|(?P<number>{_NUMBER})|\\(?P<env>begin|end)\s*\{{(?P<name>\w+)\*?\}}"
    r"|\\(?P<command>[a-zA-Z]+|.)|(?P<word>[A-Za-z]+)|(?P<op>\.{3,}|<=|>=|!=|==|\*\*|=<|:=|->|[^\s])"
)


class Unreadable(ValueError):
    """This grammar cannot read the text as mathematics."""


class Unknown(Unreadable):
    """A command, an environment or a sign that this grammar does not have; another may."""


@dataclass(frozen=True, slots=True)
class Token:
    kind: str  # num, name, fn, const, cmd, text, label, op, begin, end, sep
    value: str
    spaced: bool = False  # whether a space stands before it


def balanced(text: str, start: int) -> int:
    """Return the index after the brace that closes the one before ``start``, or -1."""
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        if match.group() == "{":
            depth += 1
        elif match.group() == "}":
            depth -= 1
            if depth == 0:
                return match.end()
    return -1


def _multiplied(word: str) -> list[Token]:
    """Return the tokens that a number word stands for after a number; none for other words."""
    times = factor(word)
    if times is None:
        return []
    sign, value = ("*", times) if times > 1 else ("/", 1 / times)
    return [Token("op", sign), Token("num", str(Fraction(value)))]


def _text_tokens(content: str, after_number: bool) -> list[Token]:
    """Return the tokens of a text command: separators, percent, one letter, or words."""
    tokens = []
    first, _, rest = content.strip().partition(" ")
    if after_number and (times := _multiplied(first)):
        return times + _text_tokens(rest, True)
    for part in re.split(r"(,|;|\b(?:and|or)\b)", content):
        bare = part.strip(" .\n")
        if bare in SEPARATORS or bare in (",", ";"):
            tokens.append(Token("sep", "or" if bare == "or" else "and" if bare == "and" else bare))
        elif bare.casefold() in PERCENT:
            tokens.append(Token("op", "%"))
        elif counted := _COUNTED.fullmatch(bare):
            tokens += [Token("num", counted[1], True), Token("text", counted[2], True)]
        elif re.fullmatch(r"[-+]?[0-9.]+", bare) or (
            re.search(r"[\\^=]", bare.rstrip("=")) and not re.search("[a-z]{3}", bare)
        ):
            tokens += tokenize(bare)
        elif bare.endswith(":") and len(bare) > 1 and part is content:
            tokens.append(Token("label", bare.rstrip(": "), True))
        elif bare.endswith((":", "=")) and len(bare) > 1:
            tokens += [Token("text", bare.rstrip(":= "), True), Token("op", "=")]
        elif len(bare) == 1 and bare.isalpha():
            tokens.append(Token("name", bare, True))
        elif bare:
            tokens.append(Token("text", bare, True))
    return tokens


def _word_tokens(word: str, spaced: bool, after_number: bool) -> list[Token]:
    """Return the tokens of a run of letters: a known word, a text, or a product of letters."""
    if word in FUNCTIONS:
        return [Token("fn", word, spaced)]
    if word in GREEK:
        return [Token("const" if word == "pi" else "name", word, spaced)]
    if word.casefold() in WORDS and len(word) > 1:
        return [Token("const", "inf", spaced)]
    if word.casefold() in PERCENT:
        return [Token("op", "%", spaced)]
    if word in ("and", "or"):
        return [Token("sep", word, spaced)]
    if after_number and (times := _multiplied(word)):
        return times
    if after_number and (
        word.casefold() in UNITS or (spaced and word in SYMBOLS and len(word) > 1)
    ):
        return [Token("text", word, spaced)]
    # A spaced U is a union sign in plain text; the parser decides.
    if word in ("U", "u") and spaced:
        return [Token("name", word, True)]
    # Four letters in a row are a word; fewer are a product of names.
    if len(word) >= 4 and (word.islower() or word.istitle()) or word.casefold() in CONDITION:
        return [Token("text", word, spaced)]
    # "sinx", "2pir": functions and pi glued to names. Longer names first.
    for name in ("arcsin", "arccos", "arctan", "sqrt", "sin", "cos", "tan", "log", "ln", "pi"):
        if name in word and len(word) > len(name) and word.islower():
            head, _, tail = word.partition(name)
            tokens = _word_tokens(head, spaced, False) if head else []
            kind = "const" if name == "pi" else "fn"
            return tokens + [Token(kind, name)] + (_word_tokens(tail, False, False) if tail else [])
    return [Token("name", letter, spaced and i == 0) for i, letter in enumerate(word)]


def _command_token(name: str, spaced: bool) -> Token:
    name = _ALIASES.get(name, name)
    if name in ("and", "or"):
        return Token("sep", name, spaced)
    if name in FUNCTIONS and name not in ("sqrt", "abs"):
        return Token("fn", name, spaced)
    if name == "pi":
        return Token("const", "pi", spaced)
    if name == "infty":
        return Token("const", "inf", spaced)
    if name in GREEK or name in (
        "neg",
        "star",
        "dagger",
        "ell",
        "hbar",
        "partial",
        "nabla",
        "Re",
        "Im",
        "odot",
        "mho",
    ):
        return Token("name", name, spaced)
    if not name.isalpha() or len(name) == 1:
        return Token("op", name, spaced)
    return Token("cmd", name, spaced)


def tokenize(text: str, *, grouped: bool = True, units: bool = True) -> list[Token]:
    """Return the tokens of a cleaned text.

    ``grouped`` reads ``1,234`` as one number; without it the comma separates two. ``units`` reads
    ``2mg`` as a mass; without it the letters are factors.
    Raises ``Unreadable`` for unbalanced text commands and more than ``MAX_TOKENS`` tokens.
    """
    tokens: list[Token] = []
    position = 0
    while position < len(text):
        # Loose, since pairs of parentheses are dropped at the end; it bounds the time here.
        if len(tokens) > 3 * MAX_TOKENS:
            raise Unreadable("too long")
        if text[position].isspace():
            position += 1
            continue
        spaced = position > 0 and text[position - 1].isspace()
        wrapper = _TEXT.match(text, position) or _FONT.match(text, position)
        if wrapper:
            end = balanced(text, wrapper.end())
            if end < 0:
                raise Unreadable("an unclosed brace")
            content = text[wrapper.end() : end - 1]
            tokens += _wrapped(content, wrapper.re is _FONT, tokens, grouped, spaced)
            position = end
            continue
        match = _TOKEN.match(text, position)
        if match is None:
            raise Unreadable(f"{text[position]!r}")
        # The same place read as a plain number, so that the comma separates.
        if match.lastgroup == "grouped" and not grouped:
            match = re.compile(f"(?P<number>{_NUMBER})").match(text, position) or match
        position = match.end()
        tokens += _plain(match, spaced, tokens if units else [])
    return _without_nested(tokens)


def _wrapped(
    content: str, font: bool, before: list[Token], grouped: bool, spaced: bool
) -> list[Token]:
    """Return the tokens of what a ``\\text{}`` or font command holds."""
    bare = content.strip().rstrip(".")
    after_value = bool(before) and (
        before[-1].kind in ("num", "const", "text") or before[-1].value in ("}", ")", "circ")
    )
    # A letter after a value is its unit: 5\\mathrm{m}; e and i stay numbers.
    if after_value and bare not in ("e", "i", "d") and (is_unit(bare) or bare in UNITS):
        return [Token("text", bare, True)]
    if font and (len(bare) <= 2 or "\\" in content):
        return tokenize(content, grouped=grouped)
    if bare in FUNCTIONS - {"min", "max"}:
        return [Token("fn", bare, spaced)]
    if len(bare) == 1 and bare.isalpha():
        unit = not font and before and before[-1].kind == "num"
        return [Token("text" if unit else "name", bare, True)]
    return _text_tokens(content, bool(before) and before[-1].kind == "num")


def _plain(match: re.Match[str], spaced: bool, before: list[Token]) -> list[Token]:
    groups = match.groupdict()
    if groups.get("grouped"):
        return [Token("num", groups["grouped"].replace(",", ""), spaced)]
    if groups.get("number"):
        return [Token("num", groups["number"], spaced)]
    if groups.get("env"):
        return [Token(groups["env"], groups["name"])]
    if groups.get("command") == " ":
        return []
    if groups.get("command"):
        return [_command_token(groups["command"], spaced)]
    if groups.get("word"):
        after_number = bool(before) and before[-1].kind in ("num", "text")
        return _word_tokens(groups["word"], spaced, after_number)
    op = {"==": "=", ":=": "=", "=<": "<=", "**": "^"}.get(groups["op"], groups["op"])
    if op.startswith("..."):
        return [Token("cmd", "dots", spaced)]
    if op.isalpha() and not op.isascii() and before and before[-1].kind in ("num", "text"):
        return [Token("text", op, spaced)]  # a unit or a noun of another language
    if op.isalpha() or "\u2460" <= op <= "\u2473":
        return [Token("name", op, spaced)]
    return [Token("sep" if op in ",;" else "op", op, spaced)]


def _without_nested(tokens: list[Token]) -> list[Token]:
    """Drop the outer of two parentheses that enclose the very same tokens."""
    stack, partner = [], {}
    for index, token in enumerate(tokens):
        if token.kind == "op" and token.value == "(":
            stack.append(index)
        elif token.kind == "op" and token.value == ")" and stack:
            partner[stack.pop()] = index
    dropped = set()
    for start, end in partner.items():
        # The inner pair opens right after and closes right before the outer one.
        if partner.get(start + 1) == end - 1:
            dropped |= {start, end}
    kept = [token for index, token in enumerate(tokens) if index not in dropped]
    if len(kept) > MAX_TOKENS:
        raise Unreadable("too long")
    return kept
