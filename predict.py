"""Predicts mattes: photographs, folders of them and videos, to alphas, cut-outs, and subjects over new backgrounds.

    python predict.py INPUT [INPUT ...] --checkpoint P --output DIR --save alpha cutout green
    python predict.py --info P                      what a checkpoint or an exported model says of itself
    torchrun --nproc-per-node N predict.py ...      N processes share the photographs: the same results

The results of `folder/a/b.jpg` are `DIR/a/b_alpha.png` and `DIR/a/b_cutout.png`. Results that are already there are
kept, so an interrupted run can simply be started again. A file that cannot be read is named at the end (status 1).
"""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from config import RUNS, PredictConfig, parse_cli
from utils.checkpoint import require_checkpoint
from utils.costs import peak_gb
from utils.distributed import Processes, processes
from utils.errors import UserError, printable, report_failures, run_script
from utils.files import is_full_disk, remove_stale, require_writable, sha256_of_file
from utils.images import Photo, image_size
from utils.inference import Predictor, load_together, newest_best
from utils.jobs import Job, plan_jobs
from utils.model_card import describe_file
from utils.output_folder import SharedFolder
from utils.parallel import cpu_cores, ordered_map
from utils.prediction import Work
from utils.progress import progress
from utils.renderings import Matte, Rendering, parse_renderings
from utils.temporal import TemporalSmoother
from utils.video import Video, open_video, read_frames
from utils.video_writer import NO_FFMPEG, Write, appear_together, find_ffmpeg, write_frames, write_video

AHEAD_PX = 1e8  # pixels of photographs that wait for the network, and of mattes that wait to be written
FRAMES_AHEAD = 4  # of a video


class Outcome(NamedTuple):
    """How it went with a photograph or a video.

    Attributes:
        error: Why there are no results; None if all is well.
        note: What else is to be told.
    """

    error: str | None = None
    note: str | None = None


def main() -> int:
    config = parse_cli(PredictConfig, prog="predict.py", description=__doc__)
    if config.info is not None:
        print(describe_file(config.info))
        return 0
    with processes(os.environ, config.device) as world:
        renderings = world.each(lambda: choose_renderings(config))
        pending = world.first(lambda: find_pending(config, renderings))
        if not pending.jobs:
            return 0
        predictor = load(config, pending, world)
        work = Work(predictor, renderings, config.max_pixels)
        started = time.perf_counter()
        outcomes = predict_all(config, work, world.share(pending.jobs), world)
        shares = world.gather((outcomes, work.stages.seconds, peak_gb(predictor.device)))
        outcomes = world.interleave([outcomes for outcomes, *_ in shares])
        if world.is_first:
            rest = [share[1:] for share in shares]
            has_videos = any(job.is_video for job in pending.jobs)
            report(config, outcomes, time.perf_counter() - started, rest, has_videos=has_videos)
    return 1 if any(outcome.error for outcome in outcomes) else 0


# ------------------------------------------------------------------------------------------------ before the first one


def choose_renderings(config: PredictConfig) -> dict[str, Rendering]:
    """The kinds of result by label."""
    chosen = parse_renderings(
        config.save, format=config.format, alpha_bits=config.alpha_bits, max_pixels=config.max_pixels
    )
    return {rendering.label: rendering for rendering in chosen}


class Pending(NamedTuple):
    """What is to be done.

    Attributes:
        jobs: With the results that are not there yet, or all of them with --overwrite.
        results: Their folder.
        checkpoint: Of the network.
    """

    jobs: list[Job]
    results: SharedFolder
    checkpoint: Path


def find_pending(config: PredictConfig, renderings: Mapping[str, Rendering]) -> Pending:
    """What is there, and may stay there, and what is not."""
    jobs, notes = plan_jobs(config.inputs, config.output, list(renderings.values()), config.format)
    for note in notes:
        print(f"note: {note}")
    targets = {path: job.source for job in jobs for path in job.targets.values()}
    checkpoint = config.checkpoint or newest_best(RUNS)
    require_checkpoint(checkpoint)
    known = settings(config, checkpoint, renderings)
    if any(job.is_video for job in jobs):
        known["temporal"] = config.temporal
    results = SharedFolder(config.output, "--output", known, targets)
    results.check(overwrite=config.overwrite)
    pending = jobs if config.overwrite else [job._replace(targets=job.missing) for job in jobs if job.missing]
    if len(pending) < len(jobs):
        unknown = "" if results.is_known else "; nothing there says what model made them"
        print(
            f"{len(jobs) - len(pending)} of {len(jobs)} are already in {config.output} (--overwrite makes them again)"
            f"{unknown}"
        )
    return Pending(pending, results, checkpoint)


def settings(config: PredictConfig, checkpoint: Path, renderings: Mapping[str, Rendering]) -> dict[str, Any]:
    """What results of one name can differ in."""
    return {
        "checkpoint": f"{checkpoint.name} ({sha256_of_file(checkpoint)[:8]})",
        "precision": config.precision,
        "refine_budget": config.effort.refine_budget,
        "max_patches": config.effort.max_patches,
        **({"alpha_bits": config.alpha_bits} if "alpha" in renderings else {}),
        **{label: sha256_of_file(each.picture)[:8] for label, each in renderings.items() if each.picture},
    }


def load(config: PredictConfig, pending: Pending, world: Processes) -> Predictor:
    """The network, in every process, and the folder for its results."""
    predictor, _ = load_together(pending.checkpoint, RUNS, world, config.precision, asdict(config.effort))

    def begin() -> None:
        require_writable(config.output, "--output")
        pending.results.check(overwrite=config.overwrite)  # another process may have begun meanwhile
        pending.results.begin(overwrite=config.overwrite)
        remove_stale(config.output, recursive=True)

    world.first(begin)
    world.print(f"checkpoint {pending.checkpoint} on {predictor.device}, {config.precision}")
    return predictor


# ------------------------------------------------------------------------------------------------ one after the other


def predict_all(config: PredictConfig, work: Work, jobs: Sequence[Job], world: Processes) -> list[Outcome]:
    """Writes the results of jobs; returns how it went with each."""
    photographs, videos = ([job for job in jobs if job.is_video == kind] for kind in (False, True))
    outcomes: dict[Path, Outcome] = {}
    options = {"desc": world.title("predict"), "unit": "img", "disable": not world.is_first or not photographs}
    with closing(predict_photographs(work, photographs)) as found:
        bar = progress(found, total=len(photographs), **options)
        outcomes |= {job.source: outcome for job, outcome in zip(photographs, bar, strict=True)}
    ffmpeg = find_ffmpeg() if videos else None
    if ffmpeg is None and any(not work.renderings[label].has_alpha for job in videos for label in job.targets):
        world.print(f"note: {NO_FFMPEG}")
    outcomes |= {job.source: predict_video(config, work, job, ffmpeg, show=world.is_first) for job in videos}
    return [outcomes[job.source] for job in jobs]


def predict_photographs(work: Work, jobs: Sequence[Job]) -> Iterator[Outcome]:
    """Writes the results of photographs; those that come are read, and those done written, beside the network."""
    cores = cpu_cores()
    bounds = {"ahead": 2 * cores, "most": AHEAD_PX}

    def mattes(photos: Iterator[Photo | UserError]) -> Iterator[tuple[Job, Matte | None, Outcome]]:
        for job, photo in zip(jobs, photos, strict=True):
            if isinstance(photo, UserError):
                yield job, None, Outcome(about(job, photo))
                continue
            try:
                alpha, note = work.find_alpha(photo.rgb)
                matte = work.colour(photo, alpha, job.targets)
            except UserError as error:
                yield job, None, Outcome(about(job, error))
            else:
                yield job, matte, Outcome(note=note and f"{job.source}: {note}")

    def write(found: tuple[Job, Matte | None, Outcome]) -> Outcome:
        job, matte, outcome = found
        if matte is None:
            return outcome
        try:
            work.write(matte, job.targets)
            return outcome
        except UserError as error:
            if is_full_disk(error):  # for the others, too
                raise
            return Outcome(about(job, error))

    with (
        ThreadPoolExecutor(cores) as readers,
        ThreadPoolExecutor(cores) as writers,
        closing(ordered_map(work.read, jobs, executor=readers, weigh=area, **bounds)) as photos,
    ):
        yield from ordered_map(
            write,
            mattes(photos),
            executor=writers,
            weigh=lambda found: found[1].alpha.size if found[1] else 0,
            **bounds,
        )


def predict_video(config: PredictConfig, work: Work, job: Job, ffmpeg: str | None, *, show: bool) -> Outcome:
    """Writes the results of a video, frame by frame: all of them, when the last frame is done, or none."""
    smoother, notes = TemporalSmoother(config.temporal), set()

    def mattes(video: Video) -> Iterator[tuple[Matte, int]]:
        bar = progress(read_frames(video), total=video.frames, desc=job.source.name, unit="frame", disable=not show)
        for frame in bar:
            alpha, note = work.find_alpha(frame.rgb)
            notes.add(note)
            alpha = smoother.smooth(frame.rgb, alpha)
            yield work.colour(Photo(frame.rgb, None, None), alpha, job.targets), frame.repeats

    try:
        video = open_video(job.source, max_pixels=config.max_pixels)
        with ExitStack() as stack:
            paths = stack.enter_context(appear_together(list(job.targets.values())))
            writers = {
                label: stack.enter_context(open_writer(path, video, work.renderings[label], ffmpeg))
                for label, path in zip(job.targets, paths, strict=True)
            }

            def write(found: tuple[Matte, int]) -> None:
                matte, repeats = found
                with work.stages.time("writing"):
                    for label, writer in writers.items():
                        writer(work.draw(label, matte), repeats)

            thread = stack.enter_context(ThreadPoolExecutor(1))  # frames come one after the other
            for _ in ordered_map(write, mattes(video), executor=thread, ahead=FRAMES_AHEAD):
                pass
    except UserError as error:
        if is_full_disk(error):
            raise
        return Outcome(about(job, error))
    note = next((note for note in notes if note), None)
    return Outcome(note=note and f"{job.source}: {note}")


def area(job: Job) -> float:
    """Pixels of a photograph, from its header; 0 if it cannot be read."""
    with suppress(UserError):
        height, width = image_size(job.source)
        return height * width
    return 0


def about(job: Job, error: UserError) -> str:
    """An error that names the file it is about."""
    return str(error) if str(job.source) in str(error) else f"{job.source}: {error}"


def open_writer(path: Path, video: Video, rendering: Rendering, ffmpeg: str | None) -> AbstractContextManager[Write]:
    """What takes the frames of a rendering: a video, or, with an alpha channel, a folder of frames."""
    return (
        write_frames(path) if rendering.has_alpha else write_video(path, video, grey=rendering.is_matte, ffmpeg=ffmpeg)
    )


# ------------------------------------------------------------------------------------------------ at the end


def report(
    config: PredictConfig, outcomes: Sequence[Outcome], seconds: float, shares: Sequence[Sequence], *, has_videos: bool
) -> None:
    """Prints how much was done how fast, and where the time went, by all processes together; names what failed."""
    failed = [outcome.error for outcome in outcomes if outcome.error]
    done = len(outcomes) - len(failed)
    speed = "" if has_videos else f" ({done / seconds:.2f} images/s)"  # a video is no image, nor are its frames
    print(f"{done} of {len(outcomes)} done in {seconds:.1f} s{speed}; results in {config.output}")
    stages = Counter()
    for spent, _ in shares:
        stages.update(spent)
    parts = ", ".join(f"{stage} {spent:.1f} s" for stage, spent in stages.items())
    print(f"{parts}; reading and writing run beside the others; peak memory {max(peak for _, peak in shares):.2f} GB")
    for outcome in outcomes:
        if outcome.note:
            print(f"note: {printable(outcome.note)}")
    report_failures(failed)


if __name__ == "__main__":
    run_script(main)
