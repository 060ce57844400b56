"""utils.temporal: flicker goes where the picture stands still, and nothing stays behind what moves."""

import numpy as np
import pytest

from utils.temporal import TemporalSmoother

HEIGHT, WIDTH = 90, 160


def noise(seed: int, sigma: float, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, sigma, shape).astype(np.float32)


def scene(x: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A bright soft disc whose middle is at `x` pixels, before a dark wall, with the noise of a camera."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    alpha = np.clip((20 - np.hypot(rows - 45, columns - x)) / 4 + 0.5, 0, 1).astype(np.float32)
    rgb = 60 + 120 * alpha[..., None] * np.array([1, 0.8, 0.6]) + noise(seed, 3, HEIGHT, WIDTH, 3)
    return np.clip(rgb, 0, 255).astype(np.uint8), alpha


@pytest.mark.parametrize("strength", [0.5, 0.8])
def test_flicker_of_a_still_picture_falls_as_a_recursive_average_has_it(strength: float) -> None:
    smoother, results = TemporalSmoother(strength), []
    for i in range(150):
        rgb, _ = scene(80, seed=i)
        results.append(smoother.smooth(rgb, 0.5 + noise(1000 + i, 0.05, HEIGHT, WIDTH)))
    settled = np.stack(results[30:])
    assert settled.var() / 0.05**2 == pytest.approx((1 - strength) / (1 + strength), rel=0.05)
    assert settled.mean() == pytest.approx(0.5, abs=1e-3)


def test_strength_0_changes_nothing() -> None:
    smoother = TemporalSmoother(0)
    for i in range(3):
        rgb, alpha = scene(80, i)
        alpha = alpha + noise(i, 0.1, HEIGHT, WIDTH)
        assert smoother.smooth(rgb, alpha) is alpha


@pytest.mark.parametrize("strength", [-0.1, 1, 1.5, float("nan")])
def test_strength_has_bounds(strength: float) -> None:
    with pytest.raises(ValueError, match="strength"):
        TemporalSmoother(strength)


@pytest.mark.parametrize("speed", [0.05, 0.3, 1, 3, 10])
def test_what_moves_is_followed_and_leaves_no_trail(speed: float) -> None:
    """Without flicker every difference is lag. A plain average of this strength is wrong by more than 0.5."""
    smoother = TemporalSmoother(0.8)
    for i in range(12 if speed == 10 else 40):
        rgb, alpha = scene(25 + speed * i, i)
        smoothed = smoother.smooth(rgb, alpha)
        assert np.abs(smoothed - alpha).max() < 0.2
        assert np.abs(smoothed - alpha).mean() < 0.004


def test_a_slow_change_adds_up() -> None:
    """From frame to frame it is less than noise; an average that compares neighbours only would lag by 0.19."""
    smoother = TemporalSmoother(0.95)
    for i in range(80):
        alpha = np.full((HEIGHT, WIDTH), 0.1 + 0.01 * i, np.float32)
        smoothed = smoother.smooth(np.full((HEIGHT, WIDTH, 3), 100 + i, np.uint8), alpha)
        assert np.abs(smoothed - alpha).max() < 0.09


@pytest.mark.parametrize("speed", [0, 0.1, 0.5, 2])
def test_the_error_never_grows(speed: float) -> None:
    smoother, before, after = TemporalSmoother(0.7), [], []
    for i in range(40):
        rgb, alpha = scene(40 + speed * i, i)
        soft = (alpha > 0) & (alpha < 1)
        flickering = np.clip(alpha + soft * noise(100 + i, 0.15, HEIGHT, WIDTH), 0, 1)
        smoothed = smoother.smooth(rgb, flickering)
        before.append(np.abs(flickering - alpha).mean())
        after.append(np.abs(smoothed - alpha).mean())
    assert np.mean(after[10:]) < np.mean(before[10:]) * (0.7 if speed < 0.5 else 1)


def test_a_change_of_alpha_counts_where_colours_do_not_tell() -> None:
    """Something walks before a wall of its own colour."""
    smoother = TemporalSmoother(0.9)
    grey = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    for x in (30, 60):
        alpha = scene(x)[1]
        smoothed = smoother.smooth(grey, alpha)
        assert np.abs(smoothed - alpha).mean() < 0.01
        assert smoothed[45, x] == 1 and smoothed[45, 90 - x] == 0


def test_a_cut_starts_anew() -> None:
    """The shots share a dark part, where alpha changes by too little to count by itself."""
    smoother = TemporalSmoother(0.9)
    first = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    second = first.copy()
    second[:, 60:] = 200
    old, new = np.full((HEIGHT, WIDTH), 0.1, np.float32), np.full((HEIGHT, WIDTH), 0.2, np.float32)
    for _ in range(5):
        smoother.smooth(first, old)
    assert np.array_equal(smoother.smooth(second, new), new)
    assert smoother.smooth(second, old)[0, 0] == pytest.approx(0.19), "and goes on from there"


def test_the_frame_before_is_not_changed_and_another_size_starts_anew() -> None:
    smoother = TemporalSmoother(0.5)
    rgb, alpha = scene(80)
    given = alpha.copy()
    first = smoother.smooth(rgb, alpha)
    kept = first.copy()
    other = np.clip(alpha + noise(0, 0.05, HEIGHT, WIDTH), 0, 1)
    smoother.smooth(rgb, other)
    assert np.array_equal(alpha, given) and np.array_equal(first, kept)
    small = np.ascontiguousarray(alpha[:7, :1])
    assert np.array_equal(smoother.smooth(rgb[:7, :1], small), small)


def test_alphas_end_at_0() -> None:
    """Not at numbers that a processor takes a hundred times as long for."""
    smoother, grey = TemporalSmoother(0.5), np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    smoothed = smoother.smooth(grey, np.full((HEIGHT, WIDTH), 0.1, np.float32))
    for _ in range(20):
        smoothed = smoother.smooth(grey, np.zeros((HEIGHT, WIDTH), np.float32))
    assert smoothed.max() == 0
