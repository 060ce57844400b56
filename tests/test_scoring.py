"""utils.scoring: the scores of a set, compared with pysodmetrics over the same files and with closed forms."""

import json
import warnings
from collections.abc import Callable

import numpy as np
import py_sod_metrics
import pytest

from utils.boundary import edge_distance
from utils.metrics import conn, grad, sad
from utils.scoring import BAND_RADII_PX, COLUMNS, FAMILIES, ImageScores, band_table, mean_scores, score_image


@pytest.fixture(scope="module")
def levels(make_pair: Callable) -> list[tuple[np.ndarray, np.ndarray]]:
    """Five uint8 pairs (prediction, truth) of different sizes and quality."""
    rng = np.random.default_rng(1)
    pairs = []
    for index in range(5):
        alpha = make_pair(70 + 7 * index, 90 - 5 * index)[1]
        noise = rng.normal(-10 * index, 10 + 15 * index, alpha.shape)
        pairs.append((np.clip(alpha + noise, 0, 255).astype(np.uint8), alpha))
    return pairs


def as_alpha(level: np.ndarray) -> np.ndarray:
    return level.astype(np.float32) / np.float32(255)


def scored(levels: list[tuple[np.ndarray, np.ndarray]], **options: object) -> list[ImageScores]:
    options = {"metrics": FAMILIES, **options}
    return [score_image(str(i), as_alpha(pred), as_alpha(true), **options) for i, (pred, true) in enumerate(levels)]


def test_a_set_scores_as_pysodmetrics_says(levels: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """As its users run it: uint8 files, step by step. F max is the maximum of the mean curve."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the F-measure class that papers use: it will be replaced
        meters = [getattr(py_sod_metrics, name)() for name in ("MAE", "Fmeasure", "Smeasure", "Emeasure")]
    meters += [py_sod_metrics.WeightedFmeasure(), py_sod_metrics.HumanCorrectionEffortMeasure()]
    for pred, true in levels:
        for meter in meters:
            meter.step(pred=pred, gt=true)
    results = {key: value for meter in meters for key, value in meter.get_results().items()}
    mean = mean_scores(scored(levels)).mean
    expected = {
        "MAE": results["mae"], "S": results["sm"], "F_weighted": results["wfm"], "HCE": results["hce"],
        "F_max": results["fm"]["curve"].max(), "F_mean": results["fm"]["curve"].mean(),
        "F_adaptive": results["fm"]["adp"], "E_max": results["em"]["curve"].max(),
        "E_mean": results["em"]["curve"].mean(), "E_adaptive": results["em"]["adp"],
    }  # fmt: skip
    for name, value in expected.items():
        assert mean[name] == pytest.approx(value, rel=1e-10), name


def test_curves_run_from_threshold_0_to_1() -> None:
    """A prediction of 0.25 on the object and 0 elsewhere, stretched: all is right above 0, all is found at 0."""
    true = np.zeros((10, 10), np.float32)
    true[:5] = 1
    (curve,) = (score_image("a", true / 4, true, metrics=[curve]).curves[curve] for curve in ["F"])
    assert curve[0] == pytest.approx(1.3 * 0.5 / (0.3 * 0.5 + 1)) and curve[1] == curve[255] == 1


def test_f_max_is_no_mean_of_maxima(levels: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """The other convention reads higher; a set whose images differ in their best threshold tells them apart."""
    images = scored(levels)
    of_maxima = np.mean([max(image.curves["F"]) for image in images])
    assert mean_scores(images).mean["F_max"] < of_maxima - 1e-4


def test_columns_are_what_the_tables_know(levels: list[tuple[np.ndarray, np.ndarray]]) -> None:
    unknown = np.ones(levels[0][1].shape, bool)
    mean = mean_scores(scored(levels[:1], unknown=unknown)).mean
    band = {column for column in mean if column.startswith("band")}
    assert set(mean) - band == set(COLUMNS)
    assert {f"band{radius}_{part}SAD" for radius in BAND_RADII_PX for part in ("", "rest_")} < band


def test_regions_share_what_is_costly_without_changing_it(levels: list[tuple[np.ndarray, np.ndarray]]) -> None:
    pred, true = map(as_alpha, levels[3])
    unknown = edge_distance(true) <= 4
    values = score_image("a", pred, true, metrics=FAMILIES, unknown=unknown).values
    for name, metric in (("SAD", sad), ("Grad", grad), ("Conn", conn)):
        assert values[name] == pytest.approx(metric(pred, true), rel=1e-12)
        assert values[f"{name}_unknown"] == pytest.approx(metric(pred, true, region=unknown), rel=1e-12)


def test_scores_survive_json_to_the_last_digit(levels: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for image in scored(levels):
        assert ImageScores(**json.loads(json.dumps(image._asdict()))) == image


def test_the_band_table_by_hand() -> None:
    """A straight edge between columns 49 and 50 of 100; off by 0.5 in the two columns beside it, by 0.1 elsewhere."""
    true = np.zeros((10, 100), np.float32)
    true[:, 50:] = 1
    error = np.full(100, 0.1, np.float32)
    error[49:51] = 0.5
    pred = np.abs(true - error)
    rows = band_table(mean_scores([score_image("a", pred, true, metrics=["band"])]))
    assert [row["radius_px"] for row in rows] == list(BAND_RADII_PX) == [3, 10, 30]
    for row, columns in zip(rows, (6, 20, 60), strict=True):
        inside, outside = 2 * 0.5 + (columns - 2) * 0.1, (100 - columns) * 0.1
        assert row["pixels"] == pytest.approx(columns / 100)
        assert row["share_of_SAD"] == pytest.approx(inside / (inside + outside), rel=1e-6)
        assert row["inside"]["MSE"] == pytest.approx((2 * 0.25 + (columns - 2) * 0.01) / columns, rel=1e-6)
        assert row["outside"]["MSE"] == pytest.approx(0.01, rel=1e-6)
        assert row["whole"]["MSE"] == pytest.approx((2 * 0.25 + 98 * 0.01) / 100, rel=1e-6)
        assert row["whole"]["SAD"] == pytest.approx(sad(pred, true), rel=1e-12)
    perfect = band_table(mean_scores([score_image("a", true, true, metrics=["band"])]))
    assert all(row["share_of_SAD"] is None and row["inside"]["MSE"] == 0 for row in perfect)


def test_images_without_a_band_or_without_a_rest_take_no_part_in_its_means() -> None:
    """A mean error over no pixels is no 0: it would draw the mean over the images below every one of them."""
    edge = np.zeros((200, 200), np.float32)
    edge[:, 100:] = 1
    images = [np.zeros((20, 30), np.float32), edge, np.full((20, 30), 0.5, np.float32)]  # no band; both; all band
    scores = mean_scores([score_image(str(i), np.abs(x - 0.2), x, metrics=["band"]) for i, x in enumerate(images)])
    for row in band_table(scores):
        for part in ("inside", "whole", "outside"):
            assert row[part]["MSE"] == pytest.approx(0.04, rel=1e-5) and row[part]["MAD"] == pytest.approx(
                0.2, rel=1e-5
            )
    assert scores.per_image[0]["band3_MSE"] is None and scores.per_image[2]["band3_rest_MAD"] is None


def test_empty_truths_and_regions_are_counted() -> None:
    black = np.zeros((20, 30), np.float32)
    images = [
        score_image("a", black, black, metrics=FAMILIES, unknown=np.zeros((20, 30), bool)),
        score_image("b", black + 1, black, metrics=FAMILIES, unknown=np.ones((20, 30), bool)),
        score_image("c", black + 1, black + 1, metrics=FAMILIES, unknown=np.ones((20, 30), bool)),
    ]
    scores = mean_scores(images)
    assert (scores.empty_truths, scores.empty_unknowns) == (2, 1)
    assert all(np.isfinite(value) for value in scores.mean.values())
    assert images[0].values["SAD_unknown"] == 0 and images[1].values["MSE_unknown"] == 1
    assert scores.constant_alpha == 0 and scores.constant_sad == pytest.approx(0.2)
    assert mean_scores([score_image("a", black, black, metrics=["SAD"])]).empty_unknowns is None
