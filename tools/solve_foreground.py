"""Solves the foreground colours of a dataset's images, and if asked the backgrounds, from their alphas.

    python -m tools.solve_foreground --data-root D [--dataset custom] [--split train] --output foregrounds

An image that is solved already is kept, so an interrupted run can simply be started again; it is solved again if it
changed since, or its alpha (by the times of the files), and all are with --overwrite. Without it, colours of another
--method, or of somebody else, are refused. An image that fails is named at the end (status 1).
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from config import SolveConfig, parse_cli
from utils.encoding import write_image
from utils.errors import UserError, printable, report_failures, run_script
from utils.files import CannotWriteError, is_up_to_date, remove_stale, require_apart, require_writable
from utils.foreground import SOFT_BAND, estimate_foreground, recomposition_error, require_method
from utils.images import verify_image
from utils.output_folder import OutputFolder
from utils.pairs import Pair, find_pairs, read_pair
from utils.parallel import in_processes


class Solved(NamedTuple):
    """What came of one image.

    Attributes:
        name: The pair's.
        kept: It was there already.
        error: Mean recomposition error over the soft band, in levels; None if kept or failed, or nothing is soft.
        problem: Why it failed, or "".
    """

    name: str
    kept: bool = False
    error: float | None = None
    problem: str = ""


def main() -> int:
    options = parse_cli(SolveConfig, prog="python -m tools.solve_foreground", description=__doc__)
    pairs = find_pairs(options.data_root, options.dataset, options.split)
    folders = output_folders(pairs, options)
    require_folders_apart(pairs, options)
    require_method(options.method)
    for folder in folders:
        folder.check(overwrite=options.overwrite)
        require_writable(folder.path, folder.flag)
    for folder in folders:
        remove_stale(folder.path, recursive=True)
        folder.begin(overwrite=options.overwrite)

    work = partial(solve, options=options)
    solved = list(in_processes(work, pairs, desc="solve", unit="img", num_workers=options.num_workers))
    print(summary(solved, options))
    return report_failures([f"{result.name}: {result.problem}" for result in solved if result.problem])


def output_folders(pairs: Sequence[Pair], options: SolveConfig) -> list[OutputFolder]:
    """Of the foregrounds and, if asked for, of the backgrounds."""
    given = (
        (options.output, "--output", "foreground"),
        (options.backgrounds_output, "--backgrounds-output", "background"),
    )
    return [
        OutputFolder(
            folder,
            flag,
            {"colours": colours, "method": options.method},
            frozenset(solved_path(folder, pair) for pair in pairs),
        )
        for folder, flag, colours in given
        if folder is not None
    ]


def solved_path(folder: Path, pair: Pair) -> Path:
    return Path(f"{folder}/{pair.name}.png")


def require_folders_apart(pairs: Sequence[Pair], options: SolveConfig) -> None:
    """Results among the inputs would be taken for images of the set the next time, and could replace them.

    Raises:
        UserError: A folder of results overlaps with one that images are read from, or with the other one.
    """
    read = sorted({file.parents[len(PurePosixPath(pair.name).parts) - 1] for pair in pairs for file in pair[1:3]})
    require_apart(options.output, "--output", read)
    if options.backgrounds_output is not None:
        require_apart(options.backgrounds_output, "--backgrounds-output", [*read, options.output])


def solve(pair: Pair, *, options: SolveConfig) -> Solved:
    """Solves one image, unless that is done; a file that cannot be used is an answer, not an exception."""
    folders = [folder for folder in (options.output, options.backgrounds_output) if folder is not None]
    outputs = [solved_path(folder, pair) for folder in folders]
    try:
        if is_done(pair, outputs, options.max_pixels):
            return Solved(pair.name, kept=True)
        rgb, alpha = read_pair(pair, max_pixels=options.max_pixels)
        colours = estimate_foreground(rgb, alpha, method=options.method)
        for path, colour in zip(outputs, colours, strict=False):  # without a folder for it, no background
            write_image(path, colour)
        return Solved(pair.name, error=recomposition_error(rgb, alpha, colours))
    except CannotWriteError:
        raise  # of the disk, not of this image
    except UserError as error:
        return Solved(pair.name, problem=str(error))


def is_done(pair: Pair, outputs: Sequence[Path], max_pixels: int) -> bool:
    """Whether all outputs are whole images of the pair's size, and no older than its files.

    Raises:
        UserError: The pair's image is damaged or too large.
    """
    if not is_up_to_date(outputs, (pair.image, pair.alpha)):
        return False
    try:
        sizes = {verify_image(path, max_pixels=max_pixels) for path in outputs}
    except UserError:  # cut off by something else than this script
        return False
    return sizes == {verify_image(pair.image, max_pixels=max_pixels)}


def summary(solved: Sequence[Solved], options: SolveConfig) -> str:
    """Counts, and how well what was solved now recomposes the images."""
    kept, failed = sum(result.kept for result in solved), sum(bool(result.problem) for result in solved)
    lines = [f"{len(solved) - kept - failed} images solved, {kept} kept, {failed} failed: {options.output}"]
    measured = [result for result in solved if result.error is not None]
    if measured:
        mean = sum(result.error for result in measured) / len(measured)
        worst = max(measured, key=lambda result: result.error)
        lines.append(
            f"recomposition error where {SOFT_BAND[0]} < alpha < {SOFT_BAND[1]}: {mean:.2f} of 255 levels "
            f"(mean of {len(measured)} images; worst {printable(worst.name)}: {worst.error:.2f})"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main)
