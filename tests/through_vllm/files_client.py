"""The trainer's side of ``files_server``: weights go through a file instead of NCCL."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from trl.generation.vllm_client import VLLMClient


def init_communicator(self: Any, device: object = 0) -> None:
    self.folder = tempfile.mkdtemp()
    url = f"{self.base_url}/init_weight_transfer_engine"
    self._post(url, json={"init_info": {"folder": self.folder}})


def update_named_params(
    self: Any, metadata: list[tuple], named_params: Iterable[tuple[str, Tensor]]
) -> None:
    tensors = {name: p.detach().cpu().contiguous().clone() for name, p in named_params}
    told = [(name, list(shape)) for name, _, shape in metadata]
    assert told == [(name, list(tensor.shape)) for name, tensor in tensors.items()]
    path = Path(self.folder, "weights.safetensors")
    save_file(tensors, path)
    self._start_weight_update()
    self._post(f"{self.base_url}/update_weights", json={"update_info": {"path": str(path)}})
    self._finish_weight_update()
    path.unlink()


setattr(VLLMClient, "init_communicator", init_communicator)  # noqa: B010
setattr(VLLMClient, "update_named_params", update_named_params)  # noqa: B010
