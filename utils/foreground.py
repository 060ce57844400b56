"""Foreground and background colours of a picture whose alpha is known: image = alpha * F + (1 - alpha) * B.

Pasting the picture's own colours through its alpha keeps a rim of the old background wherever alpha is soft; the
foreground's colours do not. Three known values a pixel for six unknown ones: neighbours have to supply the rest.
"""

import multiprocessing
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import cv2
import numpy as np

from utils.errors import UserError
from utils.images import quantise

if TYPE_CHECKING:
    import torch

ForegroundMethod = Literal["multilevel", "blur-fusion"]

SOFT_BAND = (0.02, 0.98)  # alphas between which both colours show: where errors of colours are measured

# What pymatting's solver pays for colours that differ where alpha does, which is where both show. Its default, 1, is
# dear: on 18 embedded pictures the foreground is off by 11.4 levels and the picture by 1.6, here by 8.3 and 0.3.
_GRADIENT_WEIGHT = 0.1


class Colours(NamedTuple):
    """Foreground and background of a picture, RGB uint8 (H, W, 3) each."""

    foreground: np.ndarray
    background: np.ndarray


def estimate_foreground(rgb: np.ndarray, alpha: np.ndarray, *, method: ForegroundMethod = "blur-fusion") -> Colours:
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
            all scales instead of at two; see `utils.blur_fusion`.

    Raises:
        UserError: "multilevel" without pymatting.
    """
    alpha = np.ascontiguousarray(alpha, dtype=np.float32)
    if method == "multilevel":
        foreground, background = _multilevel(rgb, alpha)
        cv2.copyTo(rgb, (alpha == 1).view(np.uint8), foreground)
        cv2.copyTo(rgb, (alpha == 0).view(np.uint8), background)
    else:
        foreground, background = _blur_fusion(rgb, alpha, background=True)
    return Colours(foreground, background)


def foreground_colours(rgb: np.ndarray, alpha: np.ndarray, device: "torch.device | None" = None) -> np.ndarray:
    """The foreground's colours alone, by blur fusion, on the device that is at hand.

    Exactly the picture where alpha, rounded to 8 bits, is 1; smooth continuations where it is 0, coarse where no soft
    pixel is near. They do not depend on the device but for rounding.

    Args:
        rgb: uint8 or uint16 (H, W, 3), any size from 1x1.
        alpha: float (H, W) in [0, 1].
        device: Where to compute; None is the processor.

    Returns:
        (H, W, 3) of rgb's type.
    """
    return _blur_fusion(rgb, alpha, device)[0]


def require_method(method: ForegroundMethod) -> None:
    """Makes sure, before any work, that a method can be used.

    Raises:
        UserError: "multilevel" without pymatting.
    """
    if method == "multilevel":
        _pymatting()


def in_soft_band(alpha: np.ndarray) -> np.ndarray:
    """Where an alpha in [0, 1] lies between SOFT_BAND's: bool, of its shape."""
    return (alpha > SOFT_BAND[0]) & (alpha < SOFT_BAND[1])


def recomposition_error(rgb: np.ndarray, alpha: np.ndarray, colours: Colours) -> float | None:
    """How far alpha * F + (1 - alpha) * B is from the picture: mean absolute difference over the soft band.

    Args:
        rgb: uint8 (H, W, 3).
        alpha: float (H, W) in [0, 1].
        colours: of the picture.

    Returns:
        Levels, 0 to 255; None if no alpha lies in the soft band.
    """
    soft = in_soft_band(alpha)
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
    return quantise(foreground[:height, :width]), quantise(background[:height, :width])


# ------------------------------------------------------------------------------------------------ blur-fusion


def _blur_fusion(
    rgb: np.ndarray, alpha: np.ndarray, device: "torch.device | None" = None, *, background: bool = False
) -> list[np.ndarray]:
    """The solver; not imported with this file, because torch takes seconds that pymatting's users do without."""
    import torch

    from utils.blur_fusion import blur_fusion

    threads = torch.get_num_threads()
    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)  # the processes are the parallelism
    try:
        return blur_fusion(rgb, alpha, device or torch.device("cpu"), background=background)
    finally:
        torch.set_num_threads(threads)
