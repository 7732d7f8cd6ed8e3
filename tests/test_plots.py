"""The figures are written, with every arm on them."""

import struct
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from rlvr.eval import Estimate
from rlvr.plots import PALETTE, plot_accuracy, plot_curves, smooth


def curves() -> dict[str, list[dict]]:
    rng = np.random.default_rng(0)
    return {
        arm: [
            {"step": step, "reward": rate * step + 0.02 * rng.standard_normal()}
            | ({"kl_to_base": rate * step} if step % 10 == 0 else {})
            for step in range(1, 61)
        ]
        for arm, rate in {"dense": 0.01, "safe": 0.008}.items()
    }


def has_color(image: np.ndarray, color: str) -> bool:
    close = np.abs(image[..., :3] - np.array(to_rgb(color))).max(-1) < 0.02
    return int(close.sum()) > 100


def test_curves_show_every_arm(tmp_path: Path):
    path = tmp_path / "deep" / "curves.png"
    keys = {"reward": "reward", "kl_to_base": "KL (nats per token)", "absent": "absent"}
    plot_curves(curves(), keys, path, "pocket")
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    assert width > height > 300
    # The legend is below the panels, which stand side by side.
    image = matplotlib.image.imread(path)[: int(0.85 * height)]
    reward, kl, absent = np.array_split(image, 3, axis=1)
    for color in PALETTE[:2]:
        assert has_color(reward, color) and has_color(kl, color) and not has_color(absent, color)
    assert not has_color(image, PALETTE[2])


def test_accuracy_shows_every_arm(tmp_path: Path):
    path = tmp_path / "accuracy.png"
    before = Estimate(0.5, 0.45, 0.55, 512)
    arms = {"dense": Estimate(0.9, 0.87, 0.93, 512), "worse": Estimate(0.4, 0.36, 0.44, 512)}
    plot_accuracy({arm: (before, after) for arm, after in arms.items()}, path, "pocket")
    image = matplotlib.image.imread(path)
    assert has_color(image, PALETTE[0]) and has_color(image, PALETTE[1])


def test_smoothing_keeps_constants_and_length():
    for length in (1, 2, 4, 5, 6, 40):
        np.testing.assert_allclose(smooth([3.0] * length), [3.0] * length)


def test_smoothing_is_the_centred_mean():
    values = np.random.default_rng(0).random(20)
    assert smooth(values.tolist())[10] == pytest.approx(values[8:13].mean())


def test_nothing_to_plot_is_an_error(tmp_path: Path):
    with pytest.raises(ValueError, match="nothing to plot"):
        plot_curves({}, {"reward": "reward"}, tmp_path / "a.png", "")
    with pytest.raises(ValueError, match="nothing to plot"):
        plot_accuracy({}, tmp_path / "a.png", "")
