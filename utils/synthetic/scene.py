"""A subject's place, light and paint: what the recipes draw with."""

from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np

from utils.synthetic.shapes import Box, Stencil
from utils.synthetic.textures import MATERIALS, NEUTRALS, Material, clouds, enlarge, ramp, tint, tones_of

Choice = TypeVar("Choice")

WARM = np.float32([1.14, 1.02, 0.86])  # the key light on subjects; what lies behind them gets the sky's


@dataclass
class Canvas:
    """Premultiplied colour (H, W, 3) and alpha (H, W), float32 in [0, 1]: what a subject is painted on."""

    premultiplied: np.ndarray
    alpha: np.ndarray

    @classmethod
    def empty(cls, height: int, width: int) -> "Canvas":
        return cls(np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32))

    def over(self, box: Box, opacity: np.ndarray, colour: np.ndarray) -> None:
        """Lays `colour` (h, w, 3) with `opacity` (h, w) over the crop: the "over" operator of Porter and Duff, 1984."""
        rest, crop = 1 - opacity, box.slices
        self.premultiplied[crop] = blend(self.premultiplied[crop], colour, rest, opacity)
        self.alpha[crop] = self.alpha[crop] * rest + opacity


def blend(first: np.ndarray, second: np.ndarray, first_weight: np.ndarray, second_weight: np.ndarray) -> np.ndarray:
    """first * first_weight + second * second_weight for weights (H, W) that sum to one."""
    planes = (np.ascontiguousarray(plane, np.float32) for plane in (first, second, first_weight, second_weight))
    return cv2.blendLinear(*planes)


def relief(
    rng: np.random.Generator, coverage: np.ndarray, light: np.ndarray, *, depth_px: float, bumps: float
) -> tuple[np.ndarray, np.ndarray]:
    """Light on a part inflated from its outline like a cushion.

    Computed at no more than 192 px, since it is smooth, and enlarged.

    Args:
        coverage: (H, W), the part.
        light: (3,) unit vector towards the light; x right, y down, z towards the camera.
        depth_px: Distance from the outline over which the surface turns towards the camera.
        bumps: Strength of random dents, 0 for none.

    Returns:
        Diffuse light in [0, 1] and specular highlight in [0, 1], both (H, W).
    """
    height, width = coverage.shape
    scale = min(1.0, 192 / max(height, width))
    size = max(2, round(height * scale)), max(2, round(width * scale))
    depth = max(2.0, depth_px * scale)
    inside = np.pad((enlarge(coverage, *size, interpolation=cv2.INTER_AREA) > 0.4).astype(np.uint8), 1)
    distance = np.minimum(cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1], depth) / np.float32(depth)
    surface = np.sqrt(np.maximum(1 - (1 - distance) ** 2, 0)) * np.float32(depth)
    surface = cv2.GaussianBlur(surface, (0, 0), max(0.6, depth * 0.12))
    surface += (clouds(rng, *size, coarsest=0.3, finest_px=2) - 0.5) * np.float32(bumps * depth)
    dx, dy = (cv2.Sobel(surface, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
    norm = 1 / np.sqrt(dx * dx + dy * dy + 1)
    diffuse = np.clip((light[2] - dx * light[0] - dy * light[1]) * norm, 0, 1)
    half = light + np.array([0, 0, 1], np.float32)
    half /= np.linalg.norm(half)
    specular = np.clip((half[2] - dx * half[0] - dy * half[1]) * norm, 0, 1) ** 24
    return enlarge(diffuse, height, width), enlarge(specular, height, width)


@dataclass
class Scene:
    """Where a subject stands, how it is lit, and the canvas it is painted on.

    Recipes draw in the subject's own frame, where it spans about [-1, 1] both ways with y down.

    Attributes:
        centre: (2,) x, y of the frame's origin in pixels.
        radius: Pixels of one unit of the frame.
        angle: Rotation in radians, clockwise on the picture.
        light: (3,) unit vector towards the light; x right, y down, z towards the camera.
        palette: (N, 3) the pigments parts are coloured with.
    """

    rng: np.random.Generator
    canvas: Canvas
    centre: np.ndarray
    radius: float
    angle: float
    light: np.ndarray
    palette: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        return self.canvas.alpha.shape

    def px(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2) of the subject's frame in pixels."""
        cos, sin = np.cos(self.angle) * self.radius, np.sin(self.angle) * self.radius
        x, y = points[..., 0], points[..., 1]
        return np.stack([cos * x - sin * y + self.centre[0], sin * x + cos * y + self.centre[1]], axis=-1)

    def shape(self, points: np.ndarray) -> Stencil:
        """A stencil of one outline, given in the subject's frame."""
        return Stencil().fill(self.px(points))

    def moved(self, x: float, y: float, scale: float = 1.0, angle: float = 0.0) -> "Scene":
        """The same scene for a part with a frame of its own at (x, y) of this one."""
        return Scene(
            self.rng,
            self.canvas,
            self.px(np.array([x, y])),
            self.radius * scale,
            self.angle + angle,
            self.light,
            self.palette,
        )

    def one_of(self, *choices: Choice) -> Choice:
        return choices[self.rng.integers(len(choices))]

    def thin_px(self, low: float = 0.004, high: float = 0.012) -> float:
        """A random width in pixels for wires, between shares of the radius; a third are finer than `low`."""
        share = rng_log_uniform(self.rng, low, high) * (0.4 if self.rng.random() < 0.33 else 1)
        return max(0.3, share * self.radius)

    def steel(self) -> np.ndarray:
        """A ramp (3, 3) for rods and wires: bright metal half the time, else painted."""
        pigments = NEUTRALS[[0, 1, 3, 5]] if self.rng.random() < 0.5 else self.palette
        return tones_of(tint(self.rng, pigments) * WARM, depth=0.7)

    def colours(self, pigments: np.ndarray | None = None) -> np.ndarray:
        """A ramp (3, 3) or (4, 3) of one pigment's tones, or now and then of two pigments."""
        first = tones_of(tint(self.rng, self.palette if pigments is None else pigments), depth=0.35)
        if pigments is None and self.rng.random() < 0.35:
            return np.concatenate([first[:2], tones_of(tint(self.rng, self.palette))[1:]])
        return first

    def solid(
        self,
        stencil: Stencil,
        colours: np.ndarray | None = None,
        *,
        material: Material | None = None,
        depth: float = 0.3,
        gloss: float | None = None,
        bumps: float | None = None,
        opacity: float = 1.0,
    ) -> None:
        """Paints a part as a lit, textured solid.

        Args:
            colours: (N, 3) ramp that the material runs through; drawn from the palette if None.
            material: Texture; drawn from `MATERIALS` if None.
            depth: How far from its outline the part is round, in units of the frame.
            gloss: Strength of the highlight in [0, 1]; random if None, mostly faint.
            bumps: Unevenness of the surface; random if None.
            opacity: Of the whole part, in [0, 1].
        """
        rng, box = self.rng, stencil.box(*self.size)
        if box is None:
            return
        colours = self.colours() if colours is None else colours
        material = material or MATERIALS[rng.integers(len(MATERIALS))]
        coverage = stencil.coverage(box)
        texture = material(rng, *box.size, max(2.0, self.radius * rng.uniform(0.05, 0.16)))
        bumps = rng.choice([0.0, 0.15, 0.4]) if bumps is None else bumps
        diffuse, specular = relief(rng, coverage, self.light, depth_px=depth * self.radius, bumps=bumps)
        gloss = rng.choice([0.0, 0.15, 0.5], p=[0.5, 0.3, 0.2]) if gloss is None else gloss
        ambient = rng.uniform(0.25, 0.5)
        colour = lit(ramp(texture, colours * WARM), ambient + (1.25 - ambient) * diffuse, gloss * specular)
        self.canvas.over(box, coverage * np.float32(opacity), colour)

    def thin(self, stencil: Stencil, colours: np.ndarray, *, opacity: float = 1.0) -> None:
        """Paints strokes and strands, each with its tone, unevenly lit."""
        box = stencil.box(*self.size)
        if box is None:
            return
        uneven = clouds(self.rng, *box.size, coarsest=0.5, finest_px=max(2, self.radius / 12))
        colour = ramp(stencil.tones(box) + (uneven - 0.5) * np.float32(0.5), colours)
        self.canvas.over(box, stencil.coverage(box) * np.float32(opacity), colour)

    def metal(self, curves: list[np.ndarray], width_px: float, colours: np.ndarray, *, closed: bool = False) -> None:
        """Rods, wires and tubes along `curves` (frame units): dark edges and a highlight on the lit side."""
        stencil = Stencil()
        for curve in curves:
            points = self.px(curve)
            stencil.stroke(points, width_px, closed=closed, tone=0.42)
        box = stencil.box(*self.size)
        if box is None:
            return
        shine = Stencil([shape for shape in stencil.shapes])
        for shape in stencil.shapes:
            shine.stroke(shape.points + self.light[:2] * width_px * 0.2, width_px * 0.3, closed=closed, tone=0.95)
        uneven = clouds(self.rng, *box.size, coarsest=0.4, finest_px=2)
        tones = cv2.GaussianBlur(shine.tones(box), (0, 0), max(0.5, width_px / 8))
        colour = ramp(tones + (uneven - 0.4) * np.float32(0.7), colours)
        self.canvas.over(box, stencil.coverage(box), colour)

    def glass(self, stencil: Stencil, *, body: float, rim: float, colour: np.ndarray) -> None:
        """Paints a clear body: faint inside, denser towards its outline, with a window's reflection and highlights.

        Args:
            body: Opacity far from the outline, in [0, 1].
            rim: Width of the dense border in units of the frame.
            colour: (3,) tint.
        """
        box = stencil.box(*self.size)
        if box is None:
            return
        rng, coverage = self.rng, stencil.coverage(box)
        inside = np.pad((coverage > 0.5).astype(np.uint8), 1)
        distance = cv2.distanceTransform(inside, cv2.DIST_L2, 5)[1:-1, 1:-1]
        edge = np.exp(distance * np.float32(-1 / max(0.6, rim * self.radius)))
        _, specular = relief(rng, coverage, self.light, depth_px=0.35 * self.radius, bumps=0.05)
        streaks = clouds(rng, *box.size, coarsest=0.6, finest_px=max(2, self.radius / 20), stretch=0.15)
        streaks = np.clip((streaks - 0.6) * 3, 0, 0.6) * np.clip(distance * np.float32(6 / self.radius), 0, 1)
        highlight = np.clip(specular * 0.95 + streaks, 0, 0.97)
        opacity = body + (0.9 - body) * edge
        opacity = (opacity + (1 - opacity) * highlight) * coverage
        ramped = ramp(1 - edge + 0.25 * (streaks > 0), np.stack([colour * 0.35, colour, colour * 0.6 + 0.4]))
        self.canvas.over(box, opacity.astype(np.float32), lit(ramped, np.ones_like(highlight), highlight))

    def sheer(self, stencil: Stencil, colours: np.ndarray, *, thin: float, dense: float, soft: bool) -> None:
        """Paints cloth or smoke of opacity `thin` to `dense` with its folds; smoke (`soft`) has no edge."""
        box = stencil.box(*self.size)
        if box is None:
            return
        rng, coverage = self.rng, stencil.coverage(box)
        folds = clouds(rng, *box.size, coarsest=0.3, finest_px=1.5, stretch=1.0 if soft else 0.12)
        folds = np.clip((folds - 0.5) * 2 + 0.5, 0, 1)
        if soft:
            size = [max(2, n // 4) for n in box.size]
            blurred = cv2.GaussianBlur(enlarge(coverage, *size), (0, 0), max(0.5, self.radius * 0.04))
            coverage = coverage * np.clip(enlarge(blurred, *box.size) * 2 - 1, 0, 1)
        opacity = coverage * (thin + (dense - thin) * folds * folds)
        self.canvas.over(box, opacity, ramp(folds, colours))


def rng_log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def lit(albedo: np.ndarray, diffuse: np.ndarray, specular: np.ndarray) -> np.ndarray:
    """albedo (H, W, 3) under light (H, W) with white highlights (H, W) on top; clipped to [0, 1]."""
    colour = cv2.multiply(albedo, cv2.merge([diffuse] * 3))
    return np.clip(colour + specular[..., None], 0, 1)
