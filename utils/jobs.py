"""What predict.py is to do: photographs and videos, and where the results of each go."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from utils.encoding import SUFFIXES, Format
from utils.errors import UserError
from utils.images import IMAGE_EXTENSIONS, OTHER_EXTENSIONS, list_images
from utils.names import FRAME, are_frames, counted, shorten
from utils.renderings import Rendering
from utils.video import VIDEO_EXTENSIONS

_VIDEO = ".mp4"  # of results
_OF_FILES = {*SUFFIXES.values(), _VIDEO}  # what else there is are folders of frames


class Job(NamedTuple):
    """One photograph or video and where its results go.

    Attributes:
        source: The file.
        targets: By the label of a rendering: a file, or a folder of frames.
    """

    source: Path
    targets: dict[str, Path]

    @property
    def is_video(self) -> bool:
        """Whether it is one, by its name."""
        return is_video(self.source)

    @property
    def missing(self) -> dict[str, Path]:
        """The results that are not there."""
        return {label: path for label, path in self.targets.items() if not _is_there(path)}


class Plan(NamedTuple):
    """All that is to be done.

    Attributes:
        jobs: No two have a result in common.
        notes: What of the inputs is left out, a line each.
    """

    jobs: list[Job]
    notes: list[str]


def _is_there(path: Path) -> bool:
    return os.path.isfile(path) if path.suffix in _OF_FILES else os.path.isdir(path) and are_frames(path)


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its name."""
    return path.suffix.lower() in VIDEO_EXTENSIONS


def plan_jobs(inputs: Sequence[Path], output: Path, renderings: Sequence[Rendering], format: Format) -> Plan:
    """Finds the photographs and videos of some inputs, and names their results.

    Folders are searched for photographs, at any depth, and mirrored below the output folder; so is what a pattern
    (`photos/**/*.jpg`) finds, from its first part with a wildcard on. The result of `a.jpg` is `a_alpha.png`; where
    names differ by their suffix only, it is a part of the result's (`a_jpg_alpha.png`, `a_png_alpha.png`).

    Args:
        inputs: Files, folders and patterns.
        output: Folder for the results.
        renderings: The results of each.
        format: Of their files.

    Raises:
        UserError: An input does not exist or holds no photographs, two would have the same result, a result would
            replace an input, or `output` is, or holds, an input folder.
    """
    sources: dict[Path, Path] = {}  # photograph or video -> its path below the output folder
    notes: list[str] = []
    for given in inputs:
        if os.path.isdir(given):
            sources |= _below(given, output, notes)
        elif os.path.isfile(given):
            sources[given] = Path(given.name)
        elif glob.has_magic(str(given)):
            sources |= _matching(given, output)
        else:
            raise UserError(f"{given.absolute()}: no such file or folder; usage: python predict.py INPUT [INPUT ...]")
    twice: dict[tuple[Path, Path], Path] = {}  # one file, written in two ways
    sources = {
        source: relative
        for source, relative in sources.items()
        if twice.setdefault((_real(source), relative), source) == source
    }
    jobs = [Job(source, targets) for source, targets in _name_targets(sources, output, renderings, format).items()]
    _require_apart([path for job in jobs for path in job.targets.values()])
    originals = {_real(source) for source in sources}
    for target in (target for job in jobs for target in job.targets.values()):
        if _real(target) in originals:
            raise UserError(f"--output {output}: the result {target} is one of the inputs; choose another folder")
    return Plan(jobs, notes)


def _require_apart(targets: Sequence[Path]) -> None:
    """Raises UserError if a folder of frames would take the place of another folder, with what is in it."""
    folders = {path for path in targets if path.suffix not in _OF_FILES}
    for folder in folders:
        others = [path for path in targets if folder in path.parents]
        there = os.listdir(folder) if folder.is_dir() else []
        if others or not all(FRAME.fullmatch(name) or name.startswith(".") for name in there):
            raise UserError(f"{folder} is to be a folder of frames, and holds other results; choose another --output")


def _below(folder: Path, output: Path, notes: list[str]) -> dict[Path, Path]:
    """The photographs of a folder, by their paths below it; notes what else might have been meant."""
    if _real(folder).is_relative_to(_real(output)):
        raise UserError(f"--output {output} is or holds the input folder {folder}; choose another one")
    known = (*IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS, *OTHER_EXTENSIONS)
    there = _without(output, list_images(folder, recursive=True, extensions=known))
    found, videos, others = (
        [path for path in there if path.suffix.lower() in kinds]
        for kinds in (IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, OTHER_EXTENSIONS)
    )
    left_out = [(videos, "video", "name it"), (others, "file", "of a type that is not read")]
    left_out = [
        f"{folder}: {counted(len(paths), noun)} left out ({shorten([path.name for path in paths])}), {why}"
        for paths, noun, why in left_out
        if paths
    ]
    if not found:
        also = f"; {'; '.join(left_out)}" if left_out else ""
        raise UserError(f"{folder}: no images there ({', '.join(IMAGE_EXTENSIONS)}){also}")
    notes += left_out
    return {path: path.relative_to(folder) for path in found}


def _matching(pattern: Path, output: Path) -> dict[Path, Path]:
    """The photographs and videos that a pattern matches, by their paths below the folder it starts from."""
    readable = {*IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS}
    matches = (Path(each) for each in sorted(glob.glob(str(pattern), recursive=True)))
    found = _without(output, (path for path in matches if path.is_file() and path.suffix.lower() in readable))
    if not found:
        raise UserError(f"{pattern.absolute()}: no file, and no pattern that images or videos match; check the path")
    parts = list(pattern.parts)
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed])
    return {path: path.relative_to(root) for path in found}


def _without(output: Path, paths: Iterable[Path]) -> list[Path]:
    """The paths that lie outside of the output folder: what lies there is no input but a result."""
    output = _real(output)
    return [path for path in paths if not _real(path).is_relative_to(output)]


def _real(path: Path) -> Path:
    """The path without links; unlike Path.resolve, a loop of links is no error here, but where it is read."""
    return Path(os.path.realpath(path))


def _name_targets(
    sources: dict[Path, Path], output: Path, renderings: Sequence[Rendering], format: Format
) -> dict[Path, dict[str, Path]]:
    """The results of each photograph and video."""
    stems = {source: relative.with_suffix("") for source, relative in sources.items()}
    clashing = True
    while clashing:  # a_jpg.bmp, too, has to make room, for a.jpg beside a.png
        shared = Counter(os.path.normcase(stem) for stem in stems.values())
        longer = {
            source: relative.with_name(relative.name.replace(".", "_"))
            for source, relative in sources.items()
            if shared[os.path.normcase(stems[source])] > 1
        }
        clashing = any(stems[source] != stem for source, stem in longer.items())
        stems |= longer
    named: dict[Path, dict[str, Path]] = {}
    taken: dict[str, Path] = {}
    for source, stem in stems.items():
        named[source] = {}
        for rendering in renderings:
            suffix = SUFFIXES[format]
            if is_video(source):  # the formats that players know have no alpha channel
                suffix = "" if rendering.has_alpha else _VIDEO
            target = output / stem.with_name(f"{stem.name}_{rendering.label}{suffix}")
            if (other := taken.setdefault(os.path.normcase(target), source)) != source:
                raise UserError(f"{source} and {other} would have the same result; predict them into different folders")
            named[source][rendering.label] = target
    return named
