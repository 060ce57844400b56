"""Trimaps: what of a picture is certain, uint8 (H, W) of BACKGROUND, UNKNOWN and FOREGROUND; no torch."""

from pathlib import Path

import cv2
import numpy as np

from utils.errors import UserError
from utils.images import MAX_PIXELS, read_alpha

BACKGROUND, UNKNOWN, FOREGROUND = 0, 128, 255
_STORED_UNKNOWN = (127, 129)  # both are found in the field; 16-bit 32768 is 127.5
_ROUNDING = 0.01  # of a level, float32


def trimap_from_alpha(alpha: np.ndarray, kernel_px: int) -> np.ndarray:
    """Makes a trimap as the GFM and P3M family does (Li et al., IJCV 2022).

    The certain regions alpha = 0 and alpha = 1 are each eroded once with an elliptical kernel; the rest is unknown. The
    image border erodes nothing.

    Args:
        alpha: float (H, W) in [0, 1].
        kernel_px: diameter of the kernel in pixels, 1 to 500; 1: only 0 < alpha < 1 is unknown.

    Returns:
        uint8 (H, W) of BACKGROUND, UNKNOWN and FOREGROUND; nothing is unknown if all of alpha is 0, or all is 1.
    """
    return _eroded(alpha, kernel_px, kernel_px)


def random_trimap(alpha: np.ndarray, rng: np.random.Generator, kernel_px: tuple[int, int]) -> np.ndarray:
    """Makes a trimap whose unknown region is of random width, differently wide inside and outside of the subject.

    Deep Image Matting dilates it at random in training (Xu et al., CVPR 2017); two diameters, one for each certain
    region, are GCA Matting's way (Li and Lu, AAAI 2020: 1 to 29 px).

    Args:
        alpha: float (H, W) in [0, 1].
        rng: Two numbers are drawn.
        kernel_px: least and greatest diameter of the kernels in pixels, both included, 1 to 500. With two equal ones
            the result is `trimap_from_alpha`'s.

    Returns:
        uint8 (H, W) of BACKGROUND, UNKNOWN and FOREGROUND.
    """
    background_px, foreground_px = rng.integers(kernel_px[0], kernel_px[1], size=2, endpoint=True)
    return _eroded(alpha, int(background_px), int(foreground_px))


def _eroded(alpha: np.ndarray, background_px: int, foreground_px: int) -> np.ndarray:
    """The regions alpha = 0 and alpha = 1, each eroded by an ellipse of its own diameter; the rest is unknown."""
    trimap = np.full(alpha.shape, UNKNOWN, dtype=np.uint8)
    for level, certain, diameter_px in (
        (BACKGROUND, alpha == 0, background_px),
        (FOREGROUND, alpha == 1, foreground_px),
    ):
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter_px, diameter_px))
        trimap[cv2.erode(certain.view(np.uint8), kernel) > 0] = level
    return trimap


def read_trimap(path: Path, shape: tuple[int, int], max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads a trimap from any file `read_alpha` reads: 8 or 16 bit, grey, stored as RGB or with a palette.

    Args:
        path: image file of one of IMAGE_EXTENSIONS.
        shape: (height, width) it must have.
        max_pixels: the largest width * height that is decoded.

    Returns:
        uint8 (H, W) of BACKGROUND, UNKNOWN and FOREGROUND: 127 and 129 become UNKNOWN.

    Raises:
        UserError: the file cannot be read, is of another size, or has other values: a matte, or a trimap saved as JPEG.
    """
    levels = read_alpha(path, max_pixels=max_pixels) * 255
    if levels.shape != tuple(shape):
        raise UserError(
            f"{path} is {levels.shape[1]}x{levels.shape[0]}, but its alpha is {shape[1]}x{shape[0]}; "
            f"give the trimap of this image, in its size"
        )
    low, high = _STORED_UNKNOWN
    unknown = (levels >= low - _ROUNDING) & (levels <= high + _ROUNDING)
    others = levels[~unknown & (levels != 0) & (levels != 255)]
    if others.size:
        raise UserError(
            f"{path}: value {round(float(others[0]), 2):g}, where a trimap has 0, 128 and 255 only "
            f"({others.size} of {levels.size} pixels); give trimaps, not mattes, saved as PNG, not JPEG"
        )
    return np.where(unknown, UNKNOWN, levels).astype(np.uint8)
