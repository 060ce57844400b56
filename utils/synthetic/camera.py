"""The lens and the camera of the procedural pictures: blur, unpremultiplied colour, exposure and noise."""

import cv2
import numpy as np

from utils.synthetic.scene import Canvas, rng_log_uniform
from utils.synthetic.textures import enlarge


def through_lens(rng: np.random.Generator, canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
    """Premultiplied colour (H, W, 3) and alpha (H, W) after motion or defocus blur, one in seven each, or neither."""
    shorter = min(canvas.alpha.shape)
    rgba = cv2.merge([canvas.premultiplied, canvas.alpha])
    chance = rng.random()
    if chance < 0.14:
        rgba = _motion_blur(rgba, rng.uniform(-np.pi, np.pi), shorter * rng_log_uniform(rng, 0.01, 0.05))
    elif chance < 0.28:
        rgba = cv2.GaussianBlur(rgba, (0, 0), max(0.5, shorter * rng_log_uniform(rng, 0.003, 0.012)))
    else:
        rgba = cv2.GaussianBlur(rgba, (3, 3), rng.uniform(0.25, 0.6))
    rgba = np.clip(rgba, 0, 1)
    return np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3])


def _motion_blur(image: np.ndarray, angle: float, length_px: float) -> np.ndarray:
    """A box filter along a line, as 2**k equidistant exposures made by doubling k times.

    It is one-sided, for half the work: the picture ends up to half of `length_px` from where it was.
    """
    doublings = int(np.clip(np.ceil(np.log2(max(2.0, length_px))), 1, 5))
    for k in range(doublings):
        shift = length_px / 2 ** (doublings - k)
        move = np.float32([[1, 0, shift * np.cos(angle)], [0, 1, shift * np.sin(angle)]])
        moved = cv2.warpAffine(image, move, image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
        image = cv2.addWeighted(image, 0.5, moved, 0.5, 0)
    return image


def continued(premultiplied: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Unpremultiplied colour (H, W, 3), continued by a blurred copy of itself to where there is little of it."""
    height, width = alpha.shape
    size = max(1, height // 8), max(1, width // 8)
    coarse, weight = (enlarge(plane, *size, interpolation=cv2.INTER_AREA) for plane in (premultiplied, alpha))
    for sigma in (2, 8):  # the wide one fills what the narrow one does not reach
        coarse = coarse + 1e-3 * cv2.GaussianBlur(coarse, (0, 0), sigma)
        weight = weight + 1e-3 * cv2.GaussianBlur(weight, (0, 0), sigma)
    around = enlarge((coarse + 5e-7) / (weight + 1e-6)[..., None], height, width)
    trust = np.float32(1 / 64)  # alphas below it have no digits left for a colour of their own
    return np.clip((premultiplied + trust * around) / (alpha + trust)[..., None], 0, 1)


def _exposed(foreground: np.ndarray, background: np.ndarray, target: float) -> tuple[np.ndarray, np.ndarray]:
    """Both through the tone curve x + k x (1 - x), k in [-0.4, 0.9] such that their mean comes near `target`."""
    mean = float(np.clip((np.mean(foreground[::4, ::4]) + np.mean(background[::4, ::4])) / 2, 0.05, 0.95))
    k = np.float32(np.clip((target - mean) / (mean * (1 - mean)), -0.4, 0.9))
    return foreground * (1 + k - k * foreground), background * (1 + k - k * background)


def developed(
    rng: np.random.Generator, foreground: np.ndarray, background: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One camera for both: exposure, white balance, vignetting and sensor noise; rounded to uint8.

    All are the same function of the place for both, so the composite has them too: their sum passes through alpha.
    """
    height, width = foreground.shape[:2]
    foreground, background = _exposed(foreground, background, rng.normal(0.46, 0.1))
    gain = np.float32(255 * rng.uniform(0.93, 1.05) * rng.normal(1, 0.04, 3))
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None]
    vignette = 1 - np.float32(rng.uniform(0, 0.22)) * (x * x + y * y)
    noise = np.empty((height, width, 3), np.float32)
    grain = rng.standard_normal((256, 256, 3), dtype=np.float32) * np.float32(rng.uniform(0.5, 4))
    for top in range(0, height, 256):
        for left in range(0, width, 256):
            tile = noise[top : top + 256, left : left + 256]
            tile[:] = np.roll(grain, rng.integers(0, 256, 2), axis=(0, 1))[: tile.shape[0], : tile.shape[1]]
    light = cv2.merge([vignette * channel for channel in gain])
    light_on = (cv2.multiply(plane.astype(np.float32), light) for plane in (foreground, background))
    return tuple(cv2.add(plane, noise, dtype=cv2.CV_8U) for plane in light_on)
