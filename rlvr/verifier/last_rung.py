"""math-verify on pairs that this grammar cannot read; the library is imported in workers only."""

import re
from typing import Any

from math_verify import (
    ExprExtractionConfig,
    LatexExtractionConfig,
    parse,
    verify,
)

# Words outside commands: math-verify would pick a number out of them.
_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}|\\text|[^\W\da-zA-Z_]{2,}")
_HOW = (LatexExtractionConfig(), ExprExtractionConfig())


def judge(gold: str, answer: str) -> bool | None:
    """Return whether math-verify calls ``answer`` equal to ``gold``; None where it cannot tell.

    Its own time-outs need the main thread's alarm, which the worker's deadline replaces.
    """
    if _WORD.search(gold) or _WORD.search(answer):
        return None
    target, given = _read(gold), _read(answer)
    if not target or not given:
        return None
    return bool(verify(target, given, timeout_seconds=None))


def _read(text: str) -> Any:
    return parse(
        f"\\boxed{{{text}}}",
        extraction_config=_HOW,
        fallback_mode="no_fallback",
        parsing_timeout=None,  # pyright: ignore[reportArgumentType]
    )
