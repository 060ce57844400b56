"""Cases: the files a score is made of, checking them, and scoring one, in whatever process."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.encoding import write_image
from utils.errors import UserError
from utils.files import CannotWriteError
from utils.gallery import Panels, make_panels
from utils.images import quantise, read_alpha, read_rgb, verify_alpha, verify_rgb
from utils.pairs import sizes_differ
from utils.parallel import in_threads
from utils.scoring import ImageScores, score_image
from utils.trimaps import UNKNOWN, read_trimap, trimap_from_alpha

BYTES_PER_PIXEL = 100  # that scoring takes, measured at 7 to 108 megapixels with the default metrics

Stamp = dict[str, list[int]]  # a file's role to its size in bytes and its modification time in ns


class Case(NamedTuple):
    """One image to score; `prediction` is None where a model makes it, `trimap` and `image` where there is none."""

    name: str
    alpha: Path
    prediction: Path | None = None
    image: Path | None = None
    trimap: Path | None = None

    def files(self) -> dict[str, Path]:
        """Role to file, of those that decide the scores: a photograph beside a finished matte is only shown."""
        image = self.image if self.prediction is None else None
        roles = {"alpha": self.alpha, "prediction": self.prediction, "image": image, "trimap": self.trimap}
        return {role: path for role, path in roles.items() if path is not None}

    def stamp(self) -> Stamp:
        """What tells whether a file was changed since it was scored.

        Raises:
            UserError: A file is gone.
        """
        try:
            states = {role: path.stat() for role, path in self.files().items()}
        except OSError as error:
            raise UserError(
                f"{error.filename}: cannot be read ({error.strerror}); it was there a moment ago"
            ) from error
        return {role: [state.st_size, state.st_mtime_ns] for role, state in states.items()}


class Method(NamedTuple):
    """How cases are scored.

    Attributes:
        metrics: Of utils.scoring.FAMILIES.
        kernel_px: Where a case has no trimap, make one with this kernel; None: score the whole image only.
        round_to_8bit: Score the prediction as an 8-bit PNG would hold it: rounded, never floored.
        max_pixels: Largest file that is decoded.
    """

    metrics: tuple[str, ...]
    kernel_px: int | None
    round_to_8bit: bool
    max_pixels: int


class Task(NamedTuple):
    """A case on its way to the process that scores it.

    Attributes:
        case: Its files.
        method: How.
        prediction: Alpha float32 (H, W) in [0, 1]; None to read the case's file; an error that was met making it.
        trimap_out: Where a trimap that is made is written.
        limits: Errors (MAD) up to the first and from the second are worth pictures.
    """

    case: Case
    method: Method
    prediction: np.ndarray | UserError | None
    trimap_out: Path
    limits: tuple[float, float]


class Scored(NamedTuple):
    """The scores of a case, or why there are none; panels if its error is within the limits."""

    case: Case
    stamp: Stamp
    scores: ImageScores | UserError
    panels: Panels | None


def score_case(task: Task) -> Scored:
    """Reads a case's files and scores it; an unusable file is an answer, not an exception."""
    case = task.case
    try:
        stamp = case.stamp()  # before reading: a change in between is noticed by the next --resume
        return Scored(case, stamp, *_score(task))
    except CannotWriteError:
        raise  # of the disk, not of this case
    except UserError as error:
        return Scored(case, {}, error, None)


def _score(task: Task) -> tuple[ImageScores, Panels | None]:
    case, method = task.case, task.method
    if isinstance(task.prediction, UserError):
        raise task.prediction
    alpha = read_alpha(case.alpha, max_pixels=method.max_pixels)
    pred_alpha = task.prediction
    if pred_alpha is None:
        pred_alpha = read_alpha(case.prediction, max_pixels=method.max_pixels)
    if pred_alpha.shape != alpha.shape:
        raise UserError(sizes_differ(case.prediction or case.image, pred_alpha.shape, case.alpha, alpha.shape))
    if method.round_to_8bit:
        pred_alpha = quantise(pred_alpha) / np.float32(255)
    scores = score_image(case.name, pred_alpha, alpha, metrics=method.metrics, unknown=_unknown(task, alpha))
    low, high = task.limits
    if low < scores.mad < high:
        return scores, None
    rgb = None
    if case.image is not None:
        with suppress(UserError):  # it is only shown: never a reason to leave out the scores
            rgb = read_rgb(case.image, max_pixels=method.max_pixels)
    return scores, make_panels(rgb, alpha, pred_alpha)


def _unknown(task: Task, alpha: np.ndarray) -> np.ndarray | None:
    """The unknown region, bool (H, W), of the case's trimap or of one that is made and written; None without."""
    if task.case.trimap is not None:
        return read_trimap(task.case.trimap, alpha.shape, max_pixels=task.method.max_pixels) == UNKNOWN
    if task.method.kernel_px is None:
        return None
    trimap = trimap_from_alpha(alpha, task.method.kernel_px)
    write_image(task.trimap_out, trimap)
    return trimap == UNKNOWN


def check_cases(cases: Sequence[Case], *, max_pixels: int) -> tuple[dict[str, str], int]:
    """Finds, before any work, files that are damaged, too large, of another size than their truth, or no mattes.

    JPEG and PNG in which nothing else can be wrong are checked for completeness without being decoded; other files,
    such as mattes with colours, are decoded, and so is every trimap: a small part of the time that scoring takes.

    Returns:
        Name of a case that cannot be scored to the reason, empty if all is well; the pixels of the largest case.
    """
    checks = {"alpha": verify_alpha, "prediction": verify_alpha, "image": verify_rgb}

    def check(case: Case) -> tuple[str, int]:
        files = case.files()
        try:
            sizes = {role: checks[role](files[role], max_pixels=max_pixels) for role in checks if role in files}
            if wrong := next((role for role, size in sizes.items() if size != sizes["alpha"]), None):
                return sizes_differ(files[wrong], sizes[wrong], case.alpha, sizes["alpha"]), 0
            if case.trimap is not None:
                read_trimap(case.trimap, sizes["alpha"], max_pixels=max_pixels)
        except UserError as error:
            return str(error), 0
        return "", math.prod(sizes["alpha"])

    found = list(in_threads(check, cases, desc="check", unit="img", num_workers=8))
    problems = {case.name: text for case, (text, _) in zip(cases, found, strict=True) if text}
    return problems, max((pixels for _, pixels in found), default=0)


def read_photograph(max_pixels: int) -> Callable[[Case], np.ndarray | UserError]:
    """A function that reads a case's photograph, uint8 (H, W, 3), or returns why it cannot be read."""

    def read(case: Case) -> np.ndarray | UserError:
        try:
            return read_rgb(case.image, max_pixels=max_pixels)
        except UserError as error:
            return error

    return read
