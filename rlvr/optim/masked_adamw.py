r"""AdamW on the restricted problem of an update mask M (contract C1).

With W the weights, g the gradient and all vectors holding only the entries where M = 1:

.. math::
    g \leftarrow M \odot g                                  \quad\text{(when it is accumulated)} \\
    w \leftarrow (1 - \eta\lambda) w, \quad
    m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
    v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
    w \leftarrow w - \frac{\eta}{1 - \beta_1^t}
        \frac{m}{\sqrt{v} / \sqrt{1 - \beta_2^t} + \epsilon}

Frozen entries are never written, have no moments and do not decay. Gradients are restricted before
anything reads them; so clipping, accumulation, averaging and the logged norm are those of the
restricted problem. The operations and their order are those of ``torch.optim.AdamW`` without
foreach and fused, so that a mask of ones gives the same bits.

The update is computed in float32. For bfloat16 weights, w is either a float32 master copy of the
entries that may move, rounded to nearest into the weights (``"master"``), or the weights
themselves, rounded stochastically (``"stochastic"``).

Source: arXiv 1711.05101, algorithm 2; the masks are those of arXiv 2511.08567, section 5.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, distributed
from torch.utils.hooks import RemovableHandle

from rlvr.engines import local, local_mask
from rlvr.masks import Mask
from rlvr.optim.checks import check_options, check_parameter
from rlvr.optim.entries import Entries
from rlvr.optim.gradients import FreedGradients, restricting_hook
from rlvr.optim.rounding import round_stochastically, seed_of
from rlvr.optim.rule import adamw
from rlvr.optim.shards import read_state, save_state

FINGERPRINT = "mask_fingerprint"
Bf16Update = Literal["master", "stochastic"]


class MaskedAdamW(torch.optim.Optimizer):
    """AdamW that moves the entries of an update mask and nothing else.

    The state of a parameter is ``step`` and the float32 vectors ``exp_avg`` and ``exp_avg_sq`` over
    the entries that may move, and ``master`` where it has one. Hooks on the parameters restrict
    their gradients from construction until ``release``.
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
        bf16_update: Bf16Update = "master",
        free_gradients: bool = False,
        seed: int = 0,
    ) -> None:
        """Take over the named parameters, or groups of them with options of their own.

        Args:
            bf16_update: how bfloat16 weights take an update; float32 weights ignore it.
            free_gradients: accumulate each gradient as a float32 vector over the entries that may
                move, and set ``.grad`` to None at once; then clip by ``clip_grad_norm_``.
            seed: of the stochastic rounding, which uses no global random state.

        Raises:
            ValueError: a hyperparameter is out of range, a parameter has no mask or a mask no
                parameter, a parameter is not contiguous float32 or bfloat16 of the mask's shape,
                or gradients are to be freed on several processes.
        """
        if free_gradients and distributed.is_initialized() and distributed.get_world_size() > 1:
            raise ValueError("free_gradients: gradients would be freed before they are averaged")
        self.mask, self._free_gradients = mask, free_gradients
        self._entries: dict[Tensor, Entries] = {}
        self._gradients = FreedGradients(self._entries)
        self._generators: dict[torch.device, torch.Generator] = {}
        self._handles: list[RemovableHandle] = []
        # The second set rides in the param groups, so that state_dict() carries it.
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        saved = {"bf16_update": bf16_update, "seed": seed, FINGERPRINT: mask.fingerprint()}
        super().__init__(named_parameters, defaults | saved)
        unused = set(mask.names) - {entries.name for entries in self._entries.values()}
        if unused:
            raise ValueError(f"mask entry {min(unused)!r} matches no parameter of the optimizer")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        # torch normalises the group first: it splits off the names and fills in the defaults.
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        check_options(group)
        if "param_names" not in group:
            raise ValueError("parameters: give (name, parameter) pairs, to match them to the mask")
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            check_parameter(name, parameter, self.mask)
            self._adopt(name, parameter)

    def _adopt(self, name: str, parameter: Tensor) -> None:
        held, before = local_mask(self.mask, name, parameter)
        # A tensor hashes by identity: an engine that replaces the parameter needs ``rebind``.
        entries = self._entries[parameter] = Entries(held, name, parameter.device, before)
        if entries.is_full and not self._free_gradients:
            return  # nothing to restrict
        hook = self._gradients.take if self._free_gradients else restricting_hook(entries)
        # Post-accumulate, not a tensor hook: FSDP2 calls only this one, with the sharded gradient.
        self._handles.append(parameter.register_post_accumulate_grad_hook(hook))

    def rebind(self, named_parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Find the parameters anew by name, after an engine has replaced them by its shards."""
        current = dict(named_parameters)
        self.release()
        self._entries.clear()
        for group in self.param_groups:
            group["params"] = [current[name] for name in group["param_names"]]
            for name, parameter in zip(group["param_names"], group["params"], strict=True):
                self._adopt(name, parameter)

    def release(self) -> None:
        """Take the hooks off the parameters, so that another optimizer can have them."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def gradients(self) -> Iterator[Tensor]:
        """Yield the accumulated gradients: of the parameters' shapes, or vectors if freed."""
        for parameter in self._entries:
            gradient = self._gradient(parameter)
            if gradient is not None:
                yield gradient

    def _gradient(self, parameter: Tensor) -> Tensor | None:
        if self._free_gradients:
            return self._gradients.get(parameter)
        return None if parameter.grad is None else local(parameter.grad)

    def clip_grad_norm_(self, parameters: Iterable[Tensor], max_norm: float) -> Tensor:
        """Do what ``torch.nn.utils.clip_grad_norm_`` does, which sees no freed gradient."""
        if self._free_gradients:
            return self._gradients.clip_norm(parameters, max_norm)
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._gradients.clear()
        super().zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update the entries that may move; a freed gradient is used up by it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = self._gradient(parameter)
                if gradient is not None:
                    self._update(parameter, gradient, group)
        self._gradients.clear()
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        entries, state = self._entries[parameter], self.state[parameter]
        if not state:
            self._start(parameter, state, group)
        held = local(parameter)
        state["step"] += 1  # before its use: bias corrections count steps from 1
        step, master = int(state["step"].item()), state.get("master")
        seed = self._seed(parameter, group, step)
        compact, rounds = self._free_gradients, seed is not None
        if _has_kernel(entries, held, gradient, compact=compact, rounds=rounds):
            from rlvr.optim.fused import fused_update

            fused_update(held, gradient, entries, state, group, is_compact=compact, seed=seed)
            return
        rounding = self._rounding(parameter, seed)
        for block in entries.blocks():
            moving = block.moving
            grads = gradient[moving] if self._free_gradients else block.read(gradient).float()
            weights = block.read(held).float() if master is None else master[moving]
            adamw(
                weights, grads, state["exp_avg"][moving], state["exp_avg_sq"][moving], step, group
            )
            # With a master, ``weights`` is a view of it and already up to date.
            block.write(held, weights if rounding is None else rounding(weights))

    def _start(self, parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        entries = self._entries[parameter]
        # On the CPU, as in torch: read by the host at every step.
        state["step"] = torch.tensor(0.0, dtype=torch.float32)
        for key in ("exp_avg", "exp_avg_sq"):
            state[key] = torch.zeros(entries.count, dtype=torch.float32, device=parameter.device)
        if _has_master(parameter, group):
            state["master"] = entries.gather(local(parameter))

    def _seed(self, parameter: Tensor, group: dict[str, Any], step: int) -> int | None:
        if parameter.dtype == torch.float32 or group["bf16_update"] == "master":
            return None
        return seed_of(group["seed"], self._entries[parameter].name, step)

    def _rounding(self, parameter: Tensor, seed: int | None) -> Callable[[Tensor], Tensor] | None:
        if seed is None:
            return None
        device = parameter.device
        generator = self._generators.setdefault(device, torch.Generator(device))
        generator.manual_seed(seed)
        return lambda values: round_stochastically(values, generator)

    @torch.no_grad()
    def has_hidden_updates(self) -> bool:
        """Return whether a master differs from the bfloat16 weight that it rounds to."""
        return any(
            bool((state["master"][block.moving] != block.read(local(parameter))).any())
            for parameter, state in self.state.items()
            if "master" in state
            for block in self._entries[parameter].blocks()
        )

    def mask_bytes(self) -> int:
        """Return the bytes of the packed masks that this rank holds."""
        return sum(entries.bits.numel() for entries in self._entries.values())

    def save_shards(self, folder: Path) -> None:
        """Save the state of sharded parameters, a file per rank; every rank must call."""
        save_state(self, folder)

    def load_shards(self, folder: Path) -> None:
        """Restore what ``save_shards`` saved, also by another number of ranks."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        runs = {number: self._entries[p].run for number, p in enumerate(parameters)}
        self.load_state_dict(read_state(folder, runs))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state that was saved under the same mask, parameters and precision.

        Raises:
            ValueError: the state belongs to another mask, to other parameters or groups, or to
                weights that were updated in another way.
        """
        saved_groups, states = state_dict["param_groups"], state_dict["state"]
        self._check_saved(saved_groups, states)
        # Torch would cast every state to the dtype of its parameter.
        super().load_state_dict({**state_dict, "state": {}})
        for saved, group in zip(saved_groups, self.param_groups, strict=True):
            for number, parameter in zip(saved["params"], group["params"], strict=True):
                for key, value in states.get(number, {}).items():
                    device = torch.device("cpu") if key == "step" else parameter.device
                    self.state[parameter][key] = value.to(device)

    def _check_saved(self, saved_groups: list[dict[str, Any]], states: dict[Any, Any]) -> None:
        for saved in saved_groups:
            if saved.get(FINGERPRINT) != self.mask.fingerprint():
                raise ValueError(
                    f"optimizer state of mask {saved.get(FINGERPRINT)}, but this run's mask is "
                    f"{self.mask.fingerprint()}; resume with the mask of the run that saved it"
                )
        names = [group["param_names"] for group in self.param_groups]
        if [saved["param_names"] for saved in saved_groups] != names:
            raise ValueError("optimizer state of other parameters or groups than this run's")
        for saved, group in zip(saved_groups, self.param_groups, strict=True):
            for number, parameter in zip(saved["params"], group["params"], strict=True):
                self._check_precision(parameter, group, states.get(number))

    def _check_precision(
        self, parameter: Tensor, group: dict[str, Any], saved: Mapping[str, Any] | None
    ) -> None:
        if saved and ("master" in saved) != _has_master(parameter, group):
            had = "with" if "master" in saved else "without"
            raise ValueError(
                f"optimizer state of {self._entries[parameter].name!r} {had} float32 masters; "
                "resume with the model.dtype and optimizer.bf16_update of the run that saved it"
            )


def _has_kernel(
    entries: Entries, parameter: Tensor, gradient: Tensor, *, compact: bool, rounds: bool
) -> bool:
    """Return whether the fused kernel takes this update: on CUDA, where it agrees in its mode.

    Entries that all may move need no positions and take torch's own operations.
    """
    device = parameter.device
    if device.type != "cuda" or entries.is_full or find_spec("triton") is None:
        return False
    from rlvr.optim.fused import MAX_ENTRIES, Mode, kernel_agrees

    has_master = parameter.dtype == torch.bfloat16 and not rounds
    mode = Mode(parameter.dtype, gradient.dtype, compact, has_master, rounds)
    return entries.numel <= MAX_ENTRIES and kernel_agrees(device, mode)


def _has_master(parameter: Tensor, group: dict[str, Any]) -> bool:
    return parameter.dtype == torch.bfloat16 and group["bf16_update"] == "master"
