"""Hair, fur and feelers: the subjects whose outline is made of strands."""

import numpy as np

from utils.synthetic.scene import Scene
from utils.synthetic.shapes import Stencil, blob, ellipse, locks, spline, strands, unit
from utils.synthetic.textures import GREENS, HAIRS, NEUTRALS, SKINS, mottled, tint, tones_of, woven

FURS = np.concatenate([HAIRS * 1.2, NEUTRALS[[0, 1, 3, 5]], np.float32([(0.7, 0.42, 0.22)])])


def hair(scene: Scene) -> None:
    """Head and shoulders with loose hair, from the front or from behind."""
    rng = scene.rng
    skin = tones_of(tint(rng, SKINS, jitter=0.03))
    coat = tones_of(tint(rng, HAIRS * 1.2 if rng.random() < 0.85 else scene.palette), depth=0.6)
    head = np.array([rng.normal(0, 0.05), -0.3, rng.uniform(0.25, 0.29), rng.uniform(0.33, 0.38)])
    length, fall, curl = rng.choice([0.3, 0.6, 1.0]), rng.uniform(2.0, 7.0), rng.choice([0.1, 0.3, 0.8])
    front = rng.random() < 0.6
    _tresses(scene, head, coat, length, fall, curl, sides=False)
    neck = np.array([(-0.12, -0.1), (-0.13, 0.35), (0.13, 0.35), (0.12, -0.1)]) + np.array([head[0] / 2, 0])
    scene.solid(scene.shape(neck), skin * 0.85, material=mottled, depth=0.12, gloss=0.0, bumps=0.0)
    left = np.array([(-0.5, 0.36), (-0.66, 0.5), (-0.78, 1.9)])
    cloth = np.concatenate([ellipse(0, 0.22, 0.16, 0.1, n=12, start=0, turn=np.pi), left, left[::-1] * [-1, 1]])
    material = woven if rng.random() < 0.4 else None
    scene.solid(scene.shape(cloth), material=material, depth=0.4, gloss=0.0, bumps=0.25)
    skull = scene.shape(blob(rng, *head, wobble=0.03))
    scene.solid(skull, skin if front else coat, material=mottled, depth=0.3, gloss=0.1, bumps=0.0)
    if front:
        _face(scene, head[0], head[1] + 0.04, skin)
    _tresses(scene, head, coat, length, fall, curl, sides=front)


def _tresses(
    scene: Scene, head: np.ndarray, coat: np.ndarray, length: float, fall: float, curl: float, *, sides: bool
) -> None:
    """Hair from the skull `head` (x, y, rx, ry): all round it, or from its crown to the sides of the face.

    Neighbours leave in like directions, as combed hair does; one in twelve flies away on its own.
    """
    rng, count = scene.rng, int(scene.rng.integers(350, 600))
    if sides:
        angles = rng.uniform(np.pi * 1.05, np.pi * 1.95, count)
        angles = np.where(np.abs(angles - 1.5 * np.pi) < 0.25, angles + np.sign(angles - 1.5 * np.pi) * 0.3, angles)
        reach = rng.uniform(0.93, 1.03, (count, 1))
    else:
        angles, reach = rng.uniform(0.25 * np.pi, 2.75 * np.pi, count), rng.uniform(0.0, 1.0, (count, 1))
    roots = head[:2] + unit(angles) * head[2:] * reach
    parting = 1.5 * np.pi + rng.normal(0, 0.15)
    combed = angles + np.where(angles < parting, -1, 1) * rng.uniform(0.2, 0.8)
    headings = combed + 0.25 * np.sin(angles * 9 + rng.uniform(0, 6)) + rng.normal(0, 0.12, count)
    wild = rng.random(count) < 1 / 12
    headings += wild * rng.normal(0, 0.7, count)
    lengths = length * np.where(wild, rng.uniform(0.5, 1.4, count), rng.uniform(0.75, 1.1, count))
    curves = scene.px(locks(rng, roots, headings, lengths, fall=fall, curl=curl))
    fine = np.maximum(0.3, scene.radius * 0.007 * rng.uniform(0.3, 1.3, count))
    widths = np.where(wild | (rng.random(count) < 0.45), fine, scene.radius * rng.uniform(0.01, 0.045, count))
    tones = np.clip(0.4 + 0.2 * np.sin(angles * 13) + rng.normal(0, 0.15, count), 0, 1)
    scene.thin(Stencil().strands(curves, widths, tones), coat)


def _face(scene: Scene, x: float, y: float, skin: np.ndarray) -> None:
    """Features in soft strokes of the skin's own shadow tones."""
    rng, dark = scene.rng, skin[0] * 0.4
    eyes = Stencil()
    for side in (-1, 1):
        eyes.fill(scene.px(ellipse(x + side * 0.11, y - 0.01, 0.05, 0.028)), tone=0.45)
        eyes.fill(scene.px(ellipse(x + side * 0.11, y, 0.042, 0.017)), tone=0.9)
        eyes.fill(scene.px(ellipse(x + side * 0.11, y, 0.018, 0.018)), tone=0.0)
        eyes.fill(scene.px(ellipse(x + side * 0.115, y - 0.07, 0.06, 0.012)), tone=0.2)
    scene.thin(eyes, np.stack([dark * 0.5, skin[0] * 0.7, skin[2]]), opacity=0.85)
    nose = np.array([(0.0, -0.02), (0.04, 0.11), (-0.025, 0.12)]) + np.array([x, y])
    scene.thin(Stencil().fill(scene.px(nose), tone=0.2), skin, opacity=0.3)
    lips = tones_of(np.clip(skin[1] * rng.uniform([0.8, 0.6, 0.6], [1.0, 0.8, 0.8]), 0, 1).astype(np.float32))
    mouth = scene.shape(ellipse(x, y + 0.19, 0.075, 0.022))
    scene.thin(
        mouth.stroke(scene.px(np.array([(x - 0.07, y + 0.19), (x + 0.07, y + 0.19)])), 1, tone=0), lips, opacity=0.8
    )


def fur(scene: Scene) -> None:
    """A furry animal: body, head, ears and perhaps a tail, tufts all over."""
    rng = scene.rng
    coat = scene.colours(FURS)
    lean, length = rng.choice([-1, 1]) * rng.uniform(0.0, 0.35), rng.uniform(0.08, 0.22)
    body = blob(rng, 0, 0.45, rng.uniform(0.5, 0.75), 0.62)
    head = blob(rng, lean, -0.4, 0.36, 0.33, wobble=0.06)
    if rng.random() < 0.6:
        tail = spline(
            rng,
            np.array([-np.sign(lean + 0.01) * 0.5, 0.7]),
            np.array([-np.sign(lean + 0.01) * 1.1, rng.uniform(-0.4, 0.5)]),
            sway=0.15,
        )
        furry(scene, np.concatenate([tail, tail[::-1] + np.array([0.0, 0.1])]), coat, length, plump=False)
    furry(scene, body, coat, length)
    sharp = rng.uniform(0.1, 0.4)
    for side in (-1, 1):
        root, tip = side * 0.32, side * rng.uniform(0.3, 0.4)
        ear = np.array([(root, -0.1), (tip, -0.3 - sharp), (side * 0.05, -0.28)]) + np.array([lean, -0.4])
        furry(scene, ear, coat, length * 0.4)
    furry(scene, head, coat, length * 0.6)
    eyes = Stencil()
    for side in (-1, 1):
        eyes.fill(scene.px(ellipse(lean + side * 0.13, -0.44, 0.045, 0.05)), tone=0.0)
        eyes.fill(scene.px(ellipse(lean + side * 0.13 - 0.015, -0.455, 0.012, 0.012)), tone=1.0)
    nose = ellipse(lean, -0.27, 0.06, 0.04)
    scene.thin(
        eyes.fill(scene.px(nose), tone=0.1), np.float32([(0.05, 0.04, 0.04), (0.3, 0.2, 0.15), (0.95, 0.95, 0.95)])
    )


def furry(scene: Scene, outline: np.ndarray, coat: np.ndarray, length: float, *, plump: bool = True) -> None:
    """A lit body with hairs from its outline outwards, which make its matte hard; if `plump`, tufts all over it too."""
    rng = scene.rng
    scene.solid(scene.shape(outline), coat, depth=0.4, gloss=0.0, bumps=0.3)
    closed = np.concatenate([outline, outline[:1]])
    steps = np.linalg.norm(np.diff(closed, axis=0), axis=1)
    count = int(np.clip(110 * steps.sum(), 60, 420))
    at = rng.uniform(0, steps.sum(), count)
    walked = np.concatenate([[0], np.cumsum(steps)])
    roots = np.stack([np.interp(at, walked, closed[:, i]) for i in (0, 1)], axis=-1)
    centre = outline.mean(axis=0)
    outwards = roots - centre
    outwards /= np.maximum(np.linalg.norm(outwards, axis=1, keepdims=True), 1e-6)
    heading = np.arctan2(outwards[:, 1], outwards[:, 0]) + rng.normal(0.25, 0.45, count)
    inside = np.where(rng.random(count) < 0.35, rng.uniform(0.1, 0.7, count) * plump, 0.05)
    roots = roots + (centre - roots) * inside[:, None]
    curves = strands(rng, roots, unit(heading), length * rng.uniform(0.4, 1.4, count), bend=0.35, gravity=0.3, n=8)
    widths = np.maximum(0.35, scene.radius * rng.uniform(0.003, 0.022, count))
    scene.thin(Stencil().strands(scene.px(curves), widths, np.clip(rng.normal(0.5, 0.2, count), 0, 1)), coat)


def seedhead(scene: Scene) -> None:
    """A dandelion clock or a thistle: fine hairs in all directions from a small heart, on a stem."""
    rng, colours = scene.rng, tones_of(tint(scene.rng, NEUTRALS[:2]))
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        part = scene.moved(rng.uniform(-0.4, 0.4), rng.uniform(-0.5, 0.1), rng.uniform(0.5, 0.85))
        stem = spline(rng, np.array([0.0, 0.0]), np.array([rng.normal(0, 0.3), 3.0]), sway=0.05)
        part.metal([stem], part.radius * rng.uniform(0.03, 0.07), tones_of(tint(rng, GREENS)))
        count = int(rng.integers(70, 150))
        headings = unit(rng.uniform(0, 2 * np.pi, count))
        lengths = np.sqrt(rng.uniform(0.05, 1, count)) * 0.75
        stalks = strands(rng, np.zeros((count, 2)), headings, lengths, bend=0.05)
        part.thin(Stencil().strands(part.px(stalks), np.maximum(0.35, part.radius * 0.006), rng.random(count)), colours)
        tips = np.repeat(stalks[:, -1], 9, axis=0)
        fans = np.repeat(np.arctan2(headings[:, 1], headings[:, 0]), 9) + rng.normal(0, 0.8, count * 9)
        fluff = strands(rng, tips, unit(fans), rng.uniform(0.1, 0.24, count * 9), bend=0.1, n=5)
        part.thin(
            Stencil().strands(part.px(fluff), np.maximum(0.3, part.radius * 0.005), rng.uniform(0.4, 1, count * 9)),
            colours,
        )
        part.solid(part.shape(blob(rng, 0, 0, 0.11, 0.1)), tones_of(tint(rng, HAIRS)), material=mottled, gloss=0.0)


def insect(scene: Scene) -> None:
    """A beetle or a butterfly: segments, jointed legs, long antennae, patterned or clear wings."""
    rng, colours = scene.rng, scene.colours()
    limbs, winged = tones_of(colours[0] * 0.8, depth=0.5), rng.random() < 0.6
    if winged:
        _wings(scene, limbs)
    for side in (-1, 1):
        for y, reach in ((-0.25, -0.35), (0.0, 0.05), (0.25, 0.5)):
            foot = (side * rng.uniform(0.65, 0.95), y + reach + 0.25)
            leg = np.array([(0, y), (side * 0.4, y + reach * 0.5 - 0.1), foot])
            scene.metal([leg], max(0.6, scene.radius * rng.uniform(0.015, 0.04)), limbs)
        root, heading = np.array([(side * 0.06, -0.6)]), unit(np.array([-np.pi / 2 + side * 0.4]))
        feeler = strands(rng, root, heading, rng.uniform(0.5, 0.9, 1), bend=0.4, n=24)
        scene.thin(Stencil().strands(scene.px(feeler), max(0.8, scene.radius * 0.02), np.full(1, 0.2)), limbs)
    segments = ((0.35, 0.2, 0.5), (-0.15, 0.18, 0.22), (-0.5, 0.15, 0.14))
    for y, rx, ry in segments:
        breadth = rx if winged or y == -0.5 else rx * 2.2
        scene.solid(scene.shape(blob(rng, 0, y, breadth, ry, wobble=0.04)), colours, depth=0.25, gloss=0.4)


def _wings(scene: Scene, veins: np.ndarray) -> None:
    """Two mirrored pairs of wings, of one pattern or nearly clear, with veins from the root."""
    rng, sheer = scene.rng, scene.rng.random() < 0.4
    for x, y, rx, ry in ((0.55, -0.35, 0.5, 0.42), (0.45, 0.35, 0.38, 0.36)):
        wing = blob(rng, x, y, rx, ry)
        pair = scene.shape(wing).fill(scene.px(wing * [-1, 1]))
        scene.solid(pair, depth=0.06, bumps=0.1, opacity=rng.uniform(0.2, 0.5) if sheer else 1.0)
    headings, lengths = unit(np.linspace(-1.1, 1.1, 9)), rng.uniform(0.5, 0.95, 9)
    curves = strands(rng, np.zeros((9, 2)), headings, lengths, bend=0.1)
    both = np.concatenate([curves, curves * [-1, 1]])
    scene.thin(Stencil().strands(scene.px(both), max(0.5, scene.radius * 0.012), np.full(18, 0.1)), veins)
