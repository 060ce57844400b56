"""Solves the foreground colours of a dataset's images, and if asked the backgrounds, from their alphas.

    python -m tools.solve_foreground --data-root D [--dataset custom] [--split train] --output foregrounds

An image that is solved already is kept, so an interrupted run can simply be started again; it is solved again if it
changed since, or its alpha (by the times of the files), or with --overwrite. One that fails is named at the end
(status 1).
"""

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from config import SolveConfig, parse_cli
from utils.errors import UserError, run_script
from utils.files import CannotWriteError, remove_stale, require_writable
from utils.foreground import SOFT_BAND, estimate_foreground, recomposition_error, require_method
from utils.images import verify_image, write_image
from utils.pairs import Pair, find_pairs, read_pair
from utils.parallel import cpu_cores, ordered_map, process_pool
from utils.progress import progress


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
    folders = {"--output": options.output}
    if options.backgrounds_output is not None:
        folders["--backgrounds-output"] = options.backgrounds_output
    refuse_overlaps(pairs, folders)
    require_method(options.method)
    for flag, folder in folders.items():
        require_writable(folder, flag)
        remove_stale(folder, recursive=True)

    workers = min(options.num_workers or cpu_cores(), len(pairs))
    with process_pool(workers) if workers > 1 else nullcontext() as pool:
        results = ordered_map(partial(solve, options=options), pairs, executor=pool, ahead=2 * workers)
        solved = list(progress(results, total=len(pairs), desc="solve", unit="img"))
    print(summary(solved, options))
    for result in solved:
        if result.problem:
            print(f"failed: {result.name}: {result.problem}", file=sys.stderr)
    return 1 if any(result.problem for result in solved) else 0


def refuse_overlaps(pairs: Sequence[Pair], folders: dict[str, Path]) -> None:
    """Results among the inputs would be taken for images of the set the next time, and could replace them.

    Args:
        pairs: What is read.
        folders: By flag, where results are written.

    Raises:
        UserError: A result would lie in a folder that images are read from, or foregrounds and backgrounds in one.
    """
    roots = {file.parents[len(PurePosixPath(pair.name).parts) - 1] for pair in pairs for file in pair[1:3]}
    read = {Path(os.path.realpath(root)): root for root in roots}
    for flag, folder in folders.items():
        for parent in {folder, *(Path(f"{folder}/{pair.name}").parent for pair in pairs)}:
            real = Path(os.path.realpath(parent))
            if inside := [given for root, given in read.items() if real.is_relative_to(root)]:
                raise UserError(f"{flag} {folder}: would write to {inside[0]}, which is read; choose another folder")
    real = [Path(os.path.realpath(folder)) for folder in folders.values()]
    if len(real) == 2 and (real[0].is_relative_to(real[1]) or real[1].is_relative_to(real[0])):
        raise UserError(f"{' and '.join(folders)}: one is inside the other; choose two separate folders")


def solve(pair: Pair, *, options: SolveConfig) -> Solved:
    """Solves one image, unless that is done; a file that cannot be used is an answer, not an exception."""
    folders = [folder for folder in (options.output, options.backgrounds_output) if folder is not None]
    outputs = [Path(f"{folder}/{pair.name}.png") for folder in folders]
    try:
        if not options.overwrite and is_done(pair, outputs, options.max_pixels):
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
    try:
        oldest = min(path.stat().st_mtime_ns for path in outputs)
        if oldest < max(path.stat().st_mtime_ns for path in (pair.image, pair.alpha)):
            return False
        sizes = {verify_image(path, max_pixels=max_pixels) for path in outputs}
    except (OSError, UserError):  # absent, or cut off by something else than this script
        return False
    return sizes == {verify_image(pair.image, max_pixels=max_pixels)}


def summary(solved: Sequence[Solved], options: SolveConfig) -> str:
    """Counts, and how well what was solved now recomposes the images."""
    kept, failed = sum(result.kept for result in solved), sum(bool(result.problem) for result in solved)
    lines = [f"{len(solved) - kept - failed} images solved, {kept} kept, {failed} failed: {options.output}"]
    if kept:
        lines.append("kept are those made before, by whatever method (--overwrite solves them again)")
    measured = [result for result in solved if result.error is not None]
    if measured:
        mean = sum(result.error for result in measured) / len(measured)
        worst = max(measured, key=lambda result: result.error)
        lines.append(
            f"recomposition error where {SOFT_BAND[0]} < alpha < {SOFT_BAND[1]}: {mean:.2f} of 255 levels "
            f"(mean of {len(measured)} images; worst {worst.name}: {worst.error:.2f})"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main)
