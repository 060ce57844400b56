"""Subjects over backgrounds: alpha F + (1 - alpha) B, backgrounds that fill a picture, subjects on one layer; no torch.

Everything is one pass of OpenCV over 8-bit colours, quick enough to compose while training.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

# Weights are multiplied by it, which is exact, because OpenCV divides by (sum of weights + 1e-5).
_UNIT = np.float32(2**20)
_STRIP_PX = 64  # rows at a time, where wide numbers are made of narrow ones


class Layer(NamedTuple):
    """A subject without its background.

    Attributes:
        foreground: uint8 (H, W, 3), the colours it has where nothing of the background is mixed in.
        alpha: float32 (H, W) in [0, 1].
    """

    foreground: np.ndarray
    alpha: np.ndarray


class Window(NamedTuple):
    """A rectangle of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


class Square(NamedTuple):
    """A square of a picture, in pixels; it may reach beyond the border."""

    top: int
    left: int
    side: int


def read_squares(picture: np.ndarray, squares: Sequence[Square] | None) -> list[np.ndarray]:
    """Squares of a picture, each a copy; or the whole of it, as the only one.

    Args:
        picture: (H, W) or (H, W, C).
        squares: Each overlaps the picture; beyond its border the last pixel is repeated. None: the whole.

    Returns:
        (side, side) or (side, side, C), contiguous.
    """
    if squares is None:
        return [np.ascontiguousarray(picture)]
    height, width = picture.shape[:2]
    read = []
    for top, left, side in squares:
        bottom, right = top + side, left + side
        inside = np.ascontiguousarray(picture[max(top, 0) : bottom, max(left, 0) : right])
        beyond = max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0)
        read.append(cv2.copyMakeBorder(inside, *beyond, cv2.BORDER_REPLICATE))
    return read


def compose(foreground: np.ndarray, background: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """alpha F + (1 - alpha) B, rounded to nearest: exact for 8-bit alphas, within half a level and 1e-4 for all others.

    Args:
        foreground: uint8 or uint16 (H, W, 3).
        background: Likewise.
        alpha: float32 (H, W) in [0, 1].

    Returns:
        As the colours; exactly F where alpha is 1, exactly B where it is 0.
    """
    if foreground.dtype == np.uint16:  # which OpenCV does not blend
        composite = np.empty_like(foreground)
        for top in range(0, len(alpha), _STRIP_PX):
            rows = slice(top, top + _STRIP_PX)
            weight = alpha[rows, :, None].astype(np.float64)
            composite[rows] = np.rint(weight * foreground[rows] + (1 - weight) * background[rows])
        return composite
    weight = alpha * _UNIT
    return cv2.blendLinear(foreground, background, weight, _UNIT - weight)


def merge(over: Layer, under: Layer) -> Layer:
    """Two subjects on one layer, the first in front of the second (Porter and Duff, 1984: over).

    Composing the result over any background differs by at most 1 level from composing one layer after the other.

    Returns:
        alpha = 1 - (1 - a1)(1 - a2), and the mean of both colours weighted by the share that is seen of each; where
        alpha is 0, the colours of `under`.
    """
    seen = (1 - over.alpha) * under.alpha
    # At least a millionth of `under`, so that there is a colour where neither subject is.
    weight = np.maximum(seen * _UNIT, np.float32(1))
    foreground = cv2.blendLinear(over.foreground, under.foreground, over.alpha * _UNIT, weight)
    return Layer(foreground, np.minimum(over.alpha + seen, np.float32(1)))


def covering_window(size: tuple[int, int], shape: tuple[int, int], rng: np.random.Generator) -> Window:
    """A random part of a background, at a random scale, that fills a picture.

    The scale is drawn between the one at which the background just covers the shape and 1: at native size its texture
    is as sharp as the camera made it, and small. A background that is too small is enlarged, no more than it must be.

    Args:
        size: (height, width) of the background, each at least 1.
        shape: (height, width) to fill, each at least 1.
        rng: Three numbers are drawn.

    Returns:
        A window inside the background with the aspect ratio of `shape`, to within a pixel.
    """
    least = _least_scale(size, shape)
    share, down, right = rng.random(3)
    scale = least if least >= 1 else least + share * (1 - least)
    return _window(size, shape, scale, down, right)


def _least_scale(size: tuple[int, int], shape: tuple[int, int]) -> float:
    return max(shape[0] / size[0], shape[1] / size[1])


def _window(size: tuple[int, int], shape: tuple[int, int], scale: float, down: float, right: float) -> Window:
    """The part of a picture that fills `shape` at a scale; `down` and `right` say where it lies, in [0, 1)."""
    height, width = (min(has, max(1, round(wants / scale))) for has, wants in zip(size, shape, strict=True))
    return Window(int(down * (size[0] - height + 1)), int(right * (size[1] - width + 1)), height, width)


def cut(background: np.ndarray, window: Window, shape: tuple[int, int]) -> np.ndarray:
    """The window of a background resized to `shape`: averaged along a side that shrinks, bicubic along one that grows.

    Args:
        background: uint8 (h, w, 3).
        window: Inside the background.
        shape: (H, W) of the result.

    Returns:
        uint8 (H, W, 3), contiguous and not a view of `background`.
    """
    part = background[window.top : window.top + window.height, window.left : window.left + window.width]
    # The area filter averages only if no side grows; each of the two copies what has its size already.
    smaller = min(window.width, shape[1]), min(window.height, shape[0])
    part = cv2.resize(part, smaller, interpolation=cv2.INTER_AREA)
    return cv2.resize(part, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def cover(picture: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The middle of uint8 (h, w, 3), as much of it as there is in the aspect ratio of `shape`, resized to it."""
    size = picture.shape[0], picture.shape[1]
    return cut(picture, _window(size, shape, _least_scale(size, shape), 0.5, 0.5), shape)
