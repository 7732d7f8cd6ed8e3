"""A recipe's plugin that lets accelerate shard on CPUs, where it would run plain DDP in silence.

Only accelerate's choice of engine by device is changed; what shards, gathers and saves is its own
FSDP2 path, on gloo.
"""

import os
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

_create = AcceleratorState.__init__


def _create_with_fsdp(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    _create(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    asked = os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if asked and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


AcceleratorState.__init__ = _create_with_fsdp
