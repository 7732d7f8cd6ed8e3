"""The files of an adapter in a checkpoint, each of which stock PEFT loads on the original base.

``lora/``: a plain LoRA adapter that computes the trained policy on the base weights as they are, of
twice the rank where the start is subtracted: A' = [A; A0], B' = [B, -B0]. DoRA and methods that are
no LoRA save themselves.

``adapter/``: the adapter as trained, to go on training. Where the start is subtracted it needs
``adapter/start`` as well.
"""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlvr import runtime
from rlvr.adapters.attach import Adapter
from rlvr.adapters.spec import module_names
from rlvr.adapters.start import START, TRAINED, factor_names
from rlvr.adapters.weights import base_weights, is_plain_lora, tuner_layers
from rlvr.checkpoints.folders import ADAPTER, LORA
from rlvr.engines import whole
from rlvr.schema import RunError

WEIGHTS = "adapter_model.safetensors"
ERODED = "eroded_base.safetensors"  # of the control that writes to the base weights
ALONE = """The trained factors of an adapter that does not start at 0. Without its start they
are another policy: load `../lora` on the base instead, or load this and `start` as two adapters,
both active.
"""


def save_adapter(adapter: Adapter, folder: Path) -> None:
    """Write ``adapter/`` and, of a LoRA, ``lora/``; every rank must call this."""
    model: Any = adapter.model
    state = {}
    for name, parameter in model.named_parameters():
        if model.base_model.prefix in name:
            # A collective under FSDP2 and ZeRO-3, so before the other ranks return.
            with whole(parameter) as value:
                state[name] = value.detach().cpu().clone()
    # Some methods of PEFT keep their projections in buffers.
    state |= {name: buffer.detach().cpu() for name, buffer in model.named_buffers()}
    if adapter.is_control:
        eroded = {name: weight.cpu().clone() for name, weight in base_weights(model)}
    if not runtime.is_main():
        return
    model.save_pretrained(folder / ADAPTER, state_dict=state, save_embedding_layers=False)
    if START in model.peft_config:
        (folder / ADAPTER / "README.md").write_text(ALONE, encoding="utf-8")
    if adapter.is_control:
        save_file(eroded, folder / ADAPTER / ERODED)
    if all(map(is_plain_lora, tuner_layers(model).values())):
        _save_lora(model, state, folder / LORA)


def _save_lora(model: PeftModel, state: dict[str, Tensor], folder: Path) -> None:
    tensors, scaling, rank = {}, 1.0, 0
    for name, layer in tuner_layers(model).items():
        path = f"base_model.model.{name}"
        names = factor_names(layer)  # pyright: ignore[reportArgumentType]
        firsts = [state[f"{path}.lora_A.{key}.weight"].float() for key in names]
        seconds = [state[f"{path}.lora_B.{key}.weight"].float() for key in names]
        # [B, -B0] [A; A0] = B A - B0 A0: joined along the rank, rows of A and columns of B.
        tensors[f"{path}.lora_A.weight"] = torch.cat(firsts, dim=0)
        tensors[f"{path}.lora_B.weight"] = torch.cat(seconds, dim=1)
        rank, scaling = sum(map(len, firsts)), layer.scaling[TRAINED]  # pyright: ignore[reportAttributeAccessIssue]
    config = LoraConfig(
        r=rank,
        # PEFT divides alpha by the doubled rank; this keeps s.
        lora_alpha=scaling * rank,  # pyright: ignore[reportArgumentType]
        target_modules=module_names(tuner_layers(model)),
        bias="none",
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=model.peft_config[TRAINED].base_model_name_or_path,
    )
    config.save_pretrained(str(folder))
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def load_adapter(adapter: Adapter, folder: Path) -> None:
    """Read ``adapter/`` of a checkpoint into the trained adapter, bit for bit.

    Raises:
        RunError: the file holds other tensors than the adapter.
    """
    tensors = load_file(folder / ADAPTER / WEIGHTS)
    result: Any = set_peft_model_state_dict(adapter.model, tensors, TRAINED)
    if adapter.is_control:
        eroded = load_file(folder / ADAPTER / ERODED)
        for name, weight in base_weights(adapter.model):
            weight.copy_(eroded[name])
    # Missing keys are normal: the file holds the adapter only, not the base.
    if result.unexpected_keys:
        raise RunError(f"{folder}/adapter: holds {result.unexpected_keys[0]!r}, unknown here")
