"""Pairs of image and alpha in a dataset's tree; no torch, so that what scores mattes starts at once.

A pair is an image and an alpha whose paths below their folders are equal but for the extension.
"""

import difflib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.errors import UserError
from utils.images import MAX_PIXELS, natural_key, read_alpha, read_rgb, verify_image
from utils.layouts import BENCHMARKS, DATASETS, DatasetLayout
from utils.names import collect, names_twice, shorten
from utils.progress import progress


class NotFound(UserError):
    """There is no folder of the dataset; one that is there but broken is a plain UserError."""


class Pair(NamedTuple):
    """An image file and its alpha file; `name` is their common path below their folders, without extension.

    `trimap` is the trimap file the set is published with: None if there is none, or if it was not asked for.
    """

    name: str
    image: Path
    alpha: Path
    trimap: Path | None = None


# Last parts of places that say nothing about which dataset it is: AM-2K and AIM-500 both have validation/original.
_GENERIC_PLACES = {
    "",
    "train",
    "val",
    "test",
    "test_set",
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


def find_pairs(root: Path, dataset: str = "custom", split: str = "train", *, trimaps: bool = False) -> list[Pair]:
    """Finds the pairs of one split of a dataset.

    Args:
        root: the dataset's own folder, or the folder that holds it.
        dataset: a key of DATASETS, in any case.
        split: a split of that dataset, in any case.
        trimaps: fill `Pair.trimap` if the folder of trimaps is there too.

    Returns:
        Pairs in natural order of their names; never empty.

    Raises:
        NotFound: there is no folder of this dataset and split.
        UserError: unknown name, a folder that is missing or empty, images and alphas that do not match one to one, or
            trimaps that are asked for and there for some of the images only.
    """
    layout = find_layout(dataset)
    split = _lookup(split, list(layout.splits), f"split of {layout.name}")
    return find_in_layout(Path(root), layout, split, trimaps=trimaps)


def resolve_benchmark(name: str) -> tuple[str, DatasetLayout, str]:
    """A benchmark's name as tables print it, its dataset's layout, and the split it is.

    Args:
        name: a key of BENCHMARKS in any case, or DATASET/SPLIT, such as custom/val.

    Raises:
        UserError: unknown name; the message has the nearest one.
    """
    if "/" in name:
        dataset, split = name.split("/", 1)
        layout = find_layout(dataset)
        split = _lookup(split, list(layout.splits), f"split of {layout.name}")
        return f"{layout.name}/{split}", layout, split
    name = _lookup(name, list(BENCHMARKS), "benchmark")
    dataset, split = BENCHMARKS[name]
    return name, find_layout(dataset), split


def find_benchmark(root: Path, name: str, *, trimaps: bool = False) -> list[Pair]:
    """Finds the pairs of a benchmark.

    A folder that could belong to any dataset (test/im) counts only below a folder named after this one: scoring
    DIS5K's test images under the name HRS10K would go unnoticed.

    Args:
        root: the dataset's own folder, or the folder that holds it beside others.
        name: as `resolve_benchmark` takes it.
        trimaps: fill `Pair.trimap` if the folder of trimaps is there too.

    Returns:
        Pairs in natural order of their names; never empty.

    Raises:
        NotFound, UserError: as `find_pairs`.
    """
    _, layout, split = resolve_benchmark(name)
    named = any(_key(Path(root).absolute().name).startswith(_key(alias)) for alias in (layout.name, *layout.aliases))
    trust_root = named or layout.name in _ANY_FOLDER
    return find_in_layout(Path(root), layout, split, trust_root=trust_root, trimaps=trimaps)


def present_benchmarks(root: Path) -> tuple[list[str], list[str]]:
    """The benchmarks that are there, as `find_benchmark` would find them.

    Custom and Embedded are left out: any folder could be theirs, so they are scored only when they are named. A pooled
    benchmark is there if all its parts are.

    Args:
        root: a dataset's own folder, or the folder that holds several.

    Returns:
        Names of BENCHMARKS that are there, and of the others; both in the order of BENCHMARKS.

    Raises:
        UserError: none is there, or one is but cannot be used: leaving that one out would hide the fault.
    """
    present: list[str] = []
    absent: list[str] = []
    for name, (dataset, _) in BENCHMARKS.items():
        if dataset in _ANY_FOLDER:
            continue
        try:
            find_benchmark(root, name)
            present.append(name)
        except NotFound:
            absent.append(name)
    if not present:
        why = f"looked for {', '.join(absent)}" if Path(root).is_dir() else "no such folder"
        raise NotFound(
            f"no benchmark in {Path(root).absolute()}: {why}; pass --data-root with the folder of one or more"
        )
    return present, absent


def find_in_layout(
    root: Path,
    layout: DatasetLayout,
    split: str,
    *,
    trust_root: bool = True,
    trimaps: bool = False,
    flag: str = "--data-root",
) -> list[Pair]:
    """Finds the pairs in the first place that exists, in `root` or in a folder there that bears the dataset's name.

    Args:
        root: what the user gave.
        layout: of the dataset.
        split: a key of its splits.
        trust_root: `root` itself is known to be this dataset's; if not, only places named after the dataset count.
        trimaps: fill `Pair.trimap` if the folder of trimaps is there too.
        flag: what gave `root`, for the messages.

    Returns:
        Pairs in natural order of their names; never empty.

    Raises:
        NotFound: no such place.
        UserError: its images and alphas do not match one to one, or images lack trimaps that are asked for.
    """
    if not root.is_dir():
        raise NotFound(_missing(layout, split, f"the folder {root.absolute()} does not exist", flag))
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
            begun = [tree for tree in trees if any(folder.is_dir() for pair in tree for folder in pair)]
            if whole or begun:  # a tree that lacks a folder is an error that names it, not a reason to look elsewhere
                title = f"{layout.name} {split}"
                pairs = _pair_up((whole or begun)[0], title, layout.exclude, flag)
                folders = [[owner / folder.format(part) for folder in layout.trimaps] for part in parts]
                return _with_trimaps(pairs, folders, title, flag) if trimaps else pairs
    images, alphas = layout.folders[0]
    expected = [
        f"{Path(images.format(place)).as_posix()} with {Path(alphas.format(place)).as_posix()}"
        for place in (place.split(" + ")[0] for place in layout.splits[split])
    ]
    where = f"in {root.absolute()} and in a folder {layout.name} there, for {shorten(expected, ' or ')}"
    raise NotFound(_missing(layout, split, f"looked {where}", flag))


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
    for part in tree:
        for folder, what in zip(part, ("images", "alphas"), strict=True):
            if not folder.is_dir():
                error = UserError if any(other.is_dir() for other in part) else NotFound
                raise error(f"{title}: no folder {folder.absolute()} for the {what}; add it or correct {flag}")
    images = collect([folder for folder, _ in tree], exclude)
    alphas = collect([folder for _, folder in tree], exclude)
    where = shorten([f"{image.absolute()} and {alpha.absolute()}" for image, alpha in tree])
    if not images and not alphas:
        raise UserError(f"{title}: no images in {where}; fill the folders or correct {flag}")

    problems = []
    if lonely := sorted(images.keys() - alphas.keys(), key=natural_key):
        problems.append(f"{len(lonely)} without alpha ({shorten(lonely)})")
    if lonely := sorted(alphas.keys() - images.keys(), key=natural_key):
        problems.append(f"{len(lonely)} alphas without image ({shorten(lonely)})")
    for what, found in (("image", images), ("alpha", alphas)):
        if twice := names_twice(found):
            problems.append(f"{len(twice)} {what} names twice ({shorten(twice)})")
    if problems:
        raise UserError(f"{title}: {len(images)} images, {'; '.join(problems)} in {where}; rename, add or remove them")
    return [Pair(name, images[name][0], alphas[name][0]) for name in sorted(images, key=natural_key)]


def _with_trimaps(pairs: list[Pair], folders: list[list[Path]], title: str, flag: str) -> list[Pair]:
    """Adds the trimaps from the first folder that exists of each part of the tree; none, if there is no folder."""
    there = [next(filter(Path.is_dir, part)) for part in folders if any(map(Path.is_dir, part))]
    if not there:
        return pairs
    trimaps = collect(there)
    problems = []
    if lonely := [pair.name for pair in pairs if pair.name not in trimaps]:
        problems.append(f"{len(lonely)} without trimap ({shorten(lonely)})")
    if twice := names_twice({pair.name: trimaps.get(pair.name, []) for pair in pairs}):
        problems.append(f"{len(twice)} trimap names twice ({shorten(twice)})")
    if problems:
        where = shorten([str(folder.absolute()) for folder in there])
        raise UserError(
            f"{title}: {len(pairs)} images, {'; '.join(problems)} in {where}; complete the folder or correct {flag}"
        )
    return [pair._replace(trimap=trimaps[pair.name][0]) for pair in pairs]


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
            f"{len(problems)} of {len(pairs)} pairs cannot be used: {shorten(problems, '; ')}; "
            f"repair these files or remove both files of each pair"
        )


def _problem(pair: Pair, max_pixels: int) -> str:
    try:
        image = verify_image(pair.image, max_pixels=max_pixels)
        alpha = read_alpha(pair.alpha, max_pixels=max_pixels).shape  # decoded: a colour picture is no alpha
    except UserError as error:
        return str(error)
    return "" if image == alpha else sizes_differ(pair.image, image, pair.alpha, alpha)


def sizes_differ(path: Path, size: tuple[int, int], alpha: Path, alpha_size: tuple[int, int]) -> str:
    """What to say of a file whose size, (height, width), is not that of its true alpha."""
    return f"{path} is {size[1]}x{size[0]}, but its alpha {alpha} is {alpha_size[1]}x{alpha_size[0]}"


def read_pair(pair: Pair, *, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, np.ndarray]:
    """Reads rgb uint8 (H, W, 3) and alpha float32 (H, W) in [0, 1].

    Raises:
        UserError: a file cannot be read, or the two differ in size.
    """
    rgb = read_rgb(pair.image, max_pixels=max_pixels)
    alpha = read_alpha(pair.alpha, max_pixels=max_pixels)
    if rgb.shape[:2] != alpha.shape:
        raise UserError(f"{sizes_differ(pair.image, rgb.shape[:2], pair.alpha, alpha.shape)}; make them the same size")
    return rgb, alpha
