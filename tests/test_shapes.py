"""Shapes in annotations are checked in the tests, at every call of the mathematics."""

import pytest
import torch
from jaxtyping import TypeCheckError

from rlvr.eval.divergence import kl_per_position
from rlvr.geometry import overlap, sparsity, spectra
from rlvr.linalg import low_rank
from rlvr.masks.builders import largest, low_magnitude
from rlvr.optim.rounding import round_stochastically
from rlvr.optim.rule import adamw
from rlvr.training.step_kl import step_sums

VECTOR, MATRIX, MASK = torch.ones(3), torch.ones(3, 4), torch.ones(3, 4, dtype=torch.bool)
GROUP = {"lr": 1.0, "betas": (0.9, 0.9), "eps": 1.0, "weight_decay": 0.0}
WRONG = {
    "linalg": lambda: low_rank(VECTOR, 1, svd="exact"),
    "builders": lambda: low_magnitude(VECTOR, "w", density=0.5),
    "builders, dtype": lambda: largest(MASK, 2),
    "overlap": lambda: overlap.overlap(MASK, MASK.T),
    "sparsity": lambda: sparsity.update_profiles(MATRIX),
    "spectra": lambda: spectra.principal_angles(MATRIX, MATRIX.T),
    "divergence": lambda: kl_per_position(MATRIX, MATRIX[:2]),
    "step_kl": lambda: step_sums(MATRIX, MATRIX, MATRIX[:, :3], 0.2, 0.2),
    "rule": lambda: adamw(VECTOR, VECTOR, VECTOR, torch.ones(4), 1, GROUP),
    "rounding": lambda: round_stochastically(VECTOR.double(), torch.Generator()),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_a_wrong_shape_or_dtype_is_caught(call):
    with pytest.raises(TypeCheckError):
        call()
