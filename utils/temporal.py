"""Alphas of a video without flicker: each is averaged with those before it where the picture stands still; no torch."""

import cv2
import numpy as np

from utils.shrinking import shrink, shrunk_size

_GUIDE_PX = 480  # longest side at which pictures are compared
_BOX_PX = 5  # noise of neighbours averages out; an edge that moves does not
_STILL = 4.0  # levels in [0, 255]: a smaller change of a colour is noise, or the encoder's
_STEADY = 0.2  # a smaller common change of the alphas around a pixel is flicker
_CUT = 0.5  # share of the picture that changes: a cut, or the camera moves
_ZERO = 1e-4  # smaller alphas are 0: what fades out would become denormal numbers, which processors are slow with


class TemporalSmoother:
    """A recursive average of alphas, pixel by pixel, that forgets where the picture changes.

    history = alpha + w * (history - alpha), with w = strength where nothing changes, so that the variance of flicker
    that is independent from frame to frame becomes (1 - strength) / (1 + strength) times itself. Pictures are averaged
    with the same weights. So the history knows which picture it belongs to, and w falls to 0 where that differs from
    the present one: no trail stays behind what moves, however slowly. It falls, too, where the alphas of neighbours
    change together. A cut starts anew.

    The memory is that of one alpha, however long the video.

    Args:
        strength: In [0, 1); 0 returns every alpha as it is.
    """

    def __init__(self, strength: float):
        if not 0 <= strength < 1:
            raise ValueError(f"strength {strength}: expected a number in [0, 1)")
        self._strength = strength
        self._guide = self._history = None

    def smooth(self, rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        """Takes the next frame.

        Args:
            rgb: uint8 (H, W, 3).
            alpha: float32 (H, W) in [0, 1], of this frame alone; it is not changed.

        Returns:
            float32 (H, W) in [0, 1], not to be changed.
        """
        if self._strength == 0:
            return alpha
        size = shrunk_size(alpha.shape, _GUIDE_PX)
        guide = shrink(rgb, size).astype(np.float32)
        if self._history is None or self._history.shape != alpha.shape:
            self._guide, self._history = guide, alpha
            return alpha
        difference = self._history - alpha
        change = np.maximum(
            _common(self._guide - guide).max(axis=2) / _STILL,
            _common(shrink(difference, size)) / _STEADY,
        )
        if np.mean(change > 1) > _CUT:
            self._guide, self._history = guide, alpha
            return alpha
        change = cv2.dilate(change, np.ones((3, 3), np.uint8))
        weight = self._strength * np.clip(2 - change, 0, 1)  # all of it up to the bound, nothing from twice the bound
        self._guide = guide + weight[..., None] * (self._guide - guide)
        weight = cv2.resize(weight, alpha.shape[::-1], interpolation=cv2.INTER_LINEAR)
        smoothed = cv2.multiply(difference, weight, dst=difference)
        smoothed = cv2.add(smoothed, alpha, dst=smoothed)
        _, self._history = cv2.threshold(smoothed, _ZERO, 0, cv2.THRESH_TOZERO)
        return self._history


def _common(difference: np.ndarray) -> np.ndarray:
    """The part of a difference that neighbours share, (H, W) or (H, W, C), at least 0."""
    return np.abs(cv2.blur(difference, (_BOX_PX, _BOX_PX), borderType=cv2.BORDER_REPLICATE))
