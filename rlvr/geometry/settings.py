"""What the measurements of an update are told: ranks and densities."""

from dataclasses import dataclass

from rlvr.geometry.storage import History
from rlvr.schema import RecipeError

ANGLE_RANK = 512  # what arXiv 2606.07082 uses


@dataclass(frozen=True)
class Settings:
    """The flags of the verb; ranks are cut to the smaller side of each matrix."""

    rank: int = 64
    density: float = 0.5
    low_density: float = 0.5
    angle_rank: int = ANGLE_RANK
    exact: bool = True
    history: History | None = None  # None: as the run of TUNED recorded it, else unknown

    def __post_init__(self) -> None:
        for flag, value in (("--rank", self.rank), ("--angle-rank", self.angle_rank)):
            if value < 1:
                raise RecipeError(f"{flag}: {value} is below 1")
        for flag, value in (("--density", self.density), ("--low-density", self.low_density)):
            if not 0 < value <= 1:
                raise RecipeError(f"{flag}: {value} is outside (0, 1]; give a fraction of entries")
