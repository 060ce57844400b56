"""Foreground and background colours of a picture whose alpha is known: image = alpha * F + (1 - alpha) * B.

Pasting the picture's own colours through its alpha keeps a rim of the old background wherever alpha is soft; the
foreground's colours do not. Three known values a pixel for six unknown ones: neighbours have to supply the rest.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import cv2
import numpy as np

from utils.errors import UserError

Method = Literal["multilevel", "blur-fusion"]

SOFT_BAND = (0.02, 0.98)  # alphas between which both colours show: where errors of colours are measured

# What pymatting's solver pays for colours that differ where alpha does, which is where both show. Its default, 1, is
# dear: on 18 embedded pictures the foreground is off by 11.4 levels and the picture by 1.6, here by 8.3 and 0.3.
_GRADIENT_WEIGHT = 0.1
_PASSES = 2  # a third comes 1 to 5 % closer for half as much work again
_FAINT = 1e-3  # weight of a colour that does not show: what the coarser level says stays, until a neighbour knows more
_TILE_PX = (64, 256)  # the arrays of a tile stay in the processor's cache
_STRIP_PX = 32  # likewise, at full width


class Colours(NamedTuple):
    """Foreground and background of a picture, RGB uint8 (H, W, 3) each."""

    foreground: np.ndarray
    background: np.ndarray


def estimate_foreground(rgb: np.ndarray, alpha: np.ndarray, *, method: Method = "multilevel") -> Colours:
    """Separates a picture into the colours of its foreground and of its background.

    Where alpha is 1 the foreground is the picture exactly, where it is 0 the background is. The foreground where alpha
    is 0 and the background where it is 1 are smooth continuations. A colour that shows nowhere, as the foreground of an
    alpha that is 0 everywhere, is flat: black by "multilevel", the picture's mean by "blur-fusion".

    Args:
        rgb: uint8 (H, W, 3), any size from 1x1.
        alpha: float (H, W) in [0, 1].
        method: "multilevel" is the solver of Germer et al., "Fast Multi-Level Foreground Estimation" (ICPR 2020), as
            pymatting has it; the first call in a process loads it, and the first on a machine compiles it, which takes
            some seconds. "blur-fusion" follows Forte, "Approximate Fast Foreground Colour Estimation" (ICIP 2021), at
            all scales instead of at two; see `_blur_fusion`.

    Raises:
        UserError: "multilevel" without pymatting.
    """
    alpha = np.ascontiguousarray(alpha, dtype=np.float32)
    if method == "multilevel":
        foreground, background = _multilevel(rgb, alpha)
    else:
        foreground, background = _blur_fusion(rgb, alpha)
    cv2.copyTo(rgb, (alpha == 1).view(np.uint8), foreground)
    cv2.copyTo(rgb, (alpha == 0).view(np.uint8), background)
    return Colours(foreground, background)


def require_method(method: Method) -> None:
    """Makes sure, before any work, that a method can be used.

    Raises:
        UserError: "multilevel" without pymatting.
    """
    if method == "multilevel":
        _pymatting()


def recomposition_error(rgb: np.ndarray, alpha: np.ndarray, colours: Colours) -> float | None:
    """How far alpha * F + (1 - alpha) * B is from the picture: mean absolute difference over the soft band.

    Args:
        rgb: uint8 (H, W, 3).
        alpha: float (H, W) in [0, 1].
        colours: of the picture.

    Returns:
        Levels, 0 to 255; None if no alpha lies in the soft band.
    """
    soft = (alpha > SOFT_BAND[0]) & (alpha < SOFT_BAND[1])
    if not soft.any():
        return None
    weight = alpha[soft][:, None]
    recomposed = weight * colours.foreground[soft] + (1 - weight) * colours.background[soft]
    return float(np.abs(recomposed - rgb[soft]).mean(dtype=np.float64))


# ------------------------------------------------------------------------------------------------ multilevel


def _pymatting() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """The solver; not imported with this file, because it takes seconds and is optional."""
    try:
        from pymatting import estimate_foreground_ml
    except ImportError as error:
        raise UserError(
            f"foreground colours by multilevel need pymatting ({error}): pip install pymatting, or choose blur-fusion"
        ) from error
    return estimate_foreground_ml


def _multilevel(rgb: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    solve = _pymatting()
    height, width = alpha.shape
    if alpha.size == 1:  # pymatting divides by the logarithm of the longer side
        rgb, alpha = np.repeat(rgb, 2, axis=1), np.repeat(alpha, 2, axis=1)
    foreground, background = solve(
        rgb * np.float32(1 / 255), alpha, gradient_weight=_GRADIENT_WEIGHT, return_background=True
    )
    return _eight_bits(foreground[:height, :width]), _eight_bits(background[:height, :width])


def _eight_bits(colour: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(colour, 0, 1) * 255).astype(np.uint8)


# ------------------------------------------------------------------------------------------------ blur-fusion


def _blur_fusion(rgb: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blur fusion on a pyramid.

    Forte blurs the picture's colours, weighted by how much the foreground (the background) shows, over 90 px and then
    over 6 px, and adds what the two blurred colours leave unexplained to the foreground. Here three things differ.
    The blurs are 3x3 on each level of a pyramid, from the coarsest, which has a few pixels, up to half the picture's
    size: no radius has to fit the picture, and colours travel as far as they must. A colour weighs alpha^2, not alpha.
    What is left unexplained goes to both colours, as the smallest change that explains it, so that they recompose the
    picture but for clipping and rounding. (Smoothing at full size as well would cost four times the work. Its colours
    come a tenth closer where alpha is exact and stay a tenth farther off where alpha is blurred.)
    """
    levels = _pyramid(rgb, alpha)
    image, opacity = levels[-1]
    foreground = np.full_like(image, _mean_colour(image, opacity))
    background = np.full_like(image, _mean_colour(image, 1 - opacity))
    for image, opacity in reversed(levels):
        size = image.shape[1::-1]
        foreground = cv2.resize(foreground, size, interpolation=cv2.INTER_LINEAR)
        background = cv2.resize(background, size, interpolation=cv2.INTER_LINEAR)
        foreground, background = _smoothed(image, opacity, foreground, background)
    size = rgb.shape[1::-1]  # 8 bits from here: a quarter of the memory, and the last step makes up for the rounding
    foreground = cv2.resize(cv2.convertScaleAbs(foreground), size, interpolation=cv2.INTER_LINEAR)
    background = cv2.resize(cv2.convertScaleAbs(background), size, interpolation=cv2.INTER_LINEAR)
    _explain(rgb, alpha, foreground, background)
    return foreground, background


def _pyramid(rgb: np.ndarray, alpha: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The picture and its alpha at a half, a quarter, ... of its size: float32 (h, w, 3) in [0, 255] and (h, w)."""
    height, width = alpha.shape
    levels = []
    while max(height, width) > 4 or not levels:
        height, width = (height + 1) // 2, (width + 1) // 2
        rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
        alpha = cv2.resize(alpha, (width, height), interpolation=cv2.INTER_AREA).reshape(height, width)
        levels.append((rgb.astype(np.float32), alpha))
    return levels


def _mean_colour(image: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """The weighted mean of (h, w, 3) colours; the plain mean if no weight is above 0."""
    weight = opacity**2 + 1e-6
    return np.tensordot(weight / weight.sum(), image, 2)


def _smoothed(
    image: np.ndarray, alpha: np.ndarray, foreground: np.ndarray, background: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Explains one level of the picture and smooths the colours, in turns; float32 (h, w, 3) in [0, 255]."""
    alpha = cv2.merge([alpha] * 3)  # as wide as the colours: broadcasting over 3 channels is several times slower
    rest = 1 - alpha
    weights = alpha * alpha, rest * rest
    share = 1 / (weights[0] + weights[1])
    gains = alpha * share, rest * share
    for weight in weights:
        weight += _FAINT
    norms = [1 / cv2.blur(weight, (3, 3)) for weight in weights]
    colours = [foreground, background]
    for _ in range(_PASSES):
        for top in range(0, len(alpha), _STRIP_PX):
            rows = slice(top, top + _STRIP_PX)
            left = _unexplained(image[rows], alpha[rows], *(colour[rows] for colour in colours))
            for colour, gain, weight in zip(colours, gains, weights, strict=True):
                strip = colour[rows]
                strip += gain[rows] * left
                np.clip(strip, 0, 255, out=strip)
                strip *= weight[rows]
        colours = [cv2.blur(colour, (3, 3)) for colour in colours]
        for colour, norm in zip(colours, norms, strict=True):
            colour *= norm
    return colours[0], colours[1]


def _unexplained(image: np.ndarray, alpha: np.ndarray, foreground: np.ndarray, background: np.ndarray) -> np.ndarray:
    """image - alpha * F - (1 - alpha) * B, as float32 (h, w, 3)."""
    left = foreground - background
    left *= alpha
    left += background
    return np.subtract(image, left, out=left)


def _explain(rgb: np.ndarray, alpha: np.ndarray, foreground: np.ndarray, background: np.ndarray) -> None:
    """Changes both colours in place as little as makes them recompose the picture; uint8 (H, W, 3)."""
    soft = ((alpha > 0) & (alpha < 1)).view(np.uint8)
    height, width = alpha.shape
    for top in range(0, height, _TILE_PX[0]):
        for start in range(0, width, _TILE_PX[1]):
            tile = np.s_[top : top + _TILE_PX[0], start : start + _TILE_PX[1]]
            if not cv2.hasNonZero(soft[tile]):
                continue
            opacity = cv2.merge([alpha[tile]] * 3)
            rest = 1 - opacity
            colours = foreground[tile], background[tile]
            floats = [colour.astype(np.float32) for colour in colours]
            left = _unexplained(rgb[tile], opacity, *floats)
            left /= opacity * opacity + rest * rest
            for colour, values, gain in zip(colours, floats, (opacity, rest), strict=True):
                gain *= left
                values += gain
                colour[:] = cv2.convertScaleAbs(np.maximum(values, 0, out=values))  # rounds, and clips at 255
