"""Settings of the sampler, checked: rollouts and the log-probs of the loss are of one policy.

TRL divides the logits by ``temperature`` in the loss too, so any temperature is allowed. Everything
else that reshapes the distribution (a nucleus, penalties, suppressed tokens, beams) leaves the
log-probs of the loss as they are, which makes the importance ratio wrong without a word. What may
be set is therefore listed, not what may not.
"""

import math
from collections.abc import Mapping
from typing import Any

from rlvr.schema import RecipeError

# top_k: an open one means 50 in transformers, and -1 is vLLM's word for none only.
WHOLE = {"top_p": (1.0,), "top_k": (0,), "min_p": (None, 0.0), "repetition_penalty": (1.0,)}
# How completions are computed, not which.
GENERATION_KWARGS = ("cache_implementation", "prefill_chunk_size", "use_cache")
_ELSEWHERE = {
    "temperature": "trainer.temperature, by which the loss divides the logits too",
    "max_new_tokens": "trainer.max_completion_length",
    "max_tokens": "trainer.max_completion_length",
    "num_return_sequences": "trainer.num_generations",
    "n": "trainer.num_generations",
    "seed": "trainer.seed",
}


def check_sampling(values: Mapping[str, Any]) -> None:
    """Refuse what would draw rollouts from another distribution than the policy's.

    Args:
        values: every setting of the ``trainer`` section, defaults included.

    Raises:
        RecipeError: names the setting and what it may be.
    """
    for key, allowed in WHOLE.items():
        if values[key] not in allowed:
            raise _reshapes(key, values[key], allowed[0])
    temperature = values["temperature"]
    if not (math.isfinite(temperature) and temperature > 0):
        raise RecipeError(
            f"trainer.temperature: must be above 0 and finite, got {temperature}; 1.0 samples from "
            "the policy as it is"
        )
    for key, value in (values["generation_kwargs"] or {}).items():
        _check_generation(key, value)
    if values["vllm_structured_outputs_regex"] is not None:
        raise _reshapes("vllm_structured_outputs_regex", values["vllm_structured_outputs_regex"])
    if values["use_transformers_continuous_batching"] and (values["fp16"] or _is_bf16(values)):
        raise RecipeError(
            "trainer.use_transformers_continuous_batching: under trainer.bf16 or fp16 TRL casts "
            "the policy itself, its weights and rotary frequencies, and trains on with those; "
            "set trainer.bf16 to false (model.dtype: bfloat16 halves the memory), or remove it"
        )


def _check_generation(key: str, value: object) -> None:
    if key in GENERATION_KWARGS or (key in WHOLE and value is not None and value in WHOLE[key]):
        return
    where = f"generation_kwargs.{key}"
    if key in WHOLE:
        raise _reshapes(where, value, WHOLE[key][0])
    if key in _ELSEWHERE:
        raise RecipeError(f"trainer.{where}: not yours to set; use {_ELSEWHERE[key]}")
    allowed = ", ".join(GENERATION_KWARGS)
    raise RecipeError(
        f"trainer.{where}: {value!r} may draw from another distribution than the policy's, or end "
        f"completions elsewhere, and the loss would not know; remove it (allowed are {allowed})"
    )


def _is_bf16(values: Mapping[str, Any]) -> bool:
    # TRL takes an open bf16 for true.
    return not values["fp16"] if values["bf16"] is None else values["bf16"]


def _reshapes(where: str, value: object, neutral: object = None) -> RecipeError:
    fix = "remove it" if neutral is None else f"remove it or set it to {neutral}"
    return RecipeError(
        f"trainer.{where}: {value!r} does not sample from the whole distribution of the policy, "
        f"which makes TRL's importance ratio wrong; {fix}"
    )
