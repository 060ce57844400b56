"""Checks a dataset before training: damaged files, sizes that differ, doubtful mattes, photographs there twice.

python -m tools.check_data --data-root DIR [--dataset NAME] [--splits train val] [--output data_check]

Prints what is wrong and what to do, and writes two files to the output folder, replacing those of an earlier check:
problems.csv, a row a problem, and contact_sheet.png, pairs with problems first (red: cannot be used, amber: doubtful).
The dataset itself is not touched. What was read is remembered, so that a second check reads changed files only.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from config import RUNS, CheckConfig, parse_cli
from utils.checks import DataCheck, Dataset, cache_file, check_dataset, list_dataset
from utils.contact_sheet import AMBER, NEUTRAL, RED, Tile, contact_sheet, matte_overlay
from utils.errors import UserError, printable, run_script
from utils.files import require_writable
from utils.gallery import shrink
from utils.images import quantise, read_alpha, read_rgb, write_image
from utils.pairs import Pair
from utils.parallel import cpu_cores, ordered_map
from utils.problems import Problem, write_problems
from utils.progress import progress

TILE_PX = 280
GOOD = 5  # of so many pairs on the sheet, one has no problem: to compare with

Item = TypeVar("Item")


def main() -> int:
    options = parse_cli(CheckConfig, prog="python -m tools.check_data", description=__doc__)
    dataset = list_dataset(options.data_root, options.dataset, options.splits)
    refuse_inputs(options.output, dataset)
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
    return verdict(check, skip=options.on_bad == "skip")


def refuse_inputs(output: Path, dataset: Dataset) -> None:
    """Raises UserError if the output is a folder of the dataset's files, or in one."""
    there = Path(os.path.realpath(output))
    for listing in dataset.splits.values():
        for folder in (*(each for pair in listing.folders for each in pair), *listing.trimap_folders):
            if there.is_relative_to(os.path.realpath(folder)):
                raise UserError(f"--output {output} is in {folder}, a folder of the dataset; choose another folder")


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
    calls += [(good_tile, (*each, max_pixels)) for each in spread(good, count - len(faulty))]
    with ThreadPoolExecutor(cpu_cores()) as executor:
        drawn = ordered_map(lambda call: call[0](*call[1]), calls, executor=executor, ahead=2 * cpu_cores())
        tiles = list(progress(drawn, total=len(calls), desc="draw", unit="pair"))
    errors = len({(problem.split, problem.name) for problem in check.errors()})
    counts = f"{errors} cannot be used (red), {len(named) - errors} doubtful (amber), {len(good)} others"
    title = f"{check.dataset.root}: {counts}; {len(tiles)} shown"
    return contact_sheet(tiles, tile_px=TILE_PX, title=title)


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
        for turn, each in enumerate(spread(pairs, most))
    ]
    return [each for *_, each in sorted(rounds, key=lambda place: place[:2])]


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of the items, evenly spaced; all, if there are no more."""
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[place] for place in places]


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
    if pair is None:
        return Tile(caption, (photograph(first.file, max_pixels), printable(first.message)), colour)
    return Tile(caption, views(pair, max_pixels), colour)


def good_tile(split: str, pair: Pair, max_pixels: int) -> Tile:
    """Photograph, and matte drawn over it."""
    return Tile(f"{split}/{pair.name}", views(pair, max_pixels), NEUTRAL)


def views(pair: Pair, max_pixels: int) -> tuple[np.ndarray | str, np.ndarray | str]:
    """Photograph and overlay, small; the alpha alone where it does not fit; a reason where a file cannot be read."""
    rgb = photograph(pair.image, max_pixels)
    try:
        alpha = read_alpha(pair.alpha, max_pixels=max_pixels)
    except UserError as error:
        return rgb, printable(str(error))
    alpha = shrink(alpha, TILE_PX)
    if isinstance(rgb, str) or rgb.shape[:2] != alpha.shape:
        return rgb, quantise(alpha)
    return rgb, matte_overlay(rgb, alpha)


def photograph(path: Path, max_pixels: int) -> np.ndarray | str:
    """A photograph, small, uint8 (H, W, 3); a reason if it cannot be read."""
    try:
        return shrink(read_rgb(path, max_pixels=max_pixels), TILE_PX)
    except UserError as error:
        return printable(str(error))


if __name__ == "__main__":
    run_script(main)
