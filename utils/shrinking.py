"""Images, alphas and trimaps made smaller with the area filter.

Images come out in 8 bit, alphas in the depth of their file. JPEG images stay JPEG; all else becomes PNG.
"""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from utils.images import MAX_PIXELS, quantise, read_alpha, read_rgb
from utils.trimaps import BACKGROUND, FOREGROUND, UNKNOWN, read_trimap

_JPEG = (".jpg", ".jpeg")
_CERTAIN = 1 - 1e-4  # less than half a level of 8 bits is missing: rounding of the area filter


def shrunk_size(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    """(height, width) in pixels with a longer side of at most `max_side`, and no side of less than 1."""
    if max_side is None or max(size) <= max_side:
        return size
    height, width = (max(1, round(side * max_side / max(size))) for side in size)
    return height, width


def shrunk_suffix(path: Path, kind: str) -> str:
    """The suffix a shrunk file gets: a JPEG image keeps its own, all else becomes .png."""
    return path.suffix if kind == "im" and path.suffix.lower() in _JPEG else ".png"


def shrink_file(
    path: Path, kind: str, full_size: tuple[int, int], size: tuple[int, int], max_pixels: int = MAX_PIXELS
) -> bytes:
    """Reads a file upright, shrinks it and encodes it.

    Args:
        path: a file that `verify_image` has passed.
        kind: "im" (8-bit RGB, whatever the file has), "gt" (an alpha: 16-bit grey if the file has more than 8 bits,
            else 8-bit) or "trimap" (8-bit).
        full_size: its (height, width) in pixels.
        size: the (height, width) to make.
        max_pixels: the largest width * height that is decoded.

    Returns:
        A JPEG (quality 95, 4:4:4) or a PNG, by `shrunk_suffix`.

    Raises:
        UserError: the file is damaged, or not of its kind.
    """
    if kind == "im":
        pixels = shrink(read_rgb(path, max_pixels=max_pixels), size)
    elif kind == "gt":
        alpha = shrink(read_alpha(path, max_pixels=max_pixels), size)
        pixels = quantise(alpha, bits=16 if _is_deep(path) else 8)
    else:
        pixels = shrink_trimap(read_trimap(path, full_size, max_pixels), size)
    buffer = io.BytesIO()
    if shrunk_suffix(path, kind) == ".png":
        Image.fromarray(pixels).save(buffer, "PNG")
    else:
        Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def shrink(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Averages the area under each new pixel, so that the mean stays; (H, W) or (H, W, C) to `size`."""
    return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA)


def shrink_to_fit(picture: np.ndarray, side_px: int) -> np.ndarray:
    """A uint8 picture (H, W) or (H, W, 3) with its longer side at most `side_px`."""
    size = shrunk_size(picture.shape[:2], side_px)
    return picture if size == picture.shape[:2] else shrink(picture, size)


def shrink_trimap(trimap: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Shrinks a trimap so that a pixel is certain only if everything under it is, and of one kind.

    The nearest pixel would lose thin unknown bands, and then call certain what the shrunk alpha shows as mixed.

    Args:
        trimap: uint8 (H, W) of BACKGROUND, UNKNOWN and FOREGROUND.
        size: (height, width) in pixels, not larger than it is.

    Returns:
        uint8 (height, width) of the same values.
    """
    shrunk = np.full(size, UNKNOWN, np.uint8)
    for level in (BACKGROUND, FOREGROUND):
        shrunk[shrink((trimap == level).astype(np.float32), size) >= _CERTAIN] = level
    return shrunk


def _is_deep(path: Path) -> bool:
    with Image.open(path) as image:
        return image.mode == "F" or any(";16" in str(tile.args) for tile in image.tile)
