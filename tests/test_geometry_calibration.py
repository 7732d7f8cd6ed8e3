"""Updates that know nothing of the weights get no verdict, however they were stored."""

import pytest
import torch
from scipy.stats import binom
from stored_updates import HISTORIES, SHAPES, UPDATES, draw_update, draw_weights, scale_for, store

from rlvr.geometry import overlap as ov
from rlvr.geometry.evidence import interval
from rlvr.geometry.findings import MASK, verdicts_of
from rlvr.geometry.matrix import measure
from rlvr.geometry.settings import Settings
from rlvr.geometry.sparsity import update_mask_bf16
from rlvr.geometry.storage import HISTORIES as HISTORIES_NAMED
from rlvr.geometry.storage import parse_history

CPU = torch.device("cpu")
SHARES = (0.01, 0.2, 0.8)
FALSE_RATE = 0.07  # of verdicts that are meant to be wrong in 5 % of the cases at most


def allowed(draws: int) -> int:
    """Return how many of ``draws`` may be wrong: a rate of 7 % exceeds it once in ten thousand."""
    return int(binom.ppf(1 - 1e-4, draws, FALSE_RATE))


def measured(
    size: int, shape: str, kind: str, history: str, share: float, seed: int, preference: float = 1.0
) -> dict:
    """Return the row of one independent update; ``preference`` scales it on principal weights."""
    generator = torch.Generator().manual_seed(seed)
    weights = draw_weights(shape, size, generator)
    update = draw_update(kind, size, generator)
    if preference != 1:
        left, values, right = torch.linalg.svd(weights)
        rank = size // 16
        magnitude = ((left[:, :rank] * values[:rank]) @ right[:rank]).abs()
        principal = magnitude > magnitude.median()
        update[principal & (weights.abs() > weights.abs().median())] *= preference
    scale = scale_for(weights, update, history, share)
    base, tuned = store(weights, scale * update, history, generator)
    known = parse_history(history) if preference != 1 and history in HISTORIES_NAMED else None
    settings = Settings(rank=size // 16, angle_rank=1, exact=False, history=known)
    return measure(f"w{seed}", base, tuned, settings, CPU).row


@pytest.mark.parametrize("history", HISTORIES)
def test_an_update_that_knows_nothing_gets_no_verdict(history):
    cells = [(shape, kind, share) for shape in SHAPES for kind in UPDATES for share in SHARES]
    rows = [
        measured(64, shape, kind, history, share, seed)
        for seed, (shape, kind, share) in enumerate(cells)
    ]
    found = [cell for cell, row in zip(cells, rows, strict=True) if verdicts_of([row])[0]]
    assert len(found) <= allowed(len(cells)), found
    # The interval covers what the nulls of this history allow: the size of weights holds for all.
    outside = sum(abs(row[f"{MASK}_excess"]) > 3 * row[f"{MASK}_excess_error"] for row in rows)
    assert outside <= allowed(len(cells))


@pytest.mark.slow
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize(("size", "draws"), [(64, 60), (256, 30), (1024, 4)])
def test_no_cell_of_the_whole_grid_flags_more_than_its_level(size, draws, history, share):
    for shape in SHAPES:
        for kind in UPDATES:
            rows = [measured(size, shape, kind, history, share, seed) for seed in range(draws)]
            false = sum(bool(verdicts_of([row])[0]) for row in rows)
            assert false <= allowed(draws), (shape, kind, false)


@pytest.mark.parametrize("history", ["masters", "float32", "float16", "stochastic", "pure"])
@pytest.mark.parametrize(("preference", "verdict"), [(0.5, "avoids"), (2.0, "seeks")])
def test_a_planted_preference_is_found(history, preference, verdict):
    row = measured(256, "even", "normal", history, 0.3, 1, preference)
    assert verdicts_of([row]) == [verdict]


@pytest.mark.parametrize(
    ("history", "null"),
    [
        ("masters", "nearest"),
        ("float32", "dithered"),
        ("float32_to_bf16", "dithered"),
        ("float16", "dithered"),
        ("float16_to_bf16", "dithered"),
        ("stochastic", "dithered"),
    ],
)
@pytest.mark.parametrize("kind", ["normal", "mixed_sign", "heavy", "rank_1"])
def test_the_null_of_its_own_history_is_what_an_update_shows(history, null, kind):
    for share in (0.2, 0.8):
        row = measured(256, "even", kind, history, share, 3)
        for mask in ("principal", "low", "principal_not_low"):
            key = f"overlap_{mask}"
            # A point: the error of the overlap, and that of a null from a 32nd of the entries.
            expected = row[f"{key}_null_{null}"]
            assert row[key] == pytest.approx(expected, abs=0.01 + 3 * row[f"{key}_error"])


def test_a_matrix_that_was_scaled_gets_no_verdict_and_no_null_of_rounding():
    generator = torch.Generator().manual_seed(0)
    weights = draw_weights("even", 256, generator).bfloat16()
    for factor in (0.99, 0.9985, 1.003):
        tuned = (factor * weights.float()).bfloat16()
        row = measure("w", weights, tuned, Settings(rank=16, angle_rank=1, exact=False), CPU).row
        assert verdicts_of([row]) == [""]
        if 0.05 < row["sparsity_bf16"] < 0.95:
            assert row["relative"] and row["overlap_low_null"] != row["overlap_low_null"]


def test_many_matrices_find_nothing_by_chance():
    rows = [measured(64, "even", "normal", "masters", 0.3, seed) for seed in range(60)]
    assert not any(verdicts_of(rows))


@pytest.mark.parametrize("history", HISTORIES)
def test_independent_runs_agree_as_much_as_rounding_expects(history):
    cells = [(shape, kind, share) for shape in SHAPES[:2] for kind in UPDATES for share in SHARES]
    wrong = 0
    for seed, (shape, kind, share) in enumerate(cells):
        generator = torch.Generator().manual_seed(seed)
        weights, masks = draw_weights(shape, 96, generator), []
        base = weights
        for _ in range(2):
            update = draw_update(kind, 96, generator)
            scale = scale_for(weights, update, history, share)
            base, tuned = store(weights, scale * update, history, generator)
            masks.append(update_mask_bf16(base, tuned))
        found, _ = ov.pairwise_jaccard(masks)
        expected, error = ov.pairwise_jaccard_rounding(base, masks)
        low, high = interval(found, error, 63)
        wrong += not low <= expected <= high
    assert wrong <= allowed(len(cells))


@pytest.mark.parametrize("shape", [(64, 64), (96, 64), (64, 200)])
@pytest.mark.parametrize("exact", [True, False])
def test_an_angle_is_of_a_subspace_that_can_turn(shape, exact):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(shape, generator=generator)
    tuned = base + 0.1 * torch.randn(shape, generator=generator)
    row = measure("w", base, tuned, Settings(exact=exact), CPU).row
    assert row["angle_rank"] == 16 and row["max_angle_left_deg"] > 0.1
    row = measure("w", base, tuned, Settings(exact=exact, angle_rank=64), CPU).row
    for side, length in zip(("left", "right"), shape, strict=True):
        angle = row[f"max_angle_{side}_deg"]
        assert (angle != angle) == (length == 64), (side, angle)
