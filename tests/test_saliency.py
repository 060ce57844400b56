"""Scores of masks against hand-computed cases, slow references and the toolbox as people run it."""

import math
import subprocess
import sys
import warnings

import cv2
import numpy as np
import py_sod_metrics
import pytest

from utils.saliency import SALIENCY, SaliencyScores, foreground_mask, saliency

pytestmark = pytest.mark.filterwarnings("error")

SIZES = [(1, 1), (1, 2), (1, 9), (9, 1), (3, 4), (30, 41)]
VALUES = ["MAE", "F_adaptive", "F_weighted", "S", "E_adaptive", "HCE"]
THRESHOLDS = np.arange(255, -1, -1)


def random_matte(height: int, width: int, seed: int = 0, smoothness_px: float = 2.0) -> np.ndarray:
    """Blobs with soft edges, flat 0 and 1 inside."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random((height, width)), (0, 0), smoothness_px)
    return np.clip((noise - noise.mean()) / noise.std() + 0.5, 0, 1)


def levels(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and truth as files hold them: (H, W) uint8, soft, the prediction between 20 and 240."""
    target = random_matte(height, width, seed)
    pred = np.clip(target + 0.6 * random_matte(height, width, seed + 100) - 0.3, 0, 1)
    return np.uint8(np.rint(20 + 220 * pred)), np.uint8(np.rint(255 * target))


def half_plane(height: int, width: int, first: int) -> np.ndarray:
    alpha = np.zeros((height, width))
    alpha[:, first:] = 1
    return alpha


def toolbox(pred: np.ndarray, target: np.ndarray) -> SaliencyScores:
    """step() and get_results() on uint8, with the deprecated F-measure."""
    with pytest.warns(UserWarning, match="FmeasureV2"):
        f = py_sod_metrics.Fmeasure()
    measures = [f, py_sod_metrics.MAE(), py_sod_metrics.WeightedFmeasure(), py_sod_metrics.Smeasure()]
    measures += [py_sod_metrics.Emeasure(), py_sod_metrics.HumanCorrectionEffortMeasure()]
    results = {}
    for measure in measures:
        measure.step(pred, target)
        results |= measure.get_results()
    scores = [results["mae"], results["fm"]["adp"], results["wfm"], results["sm"], results["em"]["adp"], results["hce"]]
    curves = {"F": results["fm"]["curve"], "E": results["em"]["curve"]}
    return SaliencyScores(dict(zip(VALUES, scores, strict=True)), curves)


def assert_equal(scores: SaliencyScores, expected: SaliencyScores) -> None:
    """Bit for bit, but for weighted F."""
    assert scores.values == expected.values | {"F_weighted": pytest.approx(expected.values["F_weighted"], abs=1e-12)}
    assert list(scores.curves) == ["F", "E"]
    for name, curve in scores.curves.items():
        np.testing.assert_array_equal(curve, expected.curves[name])


# ------------------------------------------------------------------------------------------------------------
# The toolbox's scores


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [(17, 23), (40, 53), (61, 38), (151, 127)], ids=str)
def test_eight_bit_files_score_as_in_the_toolbox(size: tuple[int, int], dtype: type) -> None:
    pred, target = levels(*size, seed=size[0])
    scores = saliency((pred / 255).astype(dtype), (target / 255).astype(dtype))
    assert_equal(scores, toolbox(pred, target))
    assert all(0 < scores.values[name] < 1 for name in VALUES[:-1]) and scores.values["HCE"] > 1


def test_weighted_f_is_that_of_the_toolbox() -> None:
    """On noise, where most pixels outside have several nearest ones inside; sizes below the filter's 7."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        size, density = rng.integers(1, 30, 2), rng.choice([0.01, 0.1, 0.5])
        pred = rng.integers(0, 256, size, dtype=np.uint8)
        target = np.uint8(255 * (rng.random(size) < density))
        measure = py_sod_metrics.WeightedFmeasure()
        measure.step(pred, target)
        score = saliency(pred / 255, target / 255, ["wF"]).values["F_weighted"]
        assert score == pytest.approx(measure.get_results()["wfm"], abs=1e-12)


def test_every_level_of_a_file_survives_single_precision() -> None:
    """Wrong port: single precision is stretched as it is, and a fifth of the levels fall below their threshold."""
    pred = np.arange(51, 205, dtype=np.uint8).reshape(11, 14)
    target = np.uint8(255 * (pred % 3 == 0))
    expected = toolbox(pred, target)
    for single in ((pred / 255).astype(np.float32), pred * np.float32(1 / 255)):
        assert_equal(saliency(single, target / 255), expected)

    def floored(alpha: np.ndarray) -> np.ndarray:
        return (255 * ((alpha - alpha.min()) / (alpha.max() - alpha.min()))).astype(np.uint8)

    assert np.count_nonzero(floored(np.float64(np.float32(pred / 255))) != floored(pred / 255)) == 32


def test_a_finer_prediction_is_not_rounded_to_eight_bits() -> None:
    target = half_plane(10, 20, 10)
    pred = np.abs(target - 100.4 / 65535)
    pred[0, 0], pred[0, -1] = 0, 1  # keeps the stretch away
    assert saliency(pred, target, ["MAE"]).values["MAE"] == pytest.approx(198 / 200 * 100.4 / 65535, rel=1e-9)
    assert saliency(np.rint(255 * pred) / 255, target, ["MAE"]).values["MAE"] == 0


def test_the_truth_is_a_mask_above_level_128() -> None:
    """Wrong ports: alpha > 0.5 takes level 128 in; flooring leaves 128.6 out."""
    target = np.array([[0, 128, 128.4, 128.6, 129, 255]]) / 255
    assert foreground_mask(target).tolist() == [[False] * 3 + [True] * 3]
    assert saliency(np.array([[0, 0, 0, 1.0, 1, 1]]), target, ["MAE"]).values["MAE"] == 0


def test_the_prediction_is_stretched() -> None:
    pred, target = levels(40, 53)
    pred, target = (pred - 20) / 220, target / 255
    expected, faint = saliency(pred, target), saliency(0.4 + 0.2 * pred, target)
    assert faint.values == pytest.approx(expected.values, rel=1e-9)
    assert np.abs(faint.curves["F"] - expected.curves["F"]).max() < 0.02  # a pixel on a threshold may fall


def test_subsets_compute_what_they_name() -> None:
    pred, target = (array / 255 for array in levels(40, 53))
    everything = saliency(pred, target)
    assert list(everything.values) == VALUES
    for metric, value in zip(SALIENCY, VALUES, strict=True):
        scores = saliency(pred, target, [metric])
        assert scores.values == {value: everything.values[value]}
        assert list(scores.curves) == ([metric] if metric in ("F", "E") else [])
        assert type(scores.values[value]) is float
    assert saliency(pred, target, ()) == ({}, {})
    with pytest.raises(ValueError, match=r"unknown metrics \['SAD'\]"):
        saliency(pred, target, ["MAE", "SAD"])


# ------------------------------------------------------------------------------------------------------------
# The definitions


def precision_recall_f(found: np.ndarray, truth: np.ndarray) -> float:
    hits = (found & truth).sum()
    if not hits:
        return 0.0
    precision, recall = hits / found.sum(), hits / truth.sum()
    return 1.3 * precision * recall / (0.3 * precision + recall)


def enhanced_alignment(found: np.ndarray, truth: np.ndarray) -> float:
    """Fan et al., IJCAI 2018, equations 1 to 5, on every pixel."""
    a, b = found - found.mean(), truth - truth.mean()
    alignment = 2 * a * b / (a**2 + b**2)
    return ((1 + alignment) ** 2 / 4).sum() / (truth.size - 1)


def structure(pred: np.ndarray, truth: np.ndarray) -> float:
    """Fan et al., ICCV 2017, with the centroid rounded and included in the upper left block."""

    def similarity(x: np.ndarray) -> float:
        return 2 * x.mean() / (x.mean() ** 2 + 1 + x.std(ddof=1))

    def ssim(x: np.ndarray, y: np.ndarray) -> float:
        covariance = np.cov(x.ravel(), y.ravel())
        if not covariance[0, 1] or not x.mean() or not y.mean():
            return float(not (x.mean() ** 2 + y.mean() ** 2) * (covariance[0, 0] + covariance[1, 1]))
        contrast = 2 * covariance[0, 1] / (covariance[0, 0] + covariance[1, 1])
        return 2 * x.mean() * y.mean() / (x.mean() ** 2 + y.mean() ** 2) * contrast

    share = truth.mean()
    objects = share * similarity(pred[truth]) + (1 - share) * similarity(1 - pred[~truth])
    y, x = (round(indices.mean()) + 1 for indices in np.nonzero(truth))
    blocks = [(rows, columns) for rows in (slice(0, y), slice(y, None)) for columns in (slice(0, x), slice(x, None))]
    regions = sum(ssim(pred[block], np.float64(truth[block])) * truth[block].size for block in blocks) / truth.size
    return (objects + regions) / 2


@pytest.mark.parametrize("seed", range(3))
def test_scores_match_their_definitions(seed: int) -> None:
    pred, target = (array / 255 for array in levels(31, 43, seed))
    scores = saliency(pred, target)
    truth = np.rint(255 * target) > 128
    pred = (pred - pred.min()) / (pred.max() - pred.min())
    adaptive = pred >= min(2 * pred.mean(), 1)
    assert scores.values["MAE"] == pytest.approx(np.abs(pred - truth).mean(), rel=1e-12)
    assert scores.values["F_adaptive"] == pytest.approx(precision_recall_f(adaptive, truth), rel=1e-12)
    assert scores.values["E_adaptive"] == pytest.approx(enhanced_alignment(adaptive, truth), rel=1e-12)
    assert scores.values["S"] == pytest.approx(structure(pred, truth), rel=1e-12)
    for threshold, f, e in zip(THRESHOLDS, scores.curves["F"], scores.curves["E"], strict=True):
        found = np.floor(pred * 255) >= threshold
        assert f == pytest.approx(precision_recall_f(found, truth), rel=1e-12)
        assert e == pytest.approx(enhanced_alignment(found, truth), rel=1e-12)


def reference_weighted_f(pred: np.ndarray, truth: np.ndarray) -> float:
    """Margolin et al., CVPR 2014, by all distances. For truths that leave each pixel one nearest."""
    error = np.abs(pred - truth)
    inside, (height, width) = np.argwhere(truth), truth.shape
    spread, weight = error.copy(), np.ones(truth.shape)
    for y, x in np.argwhere(~truth):
        distances = np.hypot(*(inside - (y, x)).T)
        assert (distances == distances.min()).sum() == 1
        spread[y, x] = error[tuple(inside[distances.argmin()])]
        weight[y, x] = 2 - 0.5 ** (distances.min() / 5)
    gaussian = np.array([[math.exp(-(i**2 + j**2) / 50) for i in range(-3, 4)] for j in range(-3, 4)])
    gaussian /= gaussian.sum()
    padded, smooth = np.pad(spread, 3), error.copy()
    for y in range(height):
        for x in range(width):
            filtered = (padded[y : y + 7, x : x + 7] * gaussian).sum()
            if truth[y, x]:
                smooth[y, x] = min(error[y, x], filtered)
    weighted = smooth * weight
    true_positives = truth.sum() - weighted[truth].sum()
    precision = true_positives / (true_positives + weighted[~truth].sum())
    recall = 1 - weighted[truth].mean()
    return 2 * precision * recall / (precision + recall)


def test_weighted_f_matches_its_definition() -> None:
    noise = np.random.default_rng(0).random((19, 26))
    noise[0, 0], noise[0, 1] = 0, 1
    one_pixel = np.zeros(noise.shape)
    one_pixel[4, 9] = 1
    for target in (half_plane(19, 26, 12), half_plane(19, 26, 25), one_pixel, np.ones(noise.shape)):
        score = saliency(noise, target, ["wF"]).values["F_weighted"]
        assert score == pytest.approx(reference_weighted_f(noise, target > 0.5), rel=1e-12)


def test_scores_of_a_perfect_half_plane() -> None:
    """All foreground at threshold 0: precision 1/2, recall 1; E is 1/4, of a prediction without contrast."""
    target = half_plane(20, 30, 15)
    scores = saliency(target, target)
    perfect = {"MAE": 0, "F_adaptive": 1, "F_weighted": 1, "S": 1, "E_adaptive": 600 / 599, "HCE": 0}
    assert scores.values == pytest.approx(perfect)
    np.testing.assert_allclose(scores.curves["F"], [1] * 255 + [1.3 * 0.5 / (0.3 * 0.5 + 1)])
    np.testing.assert_allclose(scores.curves["E"], [600 / 599] * 255 + [600 / 599 / 4])


def test_hce_counts_a_stray_island_as_one_click() -> None:
    """And nothing for one that five erosions remove."""
    target = np.zeros((100, 100))
    target[20:60, 10:40] = 1
    for side_px, clicks in ((20, 1), (9, 0)):
        pred = target.copy()
        pred[70 : 70 + side_px, 60 : 60 + side_px] = 1
        assert saliency(pred, target, ["HCE"]).values["HCE"] == clicks


def test_curves_are_averaged_before_their_maximum() -> None:
    """Wrong port: the mean of each image's best F. Here no one threshold is right for both images."""
    target = half_plane(10, 20, 10)
    bright, dark = 0.6 * np.ones((10, 20)), 0.2 * target
    bright[:, 10:], bright[0, 0] = 1, 0
    dark[0, 10] = 1
    curves = [saliency(pred, target, ["F"]).curves["F"] for pred in (bright, dark)]
    assert all(curve.shape == (256,) and curve.dtype == np.float64 for curve in curves)
    assert np.mean([curve.max() for curve in curves]) == 1
    assert np.mean(curves, axis=0).max() < 0.9


# ------------------------------------------------------------------------------------------------------------
# Degenerate truths, predictions and sizes


def assert_finite(scores: SaliencyScores, pixels: int) -> None:
    numbers = [scores.values[name] for name in VALUES[:4]] + [*scores.curves["F"]]
    alignments = [scores.values["E_adaptive"], *scores.curves["E"]]
    best = pixels / max(pixels - 1, 1)
    assert all(0 <= number <= 1 + 1e-12 for number in numbers)
    assert all(0 <= number <= best + 1e-12 for number in alignments)
    assert scores.values["HCE"] >= 0 and math.isfinite(scores.values["HCE"])


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_degenerate_cases_are_finite(size: tuple[int, int]) -> None:
    pixels = size[0] * size[1]
    noise = np.random.default_rng(0).random(size)
    corner, border = np.zeros(size), np.zeros(size)
    corner[-1, -1] = border[-1, size[1] // 2] = 1
    for target in (np.zeros(size), np.ones(size), np.full(size, 0.5), corner, border, 1 - corner, noise):
        for pred in (np.zeros(size), np.ones(size), np.full(size, 0.3), target, 1 - target, noise[::-1, ::-1]):
            assert_finite(saliency(pred, target), pixels)


@pytest.mark.parametrize("y", [0, 1, 6, 11, 12])
@pytest.mark.parametrize("x", [0, 1, 8, 15, 16])
def test_one_pixel_anywhere_is_finite(y: int, x: int) -> None:
    """Wrong port: the toolbox's S-measure is nan where the centroid's block reaches the last row or column."""
    target = np.zeros((13, 17))
    target[y, x] = 1
    pred = cv2.GaussianBlur(target, (0, 0), 1)
    assert_finite(saliency(pred, target), target.size)
    assert saliency(target, target, ["S"]).values["S"] == pytest.approx(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        measure = py_sod_metrics.Smeasure()
        measure.step(np.uint8(255 * target), np.uint8(255 * target))
    score = measure.get_results()["sm"]
    assert math.isnan(score) if y == 12 or x == 16 else score == pytest.approx(1)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_empty_and_full_truths_follow_the_rules(size: tuple[int, int]) -> None:
    pred = np.random.default_rng(0).random(size)
    pixels = pred.size
    stretched = (pred - pred.min()) / (pred.max() - pred.min()) if pixels > 1 else pred
    scale = pixels / max(pixels - 1, 1)
    background = np.array([np.mean(np.floor(stretched * 255) < threshold) for threshold in THRESHOLDS])

    values, curves = saliency(pred, np.zeros(size))
    assert values["F_adaptive"] == values["F_weighted"] == 0 and not curves["F"].any()
    assert values["S"] == pytest.approx(1 - stretched.mean())
    assert values["MAE"] == pytest.approx(stretched.mean())
    np.testing.assert_allclose(curves["E"], background * scale)
    assert values["E_adaptive"] == pytest.approx(np.mean(stretched < min(2 * stretched.mean(), 1)) * scale)

    values, curves = saliency(pred, np.ones(size))
    assert values["S"] == pytest.approx(stretched.mean())
    np.testing.assert_allclose(curves["E"], (1 - background) * scale)
    np.testing.assert_allclose(curves["F"], 1.3 * (1 - background) / (0.3 + 1 - background))


def test_a_constant_prediction_is_not_stretched() -> None:
    target = half_plane(10, 20, 10)
    for constant, found in ((0.0, True), (0.3, False), (0.6, False), (1.0, True)):
        values, curves = saliency(np.full(target.shape, constant), target, ["MAE", "F", "E"])
        assert values["MAE"] == pytest.approx(0.5)
        assert values["F_adaptive"] == pytest.approx(1.3 * 0.5 / (0.3 * 0.5 + 1) if found else 0)
        assert values["E_adaptive"] == pytest.approx(200 / 199 / 4)
        assert np.count_nonzero(curves["F"]) == int(constant * 255) + 1


# ------------------------------------------------------------------------------------------------------------
# Inputs


def test_inputs_are_left_alone_and_may_be_views() -> None:
    pred, target = (array / 255 for array in levels(40, 53))
    before = pred.copy(), target.copy()
    expected = saliency(pred, target)
    for views in ([np.asfortranarray(array) for array in before], [np.repeat(a, 2, axis=1)[:, ::2] for a in before]):
        scores = saliency(*views)
        assert scores.values == pytest.approx(expected.values, rel=1e-12)  # numpy sums in the order of memory
        np.testing.assert_array_equal(scores.curves["F"], expected.curves["F"])
    np.testing.assert_array_equal(pred, before[0])
    np.testing.assert_array_equal(target, before[1])


def test_wrong_inputs_are_refused() -> None:
    pred, target = levels(40, 53)
    with pytest.raises(AssertionError, match="shapes"):
        saliency(pred[:-1] / 255, target / 255)
    with pytest.raises(AssertionError, match="uint8"):
        saliency(pred, target / 255)


def test_the_module_does_without_torch() -> None:
    code = "import sys, utils.saliency; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
