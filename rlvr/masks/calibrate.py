r"""The rank at which the safe mask of some weights has a given density.

The paper (arXiv 2511.08567, table 4) reports a safe mask of 74.02 % and not the rank of its
principal part. With both densities at 1/2, rank 1 gives about 3/4 (the reconstruction says little
about the magnitudes) and full rank gives 1/2 (the reconstruction is the weights). So the published
density tells the rank. The density usually falls from the one to the other, but need not: the
search brackets every crossing of a grid, and reports several where there are several.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from rlvr.linalg import exact_svd
from rlvr.masks.builders import count_of, exact_density, largest, low_magnitude
from rlvr.masks.mask import require_finite
from rlvr.schema import RecipeError

Weights = Iterable[tuple[str, Tensor]]
REFINED = 31  # ranks looked at in a bracket at a time: one pass settles every bracket up to 32 wide


def safe_counts(
    weight: Tensor,
    name: str,
    ranks: Sequence[int],
    *,
    principal_density: float,
    low_density: float,
) -> list[int]:
    """Return how many entries the safe mask of ``weight`` lets move, at each of ``ranks``.

    The counts are those of ``safe`` with ``svd="exact"``; one decomposition serves all ranks.
    """
    # One decomposition: the reconstruction of any rank is a prefix of its columns.
    left, values, right_t = exact_svd(weight.float())
    low = low_magnitude(weight, name, density=low_density)
    principal = count_of(exact_density(principal_density), weight.numel())
    counts = []
    for rank in ranks:
        magnitude = ((left[:, :rank] * values[:rank]) @ right_t[:rank]).abs()
        # The safe mask: low magnitude, or not principal.
        counts.append(int((low | ~largest(magnitude, principal)).count_nonzero()))
    return counts


@dataclass(frozen=True)
class Calibration:
    """Densities by rank, ascending, over all matrices together; ``target`` is the wanted one."""

    target: float
    densities: dict[int, float]
    entries: int
    brackets: list[tuple[int, int]] = field(default_factory=list)

    @property
    def rank(self) -> int:
        """The rank with the density nearest to the target; the smaller of two equally near."""
        return min(self.densities, key=lambda rank: abs(self.densities[rank] - self.target))

    @property
    def error(self) -> float:
        """Density at the rank minus the target."""
        return self.densities[self.rank] - self.target

    @property
    def reached(self) -> bool:
        """Whether the target is one of the densities, or lies between two of them."""
        return bool(self.brackets) or self.error == 0


def grid(most: int) -> list[int]:
    """Return 1, 2, 4, ... up to ``most``, which is the last."""
    return sorted({2**power for power in range(most.bit_length())} | {most})


def crossings(densities: dict[int, float], target: float) -> list[tuple[int, int]]:
    """Return the pairs of neighbouring ranks with ``target`` between their densities."""
    ranks = sorted(densities)
    return [
        (low, high)
        for low, high in itertools.pairwise(ranks)
        # A change of side; equality counts as above, so a rank that hits the target is in a
        # bracket.
        if (densities[low] >= target) != (densities[high] >= target)
    ]


def between(low: int, high: int) -> list[int]:
    """Return at most ``REFINED`` ranks inside a bracket, evenly spread."""
    width = high - low
    count = min(REFINED, width - 1)
    # The ends of the bracket are known: only the inside is divided.
    return sorted({low + round(width * step / (count + 1)) for step in range(1, count + 1)})


def calibrate(
    weights: Callable[[], Weights],
    most: int,
    target: float,
    *,
    principal_density: float = 0.5,
    low_density: float = 0.5,
) -> Calibration:
    """Find the rank at which the safe mask's density over all matrices is nearest to ``target``.

    First the densities of the ``grid``, then of ranks inside every bracket of the target, until
    all brackets are neighbouring ranks. Each pass decomposes each matrix once.

    Args:
        weights: begins a pass over the named target matrices, one in memory at a time.
        most: the largest rank, at most the smallest dimension of all matrices.
        target: a density in (0, 1).
        principal_density: as in ``safe``.
        low_density: as in ``safe``.

    Raises:
        RecipeError: the target is not in (0, 1), there are no matrices, or one is not finite.
    """
    if not 0 < target < 1:
        raise RecipeError(f"--target: {target} is outside (0, 1); give the fraction of entries")
    densities: dict[int, float] = {}
    ranks, entries = grid(most), 0
    while ranks:
        moving, entries = [0] * len(ranks), 0
        for name, weight in weights():
            require_finite(weight, name)
            counts = safe_counts(
                weight,
                name,
                ranks,
                principal_density=principal_density,
                low_density=low_density,
            )
            moving = [total + count for total, count in zip(moving, counts, strict=True)]
            entries += weight.numel()
        if not entries:
            raise RecipeError("--targets: there is no matrix to calibrate on")
        densities |= {rank: count / entries for rank, count in zip(ranks, moving, strict=True)}
        brackets = crossings(densities, target)
        # Empty when every bracket is two neighbouring ranks, which ends the loop.
        ranks = sorted({rank for low, high in brackets for rank in between(low, high)})
    ordered = dict(sorted(densities.items()))
    return Calibration(target, ordered, entries, crossings(ordered, target))
