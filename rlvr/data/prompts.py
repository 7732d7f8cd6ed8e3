"""How a problem becomes a prompt: a template, a system message, and the opening of thoughts.

A prompt is chat messages. The trainer and the sampler apply the policy's chat template to them,
once; nothing here writes a special token.
"""

import copy
import json
from typing import Any

from rlvr.schema import RecipeError

PROBLEM = "{problem}"
TEMPLATES = {
    "plain": PROBLEM,
    "boxed": PROBLEM
    + "\n\nPlease reason step by step, and put your final answer within \\boxed{}.",
}
Message = dict[str, str]


def check_template(prompt: str, where: str) -> None:
    """Refuse a template that is no name of ``TEMPLATES`` and does not hold ``{problem}`` once."""
    if prompt not in TEMPLATES and prompt.count(PROBLEM) != 1:
        raise RecipeError(
            f"{where}.prompt: {prompt!r} must be {' or '.join(TEMPLATES)} or a text that holds "
            f"{PROBLEM} once"
        )


def render(problem: str, prompt: str = "plain", system: str | None = None) -> list[Message]:
    """Return the chat messages of a prompt; whatever stands in ``problem`` stays as it is."""
    # partition, not format: braces of LaTeX in a problem are text.
    before, _, after = TEMPLATES.get(prompt, prompt).partition(PROBLEM)
    messages = [] if system is None else [{"role": "system", "content": system}]
    return [*messages, {"role": "user", "content": f"{before}{problem}{after}"}]


def generation_prompt(tokenizer: Any, messages: list[Message]) -> str:
    """Return the text that the policy continues.

    Raises:
        RecipeError: the chat template refuses the messages.
    """
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # noqa: BLE001  (a template may raise whatever it likes)
        roles = " and ".join(message["role"] for message in messages)
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise RecipeError(
            f"model.path: the policy's chat template refuses a prompt of {roles} messages: "
            f"{lines[0]}; remove the system message of the data section, or mend the template"
        ) from error


def with_prefill(tokenizer: Any, prefill: str | None, where: str) -> Any:
    """Return ``tokenizer`` with a chat template that ends its generation prompt in ``prefill``.

    A template that writes it already, as those of the DeepSeek distills write ``<think>``, is left
    as it is.
    """
    if prefill is None:
        return tokenizer
    probe = render("0")
    before = generation_prompt(tokenizer, probe)
    if before.rstrip().endswith(prefill.strip()):
        return tokenizer
    template = tokenizer.chat_template
    if not isinstance(template, str):
        raise RecipeError(f"{where}.prefill: the policy has no single chat template to extend")
    # A copy: the caller's tokenizer keeps its own template.
    extended = copy.deepcopy(tokenizer)
    # A JSON string is a Jinja string too: quotes and newlines are escaped.
    literal = json.dumps(prefill)
    ending = f"{{% if add_generation_prompt %}}{{{{ {literal} }}}}{{% endif %}}"
    extended.chat_template = template.removesuffix("\n") + ending
    # A template may stop or loop before its end, where the prefill was added.
    if generation_prompt(extended, probe) != before + prefill:
        raise RecipeError(
            f"{where}.prefill: the policy's chat template cannot be extended; write {prefill!r} at "
            "the end of its generation prompt yourself"
        )
    return extended
