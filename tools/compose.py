"""Makes a set of composites, as Deep Image Matting does: every foreground over several new backgrounds.

    python -m tools.compose --foregrounds F --alphas A --backgrounds B --output SET --per-foreground 20

SET/train (and SET/test, with --test-share) get im/, gt/, trimap/ and manifest.json, and `train.py --dataset custom
--data-root SET` finds them. It trains on train/ and validates on test/: to train, add --test-share 0.1, or a val/ of
your own. The subjects' own colours are solved first: their soft edges hold the old background, which
would bleed through. Cut-outs (without --alphas; their A channel is the alpha) hold their own colours.
Composites that are there are kept, so an interrupted run can simply be started again; an input that changed is told by
its size in bytes. What cannot be read is named at the end (status 1).
"""

import os
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from config import ComposeConfig, parse_cli
from utils.backgrounds import damaged
from utils.composed_folder import SPLITS, ComposedSet, begin, find_finished, finish
from utils.composition import (
    Made,
    PlannedSubject,
    Recipe,
    Source,
    composite_paths,
    deal,
    is_opaque,
    make_composites,
    plan_subject,
    split_names,
)
from utils.contact_sheet import RED, Tile, contact_sheet
from utils.encoding import write_image
from utils.errors import UserError, printable, report_failures, run_script
from utils.files import require_apart, require_writable
from utils.foreground import ForegroundMethod, require_method
from utils.images import image_size, quantise, read_alpha, read_rgb
from utils.names import counted, index_images, match_names, shorten
from utils.parallel import in_processes
from utils.problems import WARNINGS
from utils.seeds import seeded_rng

VERSION = 3  # of the pictures: raise it with every change of what the same files and settings give
BYTES_A_PIXEL = {"png": 1.7, "jpg": 0.5}  # of a composite, its alpha and its trimap, about
EMPTY_AT = {"train": 1, "test": 0}  # the --test-share that leaves a split without foregrounds
SHEET_TILES = 12


class PlannedSets(NamedTuple):
    """What will be made.

    Attributes:
        subjects: By split, the foregrounds with their composites.
        files: By split, how many foregrounds and backgrounds there are.
        failed: The foregrounds whose header cannot be read, a line each.
    """

    subjects: dict[str, list[PlannedSubject]]
    files: dict[str, dict[str, int]]
    failed: list[str]


class PendingSubject(NamedTuple):
    """A foreground with the composites that are still to be made, and the folder of its split."""

    subject: PlannedSubject
    folder: Path


def main() -> int:
    options = parse_cli(ComposeConfig, prog="python -m tools.compose", description=__doc__)
    require_folders_apart(options)
    recipe = Recipe(
        options.seed, solve_method(options), options.trimap_kernel_px, options.image_format, options.max_side
    )
    subjects, files, failed = plan_sets(options, recipe)
    wanted = {
        split: ComposedSet(settings(options, recipe), describe_composites(subjects[split], options), files[split])
        for split in SPLITS
    }
    finished = find_finished(options.output, wanted, overwrite=options.overwrite, flag="--output")
    todo = [each for split in SPLITS for each in pending(subjects[split], options.output / split, recipe, finished)]
    require_whole_backgrounds(options, todo)
    require_writable(options.output, "--output")
    if options.contact_sheet:
        require_writable(options.contact_sheet.parent, "--contact-sheet")
    print(forecast(subjects, todo, recipe))

    begin(options.output, wanted, overwrite=options.overwrite)
    make = partial(make_pending, options=options, recipe=recipe)
    results = list(in_processes(make, todo, desc="compose", unit="foreground", num_workers=options.num_workers))
    for split, count in finish(options.output, wanted).items():
        print(f"{options.output / split}: {count} of {counted(len(wanted[split].composites), 'composite')}")
    for note in notes(results, options):
        print(f"note: {printable(note)}")
    status = report_failures([*failed, *(line for result in results for line in failures(result))])
    if options.contact_sheet:
        reasons = {name: reason for result in results for name, reason in result.failed.items()}
        write_image(options.contact_sheet, draw_sheet(subjects, reasons, options))
        print(f"contact sheet {options.contact_sheet}")
    return status


def make_pending(left: PendingSubject, *, options: ComposeConfig, recipe: Recipe) -> Made:
    """Makes the composites of one foreground."""
    return make_composites(
        left.subject, folder=left.folder, backgrounds=options.backgrounds, recipe=recipe, max_pixels=options.max_pixels
    )


# ------------------------------------------------------------------------------------------------- before the work


def require_folders_apart(options: ComposeConfig) -> None:
    """Raises UserError if a result would be written among the inputs, or an input is given twice."""
    inputs = [folder for folder in (options.foregrounds, options.alphas, options.backgrounds) if folder]
    sets = [options.output / split for split in SPLITS]
    for folder in sets:
        require_apart(folder, "--output", inputs)
    if options.contact_sheet:
        require_apart(options.contact_sheet, "--contact-sheet", [*inputs, *sets])
    if os.path.realpath(options.foregrounds) == os.path.realpath(options.backgrounds):
        raise UserError("--foregrounds and --backgrounds are the same folder: backgrounds must not show the subjects")


def solve_method(options: ComposeConfig) -> ForegroundMethod | Literal["none"]:
    """The method that solves the foregrounds' colours, or "none"; raises UserError where it cannot be used."""
    method = options.solve or ("none" if options.alphas is None else "blur-fusion")
    if method == "none":
        return method
    if options.alphas is None:
        raise UserError(
            f"--solve {method} needs the photographs, with --alphas; what cut-outs show is their own colour already: "
            f"add --solve none"
        )
    require_method(method)
    return method


def plan_sets(options: ComposeConfig, recipe: Recipe) -> PlannedSets:
    """Deals the backgrounds; raises UserError where there are too few, or damaged ones, or no foregrounds."""
    sources = find_sources(options)
    backgrounds = index_images(options.backgrounds, "--backgrounds")
    foreground_names = split_names(list(sources), options.test_share, options.seed, "foreground")
    background_names = split_names(list(backgrounds), options.test_share, options.seed, "background")
    dealt: dict[str, dict[str, list[str]]] = {}
    for split in SPLITS:
        names, packs = foreground_names[split], background_names[split]
        if not names and options.test_share != EMPTY_AT[split]:
            raise UserError(
                f"--test-share {options.test_share:g}: the lot gives no foreground to "
                f"{split}/; choose another share or --seed"
            )
        if names and len(packs) < options.per_foreground:
            raise UserError(
                f"--per-foreground {options.per_foreground}: {split}/ has only {counted(len(packs), 'background')} in "
                f"{options.backgrounds}; lower it, or add backgrounds"
            )
        dealt[split] = deal(names, packs, options.per_foreground, seeded_rng(options.seed, "deal", split))
    used = {each for hands in dealt.values() for hand in hands.values() for each in hand}
    sizes = background_sizes(backgrounds, used)
    subjects: dict[str, list[PlannedSubject]] = {split: [] for split in SPLITS}
    failed = []
    for split in SPLITS:
        for name, hand in dealt[split].items():
            seen = {backgrounds[each].relative_to(options.backgrounds).as_posix(): sizes[each] for each in hand}
            try:
                subjects[split].append(plan_subject(name, sources[name], seen, recipe))
            except UserError as error:
                failed.append(str(error))
    files = {
        split: {"foregrounds": len(foreground_names[split]), "backgrounds": len(background_names[split])}
        for split in SPLITS
    }
    return PlannedSets(subjects, files, failed)


def find_sources(options: ComposeConfig) -> dict[str, Source]:
    """The foregrounds by name, in natural order.

    Raises:
        UserError: There is none, or some have no alpha.
    """
    images = index_images(options.foregrounds, "--foregrounds")
    if options.alphas is not None:
        alphas, missing = match_names(list(images), options.alphas, "--alphas")
        if missing:
            raise UserError(
                f"--alphas {options.alphas}: {len(missing)} of {len(images)} foregrounds have none "
                f"({shorten(missing)}); add them, or remove these foregrounds"
            )
        return {name: Source(images[name], alphas[name]) for name in images}
    if opaque := [path.name for path in images.values() if is_opaque(path)]:
        raise UserError(
            f"--foregrounds {options.foregrounds}: {len(opaque)} of {len(images)} have no alpha channel "
            f"({shorten(opaque)}); give their alphas with --alphas"
        )
    return {name: Source(path, None) for name, path in images.items()}


def background_sizes(backgrounds: dict[str, Path], names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """(height, width) in pixels of the named backgrounds; raises UserError naming those whose header is damaged."""
    sizes, problems = {}, []
    for name in sorted(names):
        try:
            sizes[name] = image_size(backgrounds[name])
        except UserError as error:
            problems.append(str(error))
    refuse_backgrounds(problems)
    return sizes


def require_whole_backgrounds(options: ComposeConfig, todo: list[PendingSubject]) -> None:
    """Raises UserError naming the damaged ones of the backgrounds that are still to be read."""
    names = {composite.background for each in todo for composite in each.subject.composites}
    refuse_backgrounds(damaged([options.backgrounds / name for name in sorted(names)], max_pixels=options.max_pixels))


def refuse_backgrounds(problems: list[str]) -> None:
    if problems:
        what = counted(len(problems), "background")
        raise UserError(f"{what} cannot be used: {shorten(problems, '; ')}; no composite was made")


def settings(options: ComposeConfig, recipe: Recipe) -> dict[str, Any]:
    """What decides a set besides its files, as a manifest holds it."""
    chosen = {"version": VERSION, **asdict(recipe), "trimap_kernel_px": list(recipe.trimap_kernel_px)}
    return {**chosen, "per_foreground": options.per_foreground, "test_share": options.test_share}


def describe_composites(subjects: list[PlannedSubject], options: ComposeConfig) -> dict[str, dict[str, Any]]:
    """What each composite is made of, as a manifest holds it."""
    return {
        each.name: subject.describe(each, options.foregrounds, options.alphas, options.backgrounds)
        for subject in subjects
        for each in subject.composites
    }


def pending(subjects: list[PlannedSubject], folder: Path, recipe: Recipe, finished: set[Path]) -> list[PendingSubject]:
    """What is left to do in a split."""
    todo = []
    for subject in subjects:
        left = tuple(
            each
            for each in subject.composites
            if not finished.issuperset(composite_paths(folder, each.name, recipe.image_format).values())
        )
        if left:
            todo.append(PendingSubject(subject._replace(composites=left), folder))
    return todo


def forecast(subjects: dict[str, list[PlannedSubject]], todo: list[PendingSubject], recipe: Recipe) -> str:
    """What will be made, and the space it takes."""
    total = sum(len(subject.composites) for each in subjects.values() for subject in each)
    left = [(each.subject.shape, composite.window) for each in todo for composite in each.subject.composites]
    if not left:
        return f"nothing to make: {counted(total, 'composite')} there already"
    there = f", {total - len(left)} are there" if total > len(left) else ""
    gigabytes = sum(height * width for (height, width), _ in left) * BYTES_A_PIXEL[recipe.image_format] / 1e9
    sizes = list(dict.fromkeys(f"{width}x{height}" for (height, width), _ in left))
    text = (
        f"{counted(len(left), 'composite')} of {counted(len(todo), 'foreground')} to make{there}; "
        f"about {gigabytes:.2g} GB; sizes {shorten(sizes)}; colours: {recipe.solve}"
    )
    scales = [max(shape[0] / window.height, shape[1] / window.width) for shape, window in left]
    enlarged = [scale for scale in scales if scale > 1]
    if enlarged:
        text += (
            f"\nnote: {counted(len(enlarged), 'background')} smaller than the foreground, enlarged up to "
            f"{max(enlarged):.1f} times: blurred beside a sharp subject; give larger photographs, or --max-side"
        )
    return text


# -------------------------------------------------------------------------------------------------- after the work


def notes(results: list[Made], options: ComposeConfig) -> list[str]:
    """What one should look at: alphas that look wrong, a line a kind, and that there is nothing to validate on."""
    lines = []
    for kind, remedy in WARNINGS.items():
        if names := [result.name for result in results if kind in result.doubts]:
            lines.append(f"{counted(len(names), 'alpha')} ({shorten(names)}): {remedy}")
    if not any((options.output / split).is_dir() for split in ("test", "val")):
        lines.append(f"{options.output} has no test/: add --test-share 0.1, or a val/ of your own, to train on it")
    return lines


def failures(result: Made) -> list[str]:
    """Why composites of a foreground were not made: a line a reason, with what it cost."""
    names: dict[str, list[str]] = {}
    for name, reason in result.failed.items():
        names.setdefault(reason, []).append(name)
    return [
        f"{reason} ({lost[0] if len(lost) == 1 else counted(len(lost), 'composite')})" for reason, lost in names.items()
    ]


def draw_sheet(
    subjects: dict[str, list[PlannedSubject]], reasons: dict[str, str], options: ComposeConfig
) -> np.ndarray:
    """The first composite of the first foregrounds, with its alpha and its trimap, or with the reason why not."""
    tiles = []
    firsts = [(split, subject) for split in SPLITS for subject in subjects[split]][:SHEET_TILES]
    for split, subject in firsts:
        first = subject.composites[0]
        paths = composite_paths(options.output / split, first.name, options.image_format)
        if first.name in reasons:
            tiles.append(Tile(f"{split}/{first.name}", (f"not made: {reasons[first.name]}",), RED))
            continue
        image, trimap = (read_rgb(paths[kind], max_pixels=options.max_pixels) for kind in ("im", "trimap"))
        pictures = (image, quantise(read_alpha(paths["gt"], max_pixels=options.max_pixels)), trimap)
        tiles.append(Tile(f"{split}/{first.name} on {first.background}", pictures))
    return contact_sheet(tiles, columns=2, title=f"{options.output}: composite, alpha, trimap")


if __name__ == "__main__":
    run_script(main)
