"""Gradients of the restricted problem, restricted in place or kept only as compact vectors."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from rlvr.engines import local
from rlvr.optim.entries import Entries


def restricting_hook(entries: Entries) -> Callable[[Tensor], None]:
    """Return a hook that sets a parameter's gradient to 0 outside ``entries``."""

    def hook(parameter: Tensor) -> None:
        assert parameter.grad is not None
        entries.restrict(local(parameter.grad))

    return hook


class FreedGradients(dict[Tensor, Tensor]):
    """Accumulated gradients by parameter, as float32 vectors over the entries that may move.

    They are float32 for bfloat16 parameters too, so that accumulation rounds no small contribution
    away; at the densities where memory is short that costs little.
    """

    def __init__(self, entries: Mapping[Tensor, Entries]) -> None:
        super().__init__()
        self._entries = entries

    def take(self, parameter: Tensor) -> None:
        """Add ``parameter.grad`` and set it to None; a post-accumulate hook."""
        assert parameter.grad is not None
        # None at once: the whole gradient is freed before the next layer's backward makes its own.
        gradient, parameter.grad = self._entries[parameter].gather(parameter.grad), None
        if parameter in self:
            self[parameter].add_(gradient)
        else:
            self[parameter] = gradient

    @torch.no_grad()
    def clip_norm(self, parameters: Iterable[Tensor], max_norm: float) -> Tensor:
        """Scale the gradients to a 2-norm of at most ``max_norm``; return the norm before.

        Each norm is of one parameter's gradient, expanded with its zeros. Another order of
        summation would not give the bits of ``torch.nn.utils.clip_grad_norm_`` on a CPU.
        """
        taken = [parameter for parameter in parameters if parameter in self]
        if not taken:
            return torch.tensor(0.0)
        norms = [torch.linalg.vector_norm(self._entries[p].expand(self[p])) for p in taken]
        norm = torch.linalg.vector_norm(torch.stack([item.to(norms[0].device) for item in norms]))
        # 1e-6 and the clamp are torch's own: one formula, the same bits.
        scale = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
        for parameter in taken:
            self[parameter].mul_(scale.to(parameter.device))
        return norm
