"""What the measurements of an update are told: ranks and densities."""

from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.geometry.storage import History
from rlvr.schema import RecipeError

ANGLE_RANK = 512  # what arXiv 2606.07082 uses
ANGLE_SHARE = 4  # of the smaller side: a quarter


@dataclass(frozen=True)
class Settings:
    """The flags of the verb; ranks are cut to the smaller side of each matrix.

    ``angle_rank`` None: a quarter of the smaller side, at most 512, and with ``exact`` False at
    most ``rank``. A subspace of all directions cannot turn, and one of nearly all hardly can.
    """

    rank: int = 64
    density: float = 0.5
    low_density: float = 0.5
    angle_rank: int | None = None
    exact: bool = True
    history: History | None = None  # None: as the run of TUNED recorded it, else unknown

    def angle_rank_of(self, shape: Sequence[int]) -> int:
        """Return the rank of the angles of a matrix."""
        side = min(shape)
        if self.angle_rank is not None:
            return min(self.angle_rank, side)
        # Angles at more than `rank` need triplets that the fast decomposition did not compute.
        most = ANGLE_RANK if self.exact else min(self.rank, ANGLE_RANK)
        return max(1, min(most, side // ANGLE_SHARE))

    def __post_init__(self) -> None:
        for flag, value in (("--rank", self.rank), ("--angle-rank", self.angle_rank)):
            if value is not None and value < 1:
                raise RecipeError(f"{flag}: {value} is below 1")
        for flag, value in (("--density", self.density), ("--low-density", self.low_density)):
            if not 0 < value <= 1:
                raise RecipeError(f"{flag}: {value} is outside (0, 1]; give a fraction of entries")
