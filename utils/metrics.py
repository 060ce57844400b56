"""Matting metrics of one image, after the MATLAB code of Deep Image Matting (Xu et al., CVPR 2017).

Every metric is `(pred, target, *, region=None) -> float`:

- pred, target: (H, W) float in [0, 1], predicted and true alpha at the truth's own resolution. Never uint8: a
  prediction cut to 8 bits before it is scored is off by up to a grey level.
- region: (H, W) bool, the pixels that count (a trimap's unknown ones, a band around the edge, ...); None is the
  whole image. What is scored inside a region may depend on pixels outside it: filters and connected
  components see the image.
- The result is float64 arithmetic, >= 0 and 0 for a perfect prediction. An empty region holds no error: 0.0,
  never nan. Callers that average over images count those.

`MATTING` lists them by the name that tables print.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np

GRAD_SIGMA_PX = 1.4
GRAD_EPSILON = 1e-2  # the Gaussian is cut off where its density falls to this
CONN_LEVELS = np.arange(11) / 10  # not k * 0.1: 6 * 0.1 > 0.6 would drop the pixels of exactly 153 / 255
CONN_THETA = 0.15


# ------------------------------------------------------------------------------------------------------------
# Differences


def sad(pred: np.ndarray, target: np.ndarray, *, region: np.ndarray | None = None) -> float:
    """Sum of absolute differences, in thousands of pixels: Σ |a - b| / 1000."""
    return cv2.norm(*_float64(pred, target), cv2.NORM_L1, _mask(target, region)) / 1000


def mse(pred: np.ndarray, target: np.ndarray, *, region: np.ndarray | None = None) -> float:
    """Mean squared difference, in [0, 1]: Σ (a - b)² / pixels. Papers print it x 1000."""
    square_sum = cv2.norm(*_float64(pred, target), cv2.NORM_L2SQR, _mask(target, region))
    return square_sum / _pixels(target, region)


def mad(pred: np.ndarray, target: np.ndarray, *, region: np.ndarray | None = None) -> float:
    """Mean absolute difference, in [0, 1]: Σ |a - b| / pixels. Papers print it x 1000."""
    return 1000 * sad(pred, target, region=region) / _pixels(target, region)


# ------------------------------------------------------------------------------------------------------------
# Gradient and connectivity


def grad(pred: np.ndarray, target: np.ndarray, *, region: np.ndarray | None = None) -> float:
    """Gradient error (Rhemann et al., CVPR 2009), in thousands: Σ (|∇a| - |∇b|)² / 1000.

    ∇ are first derivatives of a Gaussian of 1.4 px, 9x9, each kernel of unit L2 norm, on mattes first
    stretched to [0, 1] over the whole image (MATLAB's mat2gray), with a replicated border.
    """
    return _sum(_gradient_errors(*_float64(pred, target)), region) / 1000


def conn(pred: np.ndarray, target: np.ndarray, *, region: np.ndarray | None = None) -> float:
    """Connectivity error (Rhemann et al., CVPR 2009), in thousands: Σ |φ(a) - φ(b)| / 1000.

    For t = 0.1 ... 1.0, Ω_t is the largest 4-connected component of {a >= t and b >= t} in the whole image,
    the first in reading order among equals. A pixel's level l is the last t up to which it was in every Ω.
    With d = x - l, φ(x) = 1 - d where d >= 0.15, else 1.
    """
    return _sum(_connectivity_errors(*_float64(pred, target)), region) / 1000


@functools.cache
def _gradient_taps() -> tuple[np.ndarray, np.ndarray]:
    """The Gaussian and its derivative, 9 taps each, of unit L2 norm; so is their outer product, the 9x9."""
    sigma = GRAD_SIGMA_PX
    radius_px = math.ceil(sigma * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * sigma * GRAD_EPSILON)))
    offsets = np.arange(-radius_px, radius_px + 1, dtype=np.float64)
    gaussian = np.exp(-(offsets**2) / (2 * sigma**2))
    derivative = -offsets * gaussian
    return gaussian / np.linalg.norm(gaussian), derivative / np.linalg.norm(derivative)


def _gradient_errors(pred: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(|∇a| - |∇b|)² of each pixel."""
    difference = _gradient_magnitude(pred) - _gradient_magnitude(target)
    return np.square(difference, out=difference)


def _connectivity_errors(pred: np.ndarray, target: np.ndarray) -> np.ndarray:
    """|φ(a) - φ(b)| of each pixel."""
    level = CONN_LEVELS[_connected_levels(np.minimum(pred, target))]
    return cv2.absdiff(_detachment(pred, level), _detachment(target, level))


def _gradient_magnitude(alpha: np.ndarray) -> np.ndarray:
    low, high = alpha.min(), alpha.max()
    stretched = (alpha - low) / (high - low) if high > low else alpha
    gaussian, derivative = _gradient_taps()
    dx = cv2.sepFilter2D(stretched, cv2.CV_64F, derivative, gaussian, borderType=cv2.BORDER_REPLICATE)
    dy = cv2.sepFilter2D(stretched, cv2.CV_64F, gaussian, derivative, borderType=cv2.BORDER_REPLICATE)
    return cv2.magnitude(dx, dy)


def _connected_levels(smaller: np.ndarray) -> np.ndarray:
    """Up to which of the ten levels each pixel of min(a, b), (H, W), stays connected: uint8 0 ... 10."""
    connected = np.ones(smaller.shape, np.uint8)
    levels = np.zeros(smaller.shape, np.uint8)
    for threshold in CONN_LEVELS[1:]:
        mask = (smaller >= threshold).view(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4, ltype=cv2.CV_32S)
        areas = stats[1:, cv2.CC_STAT_AREA]  # label 0 is the background: no component, however large
        if areas.size == 0:
            break
        connected &= labels == 1 + areas.argmax()
        levels += connected
    return levels


def _detachment(alpha: np.ndarray, level: np.ndarray) -> np.ndarray:
    """1 - φ."""
    distance = alpha - level
    distance[distance < CONN_THETA] = 0
    return distance


# ------------------------------------------------------------------------------------------------------------
# The table and its floor


MATTING: dict[str, Callable[..., float]] = {"SAD": sad, "MSE": mse, "MAD": mad, "Grad": grad, "Conn": conn}
_ERROR_MAPS = {"Grad": _gradient_errors, "Conn": _connectivity_errors}  # whose sum / 1000 the metric is


def matting(
    pred: np.ndarray, target: np.ndarray, metrics: Sequence[str], regions: Mapping[str, np.ndarray | None]
) -> dict[str, float]:
    """Several metrics in several regions; what is costly is computed once for all regions.

    Args:
        pred, target: As of every metric.
        metrics: Of `MATTING`.
        regions: Suffix of the result's name to region, such as {"": None, "_unknown": unknown}.
    """
    pred, target = _float64(pred, target)
    values = {}
    for metric in metrics:
        errors = _ERROR_MAPS[metric](pred, target) if metric in _ERROR_MAPS else None
        for suffix, region in regions.items():
            value = MATTING[metric](pred, target, region=region) if errors is None else _sum(errors, region) / 1000
            values[f"{metric}{suffix}"] = value
    return values


def truth_levels(target: np.ndarray) -> np.ndarray:
    """How many pixels of a true alpha, (H, W) float in [0, 1], have each of 256 levels: int64 (256,)."""
    return np.bincount(np.rint(target.ravel() * 255.0).astype(np.uint8), minlength=256)


class ConstantBaseline:
    """The best answer that ignores the image: the one alpha that minimises the SAD of a whole set.

    It is a median of all the set's pixels, found from a histogram without keeping an image. Exact for truths
    of 8 bits; others are rounded to the nearest of 255 levels.
    """

    def __init__(self) -> None:
        self._histogram = np.zeros(256, np.int64)
        self._images = 0

    def add(self, levels: np.ndarray) -> None:
        """Counts the `truth_levels` of one image."""
        self._histogram += levels
        self._images += 1

    def result(self) -> tuple[float, float]:
        """The constant alpha in [0, 1] and its mean `sad` per image (sum / 1000).

        Raises:
            ValueError: no image was added.
        """
        if not self._images:
            raise ValueError("the best constant alpha of no images is undefined")
        cumulative = self._histogram.cumsum()
        # The first level with half of the pixels at or below it.
        level = int(np.searchsorted(2 * cumulative, cumulative[-1]))
        absolute_sum = int((self._histogram * abs(np.arange(256) - level)).sum()) / 255
        return level / 255, absolute_sum / 1000 / self._images


# ------------------------------------------------------------------------------------------------------------
# Inputs


def check_mattes(pred: np.ndarray, target: np.ndarray) -> None:
    """Asserts that both are (H, W) float."""
    assert pred.ndim == 2 and pred.shape == target.shape, f"shapes {pred.shape} and {target.shape}"
    for alpha in (pred, target):
        assert np.issubdtype(alpha.dtype, np.floating), f"alpha must be float in [0, 1], not {alpha.dtype}"


def _float64(pred: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    check_mattes(pred, target)
    return np.ascontiguousarray(pred, np.float64), np.ascontiguousarray(target, np.float64)


def _mask(target: np.ndarray, region: np.ndarray | None) -> np.ndarray | None:
    """The region as OpenCV wants it."""
    if region is None:
        return None
    assert region.shape == target.shape and region.dtype == bool, f"region {region.shape} {region.dtype}"
    return np.ascontiguousarray(region).view(np.uint8)


def _sum(errors: np.ndarray, region: np.ndarray | None) -> float:
    """Of errors >= 0 in a region."""
    return cv2.norm(errors, cv2.NORM_L1, _mask(errors, region))


def _pixels(target: np.ndarray, region: np.ndarray | None) -> int:
    """How many pixels count; 1 for none, so that a mean over nothing is 0 / 1."""
    return max(target.size if region is None else int(np.count_nonzero(region)), 1)
