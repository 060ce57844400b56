"""Pairs of image and alpha in a dataset's tree; no torch, so that what scores mattes starts at once.

A pair is an image and an alpha whose paths below their folders are equal but for the extension.
"""

import difflib
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.errors import UserError
from utils.images import MAX_PIXELS, list_images, natural_key, read_alpha, read_rgb, verify_image
from utils.layouts import BENCHMARKS, DATASETS, DatasetLayout
from utils.progress import progress

_NAMED = 3  # how many file names an error lists before it counts the rest


class Pair(NamedTuple):
    """An image file and its alpha file; `name` is their common path below their folders, without extension."""

    name: str
    image: Path
    alpha: Path


# Last parts of places that say nothing about which dataset it is: AM-2K and AIM-500 both have validation/original.
_GENERIC_PLACES = {
    "",
    "train",
    "val",
    "test",
    "validation",
    "validation1",
    "validation2",
    "traindataset",
    "trainvaldataset",
}
_ANY_FOLDER = {"Custom", "Embedded"}  # these have no folder name of their own


def _key(name: str) -> str:
    return name.casefold().replace("-", "").replace("_", "")


def _lookup(name: str, valid: Sequence[str], what: str) -> str:
    """Finds `name` among `valid`, ignoring case, dashes and underscores; raises UserError with the nearest one."""
    keys = {_key(option): option for option in valid}
    if _key(name) in keys:
        return keys[_key(name)]
    nearest = difflib.get_close_matches(_key(name), keys, n=1, cutoff=0)
    hint = f"did you mean {keys[nearest[0]]}? " if nearest else ""
    raise UserError(f"unknown {what} '{name}': {hint}choose one of {', '.join(valid)}")


def find_layout(dataset: str) -> DatasetLayout:
    """The layout of a dataset by its name, ignoring case, dashes and underscores.

    Raises:
        UserError: unknown name; the message has the nearest one.
    """
    return DATASETS[_lookup(dataset, list(DATASETS), "dataset")]


def find_pairs(root: Path, dataset: str = "custom", split: str = "train") -> list[Pair]:
    """Finds the pairs of one split of a dataset.

    Args:
        root: the dataset's own folder, or the folder that holds it.
        dataset: a key of DATASETS, in any case.
        split: a split of that dataset, in any case.

    Returns:
        Pairs in natural order of their names; never empty.

    Raises:
        UserError: unknown name, folders that are missing or empty, images and alphas that do not match one to one.
    """
    layout = find_layout(dataset)
    split = _lookup(split, list(layout.splits), f"split of {layout.name}")
    return find_in_layout(Path(root), layout, split)


def find_benchmark(root: Path, name: str) -> list[Pair]:
    """Finds the pairs of a benchmark.

    A folder that could belong to any dataset (test/im) counts only below a folder named after this one: scoring
    DIS5K's test images under the name HRS10K would go unnoticed.

    Args:
        root: the dataset's own folder, or the folder that holds it beside others.
        name: a key of BENCHMARKS in any case, or DATASET/SPLIT, such as custom/val.

    Returns:
        Pairs in natural order of their names; never empty.

    Raises:
        UserError: as `find_pairs`.
    """
    if "/" in name:
        dataset, split = name.split("/", 1)
    else:
        dataset, split = BENCHMARKS[_lookup(name, list(BENCHMARKS), "benchmark")]
    layout = find_layout(dataset)
    split = _lookup(split, list(layout.splits), f"split of {layout.name}")
    named = any(_key(Path(root).absolute().name).startswith(_key(alias)) for alias in (layout.name, *layout.aliases))
    return find_in_layout(Path(root), layout, split, trust_root=named or layout.name in _ANY_FOLDER)


def find_in_layout(
    root: Path, layout: DatasetLayout, split: str, *, trust_root: bool = True, flag: str = "--data-root"
) -> list[Pair]:
    """Finds the pairs in the first place that exists, in `root` or in a folder there that bears the dataset's name.

    Args:
        root: what the user gave.
        layout: of the dataset.
        split: a key of its splits.
        trust_root: `root` itself is known to be this dataset's; if not, only places named after the dataset count.
        flag: what gave `root`, for the messages.

    Returns:
        Pairs in natural order of their names; never empty.

    Raises:
        UserError: no such place, or its images and alphas do not match one to one.
    """
    if not root.is_dir():
        raise UserError(_missing(layout, split, f"the folder {root.absolute()} does not exist", flag))
    for owner in [root, *_own_folders(root, layout)]:
        for place in layout.splits[split]:
            parts = place.split(" + ")
            if owner == root and not trust_root and Path(parts[0]).name.casefold() in _GENERIC_PLACES:
                continue
            trees = [
                [(owner / images.format(part), owner / alphas.format(part)) for part in parts]
                for images, alphas in layout.folders
            ]
            whole = [tree for tree in trees if all(folder.is_dir() for pair in tree for folder in pair)]
            begun = [tree for tree in trees if any(images.is_dir() for images, _ in tree)]
            if whole or begun:  # a tree that lacks a folder is an error that names it, not a reason to look elsewhere
                return _pair_up((whole or begun)[0], f"{layout.name} {split}", layout.exclude, flag)
    images, alphas = layout.folders[0]
    expected = [
        f"{Path(images.format(place)).as_posix()} with {Path(alphas.format(place)).as_posix()}"
        for place in (place.split(" + ")[0] for place in layout.splits[split])
    ]
    where = f"in {root.absolute()} and in a folder {layout.name} there, for {_shorten(expected, ' or ')}"
    raise UserError(_missing(layout, split, f"looked {where}", flag))


def _own_folders(root: Path, layout: DatasetLayout) -> list[Path]:
    """The folders in `root` that bear the dataset's name, its own name first."""
    aliases = [_key(alias) for alias in (layout.name, *layout.aliases)]
    children = [child for child in root.iterdir() if _key(child.name) in aliases and child.is_dir()]
    return sorted(children, key=lambda child: (aliases.index(_key(child.name)), child.name))


def _missing(layout: DatasetLayout, split: str, why: str, flag: str) -> str:
    source = f" (source: {layout.home})" if layout.home else ""
    demo = ", or run 'python train.py demo', which trains on embedded data" if flag == "--data-root" else ""
    return f"no {layout.name} {split} images: {why}; pass {flag} with the folder that holds them{source}{demo}"


def _pair_up(tree: list[tuple[Path, Path]], title: str, exclude: str, flag: str) -> list[Pair]:
    """Pairs the images and alphas of pooled folders by their paths without extension."""
    images: dict[str, list[Path]] = {}
    alphas: dict[str, list[Path]] = {}
    for image_folder, alpha_folder in tree:
        for folder, what, found in ((image_folder, "images", images), (alpha_folder, "alphas", alphas)):
            if not folder.is_dir():
                raise UserError(f"{title}: no folder {folder.absolute()} for the {what}; add it or correct {flag}")
            for path in list_images(folder, recursive=True):
                if not fnmatch(path.name, exclude):
                    # macOS writes an accent as a letter and a mark, others as one letter: the same name to a reader.
                    stem = unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
                    found.setdefault(stem, []).append(path)
    where = _shorten([f"{image.absolute()} and {alpha.absolute()}" for image, alpha in tree])
    if not images and not alphas:
        raise UserError(f"{title}: no images in {where}; fill the folders or correct {flag}")

    problems = []
    if lonely := sorted(images.keys() - alphas.keys(), key=natural_key):
        problems.append(f"{len(lonely)} without alpha ({_shorten(lonely)})")
    if lonely := sorted(alphas.keys() - images.keys(), key=natural_key):
        problems.append(f"{len(lonely)} alphas without image ({_shorten(lonely)})")
    for what, found in (("image", images), ("alpha", alphas)):
        if twice := sorted((stem for stem in found if len(found[stem]) > 1), key=natural_key):
            names = [" = ".join(path.name for path in found[stem]) for stem in twice]
            problems.append(f"{len(twice)} {what} names twice ({_shorten(names)})")
    if problems:
        raise UserError(f"{title}: {len(images)} images, {'; '.join(problems)} in {where}; rename, add or remove them")
    return [Pair(stem, images[stem][0], alphas[stem][0]) for stem in sorted(images, key=natural_key)]


def check_pairs(pairs: Sequence[Pair], *, max_pixels: int = MAX_PIXELS, num_workers: int = 8) -> None:
    """Finds damaged files and sizes that differ, before any work starts; photographs are read but not decoded.

    Args:
        pairs: what `find_pairs` returned.
        max_pixels: largest file that would be decoded.
        num_workers: threads that read.

    Raises:
        UserError: a file is damaged or too large, or image and alpha differ in size; one line that counts and names
            them.
    """
    with ThreadPoolExecutor(max(1, num_workers)) as executor:
        found = executor.map(lambda pair: _problem(pair, max_pixels), pairs)
        problems = [problem for problem in progress(found, total=len(pairs), desc="check", unit="pair") if problem]
    if problems:
        raise UserError(
            f"{len(problems)} of {len(pairs)} pairs cannot be used: {_shorten(problems, '; ')}; "
            f"repair these files or remove both files of each pair"
        )


def _problem(pair: Pair, max_pixels: int) -> str:
    try:
        image = verify_image(pair.image, max_pixels=max_pixels)
        alpha = read_alpha(pair.alpha, max_pixels=max_pixels).shape  # decoded: a colour picture is no alpha
    except UserError as error:
        return str(error)
    return "" if image == alpha else _sizes_differ(pair, image, alpha)


def _sizes_differ(pair: Pair, image: tuple[int, int], alpha: tuple[int, int]) -> str:
    return f"{pair.image} is {image[1]}x{image[0]} but its alpha {pair.alpha} is {alpha[1]}x{alpha[0]}"


def read_pair(pair: Pair, *, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, np.ndarray]:
    """Reads rgb uint8 (H, W, 3) and alpha float32 (H, W) in [0, 1].

    Raises:
        UserError: a file cannot be read, or the two differ in size.
    """
    rgb = read_rgb(pair.image, max_pixels=max_pixels)
    alpha = read_alpha(pair.alpha, max_pixels=max_pixels)
    if rgb.shape[:2] != alpha.shape:
        raise UserError(f"{_sizes_differ(pair, rgb.shape[:2], alpha.shape)}; make them the same size")
    return rgb, alpha


def _shorten(names: Sequence[str], separator: str = ", ") -> str:
    """Joins the first few names and counts the rest."""
    rest = len(names) - _NAMED
    return separator.join(names[:_NAMED]) + (f"{separator}{rest} more" if rest > 0 else "")
