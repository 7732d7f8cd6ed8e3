"""The entries of a parameter that may move, walked block by block from packed bits.

Positions are unpacked at each walk. To keep them would take 8 bytes per moving entry, as much as
both moments; one block at a time costs bandwidth and a bounded buffer.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rlvr.masks import Mask
from rlvr.masks.bits import count_runs, set_positions, unpack_bits

# Entries per block, multiples of 8. A CPU is fastest where a block's vectors stay in its cache; a
# GPU wants few, large launches, and this bounds the positions to 128 MiB.
_CPU_BLOCK, _GPU_BLOCK = 1 << 18, 1 << 24
_INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}


@dataclass(frozen=True)
class Block:
    """A run of entries: ``flat`` in the row-major tensor, ``moving`` in the compact vector.

    ``index`` holds the positions within the run that may move, int64, ascending; ``None``: all do.
    """

    flat: slice
    moving: slice
    index: Tensor | None

    def read(self, tensor: Tensor) -> Tensor:
        """Return the moving entries of ``tensor`` in this block; a view of it if all may move."""
        part = tensor.view(-1)[self.flat]
        return part if self.index is None else part.index_select(0, self.index)

    def write(self, tensor: Tensor, values: Tensor) -> None:
        """Round ``values`` to the dtype of ``tensor`` and write them to its moving entries."""
        part = tensor.view(-1)[self.flat]
        if self.index is not None:
            part.index_copy_(0, self.index, values.to(part.dtype))
        elif values.data_ptr() != part.data_ptr():  # what ``read`` returned is already in place
            part.copy_(values)


class Entries:
    """The entries of one parameter that may move, kept as packed bits on its device."""

    def __init__(self, mask: Mask, name: str, device: torch.device, before: int = 0) -> None:
        """Take the mask of what this rank holds; ``before`` entries move on lower ranks."""
        self.name, self.shape = name, mask.shapes[name]
        self._size = _CPU_BLOCK if device.type == "cpu" else _GPU_BLOCK
        # Block i holds the moving entries _starts[i] .. _starts[i + 1] of the compact vector.
        self._starts = [0, *count_runs(mask.bits[name], self._size // 8).cumsum(0).tolist()]
        self.count, self.numel = self._starts[-1], mask.numel(name)
        self.is_full = self.count == self.numel
        self.bits = mask.bits[name].to(device)
        self._tiles: Tensor | None = None
        self.run = slice(before, before + self.count)

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks in which something may move."""
        for number, start in enumerate(range(0, self.numel, self._size)):
            moving = slice(*self._starts[number : number + 2])
            count = moving.stop - moving.start
            flat = slice(start, min(start + self._size, self.numel))
            if self.is_full:
                yield Block(flat, moving, None)
            elif count:
                # Blocks are multiples of 8 entries, so a block begins at a whole byte.
                bits = self.bits[start // 8 : -(-flat.stop // 8)]
                yield Block(flat, moving, _positions(bits, flat.stop - start, count))

    def tile_starts(self, tile: int) -> Tensor:
        """Return how many entries move before each ``tile`` of entries, int32."""
        if self._tiles is None:
            # An exclusive prefix sum: the cumulative count minus the tile's own.
            counts = count_runs(self.bits, tile // 8)
            self._tiles = (counts.cumsum(0) - counts).to(torch.int32)
        return self._tiles

    def gather(self, tensor: Tensor) -> Tensor:
        """Return a copy of the moving entries of ``tensor`` as one float32 vector."""
        # Filled block by block: a whole index vector would take twice the vector's memory.
        vector = torch.empty(self.count, dtype=torch.float32, device=tensor.device)
        for block in self.blocks():
            vector[block.moving] = block.read(tensor)
        return vector

    def expand(self, vector: Tensor) -> Tensor:
        """Return the tensor whose moving entries are ``vector`` and whose others are 0."""
        if self.is_full:
            return vector.view(self.shape)
        tensor = torch.zeros(self.shape, dtype=vector.dtype, device=vector.device)
        for block in self.blocks():
            block.write(tensor, vector[block.moving])
        return tensor

    def restrict(self, tensor: Tensor) -> None:
        """Set every other entry to 0, also where it is NaN or infinite."""
        # On the bits as integers: times 0 is 0 for a NaN too, and no branch slows a CPU down.
        flat = tensor.view(-1).view(_INTEGERS[tensor.dtype])
        for start in range(0, self.numel, self._size):
            part = flat[start : start + self._size]
            bits = self.bits[start // 8 : -(-(start + part.numel()) // 8)]
            part.mul_(unpack_bits(bits, part.shape))


def _positions(bits: Tensor, numel: int, count: int) -> Tensor:
    if bits.device.type == "cpu":
        return set_positions(bits, count)
    # The size is known, so that a GPU need not wait for the host to learn it.
    return torch.nonzero_static(unpack_bits(bits, (numel,)), size=count).view(-1)
