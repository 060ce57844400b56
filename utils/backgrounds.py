"""Subjects in front of other photographs, composed while training; no torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from utils.compositing import Layer, compose, covering_window, cut, merge
from utils.errors import UserError
from utils.foreground import estimate_foreground
from utils.images import MAX_PIXELS, image_size, list_images, read_rgb, verify_rgb
from utils.names import match_names, shorten
from utils.pairs import Pair, read_pair, sizes_differ
from utils.parallel import in_threads

if TYPE_CHECKING:
    from utils.transforms import TrainTransform, View  # torch, which composing on the disk does without

MAX_SUBJECTS = 3  # more hide each other


class Composite(NamedTuple):
    """rgb uint8 (S, S, 3), its alpha float32 (S, S) in [0, 1], and a name that tells what it is made of."""

    rgb: np.ndarray
    alpha: np.ndarray
    name: str


class NewBackgrounds:
    """Takes a subject off its photograph and puts it, and now and then others, in front of another one.

    The subject's own colours are solved first: a soft edge mixes them with the old background, which would bleed
    through. They come from `foregrounds` or, where there is none, from a fast estimate on the cropped picture.

    Args:
        backgrounds: photographs, best without a subject of their own.
        background_probability: of a composite instead of the photograph.
        extra_subject_probability: of a second subject, taken from another pair; with one, of a third.
        foregrounds: pair name to the file of its solved colours (`tools.solve_foreground`), as large as its photograph.
        max_pixels: largest file that is decoded.
    """

    def __init__(
        self,
        backgrounds: Sequence[Path],
        *,
        background_probability: float,
        extra_subject_probability: float,
        foregrounds: Mapping[str, Path] | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.backgrounds = list(backgrounds)
        self.background_probability = background_probability
        self.extra_subject_probability = extra_subject_probability
        self.foregrounds = dict(foregrounds or {})
        self.max_pixels = max_pixels

    def composite(
        self, pairs: Sequence[Pair], index: int, transform: "TrainTransform", rng: np.random.Generator
    ) -> Composite:
        """Composes a picture of the size the network sees.

        Args:
            pairs: where the subjects come from.
            index: of the first subject; the others are drawn.
            transform: crops and resizes each subject, before it is composed.
            rng: source of all randomness.

        Raises:
            UserError: a file cannot be read, or is of another size than its alpha.
        """
        names = [pairs[index].name]
        subject, view = self._subject(pairs[index], transform, rng)
        while len(names) < min(MAX_SUBJECTS, len(pairs)) and rng.random() < self.extra_subject_probability:
            other = pairs[(index + int(rng.integers(1, len(pairs)))) % len(pairs)]  # any but the first
            subject = merge(self._subject(other, transform, rng)[0], subject)
            names.append(other.name)
        path = self.backgrounds[int(rng.integers(len(self.backgrounds)))]
        background = _behind(read_rgb(path, max_pixels=self.max_pixels), subject.alpha.shape, view, rng)
        rgb = compose(subject.foreground, background, subject.alpha)
        return Composite(rgb, subject.alpha, f"{' + '.join(names)} on {path}")

    def _subject(self, pair: Pair, transform: "TrainTransform", rng: np.random.Generator) -> "tuple[Layer, View]":
        """Its colours and alpha as the network sees them, and where they were in the photograph."""
        solved = self.foregrounds.get(pair.name)
        rgb, alpha = read_pair(pair._replace(image=solved or pair.image), max_pixels=self.max_pixels)
        view = transform.view(alpha.shape, rng)
        rgb, alpha = transform.cut(rgb, view), transform.cut(alpha, view)
        return Layer(rgb if solved else estimate_foreground(rgb, alpha, method="blur-fusion").foreground, alpha), view


def _behind(rgb: np.ndarray, shape: tuple[int, int], view: "View", rng: np.random.Generator) -> np.ndarray:
    """A part of a photograph, squashed to `shape` as the subject of the view was, and mirrored half the time."""
    longer = max(view.window.height, view.window.width)
    fills = [max(1, round(side * seen / longer)) for side, seen in zip(shape, view.window[2:], strict=True)]
    part = cut(rgb, covering_window(rgb.shape[:2], (fills[0], fills[1]), rng), shape)
    return np.ascontiguousarray(part[:, ::-1]) if rng.random() < 0.5 else part


def find_backgrounds(folder: Path, flag: str = "--backgrounds", *, max_pixels: int = MAX_PIXELS) -> list[Path]:
    """The photographs below a folder, checked, in natural order.

    Raises:
        UserError: there is none, or one is damaged or larger than `max_pixels`.
    """
    if not Path(folder).is_dir():
        raise UserError(f"{flag} {folder}: no such folder; check the path")
    paths = list_images(folder, recursive=True)
    if not paths:
        raise UserError(f"{flag} {folder}: no images there; give a folder of photographs without a subject")

    if problems := damaged(paths, max_pixels=max_pixels):
        raise UserError(
            f"{flag} {folder}: {len(problems)} of {len(paths)} images cannot be used: {shorten(problems, '; ')}; "
            f"replace or remove them"
        )
    return paths


def find_foregrounds(
    folder: Path, pairs: Sequence[Pair], flag: str = "--foregrounds", *, max_pixels: int = MAX_PIXELS
) -> dict[str, Path]:
    """The solved colours of each pair, by its name, checked.

    Raises:
        UserError: some are missing, damaged, or of another size than their photograph.
    """
    found, lacking = match_names([pair.name for pair in pairs], folder, flag)
    if lacking:
        raise UserError(
            f"{flag} {folder}: {len(lacking)} of {len(pairs)} are missing there ({shorten(lacking)}); run "
            f"python -m tools.solve_foreground again, or leave out {flag}"
        )
    problems = damaged(list(found.values()), max_pixels=max_pixels) or [
        sizes_differ(found[pair.name], size, pair.alpha, true_size)
        for pair in pairs
        if (size := image_size(found[pair.name])) != (true_size := image_size(pair.alpha))
    ]
    if problems:
        raise UserError(
            f"{flag} {folder}: {len(problems)} of {len(pairs)} cannot be used: {shorten(problems, '; ')}; remove them "
            f"and run python -m tools.solve_foreground again"
        )
    return found


def damaged(pictures: Sequence[Path], *, max_pixels: int) -> list[str]:
    """What is wrong, a line each, with the files that `read_rgb` would not read."""

    def problem(path: Path) -> str:
        try:
            verify_rgb(path, max_pixels=max_pixels)
        except UserError as error:
            return str(error)
        return ""

    return [each for each in in_threads(problem, pictures, desc="check pictures", unit="img") if each]
