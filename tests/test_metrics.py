"""Metrics against closed forms, slow float64 references and the wrong ports known from published code."""

import math
from collections import deque
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from utils.metrics import MATTING, ConstantBaseline, conn, grad, mad, matting, mse, sad, truth_levels

ALL = list(MATTING)
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


def floored(alpha: np.ndarray) -> np.ndarray:
    """Wrong port: alpha as `astype(uint8)` leaves it."""
    return (alpha * 255).astype(np.uint8) / 255


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
    assert sad(floored(pred), target) == mse(floored(pred), target) == 0


def test_flooring_to_eight_bits_would_cost_half_a_level() -> None:
    """On soft pixels, on average: a matte that is exact reads as an error."""
    target = np.random.default_rng(0).random((100, 100))
    assert mad(target, target) == 0
    assert mad(floored(target), target) == pytest.approx(0.5 / 255, rel=0.02)


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
    """Both kernels have the L2 norm 1."""
    pred = np.zeros((21, 21))
    pred[10, 10] = 1
    assert grad(pred, np.zeros((21, 21))) == pytest.approx(2 / 1000, rel=1e-12)
    # Wrong port: a Gaussian of unit sum, the sum divided by 10, reads 3.6 % more.
    x = np.arange(-6, 7)
    gaussian = np.exp(-(x**2) / (2 * 1.4**2)) / np.exp(-(x**2) / (2 * 1.4**2)).sum()
    dx, dy = (
        cv2.sepFilter2D(pred, -1, *taps)
        for taps in ((-x * gaussian / 1.4**2, gaussian), (gaussian, x * gaussian / 1.4**2))
    )
    assert (dx**2 + dy**2).sum() / 10 == pytest.approx(1.0357 * 2 / 1000, rel=1e-3)
    # Wrong port: Sobel kernels, of the energy 12 each.
    dx, dy = cv2.Sobel(pred, -1, 1, 0), cv2.Sobel(pred, -1, 0, 1)
    assert (dx**2 + dy**2).sum() / 1000 == pytest.approx(24 / 1000, rel=1e-12)


def test_grad_is_not_a_scaled_sobel() -> None:
    """Wrong port: Sobel kernels. They see a step as a line; a Gaussian sees 2 σ² times as much."""
    line, step, empty = np.zeros((60, 60)), np.zeros((60, 60)), np.zeros((60, 60))
    line[:, 30] = step[:, 30:] = 1

    def sobel(alpha: np.ndarray) -> float:
        return (cv2.Sobel(alpha, -1, 1, 0) ** 2 + cv2.Sobel(alpha, -1, 0, 1) ** 2).sum() / 1000

    assert sobel(step) / sobel(line) == pytest.approx(1)
    assert grad(step, empty) / grad(line, empty) == pytest.approx(2 * 1.4**2, rel=1e-2)


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


def largest_label(mask: np.ndarray) -> np.ndarray:
    """Wrong port (`getLargestCC`): the background, label 0, counts as a component."""
    _, labels = cv2.connectedComponents(np.uint8(mask), connectivity=4)
    return labels == np.bincount(labels.ravel()).argmax()


def reference_conn(
    pred: np.ndarray,
    target: np.ndarray,
    *,
    step: Callable[[int], float] = lambda k: k / 10,
    component: Callable[[np.ndarray], np.ndarray] = largest_component,
) -> np.ndarray:
    """|φ(a) - φ(b)|, with the level map of the MATLAB code: -1 until a pixel falls out of Ω."""
    level = np.full(pred.shape, -1.0)
    for k in range(1, 11):
        omega = component((pred >= step(k)) & (target >= step(k)))
        level[(level == -1) & ~omega] = step(k - 1)
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
    """Wrong port (`getLargestCC`): the larger empty background becomes Ω, and no blob is connected."""
    target, pred = np.zeros((100, 100)), np.zeros((100, 100))
    target[10:20, 10:20], pred[10:20, 10:20] = 1.0, 0.9  # connected up to 0.9: both within 0.15, no error
    target[50:53, 50:53], pred[50:53, 50:53] = 1.0, 0.5  # an island, never in Ω: |1 - 0.5| for each of 9
    assert conn(pred, target) == pytest.approx(9 * 0.5 / 1000, rel=1e-12)
    wrong = reference_conn(pred, target, component=largest_label).sum() / 1000
    assert wrong == pytest.approx((9 * 0.5 + 100 * 0.1) / 1000, rel=1e-12)  # the blob's |1 - 0.9| too


def test_conn_of_a_blob_larger_than_the_background() -> None:
    """The same wrong port: above t = 0.5 all is one background, so the blob stays connected and its error is lost."""
    target = np.zeros((10, 10))
    target[:, :8] = 1
    pred = 0.5 * target
    assert conn(pred, target) == pytest.approx(80 * 0.5 / 1000, rel=1e-12)
    assert reference_conn(pred, target, component=largest_label).sum() == 0


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
    wrong = reference_conn(pred, target, step=lambda k: k * 0.1).sum() / 1000
    assert wrong == pytest.approx(100 * 0.24 / 1000, rel=1e-9)


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
    metric, (pred, target), region = MATTING[name], mattes(), random_region()
    inside, outside = metric(pred, target, region=region), metric(pred, target, region=~region)
    share = region.mean()
    parts = inside + outside if name in ("SAD", "Grad", "Conn") else share * inside + (1 - share) * outside
    assert parts == pytest.approx(metric(pred, target), rel=1e-10)
    assert 0 < inside != pytest.approx(metric(pred, target), rel=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_an_error_outside_the_region_is_not_seen(name: str) -> None:
    _, target = mattes()
    pred = target.copy()
    pred[:10, :10] = 1 - pred[:10, :10]
    region = np.zeros(target.shape, bool)
    region[30:, 40:] = True
    metric = MATTING[name]
    assert metric(pred, target) > 0
    if name != "Conn":  # a change elsewhere may make another component the largest: Conn is not local
        assert metric(pred, target, region=region) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_a_change_outside_the_region_changes_nothing(name: str) -> None:
    """Wrong port: the region is ignored. The change is in an island: out of the filters' reach, and never in Ω."""
    metric = MATTING[name]
    target = np.zeros((30, 60))
    target[5:25, 5:25] = target[12:15, 45:48] = 1
    region = np.zeros(target.shape, bool)
    region[:, :30] = True
    before = target.copy()
    before[5:25, 20:25] = 0.5  # the error inside: 100 pixels of 0.5
    after = before.copy()
    after[12:15, 45:48] = 0.5  # the error outside: 9 pixels of 0.5
    inside = metric(before, target, region=region)
    assert metric(after, target, region=region) == inside > 0
    rise = metric(after, target) - metric(before, target)
    expected = {"SAD": 9 * 0.5 / 1000, "MSE": 9 * 0.25 / 1800, "MAD": 9 * 0.5 / 1800, "Conn": 9 * 0.5 / 1000}
    if name in expected:
        assert rise == pytest.approx(expected[name], rel=1e-9)
    else:
        shift = (reference_gradient(after) - reference_gradient(target)) ** 2
        assert rise == pytest.approx(shift[:, 35:].sum() / 1000, rel=1e-9) and rise > 1e-3


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_degenerate_truths_are_finite_and_zero_when_met(name: str, size: tuple[int, int]) -> None:
    one_pixel = np.zeros(size)
    one_pixel[size[0] // 2, size[1] // 2] = 1
    noise = np.random.default_rng(0).random(size)
    metric = MATTING[name]
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
    metric, (pred, target), region = MATTING[name], mattes(), random_region()
    expected = metric(pred, target, region=region)
    before = pred.copy(), target.copy(), region.copy()
    views = [np.asfortranarray(array) for array in before]
    assert metric(views[0], views[1], region=views[2]) == expected
    assert metric(pred.astype(np.float32), target, region=region) == pytest.approx(expected, rel=1e-4)
    for array, copy in zip((pred, target, region), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("name", ALL)
def test_wrong_inputs_are_refused(name: str) -> None:
    metric, (pred, target) = MATTING[name], mattes()
    with pytest.raises(AssertionError, match="shapes"):
        metric(pred[:-1], target)
    with pytest.raises(AssertionError, match="uint8"):
        metric(np.uint8(255 * pred), target)
    with pytest.raises(AssertionError, match="region"):
        metric(pred, target, region=random_region()[:-1])
    with pytest.raises(AssertionError, match="region"):
        metric(pred, target, region=np.uint8(random_region()))


def test_the_table_has_the_order_of_the_papers() -> None:
    assert list(MATTING.items()) == [("SAD", sad), ("MSE", mse), ("MAD", mad), ("Grad", grad), ("Conn", conn)]


def test_several_metrics_in_several_regions_are_each_alone() -> None:
    (pred, target), region = mattes(), random_region()
    pred, target = pred.astype(np.float32), target.astype(np.float32)
    scores = matting(pred, target, ["Conn", "MSE", "Grad"], {"": None, "_unknown": region})
    assert list(scores) == ["Conn", "Conn_unknown", "MSE", "MSE_unknown", "Grad", "Grad_unknown"]
    for name in ("Conn", "MSE", "Grad"):
        assert scores[name] == MATTING[name](pred, target)
        assert scores[f"{name}_unknown"] == MATTING[name](pred, target, region=region) != scores[name]
    assert matting(pred, target, [], {"": None}) == {}


# ------------------------------------------------------------------------------------------------------------
# Constant baseline


def test_constant_baseline_is_the_best_of_all_levels() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        sizes = rng.integers(1, 30, (4, 2))
        targets = [np.rint(255 * rng.random(size) ** rng.uniform(0.3, 3)) / 255 for size in sizes]
        baseline = ConstantBaseline()
        for target in targets:
            baseline.add(truth_levels(target))
        scores = [np.mean([sad(np.full(t.shape, v / 255), t) for t in targets]) for v in range(256)]
        constant, score = baseline.result()
        assert score == pytest.approx(min(scores), rel=1e-12)
        assert scores[round(constant * 255)] == pytest.approx(min(scores), rel=1e-12)


def test_constant_baseline_of_mostly_empty_mattes_is_their_area() -> None:
    target = np.zeros((100, 100), np.float32)
    target[:30] = 1
    baseline = ConstantBaseline()
    baseline.add(truth_levels(target))
    baseline.add(truth_levels(np.zeros((10, 10))))
    assert baseline.result() == (0.0, 3.0 / 2)


def test_truth_levels_are_rounded_and_counted() -> None:
    levels = truth_levels(np.array([[0, 0.4 / 255, 0.6 / 255], [1, 254.4 / 255, 254.6 / 255]], np.float32))
    assert levels.shape == (256,) and levels.sum() == 6
    assert levels[[0, 1, 254, 255]].tolist() == [2, 1, 1, 2]


def test_constant_baseline_needs_an_image() -> None:
    with pytest.raises(ValueError, match="no images"):
        ConstantBaseline().result()
