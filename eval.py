"""Scores mattes at the truth's own resolution: a checkpoint's on benchmarks, or anybody's in a folder.

python eval.py --checkpoint P --data-root D --benchmarks DIS-TE1 HRS10K --out R         'all': those that are there
python eval.py --predictions DIR --ground-truth DIR [--trimaps DIR] --out R
torchrun --nproc-per-node N eval.py ...                                 N processes share the images: the same numbers
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict
from itertools import repeat
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from config import RUNS, EvalConfig, parse_cli
from utils.cases import BYTES_PER_PIXEL, Case, Method, Scored, Task, check_cases, read_photograph, score_case
from utils.distributed import Processes, processes
from utils.errors import UserError, printable, run_script
from utils.files import remove_stale, require_apart, require_writable, sha256_of_file
from utils.gallery import Gallery
from utils.names import match_names, pair_by_name, shorten
from utils.pairs import find_benchmark, list_benchmark, present_benchmarks, resolve_benchmark
from utils.parallel import cpu_cores, free_memory, ordered_map, process_pool
from utils.progress import progress
from utils.report import Section, ShownImage, write_report
from utils.results import Result, score_table, write_results
from utils.scorebook import Scorebook
from utils.scoring import COLUMNS, FAMILIES, ImageScores, mean_scores

if TYPE_CHECKING:
    from utils.inference import Predictor  # torch takes seconds to import, and every scoring process imports this file


class Benchmark(NamedTuple):
    """A set of images that gets a line in the tables.

    Attributes:
        name: The benchmark's, or that of the folder with the predictions.
        cases: What is scored.
        method: How.
        region: Which pixels that concerns, in words.
        missing: Truths without a prediction.
        unusable: Images with a damaged file or one of another size, with the reason.
        pixels: Of the largest image.
    """

    name: str
    cases: list[Case]
    method: Method
    region: str
    missing: list[str]
    unusable: dict[str, str]
    pixels: int


def main() -> int:
    config = parse_cli(EvalConfig, prog="eval.py", description=__doc__)
    if config.out == Path():  # which an empty shell variable gives as well
        raise UserError("--out is empty or the current folder; name a folder for the results")
    # Without a network nothing needs PyTorch, which takes seconds to import.
    with processes(os.environ, config.device if config.predictions is None else None) as world:
        return evaluate(config, world)


def evaluate(config: EvalConfig, world: Processes) -> int:
    """Scores what there is to score and writes the results; returns the exit status."""
    benchmarks = world.first(lambda: find(config))
    if config.predictions is None:
        predictor, source = load(config, world)
    else:
        predictor, source = None, {"predictions": str(config.predictions), "ground_truth": str(config.ground_truth)}
    workers = scoring_processes(config, benchmarks, world)
    with open_book(config, source, world) as book, process_pool(workers) if workers else nullcontext() as pool:
        scored = [score(config, benchmark, predictor, book, pool, world, ahead=2 * workers) for benchmark in benchmarks]
        world.first(lambda: write(config, benchmarks, scored, source))
    return 1 if any(benchmark.unusable for benchmark in benchmarks) else 0


def find(config: EvalConfig) -> list[Benchmark]:
    """What is to be scored, and that nothing is in the way of the results."""
    require_writable(config.out, "--out")
    if config.predictions is None:
        benchmarks = find_benchmarks(config)
    else:
        of_models = ("data_root", "benchmarks", "device", "precision")
        if idle := [name for name in of_models if getattr(config, name) != getattr(EvalConfig, name)]:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
            print(f"note: with --predictions no model runs: {flags} without effect")
        benchmarks = [find_mattes(config)]
    refuse_inputs_as_output(config, benchmarks)
    return benchmarks


def open_book(config: EvalConfig, source: dict[str, str], world: Processes) -> Scorebook:
    """Where this process writes its scores; the first one's also holds those of an interrupted evaluation."""
    settings = decisive(config, source)

    def open_own() -> Scorebook:
        book = Scorebook(config.out, settings, resume=config.resume, overwrite=config.overwrite, rank=world.rank)
        if world.is_first:
            remove_stale(trimap_folder(config), recursive=True)
        return book

    return world.each(open_own, first_ahead=True)


def write(
    config: EvalConfig,
    benchmarks: Sequence[Benchmark],
    scored: Sequence[tuple[list[ImageScores], Gallery]],
    source: dict[str, str],
) -> None:
    """Writes and prints the results."""
    results, sections = [], []
    for benchmark, (scores, gallery) in zip(benchmarks, scored, strict=True):
        result = summarise(config, benchmark, scores, source)
        examples = [[ShownImage(*each) for each in side] for side in (gallery.worst(), gallery.best())]
        results.append(result)
        sections.append(Section(result.name, result.entry(), result.scores.per_image, *examples))
    write_results(config.out, results)
    about = [f"{key}: {value}" for key, value in source.items()]
    write_report(config.out / "report.html", sections, COLUMNS, about)
    print(score_table(results))
    print(f"written: {', '.join(str(config.out / name) for name in ('metrics.json', 'per_image.csv', 'report.html'))}")


def decisive(config: EvalConfig, source: dict[str, str]) -> dict[str, str]:
    """What decides the numbers, the same however it is written: a resume with anything else is refused."""
    paths = {name: value for name, value in source.items() if name in ("checkpoint", "predictions", "ground_truth")}
    names = ("unknown_region", "trimap_kernel_px", "round_predictions", "examples")
    return {
        **source,
        **{name: os.path.realpath(path) for name, path in paths.items()},
        "metrics": " ".join(sorted(set(config.metrics))) or "default",
        "trimaps": os.path.realpath(config.trimaps) if config.trimaps else "none",
        **{name: str(getattr(config, name)) for name in names},
    }


def scoring_processes(config: EvalConfig, benchmarks: Sequence[Benchmark], world: Processes) -> int:
    """How many processes score for this one; 0: none but itself. If nobody says, no more than fit into the memory."""
    images = math.ceil(sum(len(benchmark.cases) for benchmark in benchmarks) / world.size)
    if config.num_workers is not None:
        return min(config.num_workers, images)
    workers = min(max(1, cpu_cores() // world.beside), images)
    each = BYTES_PER_PIXEL * max(benchmark.pixels for benchmark in benchmarks)
    fitting = max(1, int(min(workers, free_memory() / world.beside / each)))
    if fitting < workers:
        world.print(
            f"note: {fitting} processes, not {workers}: an image takes {each / 1e9:.1f} GB; --num-workers overrules"
        )
    return fitting


# ------------------------------------------------------------------------------------------------ what is scored


def find_benchmarks(config: EvalConfig) -> list[Benchmark]:
    """The benchmarks that were asked for, all found and checked before the first image is predicted."""
    names = list(config.benchmarks)
    if "all" in names:
        names, absent = present_benchmarks(config.data_root)
        print(f"absent in {config.data_root}: {', '.join(absent)}")
    benchmarks = []
    layouts = {name: layout for name, layout, _ in map(resolve_benchmark, names)}  # each once
    for name, layout in layouts.items():
        mismatched: dict[str, str] = {}
        if config.allow_missing:
            listing = list_benchmark(config.data_root, name)
            for kind, found in listing.mismatches.items():
                mismatched |= dict.fromkeys(found, kind.replace("-", " "))
            pairs = [pair for pair in listing.pairs if pair.name not in mismatched]
        else:
            pairs = find_benchmark(config.data_root, name, trimaps=True)
        cases = [Case(pair.name, pair.alpha, image=pair.image, trimap=pair.trimap) for pair in pairs]
        benchmarks.append(checked(config, name, cases, unusable=mismatched, of_dis=layout.name == "DIS5K"))
        if layout.note:
            print(f"note on {name}: {layout.note}")
    return benchmarks


def find_mattes(config: EvalConfig) -> Benchmark:
    """The mattes in --predictions with the truths, trimaps and photographs of the same names.

    Raises:
        UserError: One of them is missing or unusable, and --allow-missing was not given.
    """
    pairs = pair_by_name(config.predictions, config.ground_truth)
    names = [name for name, _, _ in pairs.matched]
    total = len(names) + len(pairs.missing)
    faults = []
    if pairs.missing:
        faults.append(f"{len(pairs.missing)} of {total} mattes are missing ({shorten(pairs.missing)})")
    if pairs.extra:
        faults.append(f"{len(pairs.extra)} have no truth ({shorten(pairs.extra)})")
    beside = {}
    for flag, folder in (("--trimaps", config.trimaps), ("--images", config.images)):
        beside[flag], lacking = ({}, []) if folder is None else match_names(names, folder, flag)
        if lacking:  # no --allow-missing: a mean over some unknown regions and some whole images would be no number
            raise UserError(
                f"{flag} {folder}: {len(lacking)} of {len(names)} are missing there ({shorten(lacking)}); complete the "
                f"folder, or take their predictions out and use --allow-missing"
            )
    if faults and not config.allow_missing:
        raise UserError(
            f"--predictions {config.predictions}: {'; '.join(faults)}; a mean over other images is not comparable: "
            f"complete the folders, or score the {len(names)} that match with --allow-missing"
        )
    print(f"{len(names)} of {total} images have a prediction; {len(pairs.extra)} predictions have no truth")
    show("without prediction", pairs.missing)
    show("without truth", pairs.extra)
    cases = [
        Case(name, alpha, prediction, beside["--images"].get(name), beside["--trimaps"].get(name))
        for name, prediction, alpha in pairs.matched
    ]
    return checked(config, config.predictions.resolve().name or "predictions", cases, missing=pairs.missing)


def show(what: str, names: Sequence[str]) -> None:
    """Names on the screen, where a long list would hide the rest; metrics.json has all that are left out."""
    if names:
        print(printable(f"{what}: {shorten(names, most=10)}"))


def refuse_inputs_as_output(config: EvalConfig, benchmarks: Sequence[Benchmark]) -> None:
    """Results among the inputs would be taken for images of the set the next time.

    Raises:
        UserError: --out is, or lies in, a folder that images are read from, or one lies where trimaps are written.
    """
    files = (path for benchmark in benchmarks for case in benchmark.cases for path in case.files().values())
    given = (config.predictions, config.ground_truth, config.trimaps, config.images)
    folders = [*(folder for folder in given if folder is not None), *dict.fromkeys(path.parent for path in files)]
    require_apart(config.out, "--out", folders, may_hold=True)
    require_apart(trimap_folder(config), "--out: its folder", folders)


def checked(
    config: EvalConfig,
    name: str,
    cases: list[Case],
    *,
    missing: Sequence[str] = (),
    unusable: Mapping[str, str] = MappingProxyType({}),
    of_dis: bool = False,
) -> Benchmark:
    """The cases with the way they are scored; unusable ones, and those said to be, are left out or refused.

    HCE takes 1-3 s an image and was made for DIS5K: elsewhere it has to be asked for, in folders of mattes as well,
    since nobody knows whose they are.

    Raises:
        UserError: A file is damaged or of another size, and --allow-missing was not given; or no case is left.
    """
    problems, pixels = check_cases(cases, max_pixels=config.max_pixels)
    if problems and not config.allow_missing:
        raise UserError(
            f"{name}: {len(problems)} of {len(cases)} images cannot be scored: "
            f"{shorten(list(problems.values()), '; ')}; repair the files, or score the rest with --allow-missing"
        )
    cases = [case for case in cases if case.name not in problems]
    problems = {**unusable, **problems}
    if not cases:
        raise UserError(f"{name}: nothing to score: {len(missing)} predictions missing, {len(problems)} unusable")
    default = [metric for metric in FAMILIES if metric != "HCE" or of_dis]
    has_trimaps = cases[0].trimap is not None
    kernel_px = config.trimap_kernel_px if config.unknown_region and not has_trimaps else None
    method = Method(config.metrics or tuple(default), kernel_px, config.round_predictions, config.max_pixels)
    region = "whole image"
    if has_trimaps:
        region += f"; _unknown: unknown region of the trimaps in {cases[0].trimap.parent}"
    elif kernel_px:
        region += f"; _unknown: unknown region of trimaps made from the true alphas (ellipse of {kernel_px} px, P3M)"
    return Benchmark(name, cases, method, region, list(missing), problems, pixels)


def load(config: EvalConfig, world: Processes) -> "tuple[Predictor, dict[str, str]]":
    """The network, and what identifies it."""
    from utils.inference import load_together

    predictor, checkpoint = load_together(config.checkpoint, RUNS, world, config.precision, asdict(config.effort))
    digest = world.first(lambda: sha256_of_file(checkpoint))
    world.print(f"checkpoint {checkpoint} on {predictor.device}, {config.precision}")
    effort = {
        "refine_budget": f"{predictor.routing.refine_budget:g}",
        "max_patches": "no bound" if predictor.routing.max_patches is None else str(predictor.routing.max_patches),
    }
    return predictor, {"checkpoint": str(checkpoint), "sha256": digest, "precision": config.precision, **effort}


# ------------------------------------------------------------------------------------------------ scoring


def score(
    config: EvalConfig,
    benchmark: Benchmark,
    predictor: "Predictor | None",
    book: Scorebook,
    pool: Executor | None,
    world: Processes,
    *,
    ahead: int,
) -> tuple[list[ImageScores], Gallery]:
    """Scores what the book does not hold yet; while a process scores, the network is at the next image.

    Of several processes each scores its share; all scores come together in the first one's book, and the first one
    alone returns them all.

    Raises:
        UserError: An image turns out to be unusable, and --allow-missing was not given.
    """
    scores: dict[str, ImageScores] = {}
    gallery = Gallery(config.examples)

    def unscored() -> list[Case]:
        for case in benchmark.cases:
            if (known := book.get(benchmark.name, case)) is not None:
                scores[case.name], panels = known
                gallery.add(scores[case.name].mad, case.name, panels)
        if scores:
            print(f"{printable(benchmark.name)}: {len(scores)} of {len(benchmark.cases)} images are scored already")
        return [case for case in benchmark.cases if case.name not in scores]

    def show_if_extreme(scored: Scored) -> None:
        if scored.panels is not None:
            gallery.add(scored.scores.mad, scored.case.name, scored.panels)

    def score_all(cases: Sequence[Case], limits: Callable[[], tuple[float, float]]) -> None:
        share, mine = world.share(cases), []
        tasks = (
            Task(case, benchmark.method, prediction, trimap_file(config, benchmark, case), limits())
            for case, prediction in zip(share, predicted(share, predictor, config.max_pixels), strict=True)
        )
        for scored in ordered_map(score_case, tasks, executor=pool, ahead=ahead):
            bar.update(scored.case.name not in scores)
            if isinstance(scored.scores, ImageScores):
                book.add(benchmark.name, scored)
                show_if_extreme(scored)
            elif not config.allow_missing:
                raise UserError(f"{scored.scores} (what is scored is kept: --resume continues)")
            mine.append(scored)
        shares = world.gather(mine)
        for others in shares[1:] if world.is_first else ():
            book.add(benchmark.name, *(each for each in others if isinstance(each.scores, ImageScores)))
        for scored in world.interleave(shares):
            name = scored.case.name
            if isinstance(scored.scores, ImageScores):
                scores[name] = scored.scores
                show_if_extreme(scored)
            else:
                benchmark.unusable[name] = str(scored.scores)
                scores.pop(name, None)

    todo = world.first(unscored)
    total = len(scores) + len(world.share(todo))
    title = world.title(printable(benchmark.name))
    with progress(total=total, initial=len(scores), desc=title, unit="img", disable=not world.is_first) as bar:
        score_all(todo, gallery.limits)
        # Known scores whose pictures were never made, since others were worse or better that are no more.
        lacking = world.first(lambda: [case for case in benchmark.cases if case.name in gallery.lacking()])
        score_all(lacking, lambda: (math.inf, -math.inf))
    return [scores[case.name] for case in benchmark.cases if case.name in scores], gallery


def predicted(
    cases: Sequence[Case], predictor: "Predictor | None", max_pixels: int
) -> Iterator[np.ndarray | UserError | None]:
    """The alpha of each case, or why there is none; None where it lies in a file. Photographs are read ahead."""
    if predictor is None:
        yield from repeat(None, len(cases))
        return
    from utils.inference import predict_alpha, within_memory
    from utils.memory import OutOfMemory

    with ThreadPoolExecutor(2) as threads:
        photographs = ordered_map(read_photograph(max_pixels), cases, executor=threads, ahead=3)
        for case, rgb in zip(cases, photographs, strict=True):
            if isinstance(rgb, UserError):
                yield rgb
                continue
            try:
                yield within_memory(predictor, lambda predictor, rgb=rgb: predict_alpha(predictor, rgb))[0]
            except OutOfMemory as error:
                yield UserError(f"{case.image}: {error}")


def trimap_file(config: EvalConfig, benchmark: Benchmark, case: Case) -> Path:
    """Where a trimap that is made is kept: beside the results, never in the dataset."""
    return trimap_folder(config) / benchmark.name / f"{case.name}.png"


def trimap_folder(config: EvalConfig) -> Path:
    return config.out / f"trimaps_{config.trimap_kernel_px}px"


def summarise(config: EvalConfig, benchmark: Benchmark, scores: list[ImageScores], source: dict[str, str]) -> Result:
    """The set's scores with all that must be said of them."""
    if not scores:
        raise UserError(f"{benchmark.name}: none of {len(benchmark.cases)} images could be scored")
    left_out = {**dict.fromkeys(benchmark.missing, "no prediction"), **benchmark.unusable}
    if left_out:
        print(
            f"{printable(benchmark.name)}: scored {len(scores)} of {len(scores) + len(left_out)} images; "
            f"{len(benchmark.missing)} without prediction, {len(benchmark.unusable)} unusable"
        )
        for name, reason in benchmark.unusable.items():
            print(printable(f"left out: {name}: {reason}"))
    prediction = "rounded to 8 bits" if config.round_predictions else "float, not rounded"
    return Result(benchmark.name, mean_scores(scores), benchmark.region, prediction, left_out, source)


if __name__ == "__main__":
    run_script(main)
