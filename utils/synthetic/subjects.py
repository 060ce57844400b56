"""The recipes: what stands in the foreground of the procedural pictures. `RECIPES` names them all.

A recipe draws on a `Scene` in a frame that spans about [-1, 1] both ways, y down, and paints from back to front.
Those of partial opacity and of leaves are here; the others in `creatures`, `frames` and
`solids`.
"""

from collections.abc import Callable

import numpy as np

from utils.synthetic.creatures import fur, hair, insect, seedhead
from utils.synthetic.frames import lattice, net, wheel, wire
from utils.synthetic.scene import Scene, rng_log_uniform
from utils.synthetic.shapes import Stencil, blob, ellipse, rectangle, revolved, spline, unit
from utils.synthetic.solids import SOLIDS, aerial, holes, several
from utils.synthetic.textures import GREENS, NEUTRALS, smooth, tint, tones_of


def glass(scene: Scene) -> None:
    """A bottle with its label, a drinking glass, or soap bubbles."""
    scene.one_of(_bottle, _tumbler, _bubbles)(scene)


def _bubbles(scene: Scene) -> None:
    rng = scene.rng
    for _ in range(int(rng.integers(1, 5))):
        bubble = scene.moved(*rng.uniform(-0.5, 0.5, 2), rng.uniform(0.3, 0.8))
        bubble.glass(bubble.shape(ellipse(0, 0, 1, 1)), body=rng.uniform(0.06, 0.25), rim=0.1, colour=tint(rng))


def _bottle(scene: Scene) -> None:
    rng, neck = scene.rng, scene.rng.uniform(0.12, 0.18)
    _vessel(scene, np.array([-1.1, -0.55, -0.3, 0.95, 1.05]), np.array([neck, neck, 0.4, 0.42, 0.36]))
    if rng.random() < 0.6:
        scene.solid(scene.shape(rectangle(-0.41, 0.05, 0.41, 0.65)), depth=0.3, bumps=0.0)
    scene.solid(scene.shape(rectangle(-neck - 0.02, -1.25, neck + 0.02, -1.05, rounding=0.03)), depth=0.1)


def _tumbler(scene: Scene) -> None:
    mouth = scene.rng.uniform(0.5, 0.65)
    _vessel(scene, np.array([-0.8, 0.6, 0.9, 0.95]), np.array([mouth, 0.45, 0.4, 0.38]))
    scene.metal([ellipse(0, -0.8, mouth, 0.1)], scene.thin_px(0.012, 0.03), tones_of(NEUTRALS[3], depth=0.8))


def _vessel(scene: Scene, heights: np.ndarray, radii: np.ndarray) -> None:
    """A clear body of revolution, mostly with something to drink in it."""
    rng = scene.rng
    if rng.random() < 0.6:
        y = np.linspace(rng.uniform(-0.3, 0.6), 0.9, 40)
        liquid = scene.shape(revolved(y, np.interp(y, heights, radii) - 0.05))
        opacity = rng.uniform(0.35, 0.9)
        scene.solid(liquid, tones_of(tint(rng)), material=smooth, depth=0.3, gloss=0.2, opacity=opacity)
    body, rim = rng.uniform(0.15, 0.6), rng.uniform(0.03, 0.09)
    scene.glass(scene.shape(revolved(heights, radii)), body=body, rim=rim, colour=tint(rng))


def veil(scene: Scene) -> None:
    """Something behind hanging sheer cloth, or in smoke: broad, smoothly varying partial opacity."""
    rng, smoke = scene.rng, scene.rng.random() < 0.4
    scene.one_of(*SOLIDS)(scene.moved(0, 0.4, 0.6))
    for _ in range(int(rng.integers(1, 3))):
        x, w = rng.normal(0, 0.2), rng.uniform(0.4, 0.8)
        outline = blob(rng, x, -0.1, w, rng.uniform(0.6, 1.0), wobble=0.35) if smoke else _curtain(rng, x, w)
        thin, dense = rng.uniform(0.2, 0.5), rng.uniform(0.7, 0.97)
        scene.sheer(scene.shape(outline), scene.colours(), thin=thin, dense=dense, soft=smoke)


def _curtain(rng: np.random.Generator, x: float, half_width: float) -> np.ndarray:
    hem = np.linspace(1, -1, 40)
    foot = rng.uniform(0.6, 0.95) + 0.06 * np.sin(hem * rng.uniform(6, 20))
    top = np.array([(-1, -0.9), (-0.3, -1.0), (0.4, -0.95), (1, -0.9)]) * [half_width, 1]
    return np.concatenate([top, np.stack([1.25 * half_width * hem, foot], axis=-1)]) + np.array([x, 0])


def foliage(scene: Scene) -> None:
    """A branching plant, half the time in a pot; fine petioles and soft leaves."""
    rng = scene.rng
    greens = tones_of(tint(rng, GREENS if rng.random() < 0.75 else scene.palette) * 1.2, depth=0.5)
    slim, size = rng.uniform(0.15, 0.5), rng.uniform(0.12, 0.32)
    stems, leaves = [], Stencil()
    for _ in range(int(rng.integers(5, 13))):
        tip = np.array([rng.uniform(-0.95, 0.95), rng.uniform(-1.1, 0.2)])
        stem = spline(rng, np.array([rng.normal(0, 0.05), 0.75]), tip, sway=0.08, n=24)
        stems.append(stem)
        for i in np.linspace(6, 23, int(rng.integers(4, 10))).astype(int):
            heading = np.arctan2(*(stem[i] - stem[i - 1])[::-1]) + rng.choice([-1, 1]) * rng.uniform(0.1, 1.4)
            _leaf(scene, leaves, stem[i], heading, size * rng.uniform(0.5, 1.3), slim)
    scene.metal(stems, max(0.5, scene.radius * rng.uniform(0.01, 0.025)), greens)
    scene.thin(leaves, greens)
    if rng.random() < 0.5:
        pot = revolved(np.array([0.6, 0.75, 0.76, 1.35]), np.array([0.45, 0.45, 0.38, 0.28]))
        scene.solid(scene.shape(pot), depth=0.35)


def _leaf(scene: Scene, leaves: Stencil, base: np.ndarray, heading: float, length: float, slim: float) -> None:
    """Adds two half-blades in two tones along a curved midrib, and the midrib."""
    rng, t = scene.rng, np.linspace(0, 1, 14)[:, None]
    along, across = unit(heading) * length, unit(heading + np.pi / 2) * length
    rib = base + t * along + rng.normal(0, 0.25) * t**2 * across
    breadth = np.sin(np.pi * t**0.8) * slim * across
    tone = rng.uniform(0.15, 0.75)
    for side, shift in ((1, 0.12), (-1, -0.1)):
        leaves.fill(scene.px(np.concatenate([rib, (rib + side * breadth)[::-1]])), tone=tone + shift)
    leaves.stroke(scene.px(rib), max(0.4, 0.006 * scene.radius), tone=min(1.0, tone + 0.3))


RECIPES: dict[str, Callable[[Scene], None]] = {
    recipe.__name__: recipe
    for recipe in (hair, fur, seedhead, wire, net, wheel, lattice, holes, several, glass, veil, foliage, insect, aerial)
}
# Solid subjects come twice in a round: in photographs, too, bodies are commoner than wires.
ROUND = (*RECIPES, "hair", "fur", "several", "holes", "foliage", "insect")
SEEN_CLOSER = ("seedhead", "wire", "net", "wheel", "lattice", "aerial")


def subject_scale(rng: np.random.Generator, name: str) -> float:
    """The subject's radius as a share of the picture's shorter side: thin subjects are shown closer."""
    return rng_log_uniform(rng, *((0.42, 0.7) if name in SEEN_CLOSER else (0.36, 0.62)))
