"""Drawing with exact coverage: stencils of outlines, strokes and tapering strands; and outlines to fill them with.

Points are (N, 2) float arrays of x, y in pixels, the origin at the picture's upper left corner. A stencil is drawn on
a grid `SUPERSAMPLING` times finer and area-averaged: coverage is then right to 1/16 of a pixel even where strands
cross, which OpenCV's own 8-bit anti-aliasing is not.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

SUPERSAMPLING = 4
FRACTION_BITS = 4  # of the fixed-point coordinates that OpenCV's drawing functions take


class Box(NamedTuple):
    """A crop of the picture in whole pixels; `bottom` and `right` are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        return self.bottom - self.top, self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)


class Shape(NamedTuple):
    """One outline (`width_px` None: filled) or stroke; `tone` in [0, 1] is its place on the colour ramp."""

    points: np.ndarray
    width_px: float | None
    closed: bool
    ink: int
    tone: float


@dataclass
class Stencil:
    """Shapes to be drawn in order, rasterised together over their common bounding box."""

    shapes: list[Shape] = field(default_factory=list)

    def fill(self, points: np.ndarray, *, tone: float = 0.5) -> "Stencil":
        self.shapes.append(Shape(np.asarray(points), None, True, 255, tone))
        return self

    def cut(self, points: np.ndarray) -> "Stencil":
        """Takes the outline's inside away from what was drawn before."""
        self.shapes.append(Shape(np.asarray(points), None, True, 0, 0.5))
        return self

    def stroke(self, points: np.ndarray, width_px: float, *, closed: bool = False, tone: float = 0.5) -> "Stencil":
        self.shapes.append(Shape(np.asarray(points), width_px, closed, 255, tone))
        return self

    def strands(self, curves: np.ndarray, width_px: np.ndarray | float, tones: np.ndarray) -> "Stencil":
        """Curves (S, N, 2), each `width_px` (S,) wide at its root and tapering to a point."""
        taper = np.linspace(1, 0, curves.shape[1]) ** 0.7
        across = np.gradient(curves, axis=1)[..., ::-1] * [-1, 1]
        across /= np.maximum(np.linalg.norm(across, axis=-1, keepdims=True), 1e-6)
        offset = across * (0.5 * np.broadcast_to(width_px, len(curves))[:, None] * taper)[..., None]
        outlines = np.concatenate([curves + offset, (curves - offset)[:, ::-1]], axis=1)
        for outline, tone in zip(outlines, tones, strict=True):
            self.shapes.append(Shape(outline, None, True, 255, float(tone)))
        return self

    def box(self, height: int, width: int) -> Box | None:
        """Bounding box inside a picture of that size, or None where nothing falls into it."""
        if not self.shapes:
            return None
        margins = np.array([2 + (s.width_px or 0) / 2 for s in self.shapes])[:, None]
        low = np.floor(np.min([s.points.min(axis=0) for s in self.shapes] - margins, axis=0)).astype(int)
        high = np.ceil(np.max([s.points.max(axis=0) for s in self.shapes] + margins, axis=0)).astype(int)
        left, top = np.maximum(low, 0)
        right, bottom = np.minimum(high, [width, height])
        return Box(top, left, bottom, right) if bottom > top and right > left else None

    def coverage(self, box: Box) -> np.ndarray:
        """The share of each pixel of `box` that is covered, (h, w) float32 in [0, 1]."""
        height, width = box.size
        grid = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)
        for shape in self.shapes:
            _draw(grid, shape, box, SUPERSAMPLING, shape.ink, shape.width_px)
        return cv2.resize(grid, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) * np.float32(1 / 255)

    def tones(self, box: Box) -> np.ndarray:
        """Each shape's tone where it lies, (h, w) float32 in [0, 1]; drawn a little too wide, for soft borders."""
        grid = np.full(box.size, 128, np.uint8)
        for shape in self.shapes:
            if shape.ink:
                ink = int(np.clip(shape.tone, 0, 1) * 255)
                _draw(grid, shape, box, 1, ink, (shape.width_px or 0) + 1, outline=True)
        return grid.astype(np.float32) * np.float32(1 / 255)


def _draw(
    grid: np.ndarray, shape: Shape, box: Box, scale: int, ink: int, width_px: float | None, *, outline: bool = False
) -> None:
    points = (shape.points - [box.left, box.top]) * scale - 0.5
    fixed = np.round(np.clip(points, -20000, 20000) * (1 << FRACTION_BITS)).astype(np.int32)
    if shape.width_px is None:
        cv2.fillPoly(grid, [fixed], ink, cv2.LINE_8, FRACTION_BITS)
    if shape.width_px is not None or outline:
        thickness = max(1, round((width_px or 0) * scale))
        cv2.polylines(grid, [fixed], shape.closed, ink, thickness, cv2.LINE_8, FRACTION_BITS)


# --------------------------------------------------------------------------------------------------------- outlines
# Outlines in a subject's own frame, where it spans about [-1, 1] both ways, y down; `Scene.px` maps them to pixels.


def unit(angles: np.ndarray) -> np.ndarray:
    """Unit vectors (..., 2) along `angles` (...) in radians."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def ellipse(
    x: float, y: float, rx: float, ry: float, *, n: int = 64, start: float = 0, turn: float = 2 * np.pi
) -> np.ndarray:
    angle = start + np.linspace(0, turn, n)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=-1)


def blob(
    rng: np.random.Generator, x: float, y: float, rx: float, ry: float, *, wobble: float = 0.12, n: int = 96
) -> np.ndarray:
    """A closed smooth outline around an ellipse."""
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    radius = np.ones(n)
    for k in range(2, 7):
        radius += rng.normal(0, wobble / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    return np.stack([x + rx * radius * np.cos(angle), y + ry * radius * np.sin(angle)], axis=-1)


def rectangle(left: float, top: float, right: float, bottom: float, *, rounding: float = 0.0) -> np.ndarray:
    """A rectangle, its corners cut by quarter circles of radius `rounding`."""
    corners = [(right, bottom, 1, 1), (left, bottom, -1, 1), (left, top, -1, -1), (right, top, 1, -1)]
    if rounding == 0:
        return np.array([(x, y) for x, y, _, _ in corners])
    arcs = [
        ellipse(x - sx * rounding, y - sy * rounding, rounding, rounding, n=8, start=i * np.pi / 2, turn=np.pi / 2)
        for i, (x, y, sx, sy) in enumerate(corners)
    ]
    return np.concatenate(arcs)


def revolved(heights: np.ndarray, radii: np.ndarray, *, n: int = 64) -> np.ndarray:
    """Outline of a body of revolution about the y axis from its profile, smoothed: vases, bottles, pots."""
    y = np.linspace(heights[0], heights[-1], n)
    kernel = np.hanning(9) / np.hanning(9).sum()
    r = np.convolve(np.pad(np.interp(y, heights, radii), 4, mode="edge"), kernel, mode="valid")
    return np.concatenate([np.stack([r, y], -1), np.stack([-r, y], -1)[::-1]])


def spline(rng: np.random.Generator, start: np.ndarray, end: np.ndarray, *, sway: float, n: int = 48) -> np.ndarray:
    """A smooth wandering line between two points, swaying by about `sway` of their distance."""
    t = np.linspace(0, 1, n)[:, None]
    line = start + (end - start) * t
    across = (end - start)[::-1] * [-1, 1]
    for k in range(1, 5):
        line = line + across * np.sin(np.pi * k * t) * rng.normal(0, sway / k)
    return line


def locks(
    rng: np.random.Generator,
    roots: np.ndarray,
    headings: np.ndarray,
    lengths: np.ndarray,
    *,
    fall: float,
    curl: float,
    n: int = 20,
) -> np.ndarray:
    """Hanging hairs (S, n, 2) from roots (S, 2): they leave along `headings` (S,) and turn downwards as they go.

    Args:
        lengths: (S,), in the unit of the roots.
        fall: Rate of turning, per unit of length: 2 stands out, 12 hangs at once.
        curl: Amplitude of the waves of the heading in radians.
    """
    walked = np.linspace(0, 1, n)[None] * lengths[:, None]
    away = (headings - np.pi / 2 + np.pi) % (2 * np.pi) - np.pi  # from straight down, in [-pi, pi)
    phases, waves = rng.uniform(0, 2 * np.pi, (len(roots), 1)), rng.uniform(6, 14, (len(roots), 1))
    heading = np.pi / 2 + away[:, None] * np.exp(-fall * walked) + curl * np.sin(waves * walked + phases)
    steps = np.stack([np.cos(heading), np.sin(heading)], axis=-1) * (lengths / (n - 1))[:, None, None]
    return roots[:, None] + np.cumsum(steps, axis=1) - steps[:, :1]


def strands(
    rng: np.random.Generator,
    roots: np.ndarray,
    directions: np.ndarray,
    lengths: np.ndarray,
    *,
    bend: float = 0.3,
    gravity: float = 0.0,
    curl: float = 0.0,
    n: int = 14,
) -> np.ndarray:
    """Curved strands (S, n, 2) from roots (S, 2) along unit directions (S, 2), `lengths` (S,) long.

    `bend` and `gravity` are sideways and downward drifts at the tip, `curl` the amplitude of waves, in lengths.
    """
    t = np.linspace(0, 1, n)[None, :, None]
    sideways = directions[:, None, ::-1] * [-1, 1]
    bends = rng.normal(0, bend, (len(roots), 1, 1))
    phases, waves = rng.uniform(0, 2 * np.pi, (len(roots), 1, 1)), rng.uniform(0.6, 1.8, (len(roots), 1, 1))
    ripple = curl * t * np.sin(2 * np.pi * waves * t + phases)
    path = directions[:, None] * t + sideways * (bends * t**2 + ripple) + np.array([0.0, gravity]) * t**2
    return roots[:, None] + path * lengths[:, None, None]
