"""Metrics of dichotomous segmentation and salient object detection, of one image, by pysodmetrics.

The conventions are the toolbox's (`normalize=True`): the truth is a mask of its 8-bit levels above 128, the
prediction is stretched to [0, 1] over the image unless constant. An 8-bit prediction scores bit for bit what the
toolbox gives its file (weighted F to 1e-12); a finer one is never rounded to 8 bits.

Every score is finite. The rules for truths and images that leave no other choice:

- Empty truth: F and weighted F are 0, S is 1 - mean prediction, E the share of predicted background.
- Full truth: S is the mean prediction, E the share of predicted foreground; F needs no rule.
- Constant prediction: not stretched. At the adaptive threshold, twice the mean but at most 1, a constant 0 or 1 is
  all foreground, any other all background.
- S splits the image into four blocks at the truth's centroid. On the last row or column it leaves blocks without
  pixels: they have no weight and score 0.
- E divides by pixels - 1, as published, so the best score of n pixels is n / (n - 1); a single pixel by 1.
"""

from collections.abc import Collection
from typing import NamedTuple

import cv2
import numpy as np
from py_sod_metrics import MAE, Emeasure, FmeasureHandler, FmeasureV2, HumanCorrectionEffortMeasure, Smeasure
from py_sod_metrics import WeightedFmeasure as SlowWeightedFmeasure
from py_sod_metrics.sod_metrics import bwdist

from utils.boundary import foreground_mask
from utils.metrics import check_mattes

SALIENCY = ("MAE", "F", "wF", "S", "E", "HCE")
EPSILON = np.spacing(1)  # the toolbox's
LEVEL_TOLERANCE = 1e-4  # single precision is off by up to 2e-5 levels; those of 16 bits are 4e-3 apart


class SaliencyScores(NamedTuple):
    """The scores of one image.

    Attributes:
        values: "MAE", "F_adaptive", "F_weighted", "S", "E_adaptive" in [0, 1] (E: see above), and "HCE", a count of
            clicks and polygon points, >= 0; those of the metrics asked for.
        curves: "F" and "E", (256,) float64 over the thresholds 255, 254 ... 0 of the stretched prediction's levels.
            A set's maximal or mean F is that of the mean of its curves.
    """

    values: dict[str, float]
    curves: dict[str, np.ndarray]


def saliency(pred: np.ndarray, target: np.ndarray, metrics: Collection[str] = SALIENCY) -> SaliencyScores:
    """Scores one prediction.

    Args:
        pred: (H, W) float in [0, 1], predicted alpha at the truth's own resolution.
        target: (H, W) float in [0, 1], true alpha.
        metrics: those of `SALIENCY` to compute. F is that of Achanta et al. (CVPR 2009), β² = 0.3; wF of Margolin
            et al. (CVPR 2014), β² = 1; S of Fan et al. (ICCV 2017), E of Fan et al. (IJCAI 2018), HCE of Qin et al.
            (ECCV 2022), relaxed by 5 px, to be compared at the original resolution only.
    """
    check_mattes(pred, target)
    if unknown := set(metrics) - set(SALIENCY):
        raise ValueError(f"unknown metrics {sorted(unknown)}, known are {', '.join(SALIENCY)}")
    if not metrics:
        return SaliencyScores({}, {})
    stretched, truth = _stretched(pred), foreground_mask(target)

    def results(measure) -> dict:
        measure.step(stretched, truth, normalize=False)
        return measure.get_results()

    values, curves = {}, {}
    if "MAE" in metrics:
        values["MAE"] = results(MAE())["mae"]
    if "F" in metrics:
        f = results(FmeasureV2({"F": FmeasureHandler(with_dynamic=True, with_adaptive=True, beta=0.3)}))["F"]
        values["F_adaptive"], curves["F"] = f["adaptive"], f["dynamic"]
    if "wF" in metrics:
        values["F_weighted"] = results(WeightedFmeasure())["wfm"]
    if "S" in metrics:
        values["S"] = results(FiniteSmeasure())["sm"]
    if "E" in metrics:
        e = results(Emeasure())["em"]
        divisor = EPSILON if truth.size == 1 else 1  # the toolbox divides by pixels - 1 + EPSILON
        values["E_adaptive"], curves["E"] = e["adp"] * divisor, e["curve"] * divisor
    if "HCE" in metrics:
        values["HCE"] = results(HumanCorrectionEffortMeasure())["hce"]
    return SaliencyScores({name: float(value) for name, value in values.items()}, curves)


def _stretched(pred: np.ndarray) -> np.ndarray:
    """The prediction as the toolbox normalises it, (H, W) float64 in [0, 1], its extremes 0 and 1."""
    levels = np.multiply(pred, 255, dtype=np.float64)
    # Thresholding floors what the stretch makes of a level: 1e-5 too low can be one threshold too low.
    rounded = np.rint(levels)
    off_by = levels - rounded
    np.copyto(levels, rounded, where=np.abs(off_by, out=off_by) < LEVEL_TOLERANCE)
    levels /= 255
    low, high = levels.min(), levels.max()
    if high > low:
        levels -= low
        levels /= high - low
    return levels


class FiniteSmeasure(Smeasure):
    """The toolbox's, without its nan for an empty block."""

    def ssim(self, pred: np.ndarray, gt: np.ndarray) -> float:
        # A centroid on the last row or column leaves blocks of no pixels. Their weight is 0, but their mean is nan.
        return super().ssim(pred, gt) if pred.size else 0.0


class WeightedFmeasure(SlowWeightedFmeasure):
    """The toolbox's value in less than half of the time: each step sees the pixels it needs, the filter is separable.

    The distance transform stays the toolbox's: where two foreground pixels are equally near, its choice counts.
    """

    def cal_wfm(self, pred: np.ndarray, gt: np.ndarray) -> float:
        distance_px, nearest = bwdist(~gt, return_indices=True)
        error = np.abs(pred - gt)
        # Outside, the filter sees the error of the nearest foreground pixel; its window reaches out 3 px.
        spread = error.copy()
        near = cv2.dilate(gt.view(np.uint8), np.ones((7, 7), np.uint8)).view(bool) & ~gt
        spread[near] = error[nearest[0][near], nearest[1][near]]
        gaussian = np.exp(-(np.arange(-3, 4) ** 2) / (2 * 5.0**2))
        gaussian /= gaussian.sum()
        filtered = cv2.sepFilter2D(spread, cv2.CV_64F, gaussian, gaussian, borderType=cv2.BORDER_CONSTANT)

        inside = np.minimum(error, filtered)[gt]
        outside = error[~gt] * (2 - np.exp(np.log(0.5) / 5 * distance_px[~gt]))
        true_positives, false_positives = inside.size - inside.sum(), outside.sum()
        recall = 1 - inside.mean()
        precision = true_positives / (true_positives + false_positives + EPSILON)
        return (1 + self.beta) * recall * precision / (recall + self.beta * precision + EPSILON)
