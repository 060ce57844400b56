"""Pairs of image and alpha in a dataset's tree; no torch, so that what scores mattes starts at once.

A pair is an image and an alpha whose paths below their folders are equal but for the extension.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from utils.errors import UserError
from utils.images import MAX_PIXELS, natural_key, read_alpha, read_rgb
from utils.layouts import BENCHMARKS, DATASETS, DatasetLayout
from utils.names import collect, names_twice, shorten

Item = TypeVar("Item")


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


class Listing(NamedTuple):
    """What is in the folders of a split.

    Attributes:
        pairs: Names that are there once as image and once as alpha, in natural order.
        images: How many image names there are.
        mismatches: Of each kind, name to the files of it: "no-alpha", "no-image", "image-twice", "alpha-twice"; and if
            there is a folder of trimaps, "no-trimap" and "trimap-twice" of the pairs.
        folders: (images, alphas), several where a split is pooled.
        trimap_folders: Those that are there.
    """

    pairs: list[Pair]
    images: int
    mismatches: dict[str, dict[str, list[Path]]]
    folders: list[tuple[Path, Path]]
    trimap_folders: list[Path]


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
    """Finds `name` among `valid`, ignoring case, dashes and underscores; raises UserError with one that is near."""
    keys = {_key(option): option for option in valid}
    if _key(name) in keys:
        return keys[_key(name)]
    nearest = difflib.get_close_matches(_key(name), keys, n=1)
    hint = f"did you mean {keys[nearest[0]]}? " if nearest else ""
    raise UserError(f"unknown {what} '{name}': {hint}choose one of {', '.join(valid)}")


def find_layout(dataset: str) -> DatasetLayout:
    """The layout of a dataset by its name, ignoring case, dashes and underscores.

    Raises:
        UserError: unknown name; the message has one that is near.
    """
    return DATASETS[_lookup(dataset, list(DATASETS), "dataset")]


def find_split(layout: DatasetLayout, split: str) -> str:
    """The split of a layout by its name, ignoring case, dashes and underscores.

    Raises:
        UserError: unknown name; the message has one that is near.
    """
    return _lookup(split, list(layout.splits), f"split of {layout.name}")


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
    return find_in_layout(Path(root), layout, find_split(layout, split), trimaps=trimaps)


def resolve_benchmark(name: str) -> tuple[str, DatasetLayout, str]:
    """A benchmark's name as tables print it, its dataset's layout, and the split it is.

    Args:
        name: a key of BENCHMARKS in any case, or DATASET/SPLIT, such as custom/val.

    Raises:
        UserError: unknown name; the message has one that is near.
    """
    if "/" in name:
        dataset, split = name.split("/", 1)
        layout = find_layout(dataset)
        split = find_split(layout, split)
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
    trust_root = _is_own_folder(Path(root), layout)
    return find_in_layout(Path(root), layout, split, trust_root=trust_root, trimaps=trimaps)


def list_benchmark(root: Path, name: str) -> Listing:
    """Lists what `find_benchmark` would find, with everything in it that does not match.

    Raises:
        NotFound, UserError: as `list_in_layout`.
    """
    _, layout, split = resolve_benchmark(name)
    return list_in_layout(Path(root), layout, split, trust_root=_is_own_folder(Path(root), layout))


def _is_own_folder(root: Path, layout: DatasetLayout) -> bool:
    named = any(_key(root.absolute().name).startswith(_key(alias)) for alias in (layout.name, *layout.aliases))
    return named or layout.name in _ANY_FOLDER


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
    listing = list_in_layout(root, layout, split, trust_root=trust_root, flag=flag)
    _require_matching(listing, f"{layout.name} {split}", flag, trimaps)
    return listing.pairs if trimaps else [pair._replace(trimap=None) for pair in listing.pairs]


def list_in_layout(
    root: Path, layout: DatasetLayout, split: str, *, trust_root: bool = True, flag: str = "--data-root"
) -> Listing:
    """Lists what `find_in_layout` would find, with everything in it that does not match.

    Raises:
        NotFound: no such place.
        UserError: there is nothing to list: a folder of the place is missing, or no image is in any.
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
                trimaps = [[owner / folder.format(part) for folder in layout.trimaps] for part in parts]
                there = [next(filter(Path.is_dir, part)) for part in trimaps if any(map(Path.is_dir, part))]
                return _list((whole or begun)[0], there, f"{layout.name} {split}", layout.exclude, flag)
    images, alphas = layout.folders[0]
    expected = [
        f"{Path(images.format(place)).as_posix()} with {Path(alphas.format(place)).as_posix()}"
        for place in (place.split(" + ")[0] for place in layout.splits[split])
    ]
    where = f"in {root.absolute()} and in a folder {layout.name} there, for {shorten(expected, ' or ')}"
    raise NotFound(_missing(layout, split, f"looked {where}; folders there: {folders_there(root)}", flag))


def _own_folders(root: Path, layout: DatasetLayout) -> list[Path]:
    """The folders in `root` that bear the dataset's name, its own name first."""
    aliases = [_key(alias) for alias in (layout.name, *layout.aliases)]
    children = [child for child in root.iterdir() if _key(child.name) in aliases and child.is_dir()]
    return sorted(children, key=lambda child: (aliases.index(_key(child.name)), child.name))


def _missing(layout: DatasetLayout, split: str, why: str, flag: str) -> str:
    source = f" (source: {layout.home})" if layout.home else ""
    demo = ", or run 'python train.py demo', which trains on embedded data" if flag == "--data-root" else ""
    return f"no {layout.name} {split} images: {why}; pass {flag} with the folder that holds them{source}{demo}"


def folders_there(root: Path) -> str:
    """The first few folders in a folder, in natural order; "none" if there are none."""
    found = [child.name for child in root.iterdir() if child.is_dir() and not child.name.startswith(".")]
    return shorten(sorted(found, key=natural_key), most=6) or "none"


def _list(tree: list[tuple[Path, Path]], trimap_folders: list[Path], title: str, exclude: str, flag: str) -> Listing:
    """Matches the images, alphas and trimaps of pooled folders by their paths without extension."""
    for part in tree:
        for folder, what in zip(part, ("images", "alphas"), strict=True):
            if not folder.is_dir():
                error = UserError if any(other.is_dir() for other in part) else NotFound
                raise error(f"{title}: no folder {folder.absolute()} for the {what}; add it or correct {flag}")
    images = collect([folder for folder, _ in tree], exclude)
    alphas = collect([folder for _, folder in tree], exclude)
    if not images and not alphas:
        raise UserError(f"{title}: no images in {_where(tree)}; fill the folders or correct {flag}")
    trimaps = collect(trimap_folders)

    names = sorted(images.keys() | alphas.keys(), key=natural_key)
    single = [name for name in names if len(images.get(name, ())) == len(alphas.get(name, ())) == 1]
    mismatches = {
        "no-alpha": {name: images[name] for name in names if name not in alphas},
        "no-image": {name: alphas[name] for name in names if name not in images},
        "image-twice": {name: images[name] for name in names if len(images.get(name, ())) > 1},
        "alpha-twice": {name: alphas[name] for name in names if len(alphas.get(name, ())) > 1},
    }
    if trimap_folders:
        mismatches["no-trimap"] = {name: images[name] for name in single if name not in trimaps}
        mismatches["trimap-twice"] = {name: trimaps[name] for name in single if len(trimaps.get(name, ())) > 1}
    pairs = [
        Pair(name, images[name][0], alphas[name][0], trimaps[name][0] if len(trimaps.get(name, ())) == 1 else None)
        for name in single
    ]
    return Listing(pairs, len(images), mismatches, tree, trimap_folders)


def _where(tree: list[tuple[Path, Path]]) -> str:
    return shorten([f"{image.absolute()} and {alpha.absolute()}" for image, alpha in tree])


def _require_matching(listing: Listing, title: str, flag: str, trimaps: bool) -> None:
    """Raises UserError, one line that counts and names them, if files do not match one to one."""
    problems = _described(
        listing,
        {
            "no-alpha": "{} without alpha ({})",
            "no-image": "{} alphas without image ({})",
            "image-twice": "{} image names twice ({})",
            "alpha-twice": "{} alpha names twice ({})",
        },
    )
    if problems:
        where = _where(listing.folders)
        raise UserError(f"{title}: {listing.images} images, {problems} in {where}; rename, add or remove them")
    problems = _described(
        listing, {"no-trimap": "{} without trimap ({})", "trimap-twice": "{} trimap names twice ({})"}
    )
    if trimaps and problems:
        where = shorten([str(folder.absolute()) for folder in listing.trimap_folders])
        raise UserError(
            f"{title}: {listing.images} images, {problems} in {where}; complete the folder or correct {flag}"
        )


def _described(listing: Listing, texts: dict[str, str]) -> str:
    """How many names there are of each kind of mismatch, with the first few."""
    problems = []
    for kind, text in texts.items():
        if found := listing.mismatches.get(kind):
            problems.append(text.format(len(found), shorten(names_twice(found) if "twice" in kind else list(found))))
    return "; ".join(problems)


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


def evenly_spaced(items: Sequence[Item], number: int) -> list[Item]:
    """At most `number` of the items, from the first to the last: a sorted list begins with one kind of picture."""
    indices = np.linspace(0, len(items) - 1, min(number, len(items))).round().astype(int)
    return [items[index] for index in indices]
