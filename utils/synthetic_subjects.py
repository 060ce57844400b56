"""The recipes: what stands in the foreground of the procedural pictures. `RECIPES` names them all.

A recipe draws on a `Scene` in a frame that spans about [-1, 1] both ways, y down, and paints from back to front.
"""

from collections.abc import Callable

import numpy as np

from utils.synthetic_scene import WARM, Scene, rng_log_uniform
from utils.synthetic_shapes import Stencil, blob, ellipse, locks, rectangle, revolved, spline, strands
from utils.synthetic_textures import GREENS, HAIRS, NEUTRALS, SKINS, brushed, mottled, smooth, tint, tones_of, woven


def unit(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def steel(scene: Scene) -> np.ndarray:
    """A ramp for rods and wires: mostly greys, now and then a painted one."""
    pigments = NEUTRALS[[0, 1, 3, 5]] if scene.rng.random() < 0.5 else scene.palette
    return tones_of(tint(scene.rng, pigments) * WARM, depth=0.7)


# ---------------------------------------------------------------------------------------------------- hair and fur


def hair(scene: Scene) -> None:
    """Head and shoulders with loose hair, from the front or from behind."""
    rng = scene.rng
    skin = tones_of(tint(rng, SKINS, jitter=0.03))
    coat = tones_of(tint(rng, HAIRS if rng.random() < 0.85 else scene.palette), depth=0.6)
    head = np.array([rng.normal(0, 0.05), -0.3, rng.uniform(0.25, 0.29), rng.uniform(0.33, 0.38)])
    length, fall, curl = rng.choice([0.3, 0.6, 1.0]), rng.uniform(2.0, 7.0), rng.choice([0.1, 0.3, 0.8])
    front = rng.random() < 0.6
    _tresses(scene, head, coat, length, fall, curl, sides=False)
    neck = np.array([(-0.12, -0.1), (-0.13, 0.35), (0.13, 0.35), (0.12, -0.1)]) + np.array([head[0] / 2, 0])
    scene.solid(Stencil().fill(scene.px(neck)), skin * 0.85, material=mottled, depth=0.12, gloss=0.0, bumps=0.0)
    left = np.array([(-0.5, 0.36), (-0.66, 0.5), (-0.78, 1.9)])
    cloth = np.concatenate([ellipse(0, 0.22, 0.16, 0.1, n=12, start=0, turn=np.pi), left, left[::-1] * [-1, 1]])
    material = woven if rng.random() < 0.4 else None
    scene.solid(Stencil().fill(scene.px(cloth)), material=material, depth=0.4, gloss=0.0, bumps=0.25)
    skull = Stencil().fill(scene.px(blob(rng, *head, wobble=0.03)))
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
        angles, reach = rng.uniform(np.pi * 0.85, np.pi * 2.15, count), rng.uniform(0.0, 1.0, (count, 1))
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
    mouth = Stencil().fill(scene.px(ellipse(x, y + 0.19, 0.075, 0.022)))
    scene.thin(
        mouth.stroke(scene.px(np.array([(x - 0.07, y + 0.19), (x + 0.07, y + 0.19)])), 1, tone=0), lips, opacity=0.8
    )


def fur(scene: Scene) -> None:
    """A furry animal: body, head, ears and perhaps a tail, tufts all over."""
    rng = scene.rng
    coat = scene.colours(np.concatenate([HAIRS, NEUTRALS[[0, 1, 2, 4]], np.float32([(0.62, 0.38, 0.2)])]))
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
        _furry(scene, np.concatenate([tail, tail[::-1] + np.array([0.0, 0.1])]), coat, length)
    _furry(scene, body, coat, length)
    sharp = rng.uniform(0.1, 0.4)
    for side in (-1, 1):
        root, tip = side * 0.32, side * rng.uniform(0.3, 0.4)
        ear = np.array([(root, -0.1), (tip, -0.3 - sharp), (side * 0.05, -0.28)]) + np.array([lean, -0.4])
        _furry(scene, ear, coat, length * 0.4)
    _furry(scene, head, coat, length * 0.6)
    eyes = Stencil()
    for side in (-1, 1):
        eyes.fill(scene.px(ellipse(lean + side * 0.13, -0.44, 0.045, 0.05)), tone=0.0)
        eyes.fill(scene.px(ellipse(lean + side * 0.13 - 0.015, -0.455, 0.012, 0.012)), tone=1.0)
    nose = ellipse(lean, -0.27, 0.06, 0.04)
    scene.thin(
        eyes.fill(scene.px(nose), tone=0.1), np.float32([(0.05, 0.04, 0.04), (0.3, 0.2, 0.15), (0.95, 0.95, 0.95)])
    )


def _furry(scene: Scene, outline: np.ndarray, coat: np.ndarray, length: float) -> None:
    """A lit body, tufts over it for texture and, from its outline outwards, the hairs that make its matte hard."""
    rng = scene.rng
    scene.solid(Stencil().fill(scene.px(outline)), coat, depth=0.4, gloss=0.0, bumps=0.3)
    closed = np.concatenate([outline, outline[:1]])
    steps = np.linalg.norm(np.diff(closed, axis=0), axis=1)
    count = int(np.clip(110 * steps.sum(), 60, 420))
    at = rng.uniform(0, steps.sum(), count)
    walked = np.concatenate([[0], np.cumsum(steps)])
    roots = np.stack([np.interp(at, walked, closed[:, i]) for i in (0, 1)], axis=-1)
    outwards = roots - outline.mean(axis=0)
    outwards /= np.maximum(np.linalg.norm(outwards, axis=1, keepdims=True), 1e-6)
    heading = np.arctan2(outwards[:, 1], outwards[:, 0]) + rng.normal(0.25, 0.45, count)
    inner = rng.random(count) < 0.35
    roots = roots - outwards * np.where(inner, rng.uniform(0.05, 0.4, count), 0.03)[:, None]
    curves = strands(rng, roots, unit(heading), length * rng.uniform(0.4, 1.4, count), bend=0.35, gravity=0.3, n=8)
    widths = np.maximum(0.35, scene.radius * rng.uniform(0.003, 0.022, count) ** 1.0)
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
        part.solid(
            Stencil().fill(part.px(blob(rng, 0, 0, 0.11, 0.1))), tones_of(tint(rng, HAIRS)), material=mottled, gloss=0.0
        )


# -------------------------------------------------------------------------------------------------- wires and bars


def wire(scene: Scene) -> None:
    """Bent wire: a tangle of cables, a coil spring, a hanger with its cloth, or spectacles."""
    rng, kind = scene.rng, scene.rng.integers(4)
    colours = steel(scene)
    if kind == 0:
        t = np.linspace(0, 2 * np.pi, 160)
        for _ in range(int(rng.integers(3, 7))):
            a, b = rng.integers(1, 5, 2)
            loop = np.stack([np.sin(a * t + rng.uniform(0, 6)), np.sin(b * t + rng.uniform(0, 6))], -1)
            scene.metal(
                [loop * rng.uniform(0.5, 1, 2) + rng.normal(0, 0.1, 2)], scene.thin_px(0.008, 0.05), steel(scene)
            )
        plug = scene.moved(*rng.uniform(-0.5, 0.5, 2), 0.3, rng.uniform(0, 6))
        plug.solid(Stencil().fill(plug.px(rectangle(-0.5, -1, 0.5, 1, rounding=0.2))), depth=0.4)
    elif kind == 1:
        turns = rng.integers(5, 12)
        t = np.linspace(0, turns * 2 * np.pi, turns * 28)
        coil = np.stack([np.cos(t) * 0.55, np.linspace(-0.9, 0.9, len(t)) + 0.12 * np.sin(t)], -1)
        scene.metal([coil], scene.thin_px(0.02, 0.09), colours)
        for y in (-0.95, 0.95):
            scene.solid(Stencil().fill(scene.px(rectangle(-0.7, y - 0.1, 0.7, y + 0.1, rounding=0.05))), depth=0.1)
    elif kind == 2:
        hook = ellipse(0, -0.75, 0.16, 0.16, start=-np.pi, turn=1.4 * np.pi)
        bow = np.array([(0, -0.59), (0, -0.45), (-0.95, 0.0), (-0.9, 0.07), (0.9, 0.07), (0.95, 0.0), (0, -0.45)])
        cloth = np.array(
            [
                (-0.25, -0.33),
                (-0.95, 0.0),
                (-1.0, 0.35),
                (-0.7, 0.35),
                (-0.65, 1.2),
                (0.65, 1.2),
                (0.7, 0.35),
                (1.0, 0.35),
                (0.95, 0.0),
                (0.25, -0.33),
                (0, -0.2),
            ]
        )
        if rng.random() < 0.7:
            scene.solid(Stencil().fill(scene.px(cloth)), depth=0.3, gloss=0.0, bumps=0.5)
        scene.metal([hook, bow], scene.thin_px(0.012, 0.035), colours)
    else:
        rims = [ellipse(side * 0.48, 0, 0.38, 0.3) for side in (-1, 1)]
        for rim in rims:
            scene.glass(Stencil().fill(scene.px(rim)), body=rng.uniform(0.1, 0.7), rim=0.03, colour=tint(rng))
        bridge = ellipse(0, -0.02, 0.13, 0.1, start=np.pi, turn=np.pi)
        arms = [np.array([(s * 0.85, -0.05), (s * 1.05, -0.5), (s * 0.95, -0.75)]) for s in (-1, 1)]
        scene.metal([*rims, bridge, *arms], scene.thin_px(0.02, 0.07), colours)


def net(scene: Scene) -> None:
    """Meshes: a racket, a fence panel with a post, a fishing net full of things."""
    rng, kind, colours = scene.rng, scene.rng.integers(3), steel(scene)
    thread_px, mesh = scene.thin_px(0.004, 0.014), rng.uniform(0.06, 0.16)
    if kind == 0:
        rx, ry = 0.55, 0.68
        lines = []
        for c in np.arange(-1 + mesh, 1, mesh * 1.6):
            s = np.sqrt(1 - c * c)
            lines += [np.array([(c * rx, -s * ry), (c * rx, s * ry)]), np.array([(-s * rx, c * ry), (s * rx, c * ry)])]
        hoop = scene.moved(0, -0.35)
        hoop.metal(lines, thread_px, tones_of(tint(rng, NEUTRALS)))
        hoop.metal([ellipse(0, 0, rx, ry)], scene.radius * rng.uniform(0.06, 0.1), scene.colours())
        for side in (-1, 1):
            hoop.metal([np.array([(side * 0.28, 0.6), (0.03 * side, 0.95)])], scene.radius * 0.06, scene.colours())
        hoop.solid(Stencil().fill(hoop.px(rectangle(-0.07, 0.9, 0.07, 1.7))), depth=0.07)
        return
    u, v = np.linspace(-1.2, 1.2, 40), np.arange(-1.6, 1.6, mesh * 1.3)
    sag = rng.uniform(0.05, 0.3)
    lines = []
    for c in v:
        for sign in (-1, 1):
            x, y = u + c, sign * (u - c) * 0.8
            keep = (np.abs(x) < 0.95) & (np.abs(y) < 0.75)
            if keep.sum() > 1:
                x, y = x[keep] + 0.04 * np.sin(7 * y[keep]) * sag * 3, y[keep] + sag * (1 - x[keep] ** 2)
                lines.append(np.stack([x, y], -1))
    if kind == 2:
        for _ in range(int(rng.integers(3, 7))):
            x, y, r = *rng.uniform(-0.55, 0.55, 2), rng.uniform(0.15, 0.32)
            scene.solid(Stencil().fill(scene.px(blob(rng, x, y + sag, r, r * 0.8))), depth=0.3)
    scene.metal(lines, thread_px, colours)
    border = rectangle(-0.97, -0.77, 0.97, 0.77)
    border = np.concatenate([np.linspace(a, b, 12) for a, b in zip(border, np.roll(border, -1, axis=0), strict=True)])
    border[:, 1] += sag * (1 - border[:, 0] ** 2)
    scene.metal([border], scene.thin_px(0.02, 0.06), scene.colours(), closed=True)
    if kind == 1:
        for x in (-1.0, 1.0):
            scene.solid(Stencil().fill(scene.px(rectangle(x - 0.07, -1.05, x + 0.07, 2.0))), depth=0.07)


def wheel(scene: Scene) -> None:
    """A spoked wheel seen at an angle, or a whole bicycle."""
    rng, frame = scene.rng, scene.colours()
    if rng.random() < 0.5:
        _wheel(scene, rng.uniform(0.45, 1.0), int(rng.integers(8, 30)))
        fork = np.array([(0, 0), (rng.normal(0, 0.15), -1.5)])
        scene.metal([fork], scene.radius * rng.uniform(0.05, 0.09), frame)
        return
    a, b = np.array([-0.68, 0.3]), np.array([0.68, 0.3])
    for x, y in (a, b):
        _wheel(scene.moved(x, y, 0.5), rng.uniform(0.85, 1.0), int(rng.integers(10, 26)))
    crank, seat, head = np.array([-0.05, 0.3]), np.array([-0.25, -0.28]), np.array([0.45, -0.3])
    tubes = [np.stack(pair) for pair in ((a, crank), (a, seat), (crank, seat), (seat, head), (crank, head), (head, b))]
    scene.metal(tubes, scene.radius * rng.uniform(0.035, 0.07), frame)
    handle = head + np.array([(0, 0), (-0.03, -0.18), (0.16, -0.24), (0.2, -0.14)])
    bars = [handle, seat + np.array([(0, 0), (-0.05, -0.14)])]
    scene.metal(bars, scene.radius * 0.035, steel(scene))
    scene.solid(Stencil().fill(scene.px(blob(rng, -0.32, -0.44, 0.17, 0.05))), depth=0.06)


def _wheel(scene: Scene, squash: float, spokes: int) -> None:
    rng, colours = scene.rng, steel(scene)
    circle = ellipse(0, 0, squash, 1)
    angles = np.arange(spokes) * 2 * np.pi / spokes
    crossing = rng.uniform(0.0, 1.2) * (-1) ** np.arange(spokes)
    ends = unit(angles) * [squash, 1] * 0.93
    hubs = unit(angles + crossing) * [squash, 1] * 0.09
    scene.metal([np.stack(pair) for pair in zip(hubs, ends, strict=True)], scene.thin_px(0.005, 0.02), colours)
    scene.metal([circle * 0.9], scene.radius * 0.05, colours)
    tyre = tint(rng, NEUTRALS[[0, 3, 4, 5]] * 0.75) if rng.random() < 0.6 else tint(rng, scene.palette)
    scene.metal([circle], scene.radius * rng.uniform(0.08, 0.16), tones_of(tyre, depth=0.6))
    scene.solid(Stencil().fill(scene.px(ellipse(0, 0, 0.13 * squash, 0.13))), colours, material=brushed, depth=0.1)


def lattice(scene: Scene) -> None:
    """Frames of bars: a braced mast, a bird cage with its bird, a chair, a ladder."""
    rng, colours, kind = scene.rng, steel(scene), scene.rng.integers(4)
    bar_px = scene.radius * rng.uniform(0.03, 0.07)
    if kind == 0:
        levels = np.linspace(1.3, -1.0, int(rng.integers(6, 12)))
        half = np.interp(levels, [-1.0, 0.0, 1.3], [0.05, 0.2, 0.7])
        left, right = np.stack([-half, levels], -1), np.stack([half, levels], -1)
        braces = [
            np.stack(pair)
            for pair in (
                *zip(left, right, strict=True),
                *zip(left[:-1], right[1:], strict=True),
                *zip(right[:-1], left[1:], strict=True),
            )
        ]
        scene.metal(braces, max(0.5, bar_px * 0.4), colours)
        scene.metal([left, right], bar_px, colours)
        scene.metal([np.array([(0, -1.0), (0, -1.35)])], scene.thin_px(), colours)
    elif kind == 1:
        _furry(scene.moved(0, 0.25, 0.55), blob(rng, 0, 0, 0.45, 0.6), scene.colours(), 0.1)
        bars = []
        for x in np.cos(np.linspace(0.05, np.pi - 0.05, int(rng.integers(9, 18)))):
            dome = ellipse(0, -0.3, x * 0.65, 0.6, n=24, start=0, turn=-np.pi / 2)[::-1]
            bars.append(np.concatenate([dome, [(x * 0.65, 0.85)]]))
        scene.metal(bars, scene.thin_px(0.01, 0.03), colours)
        rings = [ellipse(0, y, 0.65, 0.08) for y in (-0.3, 0.25, 0.85)] + [ellipse(0, -1.0, 0.09, 0.1)]
        scene.metal(rings, bar_px * 0.7, colours)
    elif kind == 2:
        slats = int(rng.integers(3, 8))
        legs = [np.array([(x, y0), (x * 1.1, 1.1)]) for x, y0 in ((-0.5, 0.25), (0.5, 0.25), (-0.32, 0.1), (0.38, 0.1))]
        back = [np.array([(x, 0.2), (x * 1.08, -1.0)]) for x in np.linspace(-0.48, 0.48, slats)]
        scene.metal([*legs, *back], bar_px, colours)
        scene.metal(
            [np.array([(-0.53, -0.95), (0.53, -0.95)]), np.array([(-0.5, 0.65), (0.5, 0.65)])], bar_px * 1.4, colours
        )
        scene.solid(
            Stencil().fill(scene.px(np.array([(-0.6, 0.3), (-0.45, 0.1), (0.5, 0.1), (0.62, 0.3)]))), depth=0.08
        )
    else:
        rails = [np.array([(x, -1.3), (x * 1.15, 1.5)]) for x in (-0.4, 0.4)]
        rungs = [np.array([(-0.42, y), (0.42, y)]) for y in np.arange(-1.2, 1.5, rng.uniform(0.18, 0.32))]
        scene.metal(rungs, bar_px, colours)
        scene.metal(rails, bar_px * 1.7, scene.colours())


# --------------------------------------------------------------------------------------------------------- solids


def holes(scene: Scene) -> None:
    """A gear, a perforated plate, a mug, or a blob with windows."""
    rng, kind, stencil = scene.rng, scene.rng.integers(4), Stencil()
    if kind == 0:
        teeth = int(rng.integers(9, 22))
        angle = np.linspace(0, 2 * np.pi, teeth * 8, endpoint=False)
        radius = 0.83 + 0.13 * np.tanh(4 * np.sin(teeth * angle))
        stencil.fill(scene.px(unit(angle) * radius[:, None])).cut(scene.px(ellipse(0, 0, 0.2, 0.2)))
        for turn in np.arange(5) * 2 * np.pi / 5:
            stencil.cut(scene.px(ellipse(0.5 * np.cos(turn), 0.5 * np.sin(turn), 0.17, 0.17)))
        scene.solid(stencil, material=brushed if rng.random() < 0.5 else None, depth=0.08, gloss=0.4)
    elif kind == 1:
        w, h, pitch = rng.uniform(0.6, 0.95), rng.uniform(0.6, 0.95), rng.uniform(0.14, 0.3)
        stencil.fill(scene.px(rectangle(-w, -h, w, h, rounding=0.12)))
        for x in np.arange(-w + pitch, w - pitch * 0.6, pitch):
            for y in np.arange(-h + pitch, h - pitch * 0.6, pitch):
                stencil.cut(scene.px(ellipse(x, y, pitch * 0.3, pitch * 0.3, n=24)))
        scene.solid(stencil, depth=0.06)
    elif kind == 2:
        mug(scene)
    else:
        stencil.fill(scene.px(blob(rng, 0, 0, 0.9, 0.85, wobble=0.2)))
        for turn in np.arange(k := int(rng.integers(2, 7))) * 2 * np.pi / k:
            x, y = 0.45 * np.cos(turn), 0.45 * np.sin(turn)
            stencil.cut(scene.px(blob(rng, x, y, rng.uniform(0.08, 0.2), rng.uniform(0.08, 0.2))))
        scene.solid(stencil, depth=0.15)


def mug(scene: Scene) -> None:
    rng, colours = scene.rng, scene.colours()
    side, material = rng.choice([-1, 1]), smooth if rng.random() < 0.5 else None
    handle = ellipse(side * 0.55, 0.05, 0.38, 0.42)
    scene.metal([handle], scene.radius * 0.14, colours)
    body = revolved(np.array([-0.7, 0.6, 0.75]), np.array([0.6, rng.uniform(0.45, 0.6), 0.4]))
    scene.solid(Stencil().fill(scene.px(body)), colours, material=material, depth=0.5)
    scene.solid(
        Stencil().fill(scene.px(ellipse(0, -0.7, 0.6, 0.14))), tones_of(colours[0] * 0.7), material=smooth, depth=0.1
    )
    if rng.random() < 0.4:
        rise = strands(
            rng,
            np.array([(-0.2, -0.7), (0.05, -0.7), (0.25, -0.7)]),
            unit(np.full(3, -np.pi / 2)),
            np.full(3, 0.8),
            curl=0.15,
            n=24,
        )
        scene.thin(
            Stencil().strands(scene.px(rise), scene.radius * 0.12, np.ones(3)), tones_of(NEUTRALS[1]), opacity=0.25
        )


def vase(scene: Scene) -> None:
    rng = scene.rng
    knots = np.sort(rng.uniform(-0.8, 0.8, 4))
    radii = rng.uniform(0.2, 0.62, 6)
    body = revolved(np.concatenate([[-0.9], knots, [0.9]]), radii)
    scene.solid(Stencil().fill(scene.px(body)), depth=0.45, bumps=0.1)
    scene.solid(Stencil().fill(scene.px(ellipse(0, -0.9, radii[0] * 0.85, 0.07))), material=smooth, depth=0.05)


def fruit(scene: Scene) -> None:
    rng = scene.rng
    scene.solid(Stencil().fill(scene.px(blob(rng, 0, 0, 0.8, rng.uniform(0.6, 0.9), wobble=0.08))), depth=0.7)
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
        scene.solid(
            Stencil().fill(scene.px(face)), np.clip(colours * dim, 0, 1).astype(np.float32), depth=0.03, bumps=0.0
        )


SOLIDS: tuple[Callable[[Scene], None], ...] = (mug, vase, fruit, parcel, holes)


def several(scene: Scene) -> None:
    """Two to four solids side by side, the nearer over the farther."""
    rng, count = scene.rng, int(scene.rng.integers(2, 5))
    places = np.sort(rng.uniform(-0.75, 0.75, count))[rng.permutation(count)]
    for rank, x in enumerate(places):
        scale = rng.uniform(0.35, 0.62)
        y = 0.6 - scale * 0.8 + 0.12 * rank
        SOLIDS[rng.integers(len(SOLIDS))](scene.moved(x * 1.2, y, scale, rng.normal(0, 0.1)))


# ------------------------------------------------------------------------------------------- glass, leaves, insects


def glass(scene: Scene) -> None:
    """A bottle with its label, a drinking glass, or soap bubbles."""
    rng, kind, colour = scene.rng, scene.rng.integers(3), tint(scene.rng)
    if kind == 2:
        for _ in range(int(rng.integers(1, 5))):
            bubble = scene.moved(*rng.uniform(-0.5, 0.5, 2), rng.uniform(0.3, 0.8))
            bubble.glass(
                Stencil().fill(bubble.px(ellipse(0, 0, 1, 1))), body=rng.uniform(0.06, 0.25), rim=0.1, colour=tint(rng)
            )
        return
    if kind == 0:
        neck = rng.uniform(0.12, 0.18)
        heights, radii = np.array([-1.1, -0.55, -0.3, 0.95, 1.05]), np.array([neck, neck, 0.4, 0.42, 0.36])
    else:
        heights, radii = np.array([-0.8, 0.6, 0.9, 0.95]), np.array([rng.uniform(0.5, 0.65), 0.45, 0.4, 0.38])
    body = revolved(heights, radii)
    level = rng.uniform(-0.3, 0.6)
    if rng.random() < 0.6:
        y = np.linspace(level, 0.9, 40)
        liquid = revolved(y, np.interp(y, heights, radii) - 0.05)
        scene.solid(
            Stencil().fill(scene.px(liquid)),
            tones_of(tint(rng)),
            material=smooth,
            depth=0.3,
            gloss=0.2,
            opacity=rng.uniform(0.35, 0.9),
        )
    scene.glass(Stencil().fill(scene.px(body)), body=rng.uniform(0.15, 0.6), rim=rng.uniform(0.03, 0.09), colour=colour)
    if kind == 0:
        if rng.random() < 0.6:
            scene.solid(Stencil().fill(scene.px(rectangle(-0.41, 0.05, 0.41, 0.65))), depth=0.3, bumps=0.0)
        scene.solid(
            Stencil().fill(scene.px(rectangle(-neck - 0.02, -1.25, neck + 0.02, -1.05, rounding=0.03))), depth=0.1
        )
    else:
        scene.metal(
            [ellipse(0, -0.8, radii[0], 0.1)],
            scene.thin_px(0.012, 0.03),
            np.float32([(0.4, 0.42, 0.42), (0.7, 0.7, 0.7), (1, 1, 1)]),
        )


def veil(scene: Scene) -> None:
    """A figure behind hanging sheer cloth, or in smoke: broad, smoothly varying partial opacity."""
    rng, smoke = scene.rng, scene.rng.random() < 0.4
    SOLIDS[rng.integers(len(SOLIDS))](scene.moved(0, 0.4, 0.6))
    for _ in range(int(rng.integers(1, 3))):
        x, w = rng.normal(0, 0.2), rng.uniform(0.4, 0.8)
        if smoke:
            drape = blob(rng, x, -0.1, w, rng.uniform(0.6, 1.0), wobble=0.35)
        else:
            hem = np.linspace(1, -1, 40)
            foot = np.stack([x + w * 1.25 * hem, rng.uniform(0.6, 0.95) + 0.06 * np.sin(hem * rng.uniform(6, 20))], -1)
            top = np.array([(x - w, -0.9), (x - w * 0.3, -1.0), (x + w * 0.4, -0.95), (x + w, -0.9)])
            drape = np.concatenate([top, foot])
        sheer = scene.px(drape), rng.uniform(0.15, 0.45), rng.uniform(0.6, 0.95)
        scene.sheer(Stencil().fill(sheer[0]), scene.colours(), thin=sheer[1], dense=sheer[2], soft=smoke)


def foliage(scene: Scene) -> None:
    """A branching plant, half the time in a pot; fine petioles and soft leaves."""
    rng, greens = (
        scene.rng,
        tones_of(tint(scene.rng, GREENS if scene.rng.random() < 0.75 else scene.palette), depth=0.6),
    )
    slim, size = rng.uniform(0.15, 0.5), rng.uniform(0.12, 0.32)
    stems, leaves = [], Stencil()
    for _ in range(int(rng.integers(5, 13))):
        tip = np.array([rng.uniform(-0.95, 0.95), rng.uniform(-1.1, 0.2)])
        stem = spline(rng, np.array([rng.normal(0, 0.05), 0.75]), tip, sway=0.08, n=24)
        stems.append(stem)
        for i in np.linspace(6, 23, int(rng.integers(4, 10))).astype(int):
            heading = np.arctan2(*(stem[i] - stem[i - 1])[::-1]) + rng.choice([-1, 1]) * rng.uniform(0.1, 1.4)
            _leaf(scene, leaves, stem[i], heading, size * rng.uniform(0.5, 1.3), slim, rng)
    scene.metal(stems, max(0.5, scene.radius * rng.uniform(0.01, 0.025)), greens)
    scene.thin(leaves, greens)
    if rng.random() < 0.5:
        pot = revolved(np.array([0.6, 0.75, 0.76, 1.35]), np.array([0.45, 0.45, 0.38, 0.28]))
        scene.solid(Stencil().fill(scene.px(pot)), depth=0.35)


def _leaf(
    scene: Scene,
    leaves: Stencil,
    base: np.ndarray,
    heading: float,
    length: float,
    slim: float,
    rng: np.random.Generator,
) -> None:
    """Two half-blades in two tones along a curved midrib, and the midrib."""
    t = np.linspace(0, 1, 14)
    rib = (
        np.stack([t, rng.normal(0, 0.25) * t**2], -1) @ np.array([unit(heading), unit(heading + np.pi / 2)]) * length
        + base
    )
    breadth = (np.sin(np.pi * t**0.8) * slim * length)[:, None] * unit(heading + np.pi / 2)
    tone = rng.uniform(0.15, 0.75)
    for side, shift in ((1, 0.12), (-1, -0.1)):
        leaves.fill(scene.px(np.concatenate([rib, (rib + side * breadth)[::-1]])), tone=tone + shift)
    leaves.stroke(scene.px(rib), max(0.4, 0.006 * scene.radius), tone=min(1.0, tone + 0.3))


def insect(scene: Scene) -> None:
    """A beetle or a butterfly: segments, jointed legs, long antennae, patterned or clear wings."""
    rng, colours = scene.rng, scene.colours()
    limbs = tones_of(colours[0] * 0.8, depth=0.5)
    winged = rng.random() < 0.6
    for side in (-1, 1):
        if winged:
            sheer = rng.random() < 0.4
            for x, y, rx, ry in ((0.55, -0.35, 0.5, 0.42), (0.45, 0.35, 0.38, 0.36)):
                wing = Stencil().fill(scene.px(blob(np.random.default_rng(int(rx * 100)), x, y, rx, ry) * [side, 1]))
                scene.solid(wing, depth=0.06, bumps=0.1, opacity=rng.uniform(0.2, 0.5) if sheer else 1.0)
            veins = strands(
                rng, np.zeros((9, 2)), unit(np.linspace(-1.1, 1.1, 9)) * [side, 1], rng.uniform(0.5, 0.95, 9), bend=0.1
            )
            scene.thin(Stencil().strands(scene.px(veins), max(0.5, scene.radius * 0.012), np.full(9, 0.1)), limbs)
        for y, reach in ((-0.25, -0.35), (0.0, 0.05), (0.25, 0.5)):
            leg = np.array(
                [(0, y), (side * 0.4, y + reach * 0.5 - 0.1), (side * rng.uniform(0.65, 0.95), y + reach + 0.25)]
            )
            scene.metal([leg], max(0.6, scene.radius * rng.uniform(0.015, 0.04)), limbs)
        feeler = strands(
            rng,
            np.array([(side * 0.06, -0.6)]),
            unit(np.array([-np.pi / 2 + side * 0.4])),
            np.array([rng.uniform(0.5, 0.9)]),
            bend=0.4,
            n=24,
        )
        scene.thin(Stencil().strands(scene.px(feeler), max(0.8, scene.radius * 0.02), np.full(1, 0.2)), limbs)
    for y, rx, ry in ((0.35, 0.2 if winged else 0.45, 0.5), (-0.15, 0.18 if winged else 0.4, 0.22), (-0.5, 0.15, 0.14)):
        scene.solid(Stencil().fill(scene.px(blob(rng, 0, y, rx, ry, wobble=0.04))), colours, depth=0.25, gloss=0.4)


def aerial(scene: Scene) -> None:
    """A radio, a robot's head or a satellite with telescopic and whip antennae."""
    rng = scene.rng
    w, h = rng.uniform(0.5, 0.85), rng.uniform(0.3, 0.5)
    for _ in range(int(rng.integers(2, 6))):
        base = np.array([rng.uniform(-w, w) * 0.8, 0.4 - h])
        tip = base + unit(np.array(rng.uniform(-np.pi * 0.85, -np.pi * 0.15))) * rng.uniform(0.6, 1.2)
        whip = spline(rng, base, tip, sway=rng.choice([0.0, 0.08]), n=16)
        for part, thickness in ((whip, 0.4), (whip[:10], 0.7), (whip[:6], 1.0)):
            scene.metal([part], max(0.35, scene.radius * 0.022 * thickness), steel(scene))
    scene.solid(Stencil().fill(scene.px(rectangle(-w, 0.4 - h, w, 0.4 + h, rounding=0.08))), depth=0.12)
    for x in rng.uniform(-w * 0.6, w * 0.6, int(rng.integers(1, 4))):
        scene.solid(
            Stencil().fill(scene.px(ellipse(x, 0.4, h * 0.45, h * 0.45))), material=brushed, depth=0.1, gloss=0.3
        )


RECIPES: dict[str, Callable[[Scene], None]] = {
    recipe.__name__: recipe
    for recipe in (hair, fur, seedhead, wire, net, wheel, lattice, holes, several, glass, veil, foliage, insect, aerial)
}


THIN = ("seedhead", "wire", "net", "wheel", "lattice", "glass", "aerial")
# Solid subjects come twice in a round: in photographs, too, bodies are commoner than wires.
ROUND = (*RECIPES, "hair", "fur", "several", "holes", "foliage", "insect")


def subject_scale(rng: np.random.Generator, name: str) -> float:
    """The subject's radius as a share of the picture's shorter side: thin and clear subjects are shown closer."""
    low, high = (0.42, 0.7) if name in THIN else (0.38, 0.66)
    return rng_log_uniform(rng, low, high)
