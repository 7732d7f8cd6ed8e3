"""Adapters through PEFT, attached so that the policy starts as the base policy (contract C2).

The target matrices are resolved by the same code as those of the masks. PiSSA moves a part of each
base weight into its factors; the reference policy is therefore never "the adapter disabled" but
the base weights (``rlvr.policy.BaseWeights``).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlvr.config import pop_name
from rlvr.registry import adapter
from rlvr.schema import RecipeError

# A wrapped policy may differ from the base policy by the rounding of W = W_res + s B A in fp32.
MAX_START_GAP = 1e-4


@adapter
def lora(*, rank: int, alpha: float | None = None, dropout: float = 0.0) -> peft.LoraConfig:
    """LoRA (arXiv 2106.09685): W = W0 + (alpha / rank) B A with B = 0; alpha defaults to rank."""
    return _lora_config(rank, alpha, dropout, init=True)


@adapter
def pissa(*, rank: int, alpha: float | None = None) -> peft.LoraConfig:
    """PiSSA (arXiv 2404.02948): B A starts as the top-``rank`` singular triplets of W0, exactly.

    No dropout: the principal part lives in the adapter, and dropping it out is another policy.
    """
    return _lora_config(rank, alpha, dropout=0.0, init="pissa")


def _lora_config(rank: int, alpha: float | None, dropout: float, *, init: Any) -> peft.LoraConfig:
    return peft.LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=dropout,
        init_lora_weights=init,
        bias="none",
        task_type="CAUSAL_LM",
    )


def parse_adapter(spec: dict[str, Any], where: str = "adapter") -> tuple[str, dict[str, Any]]:
    name, options = pop_name(spec, "builder", where)
    return name, adapter.check(name, options, where)


def check_adapter(spec: dict[str, Any], shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise before any weight is loaded where the rank or dropout cannot be had."""
    _, options = parse_adapter(spec)
    rank = options.get("rank", 1)
    for name, shape in shapes.items():
        if not 1 <= rank <= min(shape):
            raise RecipeError(
                f"adapter.rank: {rank} is outside 1..{min(shape)}, the smallest dimension of {name}"
            )
    dropout = options.get("dropout", 0.0)
    if not 0.0 <= dropout < 1.0:
        raise RecipeError(f"adapter.dropout: {dropout} is outside [0, 1)")


@torch.no_grad()
def _probe(model: nn.Module, vocab_size: int) -> Tensor:
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocab_size, (2, 16), generator=generator).to(device)
    return model(input_ids=tokens).logits.float()


def attach_adapter(
    model: PreTrainedModel, spec: dict[str, Any], targets: Sequence[str]
) -> tuple[peft.PeftModel, float]:
    """Wrap ``model`` and return it with the relative logit gap to the base policy.

    Raises:
        RecipeError: the gap is above ``MAX_START_GAP``, so training would not start at the base.
    """
    name, options = parse_adapter(spec)
    config = adapter.functions[name](**options)
    config.target_modules = sorted(target.removesuffix(".weight") for target in targets)
    model.eval()
    before = _probe(model, model.config.vocab_size)
    wrapped = peft.get_peft_model(model, config)
    wrapped.eval()
    after = _probe(wrapped, model.config.vocab_size)
    gap = float((after - before).abs().max() / before.abs().max())
    if not gap <= MAX_START_GAP:
        raise RecipeError(
            f"adapter: {name!r} starts {gap:.1e} (relative, in logits) away from the base policy, "
            f"above {MAX_START_GAP:.0e}; load the base with model.dtype=float32"
        )
    return wrapped, gap


def merged_state(wrapped: peft.PeftModel) -> dict[str, Tensor]:
    """Return the plain state dict of the merged policy; ``wrapped`` itself is not touched.

    Merging in place and back would round the base each time, so each delta is added to a copy.
    """
    state, seen = {}, set()
    for name, parameter in wrapped.get_base_model().state_dict().items():
        # A tied head is the embedding once more, and stands in no plain checkpoint.
        if ".lora_" not in name and parameter.data_ptr() not in seen:
            seen.add(parameter.data_ptr())
            state[name.replace(".base_layer", "")] = parameter.detach().clone()
    for name, module in wrapped.get_base_model().named_modules():
        if hasattr(module, "get_delta_weight"):
            weight = state[f"{name}.weight"]
            delta = module.get_delta_weight("default")  # pyright: ignore[reportCallIssue]
            state[f"{name}.weight"] = (weight.float() + delta.float()).to(weight.dtype)
    return state
