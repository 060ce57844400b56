"""Scalar fields, colour palettes and the materials made of both, for the procedural pictures.

A field is (H, W) float32 in [0, 1]; a colour is (3,) float32 display RGB in [0, 1]. Every function draws its chances
from the generator it is given and nothing else, so that a picture depends on its seed alone.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

# Display-space albedos of things one photographs; jittered at each use, so that no two pictures share one exactly.
PIGMENTS = np.float32(
    [
        (0.78, 0.58, 0.46),
        (0.45, 0.29, 0.21),
        (0.91, 0.75, 0.64),  # skins
        (0.19, 0.15, 0.13),
        (0.40, 0.27, 0.16),
        (0.72, 0.55, 0.31),  # hair and wood
        (0.86, 0.83, 0.77),
        (0.93, 0.93, 0.91),
        (0.14, 0.15, 0.17),  # cream, white, black
        (0.53, 0.54, 0.55),
        (0.33, 0.37, 0.42),
        (0.62, 0.60, 0.55),  # greys, slate, stone
        (0.22, 0.30, 0.46),
        (0.41, 0.56, 0.70),
        (0.16, 0.44, 0.47),  # denim, sky, teal
        (0.29, 0.41, 0.19),
        (0.50, 0.60, 0.27),
        (0.20, 0.28, 0.20),  # greens
        (0.70, 0.18, 0.15),
        (0.80, 0.42, 0.17),
        (0.86, 0.68, 0.24),  # red, orange, mustard
        (0.66, 0.37, 0.28),
        (0.52, 0.25, 0.36),
        (0.85, 0.62, 0.63),  # terracotta, plum, rose
    ]
)
SKINS, HAIRS, NEUTRALS, GREENS = PIGMENTS[0:3], PIGMENTS[3:6], PIGMENTS[6:12], PIGMENTS[15:18]


def tint(rng: np.random.Generator, pigments: np.ndarray = PIGMENTS, *, jitter: float = 0.08) -> np.ndarray:
    """One of `pigments` (N, 3), its brightness and each of its channels changed by some per cent; (3,)."""
    colour = pigments[rng.integers(len(pigments))] * rng.uniform(0.8, 1.2) * (1 + rng.normal(0, jitter, 3))
    return np.clip(colour, 0.02, 0.98).astype(np.float32)


def tones_of(colour: np.ndarray, *, depth: float = 0.45) -> np.ndarray:
    """The colour's own shadow, body and light tone, (3, 3): shadows are bluer and lights are warmer, as outdoors."""
    shadow = colour * (1 - depth) * np.float32([0.94, 0.98, 1.06])
    light = colour + (1 - colour) * depth * 0.6 * np.float32([1.05, 1.0, 0.9])
    return np.clip(np.stack([shadow, colour, light]), 0, 1)


def ramp(field: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Colours a field by linear interpolation between evenly spaced stops: (H, W), (N, 3) -> (H, W, 3) float32."""
    stops, levels = np.linspace(0, 1, len(colours)), np.linspace(0, 1, 256)
    table = np.stack([np.interp(levels, stops, colours[:, c]) for c in range(3)], axis=-1).astype(np.float32)
    index = cv2.convertScaleAbs(np.maximum(field, 0), alpha=255)
    return cv2.LUT(cv2.merge([index, index, index]), table[None])


def smoothstep(field: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, and the cubic between them."""
    t = np.clip((field - low) * np.float32(1 / (high - low)), 0, 1)
    return t * t * (3 - 2 * t)


def enlarge(image: np.ndarray, height: int, width: int, *, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    """`image` (h, w[, C]) resized to (height, width[, C])."""
    return cv2.resize(image, (width, height), interpolation=interpolation)


def clouds(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    coarsest: float = 0.5,
    finest_px: float = 1.0,
    persistence: float = 0.55,
    stretch: float = 1.0,
) -> np.ndarray:
    """1/f noise as a sum of octaves, mean 0.5, standard deviation about 0.18, clipped to [0, 1].

    Args:
        coarsest: Size of the largest blots in shares of the longer side.
        finest_px: Size of the smallest in pixels: larger is smoother and cheaper.
        persistence: Amplitude of an octave over that of the one twice as coarse; 0.5 is close to natural pictures.
        stretch: Blots are this many times wider than high.
    """
    rows, columns = max(2, round(height / finest_px)), max(2, round(width / finest_px / stretch))
    octaves = max(1, round(np.log2(max(2.0, max(rows, columns) * coarsest))))
    total, gain, power = None, 1.0, 0.0
    for octave in range(octaves, -1, -1):
        shape = max(2, -(-rows >> octave)), max(2, -(-columns >> octave))
        # uniform of variance gain**2: a third of the cost of normal noise, and their sums look the same
        noise = (rng.random(shape, dtype=np.float32) - np.float32(0.5)) * np.float32(12**0.5 * gain)
        total = noise if total is None else enlarge(total, *shape) + noise
        power += gain**2
        gain *= persistence
    total = enlarge(total, height, width) if total.shape != (height, width) else total
    return np.clip(total * np.float32(0.25 / np.sqrt(power)) + np.float32(0.5), 0, 1)


def slope(height: int, width: int, angle: float, period_px: float) -> np.ndarray:
    """A plane rising by 1 every `period_px` along `angle` (radians); (H, W) float32, unbounded."""
    y = np.arange(height, dtype=np.float32) * np.float32(np.sin(angle) / period_px)
    x = np.arange(width, dtype=np.float32) * np.float32(np.cos(angle) / period_px)
    return y[:, None] + x[None, :]


def wave(phase: np.ndarray) -> np.ndarray:
    """A smooth periodic field in [0, 1] of period 1; a cubic each half-period, many times cheaper than a sine."""
    t = np.abs(2 * (phase - np.floor(phase)) - 1)
    return t * t * (3 - 2 * t)


# ------------------------------------------------------------------------------------------------------- materials
# A material is a field over the crop of a part: (rng, height, width, grain_px) -> (H, W) in [0, 1], coloured by `ramp`.

Material = Callable[[np.random.Generator, int, int, float], np.ndarray]


def mottled(rng: np.random.Generator, height: int, width: int, grain_px: float) -> np.ndarray:
    """Stone, clay, skin, leather: 1/f noise of varied roughness."""
    field = clouds(rng, height, width, finest_px=max(1, grain_px / 12), persistence=rng.uniform(0.45, 0.8))
    return 0.5 + (field - 0.5) * np.float32(rng.uniform(0.5, 1.4))


def smooth(rng: np.random.Generator, height: int, width: int, grain_px: float) -> np.ndarray:
    """Paint, plastic, porcelain: almost nothing but the light on it."""
    return 0.5 + (clouds(rng, height, width, finest_px=max(2, grain_px)) - 0.5) * np.float32(0.35)


def striped(rng: np.random.Generator, height: int, width: int, grain_px: float) -> np.ndarray:
    """Stripes, bent a little."""
    phase = slope(height, width, rng.uniform(0, np.pi), grain_px * rng.uniform(0.7, 2.0))
    bend = clouds(rng, height, width, finest_px=max(4, grain_px)) * np.float32(rng.uniform(0.0, 2.5))
    edge = rng.uniform(0.05, 0.45)
    return 0.15 + 0.7 * smoothstep(wave(phase + bend), 0.5 - edge, 0.5 + edge)


def spotted(rng: np.random.Generator, height: int, width: int, grain_px: float) -> np.ndarray:
    """Spots and patches: the peaks of band-limited noise."""
    band = clouds(rng, height, width, coarsest=0.001, finest_px=max(1.5, grain_px * rng.uniform(0.4, 1.0)))
    level = rng.uniform(0.45, 0.65)
    return 0.2 + 0.6 * smoothstep(band, level, level + 0.06) + 0.4 * (clouds(rng, height, width, finest_px=2) - 0.5)


def wooden(rng: np.random.Generator, height: int, width: int, grain_px: float) -> np.ndarray:
    """Year rings cut lengthwise, with pores."""
    rings = clouds(rng, height, width, finest_px=max(2, grain_px / 2), stretch=rng.choice([0.12, 8.0]))
    pores = clouds(rng, height, width, finest_px=1.0, persistence=0.9, stretch=rng.choice([0.2, 5.0]))
    return 0.2 + 0.45 * wave(rings * np.float32(rng.uniform(4, 10))) + 0.4 * (pores - 0.3)


def woven(rng: np.random.Generator, height: int, width: int, grain_px: float) -> np.ndarray:
    """Cloth: two crossing threads over broad folds."""
    angle, thread_px = rng.uniform(0, np.pi), max(2.5, grain_px / rng.uniform(2, 5))
    warp, weft = (wave(slope(height, width, angle + turn, thread_px)) for turn in (0, np.pi / 2))
    folds = clouds(rng, height, width, finest_px=max(2, grain_px))
    return 0.5 * folds + 0.25 * warp * weft + 0.15 + 0.2 * (clouds(rng, height, width) - 0.5)


def plaid(rng: np.random.Generator, height: int, width: int, grain_px: float) -> np.ndarray:
    """Checks and tartan on cloth."""
    angle, period = rng.uniform(0, np.pi), grain_px * rng.uniform(1.0, 2.5)
    bend = clouds(rng, height, width, finest_px=max(4, grain_px)) * np.float32(rng.uniform(0, 0.8))
    bars = [smoothstep(wave(slope(height, width, angle + turn, period) + bend), 0.4, 0.6) for turn in (0, np.pi / 2)]
    return 0.1 + 0.35 * (bars[0] + bars[1]) + 0.2 * (clouds(rng, height, width) - 0.5)


def brushed(rng: np.random.Generator, height: int, width: int, grain_px: float) -> np.ndarray:
    """Metal: fine lines one way, broad reflections the other."""
    lines = clouds(rng, height, width, persistence=0.9, stretch=rng.choice([0.04, 25.0]))
    sheen = wave(slope(height, width, rng.uniform(0, np.pi), grain_px * rng.uniform(4, 12)) + np.float32(rng.random()))
    return 0.3 * lines + 0.6 * sheen


MATERIALS: Sequence[Material] = (mottled, smooth, striped, spotted, wooden, woven, plaid, brushed)
