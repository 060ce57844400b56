"""An embedded picture on its way through the method: what a figure of the method shows, without any trained weights.

Coarse alpha and expected gain are imitated, by shrinking the true alpha; the squares are then chosen by
`models.routing` itself.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import torch

from models import Routing
from models.patches import Patches
from models.routing import choose_patches
from utils.images import quantise
from utils.shrinking import shrink_to_fit
from utils.synthetic import VAL_FIRST_INDEX, composite
from utils.transforms import Preprocess

PICTURE = VAL_FIRST_INDEX + 20  # a portrait with loose hair
COARSE_CELLS = 128  # along the longer side: about as fine as a coarse alpha is right
SQUARE_PX = 64  # least side of the square that is shown
SHOWN_PX = 640  # longer side of whole pictures


class RefinedSquare(NamedTuple):
    """A refined square with its halo, all uint8 (S, S) but rgb (S, S, 3): what the refiner sees."""

    rgb: np.ndarray
    coarse_alpha: np.ndarray
    gradients: np.ndarray
    halo_px: int


class Example(NamedTuple):
    """Pictures, uint8, small ones but for `square` and `crops`.

    Attributes:
        size: (H, W) of the photograph, px.
        rgb: (h, w, 3), the photograph.
        alpha: (h, w), the truth.
        coarse_rgb: The photograph as the coarse stage sees it, in that shape; so are the next two.
        coarse_alpha: Imitated.
        gain: Imitated expected gain, brightened.
        squares: Chosen for refinement; of the photograph, px.
        square: One of them, None without a refiner.
        crops: Corners (K, 2) of some squares of the training's size on the matte's edge; top and left, px.
        crop_alphas: The truth there.
        crop_px: Their side.
    """

    size: tuple[int, int]
    rgb: np.ndarray
    alpha: np.ndarray
    coarse_rgb: np.ndarray
    coarse_alpha: np.ndarray
    gain: np.ndarray
    squares: list[Patches]
    square: RefinedSquare | None
    crops: np.ndarray
    crop_alphas: list[np.ndarray]
    crop_px: int


def make_example(
    size: tuple[int, int],
    preprocess: Preprocess,
    routing: Routing,
    refiner: tuple[int, Callable[[int], int]] | None,
    *,
    crops: int,
    crop_px: int,
) -> Example:
    """Draws the picture and sends it through the method.

    Args:
        size: (H, W) of the photograph, px.
        preprocess: Makes the coarse stage's input.
        routing: Chooses the squares.
        refiner: Its halo, px, and the work of a square of some side; None without one.
        crops: Number of training's squares.
        crop_px: Their side.
    """
    drawn = composite(0, PICTURE, height=size[0], width=size[1])
    alpha = drawn.alpha.astype(np.float32) / 255
    coarse_size = preprocess.coarse_size(*size)
    coarse = _blurred(alpha)
    gain = cv2.resize(cv2.blur(np.abs(coarse - alpha), (9, 9)), coarse_size[::-1], interpolation=cv2.INTER_AREA)
    squares, square = [], None
    if refiner is not None:
        halo_px, work = refiner
        error_logits = torch.from_numpy(gain).clamp(1e-6, 1 - 1e-6).logit()[None, None]
        squares = choose_patches(error_logits, size, routing, work)
        square = _hardest(drawn.rgb, alpha, coarse, squares, halo_px)
    corners = _on_edge(alpha, crops, crop_px)
    return Example(
        size,
        shrink_to_fit(drawn.rgb, SHOWN_PX),
        shrink_to_fit(drawn.alpha, SHOWN_PX),
        *(shrink_to_fit(cv2.resize(each, coarse_size[::-1]), SHOWN_PX) for each in (drawn.rgb, quantise(coarse))),
        shrink_to_fit(quantise((gain / gain.max()) ** 0.5), SHOWN_PX),
        squares,
        square,
        corners,
        [drawn.alpha[top : top + crop_px, left : left + crop_px] for top, left in corners],
        crop_px,
    )


def _blurred(alpha: np.ndarray) -> np.ndarray:
    """The alpha without what is finer than the coarse cells, at its own size."""
    height, width = alpha.shape
    scale = COARSE_CELLS / max(height, width)
    small = cv2.resize(alpha, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)


def _hardest(
    rgb: np.ndarray, alpha: np.ndarray, coarse: np.ndarray, squares: list[Patches], halo_px: int
) -> RefinedSquare:
    """The square whose coarse alpha is furthest from the truth, of those that are large enough to be looked at."""
    error = np.abs(coarse - alpha)
    found = [(side, *corner) for side, _, corners in squares for corner in corners.tolist() if side >= SQUARE_PX]
    places = found or [(SQUARE_PX, *corner) for corner in _on_edge(alpha, 1, SQUARE_PX)]
    inside = [
        np.s_[top - halo_px : top + side + halo_px, left - halo_px : left + side + halo_px]
        for side, top, left in places
        if min(top, left) >= halo_px and all(np.add((top, left), side + halo_px) <= alpha.shape)
    ]
    worst = max(inside, key=lambda place: error[place].mean())
    grey = rgb[worst].astype(np.float32).mean(axis=2)
    gradients = np.hypot(*(cv2.Sobel(grey, cv2.CV_32F, *order) for order in ((1, 0), (0, 1))))
    return RefinedSquare(rgb[worst], quantise(coarse[worst]), quantise(gradients / gradients.max()), halo_px)


def _on_edge(alpha: np.ndarray, number: int, side_px: int) -> np.ndarray:
    """Squares with most soft alpha that do not overlap, those that lie highest first: (number, 2) or fewer."""
    softness, corners = alpha * (1 - alpha), []
    tops, lefts = (np.arange(0, length - side_px + 1, max(1, side_px // 4)) for length in alpha.shape)
    sums = cv2.integral(softness, sdepth=cv2.CV_64F)
    rows = sums[tops + side_px] - sums[tops]
    totals = rows[:, lefts + side_px] - rows[:, lefts]
    while len(corners) < number and totals.max() > 0:
        row, column = np.unravel_index(totals.argmax(), totals.shape)
        top, left = tops[row], lefts[column]
        corners.append((top, left))
        near = (np.abs(tops - top) < side_px)[:, None] & (np.abs(lefts - left) < side_px)
        totals[near] = 0
    return np.array(sorted(corners), int).reshape(-1, 2)
