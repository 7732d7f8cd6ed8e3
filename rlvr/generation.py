"""What a checkpoint's own ``generation_config.json`` may say here: which tokens start, end and pad.

transformers' ``generate`` fills every setting that its caller leaves open from that file, and a
``min_p`` or a list of suppressed tokens there would draw rollouts from another distribution than
the one that gives the loss its log-probs. So a policy is loaded with only the settings in ``KEPT``.
The others are named when a run starts. The file itself is copied into each exported checkpoint: a
user of the checkpoint gets the base's defaults.
"""

import json
from typing import Any

from transformers import GenerationConfig, PretrainedConfig

from rlvr.checkpoints.folders import model_file
from rlvr.config import ModelSection
from rlvr.schema import RecipeError

FILE = "generation_config.json"
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
KEPT = (*IDS, "use_cache")
# Written by transformers, or without effect on what a run draws.
_SILENT = {
    "_from_model_config",
    "transformers_version",
    "output_attentions",
    "output_hidden_states",
}


def read_settings(section: ModelSection) -> dict[str, Any]:
    """Return what the base's ``generation_config.json`` sets; empty where there is none.

    Raises:
        RecipeError: the file is no mapping, or a token id in it is no number.
    """
    path = model_file(section.path, FILE, section.revision)
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecipeError(f"model.path: {path} is no valid JSON: {error}; mend it") from error
    if not isinstance(content, dict):
        raise RecipeError(f"model.path: {path} holds no mapping of settings; mend or delete it")
    for key in IDS:
        for token in _as_list(content.get(key)):
            if isinstance(token, bool) or not isinstance(token, int):
                raise RecipeError(
                    f"model.path: {key} in {path} is {content[key]!r}; it must be a token id or a "
                    "list of them"
                )
    return {key: value for key, value in content.items() if value is not None}


def put_aside(section: ModelSection) -> dict[str, Any]:
    """Return the settings of the base's file that neither training nor evaluation follows."""
    settings = read_settings(section)
    return {k: v for k, v in settings.items() if k not in KEPT and k not in _SILENT}


def plain_generation(section: ModelSection, config: PretrainedConfig) -> GenerationConfig:
    """Return the settings in ``KEPT``, a token id that the file lacks from the model's ``config``.

    Every end token of the base stays: ``eos_token_id`` is a list, or ``None`` where there is none.
    """
    settings = read_settings(section)
    # A vision-language model keeps the token ids of its text in a part of the configuration.
    text = config.get_text_config(decoder=True)
    values = {key: settings.get(key, getattr(text, key, None)) for key in IDS}
    values["eos_token_id"] = _as_list(values["eos_token_id"]) or None
    return GenerationConfig(**values, use_cache=settings.get("use_cache"))


def _as_list(value: object) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
