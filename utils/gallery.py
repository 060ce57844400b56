"""The images a set is scored worst and best on, as small pictures."""

import math

import cv2
import numpy as np

from utils.images import quantise
from utils.shrinking import shrink_to_fit

Panels = list[tuple[str, bytes]]  # (caption, JPEG)


def error_heat(pred_alpha: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """|pred_alpha - alpha|, both float (H, W) in [0, 1], as uint8 RGB (H, W, 3): black right, yellow wrong."""
    return cv2.applyColorMap(quantise(np.abs(pred_alpha - alpha)), cv2.COLORMAP_INFERNO)[..., ::-1]


def make_panels(rgb: np.ndarray | None, alpha: np.ndarray, pred_alpha: np.ndarray, side_px: int = 420) -> Panels:
    """The pictures of one image: itself (uint8 (H, W, 3), if it is known), truth, prediction and their difference."""
    pictures = {
        "image": rgb,
        "true alpha": quantise(alpha),
        "predicted alpha": quantise(pred_alpha),
        "|predicted - true|": error_heat(pred_alpha, alpha),
    }
    return [(caption, _jpeg(shrink_to_fit(each, side_px))) for caption, each in pictures.items() if each is not None]


def _jpeg(picture: np.ndarray) -> bytes:
    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()


class Gallery:
    """Keeps the panels of the images with the highest and the lowest error, and no more than those.

    What is kept in the end does not depend on the order in which images are added.

    Args:
        each: How many of the worst, and how many of the best.
    """

    def __init__(self, each: int):
        self.each = each
        self._kept: list[tuple[float, str, Panels | None]] = []  # ascending

    def limits(self) -> tuple[float, float]:
        """(low, high): an image is of interest if its error is <= low or >= high."""
        if self.each == 0:
            return -math.inf, math.inf
        if len(self._kept) < 2 * self.each:
            return math.inf, -math.inf
        return self._kept[self.each - 1][0], self._kept[-self.each][0]

    def add(self, error: float, name: str, panels: Panels | None) -> None:
        """Takes in an image that is within `limits`, or any; None for panels that were never made.

        An image of the same name is replaced.
        """
        self._kept = [kept for kept in self._kept if kept[1] != name]
        self._kept.append((error, name, panels))
        self._kept.sort(key=lambda kept: kept[:2])
        if len(self._kept) > 2 * self.each:
            self._kept = self._kept[: self.each] + self._kept[len(self._kept) - self.each :]

    def lacking(self) -> list[str]:
        """The names of the worst and best images whose panels were never made."""
        return [name for _, name, panels in self._kept if panels is None]

    def worst(self) -> list[tuple[str, Panels]]:
        """The names and panels of the worst images, the worst first."""
        return [
            (name, panels) for _, name, panels in reversed(self._kept[len(self._kept) // 2 :]) if panels is not None
        ]

    def best(self) -> list[tuple[str, Panels]]:
        """The names and panels of the best images, the best first; none of them is among the worst."""
        return [(name, panels) for _, name, panels in self._kept[: len(self._kept) // 2] if panels is not None]
