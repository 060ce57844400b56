"""Procedural composites whose alpha is known exactly: the data that ships inside the program.

A picture is composed as a photograph is taken: a subject (`subjects`) stands before a background
(`backgrounds`), both under one light; a lens blurs them, and one camera grades them. Alpha and premultiplied
foreground pass through the same linear blurs, so that alpha stays exact whatever the lens does.
"""

from typing import NamedTuple

import cv2
import numpy as np

from utils.synthetic.backgrounds import BACKGROUNDS
from utils.synthetic.camera import continued, developed, through_lens
from utils.synthetic.scene import Canvas, Scene, rng_log_uniform
from utils.synthetic.solids import SOLIDS
from utils.synthetic.subjects import RECIPES, ROUND, subject_scale
from utils.synthetic.textures import PIGMENTS, enlarge, tint


class Composite(NamedTuple):
    """A picture and what it was made of, uint8; rgb = round(alpha/255 * foreground + (1 - alpha/255) * background)."""

    rgb: np.ndarray  # (H, W, 3)
    alpha: np.ndarray  # (H, W), opacity in 1/255
    foreground: np.ndarray  # (H, W, 3), continued smoothly where alpha is 0
    background: np.ndarray  # (H, W, 3), complete behind the subject


def recipe_name(index: int) -> str:
    """The recipe of picture `index`: they take turns, so that any run of `len(ROUND)` pictures shows them all."""
    return ROUND[index % len(ROUND)]


def composite(seed: int, index: int, *, height: int, width: int) -> Composite:
    """Picture `index` (>= 0) of the endless set `seed` (>= 0), a pure function of its arguments."""
    plan, paint, stage, lens = (np.random.default_rng([seed, index, stream]) for stream in range(4))
    scene = _scene(plan, paint, recipe_name(index), height, width)
    RECIPES[recipe_name(index)](scene)
    premultiplied, alpha = through_lens(lens, scene.canvas)
    background = _background(stage, scene, alpha)
    foreground = continued(premultiplied, alpha)
    foreground, background = developed(lens, foreground, background)
    return _composed(foreground, background, alpha)


def _scene(plan: np.random.Generator, paint: np.random.Generator, name: str, height: int, width: int) -> Scene:
    """Subjects stand near the middle, a little low, and sometimes far off it; light comes from above."""
    shorter = min(height, width)
    radius = shorter * subject_scale(plan, name)
    drift = plan.normal(0, 0.09 if plan.random() < 0.85 else 0.25, 2)
    centre = np.array([width / 2, height / 2]) + np.clip(drift, -0.45, 0.45) * [width, height] * [0.8, 0.5]
    if name == "hair" or plan.random() < 0.15:
        centre[1] = height - radius * plan.uniform(0.65, 1.0)
    angle = plan.normal(0, 0.12) if plan.random() < 0.75 or name == "hair" else plan.uniform(-np.pi, np.pi)
    azimuth, elevation = plan.uniform(-0.9 * np.pi, -0.1 * np.pi), plan.uniform(0.35, 1.0)
    light = np.float32([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    shown = PIGMENTS if plan.random() < 0.3 else PIGMENTS[PIGMENTS.mean(axis=1) > 0.35]  # subjects are mostly well lit
    palette = shown[plan.permutation(len(shown))[: plan.integers(3, 8)]]
    return Scene(
        paint, Canvas.empty(height, width), centre, radius, 0.3 * angle if name == "hair" else angle, light, palette
    )


def _background(rng: np.random.Generator, scene: Scene, alpha: np.ndarray) -> np.ndarray:
    """A scene behind the subject: mostly out of focus, at times with other things in it, under the subject's shadow."""
    height, width = alpha.shape
    shorter = min(height, width)
    focus = rng.random()
    sigma = 0.0 if focus < 0.12 else shorter * rng_log_uniform(rng, *((0.004, 0.012) if focus < 0.35 else (0.01, 0.04)))
    shrink = 1 if sigma < 2 else 2 if sigma < 6 else 4  # what the blur will remove need not be drawn
    size = max(1, height // shrink), max(1, width // shrink)
    picture = np.clip(BACKGROUNDS[rng.integers(len(BACKGROUNDS))](rng, *size), 0, 1)
    if rng.random() < 0.25:
        picture = _with_bystanders(rng, picture, scene)
    picture = _set_back(rng, picture, scene)
    if sigma > 0:
        picture = cv2.GaussianBlur(picture, (0, 0), max(0.4, sigma / shrink))
    picture = enlarge(picture, height, width, interpolation=cv2.INTER_LINEAR) if shrink > 1 else picture
    return picture * _shadow(rng, scene, alpha)[..., None] if rng.random() < 0.7 else picture


def _set_back(rng: np.random.Generator, picture: np.ndarray, scene: Scene) -> np.ndarray:
    """Sets the background off from the subject as photographers do, nine times in ten; else gives it its colours."""
    grey = picture.mean(axis=-1, keepdims=True)
    mood = rng.random()
    if mood < 0.09:  # the hard case: nothing but focus and form tells them apart
        return np.clip(0.55 * picture + 0.45 * tint(rng, scene.palette) * (grey * 1.2 + 0.3), 0, 1)
    picture = grey + (picture - grey) * np.float32(rng.uniform(0.1, 0.65))
    picture = np.clip(picture * np.float32([0.88, 0.98, 1.1]), 0, 1)
    if mood < 0.86:  # unlit
        return picture * np.float32(rng.uniform(0.25, 0.6))
    haze = np.float32(rng.uniform(0.2, 0.55))
    return picture * (1 - haze) + haze * np.float32([0.78, 0.86, 0.92])


def _with_bystanders(rng: np.random.Generator, picture: np.ndarray, scene: Scene) -> np.ndarray:
    """Smaller, paler objects of the subject's kinds, which belong to the background all the same."""
    height, width = picture.shape[:2]
    canvas = Canvas.empty(height, width)
    for _ in range(int(rng.integers(1, 4))):
        centre = np.array([rng.uniform(0, width), height * rng.uniform(0.3, 0.9)])
        radius = min(height, width) * rng.uniform(0.06, 0.16)
        SOLIDS[rng.integers(len(SOLIDS))](
            Scene(rng, canvas, centre, radius, rng.normal(0, 0.2), scene.light, scene.palette)
        )
    strength = np.float32(rng.uniform(0.5, 0.95))
    return picture * (1 - strength * canvas.alpha)[..., None] + strength * canvas.premultiplied


def _shadow(rng: np.random.Generator, scene: Scene, alpha: np.ndarray) -> np.ndarray:
    """The share of light the subject leaves on its background, (H, W): a soft image of it, away from the light."""
    height, width = alpha.shape
    scale = min(1.0, 128 / max(height, width))
    small = enlarge(alpha, max(1, round(height * scale)), max(1, round(width * scale)), interpolation=cv2.INTER_AREA)
    radius = scene.radius * scale
    shift = -scene.light[:2] * radius * rng.uniform(0.05, 0.4)
    moved = cv2.warpAffine(small, np.float32([[1, 0, shift[0]], [0, 1, shift[1]]]), small.shape[::-1])
    soft = cv2.GaussianBlur(moved, (0, 0), max(0.5, radius * rng.uniform(0.04, 0.2)))
    return 1 - np.float32(rng.uniform(0.15, 0.6)) * np.clip(enlarge(soft, height, width), 0, 1)


def _composed(foreground: np.ndarray, background: np.ndarray, alpha: np.ndarray) -> Composite:
    """Composes the parts as they are rounded to 8 bits, so that the composition holds to half a level."""
    alpha = np.rint(alpha * 255).astype(np.uint8)
    opacity = cv2.merge([alpha] * 3).astype(np.uint16)
    rgb = (opacity * foreground + (255 - opacity) * background + 127) // 255
    return Composite(rgb.astype(np.uint8), alpha, foreground, background)
