"""The guard of contract C1: what may not move did not, and something that may did."""

from collections.abc import Collection

from torch import Tensor, nn

from rlvr.base_weights import BaseWeights
from rlvr.checkpoints.fingerprints import checksum
from rlvr.engines import reshard, whole
from rlvr.masks import Mask
from rlvr.masks.bits import unpack_bits
from rlvr.schema import RunError


class Guard:
    """Remembers a checksum of every frozen entry of the policy at its base weights.

    Memory: 8 bytes per tensor. ``check`` runs after the first step, at every save and at the end.
    """

    def __init__(
        self,
        model: nn.Module,
        mask: Mask | None,
        base: BaseWeights,
        exempt: Collection[str] = (),
    ) -> None:
        """Watch ``model``, but for the parameters in ``exempt``, which only a control has."""
        self._model, self._mask, self._base, self._exempt = model, mask, base, exempt
        self._expected = self._checksums()
        self.has_moved = False
        self.metrics: dict[str, float] = {}

    def _frozen(self, name: str, parameter: Tensor) -> Tensor | None:
        """Return where ``parameter`` must stay, or ``None`` for everywhere."""
        if self._mask is not None and name in self._mask:
            bits = self._mask.bits[name].to(parameter.device)
            return ~unpack_bits(bits, self._mask.shapes[name])
        return None

    def _checksums(self) -> dict[str, int]:
        masked = self._mask or {}
        sums = {}
        reshard(self._model)
        for name, parameter in self._model.named_parameters():
            if name in self._exempt:
                continue
            if name in masked or not parameter.requires_grad:
                with whole(parameter) as weight:
                    sums[name] = checksum(weight, self._frozen(name, weight))
        return sums

    def check(self, step: int) -> None:
        """Compare the weights at ``step`` with the base and renew ``metrics``.

        ``mask_leak`` is 0, or this raises; ``moved`` is the share of entries that may move and did.

        Raises:
            RunError: an entry outside the mask moved; the message names its tensors.
        """
        now = self._checksums()
        # A checksum tells that a tensor changed, not where; that is enough to stop.
        leaking = [name for name, value in self._expected.items() if now[name] != value]
        if leaking:
            raise RunError(
                f"mask leak at step {step}: {len(leaking)} tensors moved outside the mask, first "
                f"{leaking[0]!r}; something other than the optimizer wrote to the weights"
            )
        moved = self._base.count_moved()
        self.has_moved = self.has_moved or moved > 0
        self.metrics = {"moved": moved / max(1, self._base.count())}
        if not self._exempt:
            self.metrics["mask_leak"] = 0.0

    def require_movement(self, step: int, reason: str) -> None:
        """Raise where nothing that may move has moved by ``step``."""
        if not self.has_moved and self._base.count_moved() == 0:
            raise RunError(f"nothing moved by step {step}: {reason}")
