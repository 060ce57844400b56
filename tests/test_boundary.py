"""Scores at the edge against hand-computed cases, slow references and the code people run."""

import math
import subprocess
import sys

import cv2
import numpy as np
import pytest

from utils.boundary import (
    band_scores,
    boundary_iou,
    edge_distance,
    edge_length,
    fog,
    foreground_mask,
    mba,
    sharpness,
)
from utils.metrics import mad, mse, sad

pytestmark = pytest.mark.filterwarnings("error")

SIZES = [(1, 1), (1, 9), (9, 1), (3, 4), (30, 41)]


def random_matte(height: int, width: int, seed: int = 0, smoothness_px: float = 2.0) -> np.ndarray:
    """Blobs with soft edges, flat 0 and 1 inside."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random((height, width)), (0, 0), smoothness_px)
    return np.clip((noise - noise.mean()) / noise.std() + 0.5, 0, 1)


def mattes(height: int, width: int, seed: int = 0, smoothness_px: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    target, noise = (random_matte(height, width, s, smoothness_px) for s in (seed, seed + 100))
    return np.clip(target + 0.6 * noise - 0.3, 0, 1), target


def half_plane(height: int, width: int, first: int) -> np.ndarray:
    alpha = np.zeros((height, width))
    alpha[:, first:] = 1
    return alpha


def test_the_module_is_light() -> None:
    heavy = "{'torch', 'pandas', 'sklearn'} & set(sys.modules)"
    code = f"import sys, utils.boundary; sys.exit(str({heavy}) if {heavy} else 0)"
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------------------------------------
# The mask of a truth


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_truth_is_above_level_128_after_rounding(dtype: type) -> None:
    """Wrong ports: 128 counts (alpha > 0.5); levels are floored, which loses 128.6."""
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(foreground_mask((levels / 255).astype(dtype)[None]), levels[None] > 128)
    between = np.array([[128.4, 128.6]]) / 255
    assert foreground_mask(between.astype(dtype)).tolist() == [[False, True]]
    assert ((between * 255).astype(np.uint8) > 128).tolist() == [[False, False]]


# ------------------------------------------------------------------------------------------------------------
# Mean boundary accuracy


def radii(height: int, width: int) -> list[int]:
    return [1 + int(((width + height) / 300 - 1) / 5 * i) for i in range(5)]


def reference_mba(pred: np.ndarray, target: np.ndarray) -> float:
    """By every offset of each ellipse: its rows reach out round(sqrt(r² - dy²))."""
    truth = np.rint(target * 255) > 128
    height, width = truth.shape
    accuracies = []
    for radius in radii(height, width):
        sees_one, sees_zero = np.zeros(truth.shape, bool), np.zeros(truth.shape, bool)
        for dy in range(-radius, radius + 1):
            reach = round(math.sqrt(radius**2 - dy**2))
            for dx in range(-reach, reach + 1):
                y0, y1, x0, x1 = max(0, -dy), min(height, height - dy), max(0, -dx), min(width, width - dx)
                if y0 < y1 and x0 < x1:
                    seen = truth[y0 + dy : y1 + dy, x0 + dx : x1 + dx]
                    sees_one[y0:y1, x0:x1] |= seen
                    sees_zero[y0:y1, x0:x1] |= ~seen
        region = sees_one & sees_zero
        accuracies.append(((pred * 255 > 128.5) == truth)[region].mean())
    return float(np.mean(accuracies))


def published_mba(pred: np.ndarray, target: np.ndarray) -> float:
    """One morphological gradient a radius, of uint8 masks."""
    mask, truth = np.uint8(pred > 128.5 / 255), np.uint8(target > 128.5 / 255)
    accuracies = []
    for radius in radii(*mask.shape):
        ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        region = cv2.morphologyEx(truth, cv2.MORPH_GRADIENT, ellipse) > 0
        accuracies.append((mask == truth)[region].mean())
    return float(np.mean(accuracies))


@pytest.mark.parametrize("size", [(30, 41), (2, 3), (1, 700), (700, 1), (61, 1201), (149, 152), (999, 13)], ids=str)
def test_mba_matches_every_offset(size: tuple[int, int]) -> None:
    pred, target = mattes(*size)
    assert mba(pred, target) == pytest.approx(reference_mba(pred, target), rel=1e-12)
    assert mba(pred, target) == pytest.approx(published_mba(pred, target), rel=1e-12)
    assert mba(pred, target) < 1


@pytest.mark.parametrize("size", [(641, 959), (2011, 1801)], ids=str)
def test_mba_of_nested_ellipses_is_that_of_gradients(size: tuple[int, int]) -> None:
    """Radii that grow by several pixels, up to 11, under thin structures."""
    pred, target = mattes(*size, seed=1)
    assert len(set(radii(*size))) >= 4
    assert mba(pred, target) == pytest.approx(published_mba(pred, target), rel=1e-12)


def test_mba_of_a_shifted_edge() -> None:
    """Radii 1, 1, 1, 2, 2, so 2 or 4 columns count; one of them is wrong."""
    assert radii(300, 600) == [1, 1, 1, 2, 2]
    target = half_plane(300, 600, 200)
    assert mba(target, target) == 1
    assert mba(half_plane(300, 600, 201), target) == pytest.approx((3 / 2 + 2 * 3 / 4) / 5)
    assert mba(half_plane(300, 600, 250), target) == pytest.approx(1 / 2)


def test_mba_of_small_images_looks_one_pixel_far() -> None:
    assert radii(2, 3) == radii(149, 150) == [1] * 5
    pred, target = half_plane(10, 20, 11), half_plane(10, 20, 10)
    assert mba(pred, target) == 0.5
    pred[:, :9] = 1  # outside the boundary
    assert mba(pred, target) == 0.5


def test_mba_does_not_stretch_the_prediction() -> None:
    target = half_plane(10, 20, 10)
    assert mba(0.5 * target, target) == 0.5
    assert mba(0.51 * target, target) == 1


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_mba_of_a_constant_truth_is_the_share_of_right_pixels(size: tuple[int, int]) -> None:
    pred = np.random.default_rng(0).random(size)
    for target in (np.zeros(size), np.full(size, 0.2), np.ones(size)):
        assert mba(pred, target) == np.mean((pred > 128.5 / 255) == (target > 0.5))
        assert mba(target, target) == 1
        assert mba(1 - target, target) == 0


# ------------------------------------------------------------------------------------------------------------
# Boundary IoU


def reference_boundary(mask: np.ndarray) -> np.ndarray:
    """Minima over 3x3, one after another, within a border of zeros."""
    height, width = mask.shape
    eroded = np.pad(mask, 1)
    for _ in range(max(1, round(0.02 * math.hypot(height, width)))):
        padded = np.pad(eroded, 1)
        windows = [padded[y : y + height + 2, x : x + width + 2] for y in range(3) for x in range(3)]
        eroded = np.logical_and.reduce(windows)
    return mask & ~eroded[1:-1, 1:-1]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("size", [(9, 13), (2, 700), (30, 41), (120, 301), (401, 355)], ids=str)
def test_boundary_iou_matches_erosions_one_by_one(size: tuple[int, int], seed: int) -> None:
    pred, target = mattes(*size, seed, smoothness_px=max(2, size[0] / 20))
    pred_boundary, true_boundary = reference_boundary(pred > 128.5 / 255), reference_boundary(foreground_mask(target))
    expected = (pred_boundary & true_boundary).sum() / (pred_boundary | true_boundary).sum()
    assert boundary_iou(pred, target) == pytest.approx(expected, rel=1e-12)
    assert 0 < expected < 1


def test_boundary_iou_matches_repeated_erosion_in_opencv() -> None:
    """The published code, at a width of 27 px."""
    target = random_matte(801, 1100, 2, smoothness_px=15)
    pred = np.roll(target, 5, axis=1)
    assert round(0.02 * math.hypot(801, 1100)) == 27
    boundaries = []
    for mask in (np.uint8(pred > 128.5 / 255), np.uint8(foreground_mask(target))):
        padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=27)[1:-1, 1:-1]
        boundaries.append(mask - eroded)
        assert eroded.any()
    expected = (boundaries[0] & boundaries[1]).sum() / (boundaries[0] | boundaries[1]).sum()
    assert boundary_iou(pred, target) == pytest.approx(expected, rel=1e-12)
    assert 0 < expected < 1


def test_boundary_iou_of_shifted_squares() -> None:
    """On 30x40 the boundary is 1 px wide: rings of 36 pixels that share 2 x 9, and a disjoint ring."""
    target, shifted, inner = np.zeros((30, 40)), np.zeros((30, 40)), np.zeros((30, 40))
    target[10:20, 10:20] = shifted[10:20, 11:21] = inner[11:19, 11:19] = 1
    assert boundary_iou(target, target) == 1
    assert boundary_iou(shifted, target) == pytest.approx(18 / (36 + 36 - 18))
    assert boundary_iou(inner, target) == 0


def test_boundary_iou_takes_the_outside_for_background() -> None:
    """The whole image's boundary is its frame of 2 * 30 + 2 * 38 pixels; it shares 48 with its left half's 96."""
    pred = np.zeros((30, 40))
    pred[:, :20] = 1
    assert boundary_iou(pred, np.ones((30, 40))) == pytest.approx((30 + 2 * 19) / (136 + 28))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_boundary_iou_of_empty_masks(size: tuple[int, int]) -> None:
    empty, full = np.zeros(size), np.ones(size)
    assert boundary_iou(empty, empty) == boundary_iou(full, full) == 1
    assert boundary_iou(empty, full) == boundary_iou(full, empty) == 0


# ------------------------------------------------------------------------------------------------------------
# What holds for both


@pytest.mark.parametrize("metric", [mba, boundary_iou])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_scores_of_degenerate_truths_are_finite(metric, size: tuple[int, int]) -> None:
    corner, border = np.zeros(size), np.zeros(size)
    corner[-1, -1] = border[-1, size[1] // 2] = 1
    noise = np.random.default_rng(0).random(size)
    for target in (np.zeros(size), np.ones(size), np.full(size, 0.5), corner, border, noise):
        for pred in (np.zeros(size), np.ones(size), 1 - target, noise[::-1, ::-1]):
            score = metric(pred, target)
            assert isinstance(score, float)
            assert 0 <= score <= 1
        mask = foreground_mask(target).astype(np.float32)
        assert metric(mask, target) == 1


@pytest.mark.parametrize("metric", [mba, boundary_iou])
def test_inputs_are_left_alone_and_may_be_views(metric) -> None:
    pred, target = mattes(40, 53)
    before = pred.copy(), target.copy()
    expected = metric(pred, target)
    assert metric(np.asfortranarray(pred), np.asfortranarray(target)) == expected
    assert metric(np.repeat(pred, 2, axis=1)[:, ::2], np.repeat(target, 2, axis=1)[:, ::2]) == expected
    assert metric(pred.astype(np.float32), target.astype(np.float32)) == pytest.approx(expected, abs=1e-3)
    np.testing.assert_array_equal(pred, before[0])
    np.testing.assert_array_equal(target, before[1])


@pytest.mark.parametrize("metric", [mba, boundary_iou])
def test_wrong_inputs_are_refused(metric) -> None:
    pred, target = mattes(40, 53)
    with pytest.raises(AssertionError, match="shapes"):
        metric(pred[:-1], target)
    with pytest.raises(AssertionError, match="uint8"):
        metric(np.uint8(255 * pred), target)


# ------------------------------------------------------------------------------------------------------------
# Boundary band


def reference_band(target: np.ndarray, radius_px: float) -> np.ndarray:
    points = [(y, x, target[y, x]) for y in range(target.shape[0]) for x in range(target.shape[1])]
    band = np.zeros(target.shape, bool)
    for y, x, a in points:
        band[y, x] = 0 < a < 1 or any(
            (0 < b < 1 or (a >= 0.5) != (b >= 0.5)) and (y - v) ** 2 + (x - u) ** 2 <= radius_px**2
            for v, u, b in points
        )
    return band


@pytest.mark.parametrize("radius_px", [0, 1, 1.5, 3, 5])
def test_band_matches_all_distances(radius_px: float) -> None:
    rng = np.random.default_rng(0)
    hard = (random_matte(16, 23) > 0.8).astype(np.float64)
    soft = hard.copy()
    soft[rng.random(soft.shape) < 0.01] = 0.3
    soft[8, :3] = 0.9
    for target in (hard, soft):
        np.testing.assert_array_equal(edge_distance(target) <= radius_px, reference_band(target, radius_px))


def test_band_of_a_straight_edge_is_its_radius_on_each_side() -> None:
    target = np.zeros((10, 40))
    target[:, 20:] = 1
    columns = (edge_distance(target) <= 4).all(axis=0)
    assert np.flatnonzero(columns).tolist() == list(range(16, 24))
    assert (edge_distance(target) <= 4).sum() == 80


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_band_of_constant_truths(size: tuple[int, int]) -> None:
    assert not (edge_distance(np.zeros(size)) <= 5).any()
    assert not (edge_distance(np.ones(size)) <= 5).any()
    assert not (edge_distance(np.ones(size)) <= math.inf).any()
    assert (edge_distance(np.full(size, 0.5)) <= 0).all()


def test_band_of_one_pixel_is_a_disc() -> None:
    """Of any size: distances are exact, not chamfer sums that drift with the radius."""
    target = np.zeros((101, 101), np.float32)
    target[50, 50] = 1
    yy, xx = np.mgrid[:101, :101] - 50
    for radius_px in (5, 13, 45):
        np.testing.assert_array_equal(edge_distance(target) <= radius_px, yy**2 + xx**2 <= radius_px**2)


def test_band_shows_what_the_whole_image_dilutes() -> None:
    target = np.zeros((200, 200))
    target[:, 100:] = 1
    pred = cv2.GaussianBlur(target, (0, 0), 2)
    band = edge_distance(target) <= 8
    assert band.mean() == 0.08
    assert mse(pred, target, region=band) > 12 * mse(pred, target)
    assert sad(pred, target, region=band) == pytest.approx(sad(pred, target), rel=1e-3)


# ------------------------------------------------------------------------------------------------------------
# Scores in the band


def test_band_scores_are_the_metrics_of_both_regions() -> None:
    pred, target = mattes(40, 53)
    target = np.float64(target > 0.7)
    band = edge_distance(target) <= 2
    (scores,) = band_scores(pred, target, [2])
    assert list(scores) == ["pixels", "SAD", "MSE", "MAD", "rest_SAD", "rest_MSE", "rest_MAD"]
    assert 0.1 < scores["pixels"] == band.mean() < 0.9
    difference = np.abs(pred - target)
    for prefix, region in (("", band), ("rest_", ~band)):
        assert scores[prefix + "SAD"] == pytest.approx(difference[region].sum() / 1000)
        assert scores[prefix + "MSE"] == pytest.approx((difference[region] ** 2).mean())
        assert scores[prefix + "MAD"] == pytest.approx(difference[region].mean())


@pytest.mark.parametrize("radius_px", [0, 1, 4, 100])
def test_band_and_rest_add_up(radius_px: float) -> None:
    pred, target = mattes(40, 53)
    (scores,) = band_scores(pred, target, [radius_px])
    assert scores["SAD"] + scores["rest_SAD"] == pytest.approx(sad(pred, target), rel=1e-12)
    for name, metric in (("MSE", mse), ("MAD", mad)):
        parts = scores["pixels"] * scores.get(name, 0) + (1 - scores["pixels"]) * scores.get(f"rest_{name}", 0)
        assert parts == pytest.approx(metric(pred, target), rel=1e-12)


def test_band_scores_of_a_hard_edge() -> None:
    """8 of 100 columns are the band. Inside, one column is wrong by 0.5; outside, two of 92 by 1."""
    target = half_plane(10, 100, 50)
    pred = target.copy()
    pred[:, 50], pred[:, :2] = 0.5, 1
    expected = {"pixels": 0.08, "SAD": 0.005, "MSE": 0.25 / 8, "MAD": 0.5 / 8}
    expected |= {"rest_SAD": 0.02, "rest_MSE": 2 / 92, "rest_MAD": 2 / 92}
    assert band_scores(pred, target, [4])[0] == pytest.approx(expected)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_empty_band_or_rest_has_no_mean(size: tuple[int, int]) -> None:
    (scores,) = band_scores(np.full(size, 0.5), np.ones(size), [5])
    assert scores["pixels"] == scores["SAD"] == 0 and not {"MSE", "MAD"} & set(scores)
    assert scores["rest_MAD"] == 0.5
    (scores,) = band_scores(np.ones(size), np.full(size, 0.5), [5])
    assert scores["rest_SAD"] == 0 and not {"rest_MSE", "rest_MAD"} & set(scores)
    assert scores["pixels"] == 1 and scores["MAD"] == 0.5


def test_a_perfect_prediction_is_perfect_whatever_its_levels() -> None:
    """Level 128 is background in both masks: thresholds that differ cost real mattes 3 % of their boundary accuracy."""
    target = np.zeros((60, 60))
    target[19:40, 19:40] = 128 / 255
    target[20:40, 20:40] = 1
    assert mba(target, target) == boundary_iou(target, target) == 1


# ------------------------------------------------------------------------------------------------------------
# What an edge looks like


def test_the_truth_looks_like_itself() -> None:
    target = half_plane(40, 60, 30)
    assert fog(target, target) == 0 and sharpness(target, target) == 1 and edge_length(target, target) == 1


def test_fog_is_counted_far_from_the_edge_only() -> None:
    target = half_plane(40, 60, 30)
    pred = target.copy()
    pred[:, 27:33] = 0.5  # within 3 px
    assert fog(pred, target) == 0
    pred[:10, :20] = 0.5
    pred[10:20, :20] = 0.04  # as good as transparent
    assert fog(pred, target) == pytest.approx(200 / (40 * 54))
    assert fog(np.full((4, 4), 0.5), np.ones((4, 4))) == 1
    assert np.isnan(fog(target[:2, 29:31], target[:2, 29:31]))


def test_a_blurred_edge_is_less_sharp_where_it_leaves_the_neighbourhood() -> None:
    """A ramp over 20 px falls by 1/20 a pixel, over 6 of which the truth falls by 1."""
    target = half_plane(40, 60, 30)
    ramp = np.clip((np.arange(60, dtype=np.float32) - 19.5) / 20, 0, 1) * np.ones((40, 1), np.float32)
    assert sharpness(ramp, target) == pytest.approx(6 / 20, rel=1e-5)
    assert np.isnan(sharpness(ramp, np.ones_like(target)))


def test_a_jagged_edge_is_longer() -> None:
    target = half_plane(40, 60, 30)
    jagged = target.copy()
    jagged[::2, 30] = 0
    assert edge_length(jagged, target) == pytest.approx((40 + 39) / 40)
    assert edge_length(np.zeros_like(target), target) == 0
    assert np.isnan(edge_length(target, np.zeros_like(target)))
