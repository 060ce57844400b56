"""What stands behind the subject: each is (rng, height, width) -> (H, W, 3) float32 display RGB of about [0, 1]."""

from collections.abc import Callable

import cv2
import numpy as np

from utils.synthetic.scene import blend, rng_log_uniform
from utils.synthetic.textures import (
    GREENS,
    HAIRS,
    NEUTRALS,
    PIGMENTS,
    clouds,
    enlarge,
    ramp,
    slope,
    smoothstep,
    striped,
    tint,
    tones_of,
    wave,
    wooden,
    woven,
)

Background = Callable[[np.random.Generator, int, int], np.ndarray]


def studio(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A backdrop: a soft pool of light on paper or canvas."""
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None]
    cx, cy = rng.uniform(-0.6, 0.6, 2)
    pool = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) * np.float32(rng.uniform(0.3, 1.2)))
    field = 0.75 * pool + rng.uniform(0.1, 0.6) * (clouds(rng, height, width, finest_px=2) - 0.4)
    return ramp(field, tones_of(tint(rng), depth=0.6))


def landscape(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Sky, one to four ridges with aerial perspective, and ground."""
    zenith = np.float32(rng.choice([(0.35, 0.55, 0.8), (0.55, 0.66, 0.78), (0.75, 0.77, 0.8), (0.3, 0.3, 0.45)]))
    haze = np.float32(rng.choice([(0.85, 0.88, 0.9), (0.95, 0.8, 0.62), (0.9, 0.7, 0.65)]))
    vertical = np.linspace(0, 1.3, height, dtype=np.float32)[:, None] * np.ones((1, width), np.float32)
    picture = ramp(vertical, np.stack([zenith, haze]))
    veil = smoothstep(clouds(rng, height, width, finest_px=2, stretch=2.5), 0.45, 0.85)
    picture = blend(picture, np.full_like(picture, 0.95), 1 - veil, veil)
    ground, horizon = tint(rng, np.concatenate([GREENS, HAIRS[1:], NEUTRALS[4:]])), rng.uniform(0.35, 0.75)
    ridges = int(rng.integers(1, 5))
    for rank in range(ridges):
        near = (rank + 1) / ridges
        top = horizon + 0.25 * (near - 1) + (clouds(rng, 2, width, coarsest=rng.uniform(0.2, 0.6))[0] - 0.5) * 0.4
        cover = np.clip((np.arange(height, dtype=np.float32)[:, None] - top[None] * height), 0, 1)
        grain = clouds(rng, height, width, coarsest=0.1, persistence=0.75, stretch=2.0)
        land = ramp(grain, tones_of(np.float32(haze * 0.8 * (1 - near) + ground * near), depth=0.2 + 0.4 * near))
        picture = blend(picture, land, 1 - cover, cover)
    return picture


def bokeh(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Lights far out of focus: overlapping soft discs before a dim scene."""
    unit = min(height, width)
    picture = ramp(
        clouds(rng, height, width, finest_px=max(2, unit / 24)), tones_of(tint(rng) * rng.uniform(0.3, 0.9), depth=0.6)
    )
    glow, lights = np.zeros_like(picture), [tint(rng) for _ in range(3)]
    largest = rng.uniform(0.03, 0.12) * unit
    for _ in range(int(rng.integers(15, 60))):
        radius = largest * rng.uniform(0.4, 1)
        centre = np.array([rng.uniform(0, width), height * rng.beta(2, 2.5)])
        low = np.maximum(np.floor(centre - radius - 2).astype(int), 0)
        high = np.minimum(np.ceil(centre + radius + 2).astype(int), [width, height])
        if np.any(high <= low):
            continue
        disc = np.zeros((high[1] - low[1], high[0] - low[0], 3), np.float32)
        colour = (lights[rng.integers(3)] * rng.uniform(0.15, 0.7)).tolist()
        at = tuple(int(v) for v in (centre - low))
        cv2.circle(disc, at, max(1, int(radius)), colour, -1)
        cv2.circle(disc, at, max(1, int(radius)), [c * 1.3 for c in colour], max(1, int(radius * 0.12)))
        glow[low[1] : high[1], low[0] : high[0]] += disc
    return picture + cv2.GaussianBlur(glow, (0, 0), max(0.6, largest * 0.06))


def indoors(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A wall, a table or floor, and shelves' worth of upright things before the wall."""
    picture = ramp(
        clouds(rng, height, width, finest_px=2) * 0.4 + 0.3,
        tones_of(tint(rng, NEUTRALS if rng.random() < 0.6 else PIGMENTS)),
    )
    picture *= np.linspace(rng.uniform(0.6, 1.1), rng.uniform(0.6, 1.1), width, dtype=np.float32)[None, :, None]
    floor = min(height - 1, round(height * rng.uniform(0.55, 0.9)))
    picture[floor:] = ramp(wooden(rng, height - floor, width, max(4, width / 12)), tones_of(tint(rng, HAIRS)))
    for shelf in rng.uniform(0.15, 0.9, int(rng.integers(1, 4))):
        base, x = round(height * shelf), rng.uniform(-0.1, 0.3) * width
        while x < width * rng.uniform(0.7, 1.0):
            w, h = width * rng_log_uniform(rng, 0.02, 0.16), height * rng_log_uniform(rng, 0.06, 0.4)
            tones = tones_of(tint(rng))
            left, right, top = int(max(0, x)), int(min(width, x + w)), int(max(0, base - h))
            if right > left and base > top:
                shade = np.sin(np.linspace(0.3, 2.6, right - left, dtype=np.float32))[None] * np.ones(
                    (base - top, 1), np.float32
                )
                picture[top:base, left:right] = ramp(shade * 0.9, tones)
            x += w * rng.uniform(1.0, 2.2)
        cv2.rectangle(picture, (0, base), (width, base + max(1, height // 60)), tint(rng, HAIRS).tolist(), -1)
    return picture


def thicket(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Leaves in layers, the nearer the lighter, with gaps of sky."""
    unit, base = min(height, width), tint(rng, GREENS if rng.random() < 0.8 else PIGMENTS)
    tones = tones_of(base, depth=0.7)
    grid = cv2.convertScaleAbs(clouds(rng, height, width, finest_px=max(2, unit / 60)), alpha=110)
    size = unit * rng_log_uniform(rng, 0.015, 0.06)
    for rank in range(count := int(rng.integers(150, 450))):
        at = tuple(int(v) for v in rng.uniform([0, 0], [width, height]))
        axes = max(1, int(size * rng.uniform(0.6, 1.5))), max(1, int(size * rng.uniform(0.2, 0.6)))
        cv2.ellipse(
            grid, at, axes, rng.uniform(0, 180), 0, 360, int(rng.uniform(20, 90) + 130 * rank / count), -1, cv2.LINE_AA
        )
    field = enlarge(grid, height, width).astype(np.float32) / 255
    return ramp(field * 0.8 + 0.35 * (clouds(rng, height, width, finest_px=2) - 0.4), tones)


def masonry(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Bricks or tiles, each with its own tone, under uneven light."""
    across = int(rng.integers(4, 14))
    brick_w = width / across
    brick_h = brick_w * rng.choice([0.33, 0.5, 1.0])
    y, x = np.arange(height, dtype=np.float32) / brick_h, np.arange(width, dtype=np.float32) / brick_w
    rows = np.floor(y).astype(int)
    x = x[None] + (0.5 * (rows % 2) * (brick_h < brick_w))[:, None].astype(np.float32)
    table = rng.normal(0.5, 0.16, (rows[-1] + 1, across + 3)).astype(np.float32)
    field = table[rows[:, None], np.floor(x).astype(int)] + 0.5 * (clouds(rng, height, width) - 0.5)
    joint = 0.04 + 0.03 * rng.random()
    dx, dy = x - np.floor(x), (y - np.floor(y))[:, None]
    mortar = np.maximum(
        smoothstep(np.abs(dx - 0.5), 0.5 - joint * brick_h / brick_w * 1.3, 0.5),
        smoothstep(np.abs(dy - 0.5), 0.5 - joint, 0.5),
    )
    wall = ramp(field, tones_of(tint(rng, PIGMENTS)))
    return blend(wall, np.full_like(wall, rng.uniform(0.3, 0.75)), 1 - mortar, mortar)


def water(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Ripples, finer towards the horizon, with glitter."""
    deep = tint(rng, np.float32([(0.1, 0.25, 0.32), (0.2, 0.38, 0.5), (0.35, 0.4, 0.38), (0.5, 0.42, 0.38)]))
    near = clouds(rng, height, width, coarsest=0.15, persistence=0.6, stretch=5.0)
    far = clouds(rng, height, width, coarsest=0.04, stretch=7.0)
    depth = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    field = near * depth + far * (1 - depth)
    picture = ramp(field * 0.8 + 0.25 * (1 - depth), tones_of(deep, depth=0.7))
    return picture + (smoothstep(field, 0.72, 0.85) * np.float32(rng.uniform(0, 0.6)))[..., None]


def city(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Blocks with rows of windows against the sky, by day or by night."""
    night = rng.random() < 0.4
    sky = (
        np.float32([(0.06, 0.08, 0.16), (0.25, 0.2, 0.3)])
        if night
        else np.float32([(0.55, 0.68, 0.85), (0.9, 0.88, 0.85)])
    )
    picture = ramp(np.linspace(0, 1, height, dtype=np.float32)[:, None] * np.ones((1, width), np.float32), sky)
    for rank in range(depth := 3):
        x = 0.0
        while x < width:
            w = width * rng.uniform(0.06, 0.2)
            top = int(height * rng.uniform(0.1, 0.6) * (0.6 + 0.3 * rank))
            left, right = int(x), min(width, int(x + w) + 1)
            x += w * rng.uniform(0.9, 1.3)
            facade = tint(rng, NEUTRALS) * (0.25 if night else 0.9)
            facade = sky[1] * (1 - (rank + 1) / depth) * 0.7 + facade * (0.3 + 0.7 * (rank + 1) / depth)
            if top >= height or right <= left:
                continue
            rows, columns = int(rng.integers(5, 16)), int(rng.integers(2, 7))
            lamps = (rng.random((rows, columns)) < 0.5).astype(np.float32)
            panes = np.kron(lamps, np.float32([[0, 0, 0], [0, 1, 1], [0, 1, 1]]))
            mask = enlarge(panes, height - top, right - left, interpolation=cv2.INTER_AREA)[..., None]
            pane = np.float32([0.95, 0.8, 0.45]) if night else facade * 0.45
            picture[top:, left:right] = facade * (1 - mask) + pane * mask
    return picture + 0.15 * (clouds(rng, height, width)[..., None] - 0.5)


def tabletop(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Cloth, wood or a striped rug seen from above."""
    material = (wooden, woven, striped)[rng.integers(3)]
    field = material(rng, height, width, max(3.0, min(height, width) / rng.uniform(4, 20)))
    return ramp(field, tones_of(tint(rng, HAIRS if material is wooden else PIGMENTS), depth=0.35))


def meadow(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Grass, higher and coarser towards the viewer, with flowers; or sand, or snow."""
    base = tint(rng, np.concatenate([GREENS, GREENS, HAIRS[2:], NEUTRALS[:2]]))
    blades = clouds(rng, height, width, coarsest=0.08, persistence=0.8, stretch=0.25)
    patches = clouds(rng, height, width, finest_px=max(2, height / 40), stretch=3.0)
    furrow = wave(slope(height, width, rng.uniform(0.8, 2.3), max(8.0, height / 3)))
    picture = ramp(0.5 * blades + 0.4 * patches + 0.15 * furrow, tones_of(base, depth=0.6))
    flower = tint(rng).tolist()
    for _ in range(int(rng.choice([0, 0, 60, 150]))):
        y = rng.uniform(0.1, 1) ** 0.7
        centre = int(rng.uniform(0, width)), int(y * height)
        cv2.circle(picture, centre, max(1, int(y * min(height, width) * 0.012)), flower, -1, cv2.LINE_AA)
    return picture


BACKGROUNDS: tuple[Background, ...] = (
    studio,
    landscape,
    bokeh,
    indoors,
    thicket,
    masonry,
    water,
    city,
    tabletop,
    meadow,
)
