"""vLLM's API server with a weight-transfer engine that reads files, where there is no NCCL.

The engine process is forked, so it knows what is registered here.
"""

import os
import runpy
from dataclasses import dataclass
from typing import Any

os.environ["VLLM_WORKER_MULTIPROCESSING_METHOD"] = "fork"

import unpacked  # noqa: E402, F401
from safetensors.torch import load_file  # noqa: E402
from vllm.distributed.weight_transfer.base import (  # noqa: E402
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory  # noqa: E402


@dataclass
class Init(WeightTransferInitInfo):
    folder: str


@dataclass
class Update(WeightTransferUpdateInfo):
    path: str


class Files(WeightTransferEngine):
    init_info_cls, update_info_cls = Init, Update
    model: Any

    def init_transfer_engine(self, init_info: Init) -> None:
        self.folder = init_info.folder

    def start_weight_update(self) -> None: ...

    def finish_weight_update(self) -> None: ...

    def update_weights(self, update_info: dict) -> None:
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: Update) -> None:
        self.model.load_weights(load_file(update_info.path).items())

    def shutdown(self) -> None: ...


WeightTransferEngineFactory.register_engine("files", Files)

if __name__ == "__main__":
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
