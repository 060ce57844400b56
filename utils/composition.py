"""Sets of composites as Deep Image Matting makes them (Xu et al., CVPR 2017): every foreground over N backgrounds.

A set is planned first, from names and sizes alone, and then made, a foreground at a time. The plan is a function of
the files' names and sizes, of the seed and of the numbers asked for: not of the processes, nor of what is there.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from utils.compositing import Window, compose, covering_window, cut
from utils.encoding import write_image
from utils.errors import UserError
from utils.foreground import ForegroundMethod, estimate_foreground
from utils.images import image_size, quantise, read_alpha, read_rgb
from utils.inspection import alpha_doubts, read_header
from utils.layouts import KINDS
from utils.pairs import sizes_differ
from utils.seeds import seeded_rng
from utils.shrinking import shrink, shrunk_size
from utils.trimaps import random_trimap

_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")  # Pillow's modes


class Source(NamedTuple):
    """A foreground: its file, and the file of its alpha, or None if that is its own A channel."""

    image: Path
    alpha: Path | None


class PlannedComposite(NamedTuple):
    """A composite to make.

    Attributes:
        name: Its path below im/, gt/ and trimap/, without suffix.
        background: Path below the folder of backgrounds.
        background_size: (height, width) in pixels.
        window: The part of the background that is seen.
    """

    name: str
    background: str
    background_size: tuple[int, int]
    window: Window


class PlannedSubject(NamedTuple):
    """A foreground with its composites, which one process makes: it is read and solved once.

    Attributes:
        name: Its path below the folder of foregrounds, without suffix.
        source: Its files.
        size: (height, width) of the foreground in pixels, upright.
        shape: (height, width) of its composites.
        composites: In order.
    """

    name: str
    source: Source
    size: tuple[int, int]
    shape: tuple[int, int]
    composites: tuple[PlannedComposite, ...]

    def describe(
        self, made: PlannedComposite, foregrounds: Path, alphas: Path | None, backgrounds: Path
    ) -> dict[str, Any]:
        """What one of its composites is made of, in JSON's types: paths are relative to the folders given."""
        image, alpha = self.source
        return {
            "size": list(self.shape),  # heights come first, in pixels
            "foreground": image.relative_to(foregrounds).as_posix(),
            "foreground_size": list(self.size),
            "alpha": alpha.relative_to(alphas).as_posix() if alpha else None,
            "background": made.background,
            "background_size": list(made.background_size),
            "crop": made.window._asdict(),  # of the background; resized to the composite's size
            # Of the foreground's, the alpha's and the background's file: a retouched one is noticed by them.
            "bytes": [os.path.getsize(file) for file in (image, alpha or image, backgrounds / made.background)],
        }


class Made(NamedTuple):
    """What came of a foreground.

    Attributes:
        name: Of the subject.
        failed: By composite that could not be made, why.
        doubts: Kinds of `utils.problems.WARNINGS` that its alpha gives rise to.
    """

    name: str
    failed: dict[str, str]
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """What decides the pixels of a set, besides its files.

    Attributes:
        seed: Of splits, backgrounds, crops and trimaps.
        solve: Method of utils.foreground that finds the subject's own colours; "none" takes them as they are.
        trimap_kernel_px: Least and greatest diameter, as `random_trimap` takes them.
        image_format: "png" or "jpg", of im/.
        max_side: Longer foregrounds are shrunk to it, px; None leaves all as they are.
    """

    seed: int
    solve: ForegroundMethod | Literal["none"]
    trimap_kernel_px: tuple[int, int]
    image_format: str
    max_side: int | None


# ------------------------------------------------------------------------------------------------------- the plan


def split_names(names: Sequence[str], test_share: float, *parts: int | str) -> dict[str, list[str]]:
    """Draws lots for train/ and test/: each name by itself, so that files added later move none of the others.

    Frames of one video, or photographs of one subject, are different names: whoever has such files keeps them apart in
    folders, and makes each split by itself with a share of 0 or 1.

    Args:
        names: Of foregrounds or of backgrounds.
        test_share: Probability of test/, in [0, 1].
        parts: What the lots depend on besides the name, such as the seed.
    """
    lots = {name: seeded_rng(*parts, name).random() < test_share for name in names}
    return {
        "train": [name for name in names if not lots[name]],
        "test": [name for name in names if lots[name]],
    }


def deal(
    foregrounds: Sequence[str], backgrounds: Sequence[str], per_foreground: int, rng: np.random.Generator
) -> dict[str, list[str]]:
    """Gives each foreground its backgrounds, from a pack that is shuffled anew whenever it is used up.

    Args:
        foregrounds: In the order they are served.
        backgrounds: At least `per_foreground`.
        per_foreground: Backgrounds for each, all different.

    Returns:
        Backgrounds by foreground. Over the set, no background is used more than once more often than another.
    """
    pack: list[str] = []
    dealt = {}
    for name in foregrounds:
        hand, pack = pack[:per_foreground], pack[per_foreground:]
        if len(hand) < per_foreground:
            fresh = [backgrounds[index] for index in rng.permutation(len(backgrounds))]
            # What this foreground has from the old pack already stays for the next one.
            more = [each for each in fresh if each not in hand][: per_foreground - len(hand)]
            hand += more
            pack = [each for each in fresh if each not in more]
        dealt[name] = hand
    return dealt


def plan_subject(
    name: str, source: Source, backgrounds: Mapping[str, tuple[int, int]], recipe: Recipe
) -> PlannedSubject:
    """Decides everything about a foreground's composites from the sizes of the files.

    Args:
        name: Of the foreground.
        source: Its files.
        backgrounds: (height, width) by path below their folder, in order.

    Raises:
        UserError: The foreground's size cannot be read.
    """
    size = image_size(source.image)
    shape = shrunk_size(size, recipe.max_side)
    composites = tuple(
        PlannedComposite(
            f"{name}_{index}",
            background,
            background_size,
            covering_window(background_size, shape, seeded_rng(recipe.seed, "crop", name, index)),
        )
        for index, (background, background_size) in enumerate(backgrounds.items())
    )
    return PlannedSubject(name, source, size, shape, composites)


def composite_paths(folder: Path, name: str, image_format: str) -> dict[str, Path]:
    """The three files of a composite in a split's folder, by kind."""
    return {kind: folder / kind / f"{name}.{image_format if kind == 'im' else 'png'}" for kind in KINDS}


# ----------------------------------------------------------------------------------------------------- the pixels


def make_composites(
    subject: PlannedSubject, *, folder: Path, backgrounds: Path, recipe: Recipe, max_pixels: int
) -> Made:
    """Makes the composites of a foreground: im/, gt/ and trimap/ below `folder`.

    Args:
        subject: With the composites to make.
        folder: Of the split.
        backgrounds: Folder of the backgrounds.
        max_pixels: Larger files are refused before they are decoded.

    Returns:
        What failed: all of its composites if the foreground itself cannot be used.

    Raises:
        CannotWriteError: The disk is full, say.
    """
    try:
        rgb, alpha = read_subject(subject.source, max_pixels=max_pixels)
        if alpha.shape != subject.size:
            raise UserError(f"{subject.source.image}: its size has changed since the start; start again")
        doubts = find_doubts(subject.source, alpha)
        levels, alpha, rgb = shrink_subject(rgb, alpha, subject.shape, solved_next=recipe.solve != "none")
        if recipe.solve != "none":
            rgb = estimate_foreground(rgb, alpha, method=recipe.solve).foreground
    except UserError as error:
        return Made(subject.name, {each.name: str(error) for each in subject.composites})
    failed = {}
    for composite in subject.composites:
        try:
            background = read_rgb(backgrounds / composite.background, max_pixels=max_pixels)
            if background.shape[:2] != composite.background_size:
                raise UserError(f"{backgrounds / composite.background}: its size has changed; start again")
        except UserError as error:
            failed[composite.name] = str(error)
            continue
        paths = composite_paths(folder, composite.name, recipe.image_format)
        rng = seeded_rng(recipe.seed, "trimap", composite.name)
        write_image(paths["trimap"], random_trimap(alpha, rng, recipe.trimap_kernel_px))
        write_image(paths["gt"], levels)
        write_image(paths["im"], compose(rgb, cut(background, composite.window, subject.shape), alpha))
    return Made(subject.name, failed, doubts)


def find_doubts(source: Source, alpha: np.ndarray) -> tuple[str, ...]:
    """What tools.check_data would say of a foreground's alpha, as read: kinds of `utils.problems.WARNINGS`."""
    path = source.alpha or source.image
    return tuple(each.kind for each in alpha_doubts(path, alpha, read_header(path)))


def read_subject(source: Source, *, max_pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads rgb uint8 (H, W, 3) and alpha float32 (H, W) in [0, 1] of a foreground.

    Raises:
        UserError: A file cannot be read, the two differ in size, the file's own alpha is the same everywhere, or
            nothing of the foreground shows.
    """
    rgb = read_rgb(source.image, max_pixels=max_pixels)
    if source.alpha is None:
        with Image.open(source.image) as image:
            lowest, highest = image.convert("RGBA").getchannel("A").getextrema()
        if lowest == highest:  # read_alpha would take the colours for the alpha
            raise UserError(f"{source.image}: its alpha channel is {lowest} everywhere; give its alpha in --alphas")
    alpha = read_alpha(source.alpha or source.image, max_pixels=max_pixels)
    if rgb.shape[:2] != alpha.shape:
        differ = sizes_differ(source.image, rgb.shape[:2], source.alpha, alpha.shape)
        raise UserError(f"{differ}; make them the same size")
    if not alpha.any():
        raise UserError(f"{source.alpha}: alpha is 0 everywhere, so nothing would show; replace it")
    return rgb, alpha


def is_opaque(path: Path) -> bool:
    """Whether an image file has no alpha channel, from its header; False for a damaged one, which reading will name."""
    try:
        image_size(path)
    except UserError:
        return False
    with Image.open(path) as image:
        return image.mode not in _WITH_ALPHA and not isinstance(image.info.get("transparency"), bytes)


def shrink_subject(
    rgb: np.ndarray, alpha: np.ndarray, shape: tuple[int, int], *, solved_next: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Averages a foreground down and rounds its alpha to what a file holds: the composite is then exactly its alpha's.

    Args:
        rgb: uint8 (h, w, 3).
        alpha: float32 (h, w) in [0, 1].
        shape: (H, W), no larger.
        solved_next: The picture is averaged as it is, because solving it needs what the camera would have seen.
            Otherwise each colour counts as much as it shows: what lies under alpha 0, black in most cut-outs, must not
            darken the edge.

    Returns:
        Alpha in levels, (H, W): uint8 if it came in 8 bits, else uint16. The same alpha as float32 in [0, 1]. Colours,
        uint8 (H, W, 3).
    """
    eight_bits = np.abs(alpha - quantise(alpha) / np.float32(255)).max() < 1e-6
    if alpha.shape != shape:
        share = shrink(alpha, shape)
        rgb = shrink(rgb, shape) if solved_next else _shrink_shown(rgb, alpha, share)
        alpha = share
    levels = quantise(alpha, bits=8 if eight_bits else 16)
    return levels, levels / np.float32(255 if eight_bits else 65535), rgb


def _shrink_shown(rgb: np.ndarray, alpha: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Averages colours with alpha as their weight, to the size of `share`, the shrunk alpha; plainly where it is 0."""
    weight = share[..., None]
    shown = shrink(rgb * alpha[..., None], share.shape) / np.maximum(weight, 1e-6)
    return np.where(weight > 0, np.rint(shown.clip(0, 255)), shrink(rgb, share.shape)).astype(np.uint8)
