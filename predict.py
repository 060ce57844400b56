"""Predicts mattes: images, or folders of them, to alpha PNGs and RGBA cut-outs.

    python predict.py INPUT [INPUT ...] --checkpoint P --output DIR --save alpha cutout
    torchrun --nproc-per-node N predict.py ...      N processes share the photographs: the same results

The results of `folder/a/b.jpg` are `DIR/a/b_alpha.png` and `DIR/a/b_cutout.png`. Results that are already there are
kept, so an interrupted run can simply be started again. A file that cannot be read is named at the end (status 1).
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from config import RUNS, PredictConfig, parse_cli
from utils.distributed import Processes, processes
from utils.errors import UserError, run_script
from utils.files import require_writable
from utils.images import IMAGE_EXTENSIONS, list_images, quantise, read_rgb, write_image
from utils.inference import Predictor, load_together, predict_alpha
from utils.progress import progress


class Job(NamedTuple):
    """One photograph and where its results go, by kind ("alpha", "cutout")."""

    source: Path
    targets: dict[str, Path]


def main() -> int:
    config = parse_cli(PredictConfig, prog="predict.py", description=__doc__)
    with processes(os.environ, config.device) as world:
        pending = world.first(lambda: find_pending(config))
        if not pending:
            return 0
        predictor = load(config, world)
        started = time.perf_counter()
        outcomes = predict_all(config, predictor, world.share(pending), world)
        failed = [error for error in world.interleave(world.gather(outcomes)) if error is not None]
        if world.is_first:
            report(config, len(pending), failed, time.perf_counter() - started)
    return 1 if failed else 0


def find_pending(config: PredictConfig) -> list[Job]:
    """The photographs of which a result is not there yet; all of them with --overwrite."""
    jobs = plan(config)
    pending = [job for job in jobs if config.overwrite or not all(os.path.isfile(p) for p in job.targets.values())]
    if len(pending) < len(jobs):
        print(
            f"{len(jobs) - len(pending)} of {len(jobs)} are already in {config.output} (--overwrite makes them again)"
        )
    return pending


def load(config: PredictConfig, world: Processes) -> Predictor:
    """The network, in every process."""
    predictor, checkpoint = load_together(config.checkpoint, RUNS, world, config.precision, asdict(config.effort))
    world.first(lambda: require_writable(config.output, "--output"))
    world.print(f"checkpoint {checkpoint} on {predictor.device}, {config.precision}")
    return predictor


def predict_all(config: PredictConfig, predictor: Predictor, jobs: Sequence[Job], world: Processes) -> list[str | None]:
    """Writes the results of jobs; returns why there are none of each, None where all is well."""
    outcomes: list[str | None] = []
    for job in progress(jobs, desc=world.title("predict"), unit="img", disable=not world.is_first):
        try:
            rgb = read_rgb(job.source, max_pixels=config.max_pixels)
            alpha = predict_alpha(predictor, rgb)
            for kind, path in job.targets.items():
                if config.overwrite or not os.path.isfile(path):
                    write_image(path, render(kind, rgb, alpha))
            outcomes.append(None)
        except UserError as error:
            outcomes.append(str(error))
    return outcomes


def report(config: PredictConfig, total: int, failed: Sequence[str], seconds: float) -> None:
    """Prints how many photographs were done how fast, by all processes together, and names those that were not."""
    done = total - len(failed)
    print(f"{done} of {total} done in {seconds:.1f} s ({done / seconds:.2f} images/s); results in {config.output}")
    for message in failed:
        print(f"failed: {message}", file=sys.stderr)


def render(kind: str, rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """What is saved: "alpha" uint8 (H, W), or "cutout" uint8 (H, W, 4) with the photograph's colours."""
    level = quantise(alpha)
    if kind == "alpha":
        return level
    # Colours under alpha 0 are never seen; zeroed, they compress, and no background leaks out of the file.
    visible = np.where(level[..., None] > 0, rgb, 0)
    return np.dstack([visible, level])


def plan(config: PredictConfig) -> list[Job]:
    """All photographs of the inputs with their targets, each target once.

    Raises:
        UserError: An input does not exist, holds no images, is the output folder or holds it.
    """
    output = real(config.output)
    sources: dict[Path, Path] = {}  # photograph -> its path below the output folder, without suffix
    for given in config.inputs:
        if os.path.isdir(given):
            root = real(given)
            if root.is_relative_to(output):
                raise UserError(f"--output {config.output} is or holds the input folder {given}; choose another one")
            found = [path for path in list_images(given, recursive=True) if not real(path).is_relative_to(output)]
            if not found:
                raise UserError(f"{given}: no images there ({', '.join(IMAGE_EXTENSIONS)})")
            sources |= {path: path.relative_to(given) for path in found}
        elif os.path.isfile(given):
            sources[given] = Path(given.name)
        else:
            raise UserError(f"{given.absolute()}: no such file or folder; usage: python predict.py INPUT [INPUT ...]")
    jobs = [Job(path, targets) for path, targets in name_targets(sources, config).items()]
    originals = {real(path) for path in sources}
    for target in (target for job in jobs for target in job.targets.values()):
        if real(target) in originals:
            raise UserError(
                f"--output {config.output}: the result {target} is one of the inputs; choose another folder"
            )
    return jobs


def real(path: Path) -> Path:
    """The path without links; unlike Path.resolve, a loop of links is no error here, but where it is read."""
    return Path(os.path.realpath(path))


def name_targets(sources: dict[Path, Path], config: PredictConfig) -> dict[Path, dict[str, Path]]:
    """Result files of each photograph; where stems collide (a.jpg, a.png) the suffix becomes part of the name."""
    stems: dict[str, int] = {}
    for relative in sources.values():
        key = os.path.normcase(relative.with_suffix(""))
        stems[key] = stems.get(key, 0) + 1
    named, taken = {}, {}
    for path, relative in sources.items():
        unique = stems[os.path.normcase(relative.with_suffix(""))] == 1
        stem = relative.with_suffix("") if unique else relative.with_name(relative.name.replace(".", "_"))
        if stem in taken:
            raise UserError(f"{path} and {taken[stem]} would have the same result; predict them into different folders")
        taken[stem] = path
        named[path] = {kind: config.output / stem.with_name(f"{stem.name}_{kind}.png") for kind in config.save}
    return named


if __name__ == "__main__":
    run_script(main)
