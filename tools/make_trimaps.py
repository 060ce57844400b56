"""Makes trimaps of a folder of alphas: what is certain is eroded, the rest is unknown.

    python -m tools.make_trimaps --alphas gt --output trimap [--kernel-px 3 25]

Trimaps that are already there are kept, so an interrupted run can simply be started again; one is made again if its
alpha changed since (by the times of the files), all with --overwrite. Without it, trimaps of another --kernel-px or
--seed, or of somebody else, are refused. An alpha that cannot be read is named at the end (status 1).
"""

from functools import partial
from pathlib import Path

from config import TrimapConfig, parse_cli
from utils.encoding import write_image
from utils.errors import UserError, report_failures, run_script
from utils.files import is_up_to_date, remove_stale, require_apart, require_writable
from utils.images import read_alpha
from utils.names import index_images
from utils.output_folder import OutputFolder
from utils.parallel import in_processes
from utils.seeds import seeded_rng
from utils.trimaps import random_trimap


def main() -> int:
    options = parse_cli(TrimapConfig, prog="python -m tools.make_trimaps", description=__doc__)
    alphas = index_images(options.alphas, "--alphas")
    require_apart(options.output, "--output", [options.alphas])
    trimaps = {name: options.output / f"{name}.png" for name in alphas}
    settings = {"kernel_px": list(options.kernel_px), "seed": options.seed}
    folder = OutputFolder(options.output, "--output", settings, frozenset(trimaps.values()))
    folder.check(overwrite=options.overwrite)
    require_writable(options.output, "--output")
    remove_stale(options.output, recursive=True)
    folder.begin(overwrite=options.overwrite)
    pending = {name: path for name, path in alphas.items() if not is_up_to_date([trimaps[name]], [path])}
    if len(pending) < len(alphas):
        print(f"{len(alphas) - len(pending)} of {len(alphas)} are already in {options.output} and are kept")

    make = partial(make_trimap, options=options)
    made = in_processes(make, list(pending.items()), desc="trimaps", unit="img", num_workers=options.num_workers)
    failed = [problem for problem in made if problem]
    print(f"{len(pending) - len(failed)} trimaps made in {options.output}")
    return report_failures(failed)


def make_trimap(item: tuple[str, Path], *, options: TrimapConfig) -> str:
    """Makes the trimap of one alpha, by name and file; returns why it failed, or ""."""
    name, path = item
    try:
        alpha = read_alpha(path, max_pixels=options.max_pixels)
    except UserError as error:
        return str(error)
    trimap = random_trimap(alpha, seeded_rng(options.seed, name), options.kernel_px)
    write_image(options.output / f"{name}.png", trimap)
    return ""


if __name__ == "__main__":
    run_script(main)
