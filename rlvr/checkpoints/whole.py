"""Whether a base is a whole policy: its tensors, its head and its tokens fit its configuration."""

import re
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from rlvr.checkpoints.names import canonical
from rlvr.schema import RecipeError

_BLOCK = re.compile(r"\.\d+\.")  # a tensor outside the blocks may be a value head, left out


def refuse_other_tensors(path: str, report: Mapping[str, Any]) -> None:
    """Refuse weights that are not those of the model, by what transformers reports of a load.

    Raises:
        RecipeError: a tensor is missing, of another shape, or of a block that the model lacks.
    """
    # A head that is tied is missing because its embedding is, which comes first.
    missing = sorted(report["missing_keys"], key=lambda name: (name.startswith("lm_head."), name))
    surplus = sorted(report["unexpected_keys"])
    where = f"model.path: the weights in {path}"
    # A missing tensor that is there under a wrapper's name tells the cause.
    wrapped = {canonical(name): name for name in surplus}
    for name in missing:
        if canonical(name) in wrapped:
            raise RecipeError(
                f"{where} hold {wrapped[canonical(name)]!r} and no {name!r} ({len(missing)} such "
                "tensors): a wrapper saved them under its own names; save the model inside it "
                "(model.module, model._orig_mod, merge_and_unload) with save_pretrained"
            )
    if missing:
        raise RecipeError(
            f"{where} lack {missing[0]!r} ({len(missing)} such tensors), which would be drawn at "
            "random; copy the checkpoint again, or take the config.json that belongs to it"
        )
    if report["mismatched_keys"]:
        name, stored, wanted = min(report["mismatched_keys"])
        raise RecipeError(
            f"{where} hold {name!r} of shape {list(stored)}, and by config.json it is "
            f"{list(wanted)}; take the config.json that belongs to the weights"
        )
    blocks = [name for name in surplus if _BLOCK.search(name)]
    if blocks:
        raise RecipeError(
            f"{where} hold {blocks[0]!r} ({len(blocks)} such tensors), which is no part of the "
            "model that config.json describes; take the config.json that belongs to the weights"
        )


def refuse_untied(path: str, model: PreTrainedModel) -> None:
    """Refuse a tied head of other values, which transformers unties and other engines overwrite."""
    tied, head = model.config.get_text_config().tie_word_embeddings, model.get_output_embeddings()
    if tied and head is not None and head.weight is not model.get_input_embeddings().weight:
        raise RecipeError(
            f"model.path: {path} stores an lm_head.weight that is not its embedding, and "
            "its config.json says tie_word_embeddings: true; set it to false, or remove the tensor"
        )


def refuse_surplus_tokens(
    path: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Refuse tokens without an embedding that a prompt can hold.

    Some published tokenizers have a token more, such as that of images in the text models of a
    family, which no text and no template gives.
    """
    size = config.get_text_config().vocab_size
    beyond = {token: n for token, n in tokenizer.get_vocab().items() if n >= size}
    named = (tokenizer.pad_token, tokenizer.eos_token, tokenizer.bos_token)
    added = tokenizer.added_tokens_decoder
    for token, number in sorted(beyond.items(), key=lambda item: item[1]):
        is_special = number in added and added[number].special
        if not is_special or token in named or token in str(tokenizer.chat_template):
            raise RecipeError(
                f"model.path: the tokenizer of {path} gives {token!r} the id {number}, and "
                f"the policy has embeddings for 0 to {size - 1} ({len(beyond)} such tokens); take "
                "the tokenizer that belongs to it, or add the embeddings with "
                "resize_token_embeddings"
            )
