"""Solid things with clean outlines: crockery, fruit, parcels, machine parts with holes, sets with antennae."""

from collections.abc import Callable

import numpy as np

from utils.synthetic.scene import Scene
from utils.synthetic.shapes import Stencil, blob, ellipse, rectangle, revolved, spline, strands, unit
from utils.synthetic.textures import HAIRS, NEUTRALS, brushed, smooth, tint, tones_of


def holes(scene: Scene) -> None:
    """A gear, a perforated plate, a mug, or a pebble with windows."""
    scene.one_of(_gear, _plate, mug, _pebble)(scene)


def _gear(scene: Scene) -> None:
    rng, teeth = scene.rng, int(scene.rng.integers(9, 22))
    angle = np.linspace(0, 2 * np.pi, teeth * 8, endpoint=False)
    radius = 0.83 + 0.13 * np.tanh(4 * np.sin(teeth * angle))
    stencil = scene.shape(unit(angle) * radius[:, None]).cut(scene.px(ellipse(0, 0, 0.2, 0.2)))
    for x, y in 0.5 * unit(np.arange(5) * 2 * np.pi / 5):
        stencil.cut(scene.px(ellipse(x, y, 0.17, 0.17)))
    scene.solid(stencil, material=brushed if rng.random() < 0.5 else None, depth=0.08, gloss=0.4)


def _plate(scene: Scene) -> None:
    rng = scene.rng
    w, h, pitch = rng.uniform(0.6, 0.95), rng.uniform(0.6, 0.95), rng.uniform(0.14, 0.3)
    stencil = scene.shape(rectangle(-w, -h, w, h, rounding=0.12))
    for x in np.arange(-w + pitch, w - pitch * 0.6, pitch):
        for y in np.arange(-h + pitch, h - pitch * 0.6, pitch):
            stencil.cut(scene.px(ellipse(x, y, pitch * 0.3, pitch * 0.3, n=24)))
    scene.solid(stencil, depth=0.06)


def _pebble(scene: Scene) -> None:
    rng, count = scene.rng, int(scene.rng.integers(2, 7))
    stencil = scene.shape(blob(rng, 0, 0, 0.9, 0.85, wobble=0.2))
    for x, y in 0.45 * unit(np.arange(count) * 2 * np.pi / count):
        stencil.cut(scene.px(blob(rng, x, y, *rng.uniform(0.08, 0.2, 2))))
    scene.solid(stencil, depth=0.15)


def mug(scene: Scene) -> None:
    """A mug with its handle, now and then steaming."""
    rng, colours = scene.rng, scene.colours()
    side, material = rng.choice([-1, 1]), smooth if rng.random() < 0.5 else None
    handle = ellipse(side * 0.55, 0.05, 0.38, 0.42)
    scene.metal([handle], scene.radius * 0.14, colours)
    body = revolved(np.array([-0.7, 0.6, 0.75]), np.array([0.6, rng.uniform(0.45, 0.6), 0.4]))
    scene.solid(scene.shape(body), colours, material=material, depth=0.5)
    scene.solid(scene.shape(ellipse(0, -0.7, 0.6, 0.14)), tones_of(colours[0] * 0.7), material=smooth, depth=0.1)
    if rng.random() < 0.4:
        roots = np.array([(-0.2, -0.7), (0.05, -0.7), (0.25, -0.7)])
        rise = strands(rng, roots, unit(np.full(3, -np.pi / 2)), np.full(3, 0.8), curl=0.15, n=24)
        steam = Stencil().strands(scene.px(rise), scene.radius * 0.12, np.ones(3))
        scene.thin(steam, tones_of(NEUTRALS[1]), opacity=0.25)


def vase(scene: Scene) -> None:
    """A vessel turned from a random profile."""
    rng = scene.rng
    knots = np.sort(rng.uniform(-0.8, 0.8, 4))
    radii = rng.uniform(0.2, 0.62, 6)
    body = revolved(np.concatenate([[-0.9], knots, [0.9]]), radii)
    scene.solid(scene.shape(body), depth=0.45, bumps=0.1)
    scene.solid(scene.shape(ellipse(0, -0.9, radii[0] * 0.85, 0.07)), material=smooth, depth=0.05)


def fruit(scene: Scene) -> None:
    """A round fruit on its stalk."""
    rng = scene.rng
    scene.solid(scene.shape(blob(rng, 0, 0, 0.8, rng.uniform(0.6, 0.9), wobble=0.08)), depth=0.7)
    stalk = spline(rng, np.array([0.0, -0.6]), np.array([rng.normal(0, 0.15), -1.05]), sway=0.1, n=12)
    scene.metal([stalk], max(0.5, scene.radius * 0.05), tones_of(tint(rng, HAIRS)))


def parcel(scene: Scene) -> None:
    """A box in oblique view, its three faces of one material in three lights."""
    rng, colours = scene.rng, scene.colours()
    w, h, d = rng.uniform(0.45, 0.75, 3)
    lean = np.array([rng.choice([-1, 1]) * d * 0.6, -d * 0.45])
    front = np.array([(-w, -h), (w, -h), (w, h), (-w, h)])
    edge = front[[1, 2]] if lean[0] > 0 else front[[0, 3]]
    for face, dim in (
        (front, 0.9),
        (np.concatenate([front[:2], front[1::-1] + lean]), 1.2),
        (np.concatenate([edge, edge[::-1] + lean]), 0.55),
    ):
        scene.solid(scene.shape(face), np.clip(colours * dim, 0, 1).astype(np.float32), depth=0.03, bumps=0.0)


SOLIDS: tuple[Callable[[Scene], None], ...] = (mug, vase, fruit, parcel, holes)


def several(scene: Scene) -> None:
    """Two to four solids side by side, the nearer over the farther."""
    rng, count = scene.rng, int(scene.rng.integers(2, 5))
    places = np.sort(rng.uniform(-0.75, 0.75, count))[rng.permutation(count)]
    for rank, x in enumerate(places):
        scale = rng.uniform(0.35, 0.62)
        y = 0.6 - scale * 0.8 + 0.12 * rank
        scene.one_of(*SOLIDS)(scene.moved(x * 1.2, y, scale, rng.normal(0, 0.1)))


def aerial(scene: Scene) -> None:
    """A radio, a robot's head or a satellite with telescopic and whip antennae."""
    rng = scene.rng
    w, h = rng.uniform(0.5, 0.85), rng.uniform(0.3, 0.5)
    for _ in range(int(rng.integers(2, 6))):
        base = np.array([rng.uniform(-w, w) * 0.8, 0.4 - h])
        tip = base + unit(np.array(rng.uniform(-np.pi * 0.85, -np.pi * 0.15))) * rng.uniform(0.6, 1.2)
        whip = spline(rng, base, tip, sway=rng.choice([0.0, 0.08]), n=16)
        for part, thickness in ((whip, 0.4), (whip[:10], 0.7), (whip[:6], 1.0)):
            scene.metal([part], max(0.35, scene.radius * 0.022 * thickness), scene.steel())
    scene.solid(scene.shape(rectangle(-w, 0.4 - h, w, 0.4 + h, rounding=0.08)), depth=0.12)
    for x in rng.uniform(-w * 0.6, w * 0.6, int(rng.integers(1, 4))):
        scene.solid(scene.shape(ellipse(x, 0.4, h * 0.45, h * 0.45)), material=brushed, depth=0.1, gloss=0.3)
