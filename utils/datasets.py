"""Where each dataset keeps its pairs, and the pairs as samples whose randomness does not depend on workers.

A dataset is a tree of image and alpha folders. `DATASETS` lists the trees each one is published in, tried in order;
a pair is an image and an alpha whose paths below those folders are equal but for the extension.
"""

import difflib
import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from utils.errors import UserError
from utils.images import MAX_PIXELS, image_size, list_images, natural_key, read_alpha, read_rgb

_NAMED = 3  # how many file names an error lists before it counts the rest


class Pair(NamedTuple):
    """An image file and its alpha file; `name` is their common path below their folders, without extension."""

    name: str
    image: Path
    alpha: Path


class Sample(NamedTuple):
    """What the loader yields: image float32 (3, H, W) normalised, alpha float32 (1, H, W) in [0, 1], name."""

    image: torch.Tensor
    alpha: torch.Tensor
    name: str


# ---------------------------------------------------------------------------------------------------- registry


@dataclass(frozen=True)
class DatasetLayout:
    """The trees a dataset is found in.

    Attributes:
        name: as the papers write it.
        splits: split name to the places it may be in, tried in order. A place is a folder below the dataset's own
            folder, or several joined by " + " that are pooled.
        folders: (images, alphas) below a place, tried in order; "{}" stands for the place.
        aliases: other names the dataset's own folder is known by.
        home: where to get it; empty if nowhere.
        licence: in a few words, with the file that says so.
        exclude: pattern of file names that are no samples.
        note: what a user of the splits should know.
    """

    name: str
    splits: dict[str, tuple[str, ...]]
    folders: tuple[tuple[str, str], ...]
    home: str = ""
    licence: str = "see home page"
    aliases: tuple[str, ...] = ()
    exclude: str = ""
    note: str = ""


_IM_GT = ("{}/im", "{}/gt")  # DIS5K's own, also how BiRefNet packs every set, and what we write ourselves
_IMAGES_MASKS = ("{}/images", "{}/masks")  # InSPyReNet and PDFNet
_TEST_AS_VAL = "no validation set is published: val is the test set, so a best checkpoint is chosen on it"


def _pooled(pattern: str) -> str:
    return " + ".join(pattern.format(i) for i in (1, 2, 3, 4))


_HRS10K_TEST = ("TE-HRS10K", "test")
_HRSOD_TEST = ("TE-HRSOD", "HRSOD_TEsets/TE-HRSOD", "HRSOD_test", "HRSOD-TE", "test")
_UHRSD_TEST = ("UHRSD_TE_2K", "UHRSD_TE", "TE-UHRSD", "HRSOD_TEsets/TE-UHRSD", "UHRSD-TE", "test")
_COD10K_TEST = ("Test", "TestDataset/COD10K", "TE-COD10K", "COD_TEsets/TE-COD10K", "test")
_CUSTOM_SPLITS = {"train": ("train",), "val": ("val",), "test": ("test", ".")}

_LAYOUTS = (
    DatasetLayout(
        name="DIS5K",
        splits={
            "train": ("DIS-TR", "train"),
            "val": ("DIS-VD", "val"),
            "test": (_pooled("DIS-TE{}"), "test", _pooled("test/DIS-TE{}")),
            "DIS-VD": ("DIS-VD", "val"),
            "DIS-TE1": ("DIS-TE1", "test/DIS-TE1"),
            "DIS-TE2": ("DIS-TE2", "test/DIS-TE2"),
            "DIS-TE3": ("DIS-TE3", "test/DIS-TE3"),
            "DIS-TE4": ("DIS-TE4", "test/DIS-TE4"),
        },
        folders=(_IM_GT, _IMAGES_MASKS),
        aliases=("DIS5K_Flat", "DIS-DATA"),
        home="https://github.com/xuebinqin/DIS",
        licence="non-commercial research (DIS5K-Dataset-Terms-of-Use.pdf at the home page)",
    ),
    DatasetLayout(
        name="HRS10K",
        splits={"train": ("TR-HRS10K", "train"), "val": _HRS10K_TEST, "test": _HRS10K_TEST},
        # The release names the split in every folder, and has a copy reduced to 2560 px beside the originals.
        folders=(
            _IM_GT,
            ("{0}/img_{0}", "{0}/label_{0}"),
            ("{0}/img_{0}_2560max", "{0}/label_{0}_2560max"),
            ("img_{}", "label_{}"),
            ("img_{}_2560max", "label_{}_2560max"),
        ),
        aliases=("HR10K",),
        home="https://github.com/DrowsyMon/RMFormer",
        note=_TEST_AS_VAL,
    ),
    DatasetLayout(
        name="HRSOD",
        splits={
            "train": ("TR-HRSOD", "HRSOD_TRsets/TR-HRSOD", "HRSOD_train", "HRSOD-TR", "train"),
            "val": _HRSOD_TEST,
            "test": _HRSOD_TEST,
        },
        folders=(_IM_GT, _IMAGES_MASKS, ("{}", "{}_mask")),
        aliases=("HRSOD_release",),
        home="https://github.com/yi94code/HRSOD",
        note=_TEST_AS_VAL,
    ),
    DatasetLayout(
        name="UHRSD",
        splits={
            "train": ("UHRSD_TR_2K", "UHRSD_TR", "TR-UHRSD", "HRSOD_TRsets/TR-UHRSD", "UHRSD-TR", "train"),
            "val": _UHRSD_TEST,
            "test": _UHRSD_TEST,
        },
        folders=(("{}/image", "{}/mask"), _IM_GT, _IMAGES_MASKS),
        home="https://github.com/iCVTEAM/PGNet",
        note=_TEST_AS_VAL,
    ),
    DatasetLayout(
        name="COD10K",
        splits={
            "train": ("Train", "TrainDataset", "TrainValDataset", "TR-COD10K", "COD_TRsets/TR-COD10K", "train"),
            "val": _COD10K_TEST,
            "test": _COD10K_TEST,
        },
        folders=(("{}/Image", "{}/GT_Object"), ("{}/Imgs", "{}/GT"), ("{}/Image", "{}/GT"), _IM_GT),
        aliases=("COD10K-v3",),
        home="https://github.com/DengPingFan/SINet",
        exclude="COD10K-NonCAM-*",  # photographs without a camouflaged object; the published test set has 2026 with one
        note=f"{_TEST_AS_VAL}; TrainDataset and TrainValDataset, as SINet publishes them, hold CAMO's images too",
    ),
    DatasetLayout(
        name="P3M-10K",
        splits={
            "train": ("train", "TR-P3M-10k"),
            "val": ("validation/P3M-500-P", "validation1", "TE-P3M-500-P", "val"),
            "test": ("validation/P3M-500-NP", "validation2", "TE-P3M-500-NP", "test"),
            "P3M-500-P": ("validation/P3M-500-P", "validation1", "TE-P3M-500-P", "val"),
            "P3M-500-NP": ("validation/P3M-500-NP", "validation2", "TE-P3M-500-NP", "test"),
        },
        folders=(("{}/blurred_image", "{}/mask"), ("{}/original_image", "{}/mask"), _IM_GT),
        home="https://github.com/JizhiziLi/P3M",
        licence="release agreement, MIT (README.md at the home page)",
        note="both published sets are called validation: val is P3M-500-P, test is P3M-500-NP",
    ),
    DatasetLayout(
        name="AIM-500",
        splits={"test": (".", "validation", "test")},
        folders=(("{}/original", "{}/mask"), _IM_GT),
        home="https://github.com/JizhiziLi/AIM",
        licence="release agreement, MIT (core/README.md at the home page)",
        note="a test set only",
    ),
    DatasetLayout(
        name="AM-2K",
        splits={
            "train": ("train", "TR-AM-2k"),
            "val": ("validation", "TE-AM-2k", "val"),
            "test": ("validation", "TE-AM-2k", "val"),
        },
        folders=(("{}/original", "{}/mask"), _IM_GT),
        home="https://github.com/JizhiziLi/GFM",
        licence="release agreement, MIT (core/README.md at the home page)",
        note="one validation set is published: val and test are the same",
    ),
    DatasetLayout(
        name="PPM-100",
        splits={"test": (".", "test")},
        folders=(("{}/image", "{}/matte"), _IM_GT),
        home="https://github.com/ZHKKKe/PPM",
        licence="mattes CC BY-NC-SA 4.0, photographs Flickr Creative Commons (README.md at the home page)",
        note="a test set only",
    ),
    DatasetLayout(
        name="Custom",
        splits=_CUSTOM_SPLITS,
        folders=(_IM_GT,),
        licence="yours",
    ),
    DatasetLayout(
        name="Embedded",
        splits=_CUSTOM_SPLITS,
        folders=(_IM_GT,),
        licence="MIT, as the code that draws it",
    ),
)

DATASETS: dict[str, DatasetLayout] = {layout.name: layout for layout in _LAYOUTS}

BENCHMARKS: dict[str, tuple[str, str]] = {
    "DIS-VD": ("DIS5K", "DIS-VD"),
    "DIS-TE1": ("DIS5K", "DIS-TE1"),
    "DIS-TE2": ("DIS5K", "DIS-TE2"),
    "DIS-TE3": ("DIS5K", "DIS-TE3"),
    "DIS-TE4": ("DIS5K", "DIS-TE4"),
    "DIS-TE": ("DIS5K", "test"),
    "HRS10K": ("HRS10K", "test"),
    "HRSOD": ("HRSOD", "test"),
    "UHRSD": ("UHRSD", "test"),
    "COD10K": ("COD10K", "test"),
    "P3M-500-P": ("P3M-10K", "P3M-500-P"),
    "P3M-500-NP": ("P3M-10K", "P3M-500-NP"),
    "AIM-500": ("AIM-500", "test"),
    "AM-2K": ("AM-2K", "test"),
    "PPM-100": ("PPM-100", "test"),
    "Custom": ("Custom", "test"),
    "Embedded": ("Embedded", "val"),
}

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


# ---------------------------------------------------------------------------------------------------- pairs


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
    layout = DATASETS[_lookup(dataset, list(DATASETS), "dataset")]
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
    layout = DATASETS[_lookup(dataset, list(DATASETS), "dataset")]
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


def check_sizes(pairs: Sequence[Pair], num_workers: int = 8) -> None:
    """Compares the sizes of every image and its alpha, reading headers only.

    Args:
        pairs: what `find_pairs` returned.
        num_workers: threads that read.

    Raises:
        UserError: sizes differ, or a header cannot be read; one line that counts and names them.
    """
    with ThreadPoolExecutor(max(1, num_workers)) as executor:
        problems = [problem for problem in executor.map(_size_problem, pairs) if problem]
    if problems:
        raise UserError(
            f"{len(problems)} of {len(pairs)} pairs cannot be used: {_shorten(problems, '; ')}; "
            f"repair these files or remove both files of each pair"
        )


def _size_problem(pair: Pair) -> str:
    try:
        image, alpha = image_size(pair.image), image_size(pair.alpha)
    except UserError as error:
        return str(error)
    if image == alpha:
        return ""
    return f"{pair.image} is {image[1]}x{image[0]} but {pair.alpha} is {alpha[1]}x{alpha[0]}"


def _shorten(names: Sequence[str], separator: str = ", ") -> str:
    """Joins the first few names and counts the rest."""
    rest = len(names) - _NAMED
    return separator.join(names[:_NAMED]) + (f"{separator}{rest} more" if rest > 0 else "")


# ---------------------------------------------------------------------------------------------------- samples

Transform = Callable[[np.ndarray, np.ndarray, torch.Generator], tuple[torch.Tensor, torch.Tensor]]


class MattingDataset(Dataset[Sample]):
    """Reads pairs and transforms them.

    A sample is a function of (seed, epoch, index) alone: not of the worker that makes it, nor of what was made before.

    Args:
        pairs: what to read.
        transform: called with rgb uint8 (H, W, 3), alpha float32 (H, W) in [0, 1] and the sample's own generator,
            from which all its randomness must come; returns image float32 (3, h, w) normalised and alpha float32
            (1, h, w) in [0, 1].
        seed: of the run.
        max_pixels: largest file that is decoded.
    """

    def __init__(
        self, pairs: Sequence[Pair], transform: Transform, *, seed: int = 0, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.pairs = list(pairs)
        self.transform = transform
        self.seed = seed
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """Makes a sample.

        Args:
            key: (epoch, index) as EpochSampler yields it, or an index, meaning epoch 0.

        Raises:
            UserError: a file cannot be read, or image and alpha differ in size.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        pair = self.pairs[index]
        rgb = read_rgb(pair.image, max_pixels=self.max_pixels)
        alpha = read_alpha(pair.alpha, max_pixels=self.max_pixels)
        if rgb.shape[:2] != alpha.shape:
            raise UserError(
                f"{pair.image} is {rgb.shape[1]}x{rgb.shape[0]} but its alpha {pair.alpha} is "
                f"{alpha.shape[1]}x{alpha.shape[0]}; make them the same size"
            )
        image, alpha = self.transform(rgb, alpha, seeded_generator(self.seed, epoch, index))
        return Sample(image, alpha, pair.name)


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index) keys, each index once an epoch, in an order that is a function of (seed, epoch).

    The epoch travels in the key because workers hold a copy of the dataset made before the epoch began.

    Args:
        length: number of samples.
        seed: of the run.
        shuffle: off: ascending order.
    """

    def __init__(self, length: int, *, seed: int = 0, shuffle: bool = True) -> None:
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Selects the epoch, from 0, that the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = torch.arange(self.length)
        if self.shuffle:
            order = torch.randperm(self.length, generator=seeded_generator(self.seed, self.epoch))
        return iter([(self.epoch, index) for index in order.tolist()])


def seeded_generator(*numbers: int) -> torch.Generator:
    """A generator that is a function of `numbers`, equal on every machine and in every process.

    Sums such as seed + epoch would give epoch 1 of seed 0 the samples of epoch 0 of seed 1; Python's hash() differs
    from process to process.
    """
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
