"""The base policy as the reference: the initial values of whatever may move."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rlvr.engines import held, local, local_mask, reshard, total
from rlvr.masks import Mask
from rlvr.masks.bits import unpack_bits


class BaseWeights:
    """The base policy, kept as the initial values of whatever may move.

    Swapping them in gives the base policy's function exactly, for full and masked training. Under
    an adapter they only tell what moved: its reference is the policy without it. Memory: one copy
    of the trainable entries, where a second model would copy all of them, and the packed mask. Each
    rank keeps the rows that it holds of a sharded parameter.
    """

    def __init__(self, model: nn.Module, mask: Mask | None) -> None:
        """Snapshot what ``model`` may train; of a parameter in ``mask``, where that is true."""
        self._model, self._moving = model, {}
        for name, parameter in self._parameters().items():
            if mask is not None and name in mask:
                part, _ = local_mask(mask, name, parameter)
                self._moving[name] = (part.bits[name], part.shapes[name])
        self.values = {name: self._read(name, p) for name, p in self._parameters().items()}

    def _parameters(self) -> dict[str, nn.Parameter]:
        # By name, each time: an engine may replace the objects.
        reshard(self._model)
        return {name: p for name, p in self._model.named_parameters() if p.requires_grad}

    def _mask(self, name: str, device: torch.device) -> Tensor | None:
        """Return where ``name`` may move; the bits stay on the device where they were needed."""
        if name not in self._moving:
            return None
        bits, shape = self._moving[name]
        # Kept there: the swap runs at every measurement.
        self._moving[name] = bits.to(device), shape
        return unpack_bits(self._moving[name][0], shape)

    def _read(self, name: str, parameter: Tensor) -> Tensor:
        with held(parameter) as tensor:
            mask = self._mask(name, tensor.device)
            # A copy in any case: what was gathered is gone after this, and a view would change.
            return tensor.detach().clone() if mask is None else tensor.detach()[mask]

    def _base(self, name: str, parameter: Tensor) -> Tensor:
        """Return the base values on the device of their parameter: an engine may have moved it."""
        self.values[name] = self.values[name].to(parameter.device)
        return self.values[name]

    def _write(self, name: str, parameter: Tensor, values: Tensor) -> None:
        tensor = local(parameter.detach())
        mask = self._mask(name, tensor.device)
        if mask is None:
            tensor.copy_(values)
        else:
            # Boolean indices run in row-major order, as when the values were read.
            tensor[mask] = values.to(tensor.dtype)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Run the body with the base policy's weights; the trained ones return bit for bit."""
        with torch.no_grad():
            trained = {name: self._read(name, p) for name, p in self._parameters().items()}
            for name, parameter in self._parameters().items():
                self._write(name, parameter, self._base(name, parameter))
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._parameters().items():
                    self._write(name, parameter, trained[name])

    @torch.no_grad()
    def count_moved(self) -> int:
        """Return the number of entries that may move and did; every rank must ask."""
        parameters = self._parameters()
        moved = (
            (self._read(name, p) != self._base(name, p)).sum() for name, p in parameters.items()
        )
        return total(sum(map(int, moved)), parameters.values())

    def count(self) -> int:
        """Return the number of entries that may move; every rank must ask."""
        parameters = self._parameters()
        return total(sum(v.numel() for v in self.values.values()), parameters.values())
