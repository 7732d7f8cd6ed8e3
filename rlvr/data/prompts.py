"""How a problem becomes a prompt: a template, a system message, and the opening of thoughts.

A prompt is chat messages. The trainer and the sampler apply the policy's chat template to them,
once; nothing here writes a special token. What a recipe adds to the template (its arguments, and
the prefill) is written into the template of ``prompt_tokenizer``, so that training, evaluation and
every filter render the same text.
"""

import copy
import inspect
import json
import re
from collections.abc import Mapping, Sequence
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
    before, _, after = TEMPLATES.get(prompt, prompt).partition(PROBLEM)
    messages = [] if system is None else [{"role": "system", "content": system}]
    return [*messages, {"role": "user", "content": f"{before}{problem}{after}"}]


def generation_prompt(tokenizer: Any, messages: Sequence[Message], **kwargs: Any) -> str:
    """Return the text that the policy continues; ``kwargs`` are read by the chat template.

    Raises:
        RecipeError: the chat template refuses the messages.
    """
    try:
        return tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True, **kwargs
        )
    except Exception as error:  # noqa: BLE001  (a template may raise whatever it likes)
        roles = " and ".join(message["role"] for message in messages)
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise RecipeError(
            f"model.path: the policy's chat template refuses a prompt of {roles} messages: "
            f"{lines[0]}; remove the system message of the data section, or mend the template"
        ) from error


def prompt_tokenizer(
    tokenizer: Any, prefill: str | None, template_kwargs: Mapping[str, Any] | None, where: str
) -> Any:
    """Return ``tokenizer`` with the chat template that renders a data section's prompts.

    Args:
        tokenizer: the policy's.
        prefill: of the data section, at the end of the generation prompt.
        template_kwargs: ``trainer.chat_template_kwargs`` of the recipe.
        where: the data section's name in messages.

    Raises:
        RecipeError: the policy's template cannot be extended, or does not read an argument.
    """
    return with_prefill(_with_kwargs(tokenizer, template_kwargs or {}), prefill, where)


def _with_kwargs(tokenizer: Any, kwargs: Mapping[str, Any]) -> Any:
    """Return ``tokenizer`` with a chat template that sets its arguments ``kwargs`` itself."""
    if not kwargs:
        return tokenizer
    template, where = tokenizer.chat_template, "trainer.chat_template_kwargs"
    if not isinstance(template, str):
        raise RecipeError(f"{where}: the policy has no single chat template that reads them")
    settings = ""
    for key, value in kwargs.items():
        own = {"messages", *inspect.signature(tokenizer.apply_chat_template).parameters}
        if key in own:
            raise RecipeError(f"{where}.{key}: the run sets it itself; remove it")
        if not key.isidentifier() or not re.search(rf"\b{key}\b", template):
            raise RecipeError(
                f"{where}.{key}: the policy's chat template does not read {key!r}; remove it, or "
                "write the name that the template has"
            )
        # The sign + keeps the line break that a template may begin with.
        settings += f"{{% set {key} = {_literal(value)} +%}}"
    extended = copy.deepcopy(tokenizer)
    extended.chat_template = settings + template
    messages = render("0")
    if generation_prompt(extended, messages) != generation_prompt(tokenizer, messages, **kwargs):
        raise RecipeError(
            f"{where}: the policy's chat template cannot be given {', '.join(kwargs)}; write the "
            "values into the template yourself"
        )
    return extended


def _literal(value: object) -> str:
    """Return a value of a recipe as Jinja writes it."""
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_literal(k)}: {_literal(v)}' for k, v in value.items())}}}"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def with_prefill(tokenizer: Any, prefill: str | None, where: str) -> Any:
    """Return ``tokenizer`` with a chat template whose generation prompt ends in ``prefill``.

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
    extended = copy.deepcopy(tokenizer)
    literal = _literal(prefill)
    ending = f"{{% if add_generation_prompt %}}{{{{ {literal} }}}}{{% endif %}}"
    extended.chat_template = template.removesuffix("\n") + ending
    if generation_prompt(extended, probe) != before + prefill:
        raise RecipeError(
            f"{where}.prefill: the policy's chat template cannot be extended; write {prefill!r} at "
            "the end of its generation prompt yourself"
        )
    return extended
