"""What the easy pixels of a matte hide: scores at the truth's edge, of one image.

pred, target: (H, W) float in [0, 1], predicted and true alpha at the truth's own resolution. Boundary accuracy and
IoU are of masks, `foreground_mask` of both, as CascadePSP thresholds them; nothing is stretched.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from utils.metrics import check_mattes, mad, mse, sad

MBA_RADII = 5
BOUNDARY_IOU_WIDTH = 0.02  # of the image's diagonal
FOG = (0.05, 0.95)  # what is between looks neither transparent nor opaque


# ------------------------------------------------------------------------------------------------------------
# Masks


def foreground_mask(alpha: np.ndarray) -> np.ndarray:
    """The pixels whose level, rounded to 8 bits, exceeds 128: (H, W) float in [0, 1] to (H, W) bool."""
    return alpha * 255 > 128.5


def mba(pred: np.ndarray, target: np.ndarray) -> float:
    """Mean boundary accuracy (Cheng et al., CascadePSP, CVPR 2020), in [0, 1], 1 for a perfect mask.

    The share of right pixels where an ellipse of 2r + 1 px (OpenCV's) around a pixel sees both values of the truth,
    averaged over five radii: the first 1 px, the last about (H + W) / 375 px; all 1 px where H + W < 300. A truth
    of one value has no boundary: the share of right pixels in the whole image.
    """
    check_mattes(pred, target)
    truth = foreground_mask(target)
    right = foreground_mask(pred) == truth
    if truth.all() or not truth.any():
        return float(right.mean())

    truth = truth.view(np.uint8)
    smallest = largest = truth  # under the ellipse so far
    radius_px, ellipse = 0, np.ones((1, 1), np.uint8)
    accuracies = []
    for i in range(MBA_RADII):
        wider_px = 1 + int((sum(truth.shape) / 300 - 1) / MBA_RADII * i)  # int() truncates: 1 + int(-0.8) is 1
        if wider_px > radius_px:
            # Each ellipse holds the last one, so only its new pixels are looked at: half of the work.
            wider = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * wider_px + 1, 2 * wider_px + 1))
            ring = wider - np.pad(ellipse, wider_px - radius_px)
            smallest = np.minimum(smallest, cv2.erode(truth, ring))
            largest = np.maximum(largest, cv2.dilate(truth, ring))
            radius_px, ellipse = wider_px, wider
        region = smallest != largest
        accuracies.append(np.count_nonzero(right & region) / np.count_nonzero(region))
    return sum(accuracies) / MBA_RADII


def boundary_iou(pred: np.ndarray, target: np.ndarray) -> float:
    """Boundary IoU (Cheng et al., CVPR 2021), in [0, 1]: intersection over union of both masks' inner boundaries.

    A boundary is the mask's pixels within 2 % of the image's diagonal (at least 1 px, chessboard distance) of the
    background; the outside of the image is background. 1 if both masks are empty, 0 if one is.
    """
    check_mattes(pred, target)
    width_px = max(1, round(BOUNDARY_IOU_WIDTH * math.hypot(*target.shape)))
    pred_boundary, true_boundary = (_inner_boundary(mask, width_px) for mask in map(foreground_mask, (pred, target)))
    union = np.count_nonzero(pred_boundary | true_boundary)
    return np.count_nonzero(pred_boundary & true_boundary) / union if union else 1.0


def _inner_boundary(mask: np.ndarray, width_px: int) -> np.ndarray:
    kernel = np.ones((2 * width_px + 1, 2 * width_px + 1), np.uint8)  # as width_px erosions by 3x3
    eroded = cv2.erode(mask.view(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return mask & (eroded == 0)


# ------------------------------------------------------------------------------------------------------------
# Mattes


def edge_distance(target: np.ndarray) -> np.ndarray:
    """How far each pixel is from what makes a matte hard: from the true edge or from a soft pixel.

    Args:
        target: (H, W) float in [0, 1], true alpha.

    Returns:
        (H, W) float32, in pixels, centre to centre (Euclidean): 0 for a soft pixel (0 < alpha < 1), else the distance
        to the nearest soft pixel or pixel of the opposite value (a 0 for a 1); nan for a constant 0 or 1, which has
        neither.
    """
    distance_px = np.zeros(target.shape, np.float32)
    for hard_side in (target >= 1, target <= 0):
        if hard_side.all():
            return np.full(target.shape, np.nan, np.float32)  # within no radius
        # 0 outside this side, so the two sides' transforms add up to one map.
        distance_px += cv2.distanceTransform(hard_side.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return distance_px


def band_scores(pred: np.ndarray, target: np.ndarray, radii_px: Sequence[float]) -> list[dict[str, float]]:
    """The differences inside the boundary band beside those of the rest of the image, for each radius.

    Returns:
        "pixels", the band's share of the image in [0, 1]; "SAD" (sum / 1000), "MSE" and "MAD" (means) inside the
        band; "rest_SAD", "rest_MSE" and "rest_MAD" outside. An empty band or rest has a SAD of 0, and no means.
    """
    distance_px = edge_distance(target)
    table = []
    for radius_px in radii_px:
        band = distance_px <= radius_px
        scores = {"pixels": np.count_nonzero(band) / band.size}
        for prefix, region in (("", band), ("rest_", ~band)):
            scores[f"{prefix}SAD"] = sad(pred, target, region=region)
            if region.any():
                scores[f"{prefix}MSE"] = mse(pred, target, region=region)
                scores[f"{prefix}MAD"] = mad(pred, target, region=region)
        table.append(scores)
    return table


# ------------------------------------------------------------------------------------------------------------
# What an edge looks like


def fog(pred: np.ndarray, target: np.ndarray, *, beyond_px: float = 3) -> float:
    """Share of pixels that are neither transparent nor opaque, 0.05 < a < 0.95, where the truth is: in [0, 1].

    Of the pixels further than `beyond_px` from a true edge or a soft pixel; all of them where there is neither, nan
    where none is that far away.
    """
    far = ~(edge_distance(target) <= beyond_px)  # a constant truth has no distances
    return float(((pred > FOG[0]) & (pred < FOG[1]))[far].mean()) if far.any() else math.nan


def sharpness(pred: np.ndarray, target: np.ndarray, *, within_px: float = 3) -> float:
    """How steep an edge is, as a share of the true one's steepness: Σ |∇a| / Σ |∇b| near it; 1 for the truth itself.

    ∇ are differences of neighbours, forward; near are pixels at most `within_px` from a true edge or a soft pixel. Less
    than 1 is blurred, more is noise. nan for a truth without an edge.
    """
    near = edge_distance(target)[:-1, :-1] <= within_px
    steepness = [
        np.hypot(np.diff(alpha, axis=0)[:, :-1], np.diff(alpha, axis=1)[:-1])[near].sum(dtype=np.float64)
        for alpha in (pred, target)
    ]
    return float(steepness[0] / steepness[1]) if steepness[1] else math.nan


def edge_length(pred: np.ndarray, target: np.ndarray) -> float:
    """Length of the edge of a's mask as a multiple of the true one's, in sides of pixels: nan for a truth without one.

    A jagged edge is longer than a smooth one: more than 1 is jagged, less is rounded off.
    """
    lengths = []
    for mask in map(foreground_mask, (pred, target)):
        lengths.append(sum(int(np.count_nonzero(np.diff(mask, axis=axis))) for axis in (0, 1)))
    return lengths[0] / lengths[1] if lengths[1] else math.nan
