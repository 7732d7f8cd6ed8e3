"""``format``: thoughts between one pair of tags, then an answer."""

import re
from typing import Literal

from rlvr.registry import reward
from rlvr.rewards.text import CLOSE, OPEN, boxes


@reward
def format(
    completions: list[str],
    *,
    opening: Literal["either", "completion", "prompt"] = "either",
    answer: Literal["text", "boxed", "tags"] = "text",
    kept: float = 1.0,
    broken: float = 0.0,
) -> list[float | None]:
    """Return ``kept`` where the structure is kept, else ``broken``.

    The structure is ``<think>``, thoughts, ``</think>``, answer: each tag once, neither part blank
    and nothing before the first tag. ``opening`` says who writes ``<think>``: the completion, the
    prompt (the chat templates of the DeepSeek distills open it), or either. ``answer`` asks for
    one closed ``\\boxed{}`` or one ``<answer>…</answer>`` with nothing around it.
    """
    return [kept if _is_kept(text, opening, answer) else broken for text in completions]


# The end token of a chat template, where the tokenizer did not take it for special.
_END = re.compile(r"(?:\s*(?:<\|(?:im_end|endoftext|eot_id|end_of_text|end)\|>|</s>|<eos>))+\s*$")


def _is_kept(completion: str, opening: str, answer: str) -> bool:
    completion = completion[:-200] + _END.sub("", completion[-200:])
    opened = completion.count(OPEN)
    allowed = {"either": (0, 1), "completion": (1,), "prompt": (0,)}[opening]
    if opened not in allowed or completion.count(CLOSE) != 1:
        return False
    thoughts, _, rest = completion.partition(CLOSE)
    # Without an opening tag `before` is empty and all of it is inside.
    before, _, inside = thoughts.rpartition(OPEN)
    if before.strip() or OPEN in rest or not inside.strip() or not rest.strip():
        return False
    if answer == "boxed":
        boxed = boxes(rest)
        return len(boxed) == 1 and bool((boxed[0][1] or "").strip())
    if answer == "tags":
        rest = rest.strip()
        tags = rest.count("<answer>"), rest.count("</answer>")
        inside = rest.removeprefix("<answer>").removesuffix("</answer>")
        wrapped = rest.startswith("<answer>") and rest.endswith("</answer>")
        return tags == (1, 1) and wrapped and bool(inside.strip())
    return True
