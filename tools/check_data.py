"""Checks a dataset before training: damaged files, sizes that differ, doubtful mattes, photographs there twice.

python -m tools.check_data --data-root DIR [--dataset NAME] [--splits train val] [--output data_check]

Prints what is wrong and what to do, and writes two files to the output folder, replacing those of an earlier check:
problems.csv, a row a problem, and contact_sheet.png, pairs with problems first (red: cannot be used, amber: doubtful).
The dataset itself is not touched. What was read is remembered, so that a second check reads changed files only.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from config import RUNS, CheckConfig, parse_cli
from utils.checks import DataCheck, FoundDataset, cache_file, check_dataset, list_dataset
from utils.contact_sheet import AMBER, NEUTRAL, RED, Tile, contact_sheet, matte_overlay
from utils.encoding import write_image
from utils.errors import UserError, printable, run_script
from utils.files import require_apart, require_writable
from utils.images import image_size, quantise, read_alpha, read_rgb
from utils.pairs import Pair, evenly_spaced, folders_there
from utils.parallel import cpu_cores, in_threads
from utils.problems import Problem, write_problems
from utils.shrinking import shrink_to_fit

TILE_PX = 280
GOOD = 5  # of so many pairs on the sheet, one has no problem: to compare with

LEGEND = "right: the photograph with its matte, purple what it removes, yellow its edge"


def main() -> int:
    options = parse_cli(CheckConfig, prog="python -m tools.check_data", description=__doc__)
    dataset = list_dataset(options.data_root, options.dataset, options.splits)
    require_apart(options.output, "--output", folders(dataset), may_hold=True)
    require_writable(options.output, "--output")
    check = check_dataset(
        dataset,
        max_pixels=options.max_pixels,
        num_workers=options.num_workers,
        cache=cache_file(RUNS / ".data_checks", dataset.root),
        recheck=options.recheck,
    )
    print(check.summary())
    write_problems(options.output / "problems.csv", check.problems)
    print(f"problems: {options.output / 'problems.csv'}")
    if options.sheet_pairs:
        write_image(options.output / "contact_sheet.png", draw(check, options.sheet_pairs, options.max_pixels))
        print(f"contact sheet: {options.output / 'contact_sheet.png'}")
    status = verdict(check, skip=options.on_bad == "skip")
    return max(status, 0 if options.splits else require_splits(dataset))


def folders(dataset: FoundDataset) -> Iterator[Path]:
    """The folders its files lie in."""
    for listing in dataset.splits.values():
        yield from (folder for images_and_alphas in listing.folders for folder in images_and_alphas)
        yield from listing.trimap_folders


def verdict(check: DataCheck, *, skip: bool) -> int:
    """Says whether one can train on this, and gives the exit status."""
    left = ", ".join(f"{len(pairs)} pairs of {split}" for split, pairs in check.pairs.items())
    empty = [split for split, pairs in check.pairs.items() if not pairs]
    if empty:
        print(f"nothing to train on: no usable pair of {' and '.join(empty)}")
        return 1
    if not check.errors():
        return 0
    print(f"training with --on-bad skip uses {left}")
    return 0 if skip else 1


def require_splits(dataset: FoundDataset) -> int:
    """Says which split train.py would look for in vain, or could not use, and gives the exit status."""
    if "train" not in dataset.layout.splits:  # a test set only, which nobody trains on
        return 0
    there = {*dataset.splits, *dataset.same}
    held_out = ["val", "test"] if dataset.layout.name == "Custom" else ["val"]
    faults = []
    for wanted in (["train"], held_out):
        if broken := dataset.broken.keys() & set(wanted) - {"test"}:
            faults.append(f"{''.join(broken)} cannot be used ({dataset.broken[min(broken)]})")
        elif not there & set(wanted):
            faults.append(f"no {' or '.join(f'{dataset.layout.splits[split][0]}/' for split in wanted)} found")
    if not faults:
        return 0
    here = folders_there(dataset.root)
    print(printable(f"{'; '.join(faults)}: train.py cannot use this; folders here: {here}"))
    return 1


# ------------------------------------------------------------------------------------------------ the contact sheet


def draw(check: DataCheck, count: int, max_pixels: int) -> np.ndarray:
    """The contact sheet, uint8 (H, W, 3): up to `count` pairs with problems, then others, evenly spaced."""
    named = {(problem.split, problem.name) for problem in check.problems}
    good = [
        (split, pair)
        for split in check.dataset.splits
        for pair in check.pairs[split]
        if (split, pair.name) not in named
    ]
    most = count - min(len(good), count // GOOD)
    faulty = one_of_each_kind_first(check.problems, most)[:most]
    calls = [(faulty_tile, (problems, check, max_pixels)) for problems in faulty]
    calls += [(good_tile, (*each, max_pixels)) for each in evenly_spaced(good, count - len(faulty))]
    tiles = list(in_threads(lambda call: call[0](*call[1]), calls, desc="draw", unit="pair", num_workers=cpu_cores()))
    errors = len({(problem.split, problem.name) for problem in check.errors()})
    counts = f"{errors} cannot be used (red), {len(named) - errors} doubtful (amber), {len(good)} others"
    title = f"{check.dataset.root}: {counts}; {len(tiles)} shown"
    return contact_sheet(tiles, tile_px=TILE_PX, title=title, legend=LEGEND)


def one_of_each_kind_first(problems: Sequence[Problem], most: int) -> list[list[Problem]]:
    """The problems of each pair: first a pair of every kind, then a second of every kind, errors before warnings.

    Args:
        problems: As a check lists them.
        most: Pairs of a kind; of more, these many, evenly spaced.
    """
    of_pair: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        of_pair.setdefault((problem.split, problem.name), []).append(problem)
    of_kind: dict[str, list[list[Problem]]] = {}
    for each in of_pair.values():
        of_kind.setdefault(each[0].kind, []).append(each)
    rounds = [
        (each[0].severity == "warning", turn, each)
        for pairs in of_kind.values()
        for turn, each in enumerate(evenly_spaced(pairs, most))
    ]
    return [each for *_, each in sorted(rounds, key=lambda place: place[:2])]


def faulty_tile(problems: list[Problem], check: DataCheck, max_pixels: int) -> Tile:
    """Photograph and matte of a pair with problems, or why they cannot be shown; of a copy, both photographs."""
    first = problems[0]
    kinds = ", ".join(dict.fromkeys(problem.kind for problem in problems))
    caption = f"{kinds} · {first.split}/{first.name}"
    colour = RED if first.severity == "error" else AMBER
    if first.other is not None:
        both = (photograph(first.file, max_pixels), photograph(first.other, max_pixels))
        return Tile(f"{caption} = {first.other.name}", both, colour)
    listing = check.dataset.splits[first.split]
    pair = next((pair for pair in listing.pairs if pair.name == first.name), None)
    if first.kind == "other-type":
        return Tile(caption, (below(printable(first.message), check),), colour)
    if pair is None:
        pictures = (photograph(first.file, max_pixels), printable(first.message))
        return Tile(caption, tuple(below(each, check) for each in pictures), colour)
    if any(problem.kind == "size-differs" for problem in problems):
        sizes = " and ".join(f"{width}x{height}" for height, width in map(image_size, (pair.image, pair.alpha)))
        caption = f"{kinds}: {sizes} · {first.split}/{first.name}"
    return Tile(caption, tuple(below(each, check) for each in views(pair, max_pixels)), colour)


def below(picture: np.ndarray | str, check: DataCheck) -> np.ndarray | str:
    """A reason with its paths below the dataset's root, which the title names; pictures as they are."""
    return picture.replace(f"{printable(str(check.dataset.root))}/", "") if isinstance(picture, str) else picture


def good_tile(split: str, pair: Pair, max_pixels: int) -> Tile:
    """Photograph, and matte drawn over it."""
    return Tile(f"{split}/{pair.name}", views(pair, max_pixels), NEUTRAL)


def views(pair: Pair, max_pixels: int) -> tuple[np.ndarray | str, np.ndarray | str]:
    """Photograph and overlay, small; the alpha alone if its size is another; a reason where a file cannot be read."""
    rgb = photograph(pair.image, max_pixels)
    try:
        alpha = read_alpha(pair.alpha, max_pixels=max_pixels)
    except UserError as error:
        return rgb, printable(str(error))
    small = shrink_to_fit(alpha, TILE_PX)
    if isinstance(rgb, str) or image_size(pair.image) != alpha.shape:  # of the files: shrunk, they may be the same
        return rgb, quantise(small)
    return rgb, matte_overlay(rgb, small)


def photograph(path: Path, max_pixels: int) -> np.ndarray | str:
    """A photograph, small, uint8 (H, W, 3); a reason if it cannot be read."""
    try:
        return shrink_to_fit(read_rgb(path, max_pixels=max_pixels), TILE_PX)
    except UserError as error:
        return printable(str(error))


if __name__ == "__main__":
    run_script(main)
