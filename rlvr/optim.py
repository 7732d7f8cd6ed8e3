r"""AdamW on the restricted problem of an update mask M (contract C1).

With W the weights, g the gradient and all vectors holding only the entries where M = 1:

.. math::
    g \leftarrow M \odot g                                  \quad\text{(when it is accumulated)} \\
    w \leftarrow (1 - \eta\lambda) w, \quad
    m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
    v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
    w \leftarrow w - \frac{\eta}{1 - \beta_1^t}
        \frac{m}{\sqrt{v} / \sqrt{1 - \beta_2^t} + \epsilon}

Frozen entries are never written, have no moments and do not decay. Since gradients are restricted
before anything reads them, clipping, accumulation, gradient averaging and the logged norm are those
of the restricted problem. The operations and their order are those of ``torch.optim.AdamW``
without foreach and fused, so that a mask of ones gives the same bits.

Source: arXiv 1711.05101, algorithm 2; the masks are those of arXiv 2511.08567, section 5.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from rlvr.masks import Mask
from rlvr.masks.bits import unpack_bits

FINGERPRINT = "mask_fingerprint"


class Entries:
    """The entries of one parameter that may move, kept as packed bits on its device."""

    def __init__(self, mask: Mask, name: str, device: torch.device) -> None:
        self.name, self.shape = name, mask.shapes[name]
        self.count = mask.count(name)
        self.is_full = self.count == mask.numel(name)
        self._bits = mask.bits[name].to(device)
        self._kept: Tensor | None = None

    def index(self) -> Tensor:
        """Return the flat row-major positions, int64 [count], ascending."""
        if self._kept is not None:
            return self._kept
        mask = unpack_bits(self._bits, self.shape)
        # The size is known, so that a GPU need not wait for the host to learn it.
        index = torch.nonzero_static(mask.view(-1), size=self.count).view(-1)
        if index.device.type == "cpu":
            # On a CPU finding the positions costs more than the whole update of the entries; on a
            # GPU it is cheap and memory is what is short.
            self._kept = index
        return index

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the entries of ``tensor`` as a vector; a view of it if all entries may move."""
        flat = tensor.view(-1)
        return flat if self.is_full else flat.index_select(0, self.index())

    def scatter(self, tensor: Tensor, values: Tensor) -> None:
        """Write ``values`` to the entries of ``tensor``, to no other."""
        if not self.is_full:
            tensor.view(-1).index_copy_(0, self.index(), values)

    def restrict(self, tensor: Tensor) -> None:
        """Set every other entry to 0, also where it is NaN or infinite."""
        values = self.gather(tensor)
        if not self.is_full:
            tensor.zero_()
        self.scatter(tensor, values)


class MaskedAdamW(torch.optim.Optimizer):
    """AdamW that moves the entries of an update mask and nothing else.

    The state of a parameter is ``step`` and the fp32 vectors ``exp_avg`` and ``exp_avg_sq`` over
    the entries that may move. Gradients are restricted by hooks on the parameters from
    construction until ``release``.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]],
        mask: Mask,
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        """Take over the named parameters, or groups of them with options of their own.

        Raises:
            ValueError: a hyperparameter is out of range, a parameter has no mask or a mask no
                parameter, or a parameter is not contiguous float32 of the mask's shape.
        """
        self.mask = mask
        self._entries: dict[Tensor, Entries] = {}
        self._handles: list[RemovableHandle] = []
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(named_parameters, {**defaults, FINGERPRINT: mask.fingerprint()})
        unused = set(mask.names) - {entries.name for entries in self._entries.values()}
        if unused:
            raise ValueError(f"mask entry {min(unused)!r} matches no parameter of the optimizer")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        _check_options(group)
        if "param_names" not in group:
            raise ValueError("parameters: give (name, parameter) pairs, to match them to the mask")
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            self._adopt(name, parameter)

    def _adopt(self, name: str, parameter: Tensor) -> None:
        if name not in self.mask:
            raise ValueError(f"parameter {name!r} is not in the mask; freeze it or add it there")
        if parameter.dtype != torch.float32:
            raise ValueError(
                f"parameter {name!r} is {parameter.dtype}; masked training needs float32 weights"
            )
        if tuple(parameter.shape) != self.mask.shapes[name] or not parameter.is_contiguous():
            raise ValueError(
                f"parameter {name!r} must be contiguous, of the mask's shape "
                f"{self.mask.shapes[name]}; it has {tuple(parameter.shape)}"
            )
        entries = Entries(self.mask, name, parameter.device)
        self._entries[parameter] = entries
        if not entries.is_full:
            hook = _restrict_gradient(entries)
            self._handles.append(parameter.register_post_accumulate_grad_hook(hook))

    def release(self) -> None:
        """Take the hooks off the parameters, so that another optimizer can have them."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        entries, state = self._entries[parameter], self.state[parameter]
        weights, grads = entries.gather(parameter), entries.gather(gradient)
        if not state:
            # On the CPU, as in torch: read by the host at every step.
            state["step"] = torch.tensor(0.0, dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(weights)
            state["exp_avg_sq"] = torch.zeros_like(weights)
        state["step"] += 1
        adamw(weights, grads, state["exp_avg"], state["exp_avg_sq"], state["step"].item(), group)
        entries.scatter(parameter, weights)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state that was saved under the same mask and the same parameters.

        Raises:
            ValueError: the state belongs to another mask, or to other parameters or groups.
        """
        for saved in state_dict["param_groups"]:
            if saved.get(FINGERPRINT) != self.mask.fingerprint():
                raise ValueError(
                    f"optimizer state of mask {saved.get(FINGERPRINT)}, but this run's mask is "
                    f"{self.mask.fingerprint()}; resume with the mask of the run that saved it"
                )
        names = [group["param_names"] for group in self.param_groups]
        if [saved["param_names"] for saved in state_dict["param_groups"]] != names:
            raise ValueError("optimizer state of other parameters or groups than this run's")
        super().load_state_dict(state_dict)


def _check_options(group: dict[str, Any]) -> None:
    for key in ("lr", "eps", "weight_decay"):
        if not group[key] >= 0:
            raise ValueError(f"{key}: {group[key]} must be 0 or above")
    for beta in group["betas"]:
        if not 0 <= beta < 1:
            raise ValueError(f"betas: {beta} is outside [0, 1)")


def _restrict_gradient(entries: Entries) -> Callable[[Tensor], None]:
    def hook(parameter: Tensor) -> None:
        assert parameter.grad is not None
        entries.restrict(parameter.grad)

    return hook


def adamw(
    weights: Tensor, grads: Tensor, mean: Tensor, mean_sq: Tensor, step: float, group: dict
) -> None:
    """Update in place the ``weights`` and the moments by AdamW's ``step``, counted from 1."""
    lr, (beta1, beta2) = group["lr"], group["betas"]
    if group["weight_decay"] != 0:
        weights.mul_(1 - lr * group["weight_decay"])
    mean.lerp_(grads, 1 - beta1)
    mean_sq.mul_(beta2).addcmul_(grads, grads, value=1 - beta2)
    step_size = lr / (1 - beta1**step)
    denominator = (mean_sq.sqrt() / (1 - beta2**step) ** 0.5).add_(group["eps"])
    weights.addcdiv_(mean, denominator, value=-step_size)
