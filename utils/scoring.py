"""All metrics of one image, and their means over a set. The same code scores a validation and a benchmark.

A set's score is the mean of its images' scores, with one exception: F and E depend on a threshold, their curves are
averaged over the images, and "max" and "mean" are taken of the averaged curve. So that a table of images agrees, an
image's own F_max is its F at the threshold that is best for the set: the mean of each column is the set's score.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from utils.boundary import band_scores, boundary_iou, foreground_mask, mba
from utils.metrics import MATTING, ConstantBaseline, mad, matting, truth_levels
from utils.saliency import SALIENCY, saliency

BAND_RADII_PX = (3, 10, 30)
DIFFERENCE_METRICS = ("SAD", "MSE", "MAD")  # cheap: 0.02 s for 4 megapixels


class Column(NamedTuple):
    """What a table says of a number.

    Attributes:
        unit: In a few words.
        lower_is_better: Which end is good.
        meaning: A sentence with the source.
        group: Columns that are read together.
    """

    unit: str
    lower_is_better: bool
    meaning: str
    group: str


WHOLE, UNKNOWN, SALIENT, BOUNDARY = (
    "matting, whole image",
    "matting, unknown region",
    "DIS / salient object",
    "boundary",
)

_MATTING_COLUMNS = {
    "SAD": ("sum / 1000", "Sum of absolute differences"),
    "MSE": ("mean per pixel", "Mean squared difference; papers print it x 1000"),
    "MAD": ("mean per pixel", "Mean absolute difference; papers print it x 1000"),
    "Grad": ("sum / 1000", "Gradient error, Gaussian derivative of 1.4 px (Rhemann et al., CVPR 2009)"),
    "Conn": ("sum / 1000", "Connectivity error, step 0.1, theta 0.15, 4-connected (Rhemann et al., CVPR 2009)"),
}

# In the order in which tables show them.
COLUMNS: dict[str, Column] = {
    **{name: Column(unit, True, meaning, WHOLE) for name, (unit, meaning) in _MATTING_COLUMNS.items()},
    **{
        f"{name}_unknown": Column(unit, True, f"{meaning}; in the trimap's unknown region", UNKNOWN)
        for name, (unit, meaning) in _MATTING_COLUMNS.items()
    },
    "MAE": Column(
        "mean per pixel",
        True,
        "Mean absolute error of the stretched prediction; truth a mask, level > 128",
        SALIENT,
    ),
    "F_max": Column("0 to 1", False, "F-measure, beta^2 0.3, best threshold of the mean curve", SALIENT),
    "F_mean": Column("0 to 1", False, "F-measure, beta^2 0.3, mean over 256 thresholds", SALIENT),
    "F_adaptive": Column("0 to 1", False, "F-measure, beta^2 0.3, threshold twice the mean", SALIENT),
    "F_weighted": Column("0 to 1", False, "Weighted F-measure, beta^2 1 (Margolin et al., CVPR 2014)", SALIENT),
    "S": Column("0 to 1", False, "Structure measure (Fan et al., ICCV 2017)", SALIENT),
    "E_max": Column("0 to 1", False, "Enhanced alignment (Fan et al., IJCAI 2018), best threshold", SALIENT),
    "E_mean": Column("0 to 1", False, "Enhanced alignment, mean over 256 thresholds", SALIENT),
    "E_adaptive": Column("0 to 1", False, "Enhanced alignment, threshold twice the mean", SALIENT),
    "HCE": Column("clicks", True, "Human correction effort, relax 5, epsilon 2.0 (Qin et al., ECCV 2022)", SALIENT),
    "mBA": Column("0 to 1", False, "Mean boundary accuracy, five radii (Cheng et al., CVPR 2020)", BOUNDARY),
    "BIoU": Column("0 to 1", False, "Boundary IoU, 2 % of the diagonal (Cheng et al., CVPR 2021)", BOUNDARY),
}

CURVES = {"F": ("F_max", "F_mean"), "E": ("E_max", "E_mean")}  # curve: what is taken of it
FAMILIES = (*MATTING, *SALIENCY, "mBA", "BIoU", "band")  # what a user chooses from


class ImageScores(NamedTuple):
    """Everything that is kept of one image; plain numbers, so that it can be written as JSON without loss.

    Attributes:
        name: Of the image.
        height: In pixels.
        width: In pixels.
        values: Column to score; without what is taken of a curve.
        curves: "F" and "E", each over the thresholds 0, 1/255 ... 1.
        levels: How many of the truth's pixels have each of the 256 levels.
        mad: By which images are ranked, whatever is reported.
        empty_truth: The truth has no foreground: several metrics are rules then, not measurements.
        empty_unknown: The trimap has no unknown pixel: scores there are 0; None without a trimap.
    """

    name: str
    height: int
    width: int
    values: dict[str, float]
    curves: dict[str, list[float]]
    levels: list[int]
    mad: float
    empty_truth: bool
    empty_unknown: bool | None


def score_image(
    name: str,
    pred_alpha: np.ndarray,
    alpha: np.ndarray,
    *,
    metrics: Collection[str],
    unknown: np.ndarray | None = None,
) -> ImageScores:
    """Scores one image.

    Args:
        name: Of the image.
        pred_alpha: float (H, W) in [0, 1].
        alpha: Truth, float (H, W) in [0, 1].
        metrics: Of FAMILIES.
        unknown: bool (H, W), a trimap's unknown region; the matting metrics are taken there too.
    """
    pred_alpha, alpha = pred_alpha.astype(np.float64), alpha.astype(np.float64)  # once for all metrics
    regions = {"": None} if unknown is None else {"": None, "_unknown": unknown}
    values = matting(pred_alpha, alpha, [metric for metric in MATTING if metric in metrics], regions)
    salient = saliency(pred_alpha, alpha, [metric for metric in SALIENCY if metric in metrics])
    values |= salient.values
    if "mBA" in metrics:
        values["mBA"] = mba(pred_alpha, alpha)
    if "BIoU" in metrics:
        values["BIoU"] = boundary_iou(pred_alpha, alpha)
    if "band" in metrics:
        for radius, band in zip(BAND_RADII_PX, band_scores(pred_alpha, alpha, BAND_RADII_PX), strict=True):
            values |= {f"band{radius}_{key}": value for key, value in band.items()}
    return ImageScores(
        name=name,
        height=alpha.shape[0],
        width=alpha.shape[1],
        values=values,
        curves={curve: values[::-1].tolist() for curve, values in salient.curves.items()},
        levels=truth_levels(alpha).tolist(),
        mad=values["MAD"] if "MAD" in values else mad(pred_alpha, alpha),
        empty_truth=not foreground_mask(alpha).any(),
        empty_unknown=None if unknown is None else not unknown.any(),
    )


class Scores(NamedTuple):
    """Scores of one set of images.

    Attributes:
        per_image: A row an image: name, height, width, then the columns; None for a mean over a band, or over the
            rest, that has no pixels in this image: it takes no part in the set's mean.
        mean: Column to its mean over the images.
        curves: "F" and "E", the mean over the images at each threshold.
        constant_alpha: The one alpha in [0, 1] that answers the whole set best, by SAD.
        constant_sad: Mean SAD of that answer: what a method that never looks at the image reaches.
        empty_truths: Images whose truth has no foreground.
        empty_unknowns: Images whose trimap has no unknown pixel; None without trimaps.
    """

    per_image: list[dict[str, Any]]
    mean: dict[str, float]
    curves: dict[str, list[float]]
    constant_alpha: float
    constant_sad: float
    empty_truths: int
    empty_unknowns: int | None


def mean_scores(images: Sequence[ImageScores]) -> Scores:
    """Averages the scores of a set; at least one image, all scored by the same metrics."""
    assert images, "the mean over no images is undefined"
    rows = [{"name": image.name, "height": image.height, "width": image.width, **image.values} for image in images]
    curves = {curve: np.array([image.curves[curve] for image in images]) for curve in images[0].curves}
    for curve, of_images in curves.items():
        best, mean = CURVES[curve]
        threshold = of_images.mean(0).argmax()
        for row, of_image in zip(rows, of_images, strict=True):
            row[best], row[mean] = float(of_image[threshold]), float(of_image.mean())
    baseline = ConstantBaseline()
    for image in images:
        baseline.add(np.array(image.levels))
    there = dict.fromkeys(column for row in rows for column in row)
    columns = [*(c for c in COLUMNS if c in there), *(c for c in there if c.startswith("band"))]
    trimaps = images[0].empty_unknown is not None
    return Scores(
        per_image=[{key: row.get(key) for key in ("name", "height", "width", *columns)} for row in rows],
        mean={column: float(np.mean([row[column] for row in rows if column in row])) for column in columns},
        curves={curve: of_images.mean(0).tolist() for curve, of_images in curves.items()},
        **dict(zip(("constant_alpha", "constant_sad"), baseline.result(), strict=True)),
        empty_truths=sum(image.empty_truth for image in images),
        empty_unknowns=sum(bool(image.empty_unknown) for image in images) if trimaps else None,
    )


def band_table(scores: Scores) -> list[dict[str, Any]]:
    """The boundary-band table: how few pixels hold how much of the error, and what that does to a mean over all.

    Returns:
        A dict a radius: radius_px; pixels, the band's mean share of an image; share_of_SAD (None for no error at
        all); whole, inside and outside, each with the mean over the images of SAD (sum / 1000), MSE and MAD (per
        pixel of that part). Empty if the band was not asked for.
    """
    table = []
    for radius in BAND_RADII_PX:
        if f"band{radius}_pixels" not in scores.mean:
            continue
        parts = {
            part: {metric: scores.mean.get(f"band{radius}_{prefix}{metric}", 0.0) for metric in DIFFERENCE_METRICS}
            for part, prefix in (("inside", ""), ("outside", "rest_"))
        }
        whole = {metric: _whole(scores.per_image, f"band{radius}_", metric) for metric in DIFFERENCE_METRICS}
        table.append(
            {
                "radius_px": radius,
                "pixels": scores.mean[f"band{radius}_pixels"],
                "share_of_SAD": parts["inside"]["SAD"] / whole["SAD"] if whole["SAD"] else None,
                "whole": whole,
                **parts,
            }
        )
    return table


def _whole(rows: Sequence[dict[str, Any]], prefix: str, metric: str) -> float:
    """Mean over the images of a metric of the whole image, put together from band and rest."""
    if metric == "SAD":
        return float(np.mean([row[f"{prefix}SAD"] + row[f"{prefix}rest_SAD"] for row in rows]))
    shares = [row[f"{prefix}pixels"] for row in rows]
    inside, outside = ([row.get(f"{prefix}{part}{metric}") or 0.0 for row in rows] for part in ("", "rest_"))
    return float(np.mean([p * a + (1 - p) * b for p, a, b in zip(shares, inside, outside, strict=True)]))
