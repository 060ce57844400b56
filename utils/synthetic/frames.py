"""Wires, meshes and bars: the subjects one looks through."""

import numpy as np

from utils.synthetic.creatures import furry
from utils.synthetic.scene import Scene
from utils.synthetic.shapes import blob, ellipse, rectangle, unit
from utils.synthetic.textures import NEUTRALS, brushed, tint, tones_of


def wire(scene: Scene) -> None:
    """Bent wire: a tangle of cables, a coil spring, a hanger with its cloth, or spectacles."""
    scene.one_of(_cables, _spring, _hanger, _spectacles)(scene)


def _cables(scene: Scene) -> None:
    rng, t = scene.rng, np.linspace(0, 2 * np.pi, 160)
    for _ in range(int(rng.integers(3, 7))):
        a, b = rng.integers(1, 5, 2)
        loop = np.stack([np.sin(a * t + rng.uniform(0, 6)), np.sin(b * t + rng.uniform(0, 6))], axis=-1)
        loop = loop * rng.uniform(0.5, 1, 2) + rng.normal(0, 0.1, 2)
        scene.metal([loop], scene.thin_px(0.008, 0.05), scene.steel())
    plug = scene.moved(*rng.uniform(-0.5, 0.5, 2), 0.3, rng.uniform(0, 6))
    plug.solid(plug.shape(rectangle(-0.5, -1, 0.5, 1, rounding=0.2)), depth=0.4)


def _spring(scene: Scene) -> None:
    turns = scene.rng.integers(5, 12)
    t = np.linspace(0, turns * 2 * np.pi, turns * 28)
    coil = np.stack([np.cos(t) * 0.55, np.linspace(-0.9, 0.9, len(t)) + 0.12 * np.sin(t)], axis=-1)
    scene.metal([coil], scene.thin_px(0.02, 0.09), scene.steel())
    for y in (-0.95, 0.95):
        scene.solid(scene.shape(rectangle(-0.7, y - 0.1, 0.7, y + 0.1, rounding=0.05)), depth=0.1)


def _hanger(scene: Scene) -> None:
    hook = ellipse(0, -0.75, 0.16, 0.16, start=-np.pi, turn=1.4 * np.pi)
    bow = np.array([(0, -0.59), (0, -0.45), (-0.95, 0.0), (-0.9, 0.07), (0.9, 0.07), (0.95, 0.0), (0, -0.45)])
    half = np.array([(0.25, -0.33), (0.95, 0.0), (1.0, 0.35), (0.7, 0.35), (0.65, 1.2)])
    if scene.rng.random() < 0.7:
        shirt = np.concatenate([half, half[::-1] * [-1, 1], np.array([(0, -0.2)])])
        scene.solid(scene.shape(shirt), depth=0.3, gloss=0.0, bumps=0.5)
    scene.metal([hook, bow], scene.thin_px(0.012, 0.035), scene.steel())


def _spectacles(scene: Scene) -> None:
    rng, rims = scene.rng, [ellipse(side * 0.48, 0, 0.38, 0.3) for side in (-1, 1)]
    for rim in rims:
        scene.glass(scene.shape(rim), body=rng.uniform(0.1, 0.7), rim=0.03, colour=tint(rng))
    bridge = ellipse(0, -0.02, 0.13, 0.1, start=np.pi, turn=np.pi)
    arms = [np.array([(s * 0.85, -0.05), (s * 1.05, -0.5), (s * 0.95, -0.75)]) for s in (-1, 1)]
    scene.metal([*rims, bridge, *arms], scene.thin_px(0.02, 0.07), scene.steel())


def net(scene: Scene) -> None:
    """Meshes: a racket, a fence panel between posts, a fishing net full of things."""
    scene.one_of(_racket, _fence, _catch)(scene)


def _racket(scene: Scene) -> None:
    rng, hoop = scene.rng, scene.moved(0, -0.35)
    rx, ry, mesh = 0.55, 0.68, rng.uniform(0.06, 0.16)
    strings = []
    for c in np.arange(-1 + mesh, 1, mesh * 1.6):
        s = np.sqrt(1 - c * c)
        strings.append(np.array([(c * rx, -s * ry), (c * rx, s * ry)]))
        strings.append(np.array([(-s * rx, c * ry), (s * rx, c * ry)]))
    hoop.metal(strings, scene.thin_px(0.005, 0.018), tones_of(tint(rng, NEUTRALS)))
    hoop.metal([ellipse(0, 0, rx, ry)], scene.radius * rng.uniform(0.06, 0.1), scene.colours())
    throat = [np.array([(side * 0.28, 0.6), (0.03 * side, 0.95)]) for side in (-1, 1)]
    hoop.metal(throat, scene.radius * 0.06, scene.colours())
    hoop.solid(hoop.shape(rectangle(-0.07, 0.9, 0.07, 1.7)), depth=0.07)


def _fence(scene: Scene) -> None:
    _mesh(scene, scene.rng.uniform(0.05, 0.3))
    for x in (-1.0, 1.0):
        scene.solid(scene.shape(rectangle(x - 0.07, -1.05, x + 0.07, 2.0)), depth=0.07)


def _catch(scene: Scene) -> None:
    rng, sag = scene.rng, scene.rng.uniform(0.05, 0.3)
    for _ in range(int(rng.integers(3, 7))):
        x, y, r = *rng.uniform(-0.55, 0.55, 2), rng.uniform(0.15, 0.32)
        scene.solid(scene.shape(blob(rng, x, y + sag, r, r * 0.8)), depth=0.3)
    _mesh(scene, sag)


def _mesh(scene: Scene, sag: float) -> None:
    """Diamonds of thread in a frame whose middle hangs `sag` lower than its ends."""
    along, lines = np.linspace(-1.2, 1.2, 40), []
    for across in np.arange(-1.6, 1.6, scene.rng.uniform(0.08, 0.2)):
        x, y = along + across, (along - across) * 0.8
        keep = (np.abs(x) < 0.95) & (np.abs(y) < 0.75)
        lines += [np.stack([x, sign * y], axis=-1)[keep] for sign in (-1, 1) if keep.sum() > 1]
    corners = rectangle(-0.97, -0.77, 0.97, 0.77)
    sides = [np.linspace(a, b, 12) for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True)]
    border = np.concatenate(sides)
    for curve in (*lines, border):
        curve[:, 1] += sag * (1 - curve[:, 0] ** 2)
    scene.metal(lines, scene.thin_px(0.005, 0.018), scene.steel())
    scene.metal([border], scene.thin_px(0.02, 0.06), scene.colours(), closed=True)


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
    scene.metal(bars, scene.radius * 0.035, scene.steel())
    scene.solid(scene.shape(blob(rng, -0.32, -0.44, 0.17, 0.05)), depth=0.06)


def _wheel(scene: Scene, squash: float, spokes: int) -> None:
    rng, colours = scene.rng, scene.steel()
    circle = ellipse(0, 0, squash, 1)
    angles = np.arange(spokes) * 2 * np.pi / spokes
    crossing = rng.uniform(0.0, 1.2) * (-1) ** np.arange(spokes)
    ends = unit(angles) * [squash, 1] * 0.93
    hubs = unit(angles + crossing) * [squash, 1] * 0.09
    scene.metal([np.stack(pair) for pair in zip(hubs, ends, strict=True)], scene.thin_px(0.005, 0.02), colours)
    scene.metal([circle * 0.9], scene.radius * 0.05, colours)
    tyre = tint(rng, NEUTRALS[[0, 3, 4, 5]] * 0.75) if rng.random() < 0.6 else tint(rng, scene.palette)
    scene.metal([circle], scene.radius * rng.uniform(0.08, 0.16), tones_of(tyre, depth=0.6))
    scene.solid(scene.shape(ellipse(0, 0, 0.13 * squash, 0.13)), colours, material=brushed, depth=0.1)


def lattice(scene: Scene) -> None:
    """Frames of bars: a braced mast, a bird cage with its bird, a chair, a ladder."""
    scene.one_of(_mast, _cage, _chair, _ladder)(scene)


def _mast(scene: Scene) -> None:
    rng, colours, bar_px = scene.rng, scene.steel(), _bar_px(scene)
    levels = np.linspace(1.3, -1.0, int(rng.integers(6, 12)))
    half = np.interp(levels, [-1.0, 0.0, 1.3], [0.05, 0.2, 0.7])
    left, right = np.stack([-half, levels], axis=-1), np.stack([half, levels], axis=-1)
    pairs = [*zip(left, right, strict=True)]
    pairs += [*zip(left[:-1], right[1:], strict=True), *zip(right[:-1], left[1:], strict=True)]
    scene.metal([np.stack(pair) for pair in pairs], max(0.5, bar_px * 0.4), colours)
    scene.metal([left, right], bar_px, colours)
    scene.metal([np.array([(0, -1.0), (0, -1.35)])], scene.thin_px(), colours)


def _cage(scene: Scene) -> None:
    rng, colours = scene.rng, scene.steel()
    bird = blob(rng, 0, 0, 0.45, 0.6)
    furry(scene.moved(0, 0.25, 0.55), bird, scene.colours(), 0.1)
    bars = []
    for x in 0.65 * np.cos(np.linspace(0.05, np.pi - 0.05, int(rng.integers(9, 18)))):
        dome = ellipse(0, -0.3, x, 0.6, n=24, turn=-np.pi / 2)[::-1]
        bars.append(np.concatenate([dome, np.array([(x, 0.85)])]))
    scene.metal(bars, scene.thin_px(0.01, 0.03), colours)
    rings = [ellipse(0, y, 0.65, 0.08) for y in (-0.3, 0.25, 0.85)]
    scene.metal([*rings, ellipse(0, -1.0, 0.09, 0.1)], _bar_px(scene) * 0.7, colours)


def _chair(scene: Scene) -> None:
    colours, bar_px = scene.steel(), _bar_px(scene)
    feet = ((-0.5, 0.25), (0.5, 0.25), (-0.32, 0.1), (0.38, 0.1))
    legs = [np.array([(x, y), (x * 1.1, 1.1)]) for x, y in feet]
    back = [np.array([(x, 0.2), (x * 1.08, -1.0)]) for x in np.linspace(-0.48, 0.48, int(scene.rng.integers(3, 8)))]
    rails = [np.array([(-0.53, -0.95), (0.53, -0.95)]), np.array([(-0.5, 0.65), (0.5, 0.65)])]
    scene.metal([*legs, *back], bar_px, colours)
    scene.metal(rails, bar_px * 1.4, colours)
    scene.solid(scene.shape(np.array([(-0.6, 0.3), (-0.45, 0.1), (0.5, 0.1), (0.62, 0.3)])), depth=0.08)


def _ladder(scene: Scene) -> None:
    bar_px, pitch = _bar_px(scene), scene.rng.uniform(0.18, 0.32)
    scene.metal([np.array([(-0.42, y), (0.42, y)]) for y in np.arange(-1.2, 1.5, pitch)], bar_px, scene.steel())
    scene.metal([np.array([(x, -1.3), (x * 1.15, 1.5)]) for x in (-0.4, 0.4)], bar_px * 1.7, scene.colours())


def _bar_px(scene: Scene) -> float:
    return scene.radius * scene.rng.uniform(0.03, 0.07)
