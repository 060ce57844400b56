"""Procedural composites whose alpha is known exactly: the data that ships inside the program.

A picture is composed as a photograph is taken: a subject (`synthetic_subjects`) stands before a background
(`synthetic_backgrounds`), both under one light; a lens blurs them, and one camera grades them. Alpha and premultiplied
foreground pass through the same linear blurs, so that alpha stays exact whatever the lens does.
"""

import json
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from utils.errors import UserError
from utils.synthetic_backgrounds import BACKGROUNDS
from utils.synthetic_camera import continued, developed, through_lens
from utils.synthetic_scene import Layer, Scene, rng_log_uniform
from utils.synthetic_solids import SOLIDS
from utils.synthetic_subjects import RECIPES, ROUND, subject_scale
from utils.synthetic_textures import PIGMENTS, enlarge, tint

VERSION = 4  # of the pictures: raise it with every change of what any seed draws
VAL_FIRST_INDEX = 1_000_000  # validation pictures are numbered from here on: no seed shares one with training
MANIFEST = "manifest.json"
ASPECTS = (1.0, 4 / 3, 3 / 2, 16 / 9, 3 / 4, 2 / 3, 9 / 16)  # width over height


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
    premultiplied, alpha = through_lens(lens, scene.layer)
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
        paint, Layer.empty(height, width), centre, radius, 0.3 * angle if name == "hair" else angle, light, palette
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
    layer = Layer.empty(height, width)
    for _ in range(int(rng.integers(1, 4))):
        centre = np.array([rng.uniform(0, width), height * rng.uniform(0.3, 0.9)])
        radius = min(height, width) * rng.uniform(0.06, 0.16)
        SOLIDS[rng.integers(len(SOLIDS))](
            Scene(rng, layer, centre, radius, rng.normal(0, 0.2), scene.light, scene.palette)
        )
    strength = np.float32(rng.uniform(0.5, 0.95))
    return picture * (1 - strength * layer.alpha)[..., None] + strength * layer.premultiplied


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


# ----------------------------------------------------------------------------------------------------- the data set


def write_embedded(
    root: Path,
    *,
    train: int = 640,
    val: int = 48,
    seed: int = 0,
    long_side: tuple[int, int] = (320, 512),
    workers: int | None = None,
) -> None:
    """Writes the embedded data: root/{train,val}/im/NAME.jpg and gt/NAME.png, and root/manifest.json last of all.

    Returns at once where the manifest says that these very pictures are there. An interrupted run is taken up where it
    stopped; other parameters or another `VERSION` replace the pictures. One caller at a time for one root.

    Args:
        train, val: Numbers of pictures.
        long_side: Least and greatest length of a picture's longer side in pixels, inclusive.
        workers: Processes; None for one a CPU core of this process, 1 for none but this one.
    """
    if train < 0 or val < 0 or seed < 0 or not 1 <= long_side[0] <= long_side[1] or train > VAL_FIRST_INDEX:
        raise UserError(f"embedded data cannot be made from {train=}, {val=}, {seed=}, {long_side=}")
    root, manifest = Path(root), Path(root) / MANIFEST
    started = manifest.with_name(f".{MANIFEST}.started")  # says whose pictures an interrupted run has left
    wanted = {"version": VERSION, "train": train, "val": val, "seed": seed, "long_side": list(long_side)}
    if _read_json(manifest) == wanted:
        return
    _clear(root, everything=any(_read_json(path) not in (None, wanted) for path in (manifest, started)))
    manifest.unlink(missing_ok=True)
    for folder in ("train/im", "train/gt", "val/im", "val/gt"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    started.write_text(json.dumps(wanted))

    jobs = [("train", index) for index in range(train)]
    jobs += [("val", index) for index in range(VAL_FIRST_INDEX, VAL_FIRST_INDEX + val)]
    jobs = [(split, index) for split, index in jobs if not all(path.exists() for path in _paths(root, split, index))]
    write = partial(_write_pair, root, seed, long_side)
    with _pool(workers or len(os.sched_getaffinity(0)), len(jobs)) as run:
        for _ in tqdm(run(write, jobs), total=len(jobs), desc="embedded data", unit="image", disable=not jobs):
            pass
    os.replace(started, manifest)


@contextmanager
def _pool(workers: int, jobs: int) -> Iterator:
    """Yields a lazy `map` over processes, or over this one alone where a pool would not pay."""
    if workers == 1 or jobs < 16:
        yield map
        return
    # "spawn", because a fork of a process with threads (torch's, OpenCV's) may hang
    with multiprocessing.get_context("spawn").Pool(min(workers, jobs), cv2.setNumThreads, (1,)) as pool:
        yield partial(pool.imap_unordered, chunksize=4)


def _write_pair(root: Path, seed: int, long_side: tuple[int, int], job: tuple[str, int]) -> None:
    """Makes one picture; each file appears under its name only when it is complete."""
    split, index = job
    rng = np.random.default_rng([seed, index, 4])
    longer, aspect = int(rng.integers(long_side[0], long_side[1] + 1)), rng.choice(ASPECTS)
    height, width = max(1, round(longer / max(1, aspect))), max(1, round(longer * min(1, aspect)))
    picture = composite(seed, index, height=height, width=width)
    image_path, alpha_path = _paths(root, split, index)
    for path, pixels, options in (
        (image_path, picture.rgb, {"format": "JPEG", "quality": 95, "subsampling": 0}),
        (alpha_path, picture.alpha, {"format": "PNG"}),
    ):
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        Image.fromarray(pixels).save(unfinished, **options)
        os.replace(unfinished, path)


def _paths(root: Path, split: str, index: int) -> tuple[Path, Path]:
    name = f"{index:07d}_{recipe_name(index)}"
    return root / split / "im" / f"{name}.jpg", root / split / "gt" / f"{name}.png"


def _clear(root: Path, *, everything: bool) -> None:
    """Removes unfinished files and, where they are of other parameters, the pictures; nobody else's files."""
    for folder in ("train/im", "train/gt", "val/im", "val/gt"):
        for path in (root / folder).glob("*"):
            ours = path.stem.split("_")[-1] in RECIPES and path.stem[:7].isdigit()
            if path.suffix == ".tmp" or (everything and ours):
                path.unlink()
            elif not ours:
                raise UserError(f"{path} is no picture of the embedded data: choose another --output folder")


def _read_json(path: Path) -> dict | None:
    return json.loads(path.read_text()) if path.exists() else None
