"""Metrics against closed forms, slow float64 references and the wrong ports known from published code."""

import math
from collections import deque

import cv2
import numpy as np
import pytest

from utils.metrics import METRICS, ConstantBaseline, boundary_band, conn, grad, mad, mse, sad

ALL = list(METRICS)
SIZES = [(1, 1), (1, 9), (9, 1), (3, 4), (30, 41)]


def random_matte(height: int, width: int, seed: int = 0, smoothness_px: float = 2.0) -> np.ndarray:
    """Blobs with soft edges, flat 0 and 1 inside: several components at every level."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random((height, width)), (0, 0), smoothness_px)
    return np.clip((noise - noise.mean()) / noise.std() + 0.5, 0, 1)


def mattes(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    target = random_matte(40, 53, seed)
    pred = np.clip(target + 0.3 * random_matte(40, 53, seed + 100) - 0.15, 0, 1)
    return pred, target


def random_region(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((40, 53)) < 0.4


# ------------------------------------------------------------------------------------------------------------
# SAD, MSE, MAD


def test_differences_have_their_units() -> None:
    target = np.zeros((50, 40))
    pred = np.full((50, 40), 0.25)
    assert sad(pred, target) == 0.25 * 2000 / 1000
    assert mse(pred, target) == 0.0625
    assert mad(pred, target) == 0.25


def test_differences_are_those_of_numpy() -> None:
    pred, target = mattes()
    assert sad(pred, target) == pytest.approx(np.abs(pred - target).sum() / 1000, rel=1e-12)
    assert mse(pred, target) == pytest.approx(((pred - target) ** 2).mean(), rel=1e-12)
    assert mad(pred, target) == pytest.approx(np.abs(pred - target).mean(), rel=1e-12)


def test_a_prediction_is_not_cut_to_eight_bits() -> None:
    """Wrong port: the prediction is floored to uint8 first, which would read 0 here (rounded: 1 level)."""
    target = np.full((30, 40), 100 / 255)
    pred = np.full((30, 40), 100.6 / 255)
    assert sad(pred, target) == pytest.approx(0.6 / 255 * 1200 / 1000, rel=1e-9)
    assert mse(pred, target) == pytest.approx((0.6 / 255) ** 2, rel=1e-9)


# ------------------------------------------------------------------------------------------------------------
# Grad


def reference_gradient(alpha: np.ndarray) -> np.ndarray:
    """|∇| by two-dimensional 9x9 kernels, a window a pixel, from the definition."""
    sigma = 1.4

    def gaussian(x: float) -> float:
        return math.exp(-(x**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))

    kernel_x = np.array([[gaussian(i) * -j * gaussian(j) / sigma**2 for j in range(-4, 5)] for i in range(-4, 5)])
    assert np.linalg.norm(kernel_x) == pytest.approx(0.101768, abs=5e-7)
    kernel_x /= np.linalg.norm(kernel_x)

    low, high = alpha.min(), alpha.max()
    padded = np.pad((alpha - low) / (high - low), 4, mode="edge")
    magnitude = np.empty_like(alpha)
    for y in range(alpha.shape[0]):
        for x in range(alpha.shape[1]):
            window = padded[y : y + 9, x : x + 9]
            magnitude[y, x] = math.hypot((window * kernel_x).sum(), (window * kernel_x.T).sum())
    return magnitude


@pytest.mark.parametrize("seed", range(3))
def test_grad_matches_two_dimensional_kernels(seed: int) -> None:
    pred, target = mattes(seed)
    squared = (reference_gradient(pred) - reference_gradient(target)) ** 2
    region = random_region(seed)
    assert grad(pred, target) == pytest.approx(squared.sum() / 1000, rel=1e-10)
    assert grad(pred, target, region=region) == pytest.approx(squared[region].sum() / 1000, rel=1e-10)


def test_grad_of_an_impulse_is_the_energy_of_both_kernels() -> None:
    """Both kernels have the L2 norm 1. Wrong ports: a Gaussian of unit sum and / 10, or another scale."""
    pred = np.zeros((21, 21))
    pred[10, 10] = 1
    assert grad(pred, np.zeros((21, 21))) == pytest.approx(2 / 1000, rel=1e-12)


def test_grad_stretches_each_matte_over_the_whole_image() -> None:
    pred, target = mattes()
    faint = 0.2 + 0.1 * pred
    assert grad(faint, target) == pytest.approx(grad(pred, target), rel=1e-9)
    region = np.zeros(pred.shape, bool)
    region[10:20, 10:20] = True
    assert grad(faint, target, region=region) == pytest.approx(grad(pred, target, region=region), rel=1e-9)


def test_grad_at_the_region_border_sees_the_pixels_outside() -> None:
    """Wrong port: the outside is blanked before filtering, which makes an edge of the border."""
    pred, target = np.zeros((20, 40)), np.zeros((20, 40))
    pred[:, :20] = target[:, :20] = 1
    region = np.zeros((20, 40), bool)
    region[:, :10] = True
    assert grad(pred, target, region=region) == pytest.approx(0, abs=1e-20)
    pred[:, 9] = 0.5
    region[:, 9] = False
    assert grad(pred, target, region=region) > 0


# ------------------------------------------------------------------------------------------------------------
# Conn


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest 4-connected component by flood fill, the first in reading order among equals."""
    unseen, largest = mask.copy(), []
    for start in zip(*np.nonzero(mask), strict=True):
        if not unseen[start]:
            continue
        unseen[start] = False
        component, queue = [], deque([start])
        while queue:
            y, x = queue.popleft()
            component.append((y, x))
            for ny, nx in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= ny < mask.shape[0] and 0 <= nx < mask.shape[1] and unseen[ny, nx]:
                    unseen[ny, nx] = False
                    queue.append((ny, nx))
        if len(component) > len(largest):
            largest = component
    result = np.zeros(mask.shape, bool)
    for y, x in largest:
        result[y, x] = True
    return result


def reference_conn(pred: np.ndarray, target: np.ndarray) -> np.ndarray:
    """|φ(a) - φ(b)|, with the level map of the MATLAB code: -1 until a pixel falls out of Ω."""
    level = np.full(pred.shape, -1.0)
    for k in range(1, 11):
        omega = largest_component((pred >= k / 10) & (target >= k / 10))
        level[(level == -1) & ~omega] = (k - 1) / 10
    level[level == -1] = 1
    phi = [1 - (x - level) * (x - level >= 0.15) for x in (pred, target)]
    return np.abs(phi[0] - phi[1])


@pytest.mark.parametrize("seed", range(4))
def test_conn_matches_a_flood_fill(seed: int) -> None:
    pred, target = mattes(seed)
    error = reference_conn(pred, target)
    region = random_region(seed)
    assert error.sum() > 1
    assert conn(pred, target) == pytest.approx(error.sum() / 1000, rel=1e-10)
    assert conn(pred, target, region=region) == pytest.approx(error[region].sum() / 1000, rel=1e-10)


def test_conn_matches_a_flood_fill_on_eight_bit_noise() -> None:
    """Single pixels and ties: every threshold that is a multiple of 1 / 255 is hit exactly."""
    rng = np.random.default_rng(0)
    pred, target = (rng.integers(0, 256, (25, 30)) / 255 for _ in range(2))
    assert conn(pred, target) == pytest.approx(reference_conn(pred, target).sum() / 1000, rel=1e-10)
    single = pred.astype(np.float32), target.astype(np.float32)
    assert conn(*single) == pytest.approx(conn(pred, target), rel=1e-6)


def test_conn_does_not_count_the_background_as_a_component() -> None:
    """Wrong port (`getLargestCC`): the larger empty background becomes Ω, and no pixel is connected."""
    target, pred = np.zeros((100, 100)), np.zeros((100, 100))
    target[10:20, 10:20], pred[10:20, 10:20] = 1.0, 0.9  # connected up to 0.9: both within 0.15, no error
    target[50:53, 50:53], pred[50:53, 50:53] = 1.0, 0.5  # an island, never in Ω: |1 - 0.5| for each of 9
    assert conn(pred, target) == pytest.approx(9 * 0.5 / 1000, rel=1e-12)


def test_conn_does_not_connect_diagonally() -> None:
    target = np.zeros((20, 20))
    target[2:8, 2:8] = 1
    target[8:11, 8:11] = 1  # touches only at a corner
    pred = target.copy()
    pred[8:11, 8:11] = 0.6
    assert conn(pred, target) == pytest.approx(9 * 0.4 / 1000, rel=1e-12)
    pred[7, 8] = target[7, 8] = 1  # now by an edge: level 0.6, and |φ| of 1 is 0.6
    assert conn(pred, target) == pytest.approx(9 * 0.4 / 1000, rel=1e-12)
    pred[8:11, 8:11] = 0.9
    assert conn(pred, target) == 0


def test_conn_threshold_of_six_tenths_is_not_rounded_up() -> None:
    """Wrong port: 6 * 0.1 > 0.6, so pixels of 153 / 255 lose a level and the truth's 0.24 exceeds 0.15."""
    pred, target = np.full((10, 10), 153 / 255), np.full((10, 10), 0.74)
    assert conn(pred, target) == 0


def test_conn_theta_is_inclusive() -> None:
    pred = np.full((10, 10), 0.5)
    assert conn(pred, np.full((10, 10), 0.64)) == 0
    assert conn(pred, np.full((10, 10), 0.65625)) == pytest.approx(100 * 0.15625 / 1000)
    pred, target = np.full((10, 10), 0.125), np.full((10, 10), 0.25)  # 0.25 - 0.1 is exactly 0.15
    assert conn(pred, target) == pytest.approx(100 * 0.15 / 1000)


# ------------------------------------------------------------------------------------------------------------
# What holds for all of them


@pytest.mark.parametrize("name", ALL)
def test_only_the_region_counts(name: str) -> None:
    """Wrong port: the region is ignored. Sums over a region and the rest add up to the whole image's."""
    metric, (pred, target), region = METRICS[name].function, mattes(), random_region()
    inside, outside = metric(pred, target, region=region), metric(pred, target, region=~region)
    share = region.mean()
    parts = inside + outside if METRICS[name].unit.startswith("sum") else share * inside + (1 - share) * outside
    assert parts == pytest.approx(metric(pred, target), rel=1e-10)
    assert 0 < inside != pytest.approx(metric(pred, target), rel=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_an_error_outside_the_region_is_not_seen(name: str) -> None:
    _, target = mattes()
    pred = target.copy()
    pred[:10, :10] = 1 - pred[:10, :10]
    region = np.zeros(target.shape, bool)
    region[30:, 40:] = True
    metric = METRICS[name].function
    assert metric(pred, target) > 0
    if name != "Conn":  # a change elsewhere may make another component the largest: Conn is not local
        assert metric(pred, target, region=region) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_degenerate_truths_are_finite_and_zero_when_met(name: str, size: tuple[int, int]) -> None:
    one_pixel = np.zeros(size)
    one_pixel[size[0] // 2, size[1] // 2] = 1
    noise = np.random.default_rng(0).random(size)
    metric = METRICS[name].function
    for target in (np.zeros(size), np.ones(size), one_pixel, np.full(size, 0.5), noise[:, ::-1]):
        assert metric(target, target) == pytest.approx(0, abs=1e-20)  # OpenCV rounds by where an array starts in memory
        for pred in (np.zeros(size), np.ones(size), 1 - target):
            value = metric(pred, target)
            assert isinstance(value, float)
            assert math.isfinite(value)
            assert value >= 0
            assert metric(pred, target, region=np.zeros(size, bool)) == 0.0


@pytest.mark.parametrize("name", ALL)
def test_inputs_are_left_alone_and_may_be_views(name: str) -> None:
    metric, (pred, target), region = METRICS[name].function, mattes(), random_region()
    expected = metric(pred, target, region=region)
    before = pred.copy(), target.copy(), region.copy()
    views = [np.asfortranarray(array) for array in before]
    assert metric(views[0], views[1], region=views[2]) == expected
    assert metric(pred.astype(np.float32), target, region=region) == pytest.approx(expected, rel=1e-4)
    for array, copy in zip((pred, target, region), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("name", ALL)
def test_wrong_inputs_are_refused(name: str) -> None:
    metric, (pred, target) = METRICS[name].function, mattes()
    with pytest.raises(AssertionError, match="shapes"):
        metric(pred[:-1], target)
    with pytest.raises(AssertionError, match="uint8"):
        metric(np.uint8(255 * pred), target)
    with pytest.raises(AssertionError, match="region"):
        metric(pred, target, region=random_region()[:-1])
    with pytest.raises(AssertionError, match="region"):
        metric(pred, target, region=np.uint8(random_region()))


def test_the_table_has_the_order_of_the_papers() -> None:
    assert ALL == ["SAD", "MSE", "MAD", "Grad", "Conn"]
    assert all(metric.lower_is_better and metric.unit for metric in METRICS.values())


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
        np.testing.assert_array_equal(boundary_band(target, radius_px), reference_band(target, radius_px))


def test_band_of_a_straight_edge_is_its_radius_on_each_side() -> None:
    target = np.zeros((10, 40))
    target[:, 20:] = 1
    columns = boundary_band(target, 4).all(axis=0)
    assert np.flatnonzero(columns).tolist() == list(range(16, 24))
    assert boundary_band(target, 4).sum() == 80


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_band_of_constant_truths(size: tuple[int, int]) -> None:
    assert not boundary_band(np.zeros(size), 5).any()
    assert not boundary_band(np.ones(size), 5).any()
    assert not boundary_band(np.ones(size), math.inf).any()
    assert boundary_band(np.full(size, 0.5), 0).all()


def test_band_of_one_pixel_is_a_disc() -> None:
    """Of any size: distances are exact, not chamfer sums that drift with the radius."""
    target = np.zeros((101, 101), np.float32)
    target[50, 50] = 1
    yy, xx = np.mgrid[:101, :101] - 50
    for radius_px in (5, 13, 45):
        np.testing.assert_array_equal(boundary_band(target, radius_px), yy**2 + xx**2 <= radius_px**2)


def test_band_shows_what_the_whole_image_dilutes() -> None:
    target = np.zeros((200, 200))
    target[:, 100:] = 1
    pred = cv2.GaussianBlur(target, (0, 0), 2)
    band = boundary_band(target, 8)
    assert band.mean() == 0.08
    assert mse(pred, target, region=band) > 12 * mse(pred, target)
    assert sad(pred, target, region=band) == pytest.approx(sad(pred, target), rel=1e-3)


# ------------------------------------------------------------------------------------------------------------
# Constant baseline


def test_constant_baseline_is_the_best_of_all_levels() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        sizes = rng.integers(1, 30, (4, 2))
        targets = [np.rint(255 * rng.random(size) ** rng.uniform(0.3, 3)) / 255 for size in sizes]
        baseline = ConstantBaseline()
        for target in targets:
            baseline.add(target)
        scores = [np.mean([sad(np.full(t.shape, v / 255), t) for t in targets]) for v in range(256)]
        constant, score = baseline.result()
        assert score == pytest.approx(min(scores), rel=1e-12)
        assert scores[round(constant * 255)] == pytest.approx(min(scores), rel=1e-12)


def test_constant_baseline_of_mostly_empty_mattes_is_their_area() -> None:
    target = np.zeros((100, 100), np.float32)
    target[:30] = 1
    baseline = ConstantBaseline()
    baseline.add(target)
    baseline.add(np.zeros((10, 10)))
    assert baseline.result() == (0.0, 3.0 / 2)


def test_constant_baseline_needs_an_image() -> None:
    with pytest.raises(ValueError, match="no images"):
        ConstantBaseline().result()
