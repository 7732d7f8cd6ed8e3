r"""The frozen start of an adapter, subtracted so that it cancels in any precision.

.. math:: y = W_0 x + s [B, -B_0] \, [A; A_0] \, x

One product of the joined factors. Two adapters side by side would each be rounded to bfloat16
before their sum, and a difference of two large numbers keeps the rounding of both: a PiSSA under
autocast then starts 1 to 3 % (relative, in logits) away from the base policy. Inside one product
the terms are summed in float32, and only their difference is rounded.
"""

from collections.abc import Sequence

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import LoraVariant
from torch import Tensor
from torch.nn.functional import linear

TRAINED, START = "default", "start"


class SubtractsStart(LoraVariant):
    """PEFT's hook for a LoRA layer with another forward pass.

    Merging is not its own: PEFT's ``merge`` must never write to the base weights here.
    """

    @staticmethod
    def forward(
        module: LoraLayer, active_adapter: str, x: Tensor, result: Tensor, **kwargs: object
    ) -> Tensor:
        first, second = joined_factors(module)
        scaling = module.scaling[TRAINED]
        return result + linear(linear(x, first), second) * scaling


def subtract_start(layer: LoraLayer) -> None:
    """Let the trained adapter of ``layer`` subtract the frozen one."""
    # Only the trained adapter runs; it reads the factors of the frozen one itself.
    layer.lora_variant[TRAINED] = SubtractsStart()


def subtracts_start(layer: LoraLayer) -> bool:
    return isinstance(layer.lora_variant.get(TRAINED), SubtractsStart)


def factor_names(layer: LoraLayer) -> Sequence[str]:
    """Return the adapters of a plain LoRA layer; their products add up to its update."""
    return (TRAINED, START) if subtracts_start(layer) else layer.active_adapters


def joined_factors(layer: LoraLayer) -> tuple[Tensor, Tensor]:
    """Return [A; A0] and [B, -B0]; only A and B of a layer without a start."""
    names = factor_names(layer)
    firsts: list[Tensor] = [layer.lora_A.get_parameter(f"{name}.weight") for name in names]
    seconds: list[Tensor] = [layer.lora_B.get_parameter(f"{name}.weight") for name in names]
    # Along the rank, so that one product sums over both adapters.
    return torch.cat(firsts, dim=0), torch.cat(seconds, dim=1)
