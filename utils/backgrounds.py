"""Subjects in front of other photographs, composed while training; no torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from utils.compositing import Layer, Square, Window, compose, covering_window, cut, merge, read_squares
from utils.errors import UserError
from utils.foreground import foreground_colours
from utils.images import MAX_PIXELS, image_size, list_images, read_rgb, verify_rgb
from utils.names import match_names, shorten
from utils.pairs import Pair, read_pair, sizes_differ
from utils.parallel import in_threads

if TYPE_CHECKING:
    from utils.transforms import Photograph, TrainTransform  # torch, which composing on the disk does without

MAX_SUBJECTS = 3  # more hide each other
MARGIN_PX = 128  # by which a square is widened, at least, for its colours to be estimated
GRID_PX = 64  # on which it is widened to: the pyramid of the estimate has the pixels that the whole's has


class CroppedSubject(NamedTuple):
    """A part of a photograph with its alpha, and whether its colours are solved already."""

    photograph: "Photograph"
    solved: bool

    def layers(self, size: tuple[int, int], squares: Sequence[Square] | None) -> list[Layer]:
        """The subject alone: see `utils.transforms.Renderable.render`.

        Colours that are not solved are estimated on each square with a margin, because the whole at native resolution
        takes a third of a second for 12 megapixels. A square is therefore not exactly a part of the whole: alpha F is
        mostly within two levels (of 255) of it, but up to 15 off for wide translucent subjects, as glass or wings,
        whose colours come from far away; measured with squares of 256 px in pictures of 1500x2000.
        A square that has all of the picture within its margin is exact, and so is every solved one.
        """
        if self.solved:
            return [Layer(*each) for each in self.photograph.render(size, squares)]
        if squares is None:
            return [Layer(foreground_colours(*each), each[1]) for each in self.photograph.render(size)]
        wide = [_widened(square) for square in squares]
        layers = []
        for (rgb, alpha), (top, left, _), square in zip(self.photograph.render(size, wide), wide, squares, strict=True):
            # The estimate sees the picture end where it ends, as that of the whole does.
            inside = np.s_[max(-top, 0) : size[0] - top, max(-left, 0) : size[1] - left]
            rgb, alpha = np.ascontiguousarray(rgb[inside]), np.ascontiguousarray(alpha[inside])
            there = [Square(square.top - max(top, 0), square.left - max(left, 0), square.side)]
            layers.append(Layer(*(read_squares(each, there)[0] for each in (foreground_colours(rgb, alpha), alpha))))
        return layers


def _widened(square: Square) -> Square:
    """The square with a margin of `MARGIN_PX` or more, on a grid of `GRID_PX`."""
    top, left = ((start - MARGIN_PX) // GRID_PX * GRID_PX for start in square[:2])
    reach = max(square.top - top, square.left - left) + square.side + MARGIN_PX
    return Square(top, left, -(-reach // GRID_PX) * GRID_PX)


class ComposedPhotograph:
    """Subjects in front of a part of a background, as a utils.transforms.Renderable.

    Args:
        subjects: The first one is behind all others and gives the composite its shape.
        background: uint8 (H, W, 3).
        window: The part of that which is seen.
        flip: Whether it is seen mirrored.
        name: Tells what the composite is made of.
    """

    def __init__(
        self, subjects: Sequence[CroppedSubject], background: np.ndarray, window: Window, flip: bool, name: str
    ) -> None:
        self.subjects, self.background, self.window, self.flip, self.name = subjects, background, window, flip, name
        self.shape = subjects[0].photograph.shape

    def render(
        self, size: tuple[int, int], squares: Sequence[Square] | None = None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """The composite at a size, or squares of that; see `utils.transforms.Renderable`."""
        layers = self.subjects[0].layers(size, squares)
        for subject in self.subjects[1:]:
            layers = [merge(over, under) for over, under in zip(subject.layers(size, squares), layers, strict=True)]
        background = cut(self.background, self.window, size)
        behind = read_squares(background[:, ::-1] if self.flip else background, squares)
        return [
            (compose(foreground, each, alpha), alpha) for (foreground, alpha), each in zip(layers, behind, strict=True)
        ]


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
    ) -> ComposedPhotograph:
        """Draws what a picture is composed of.

        Args:
            pairs: where the subjects come from.
            index: of the first subject; the others are drawn.
            transform: draws the part that is seen of each subject.
            rng: source of all randomness.

        Raises:
            UserError: a file cannot be read, or is of another size than its alpha.
        """
        chosen = [pairs[index]]
        subjects = [self._subject(pairs[index], transform, rng)]
        while len(chosen) < min(MAX_SUBJECTS, len(pairs)) and rng.random() < self.extra_subject_probability:
            chosen.append(pairs[(index + int(rng.integers(1, len(pairs)))) % len(pairs)])  # any but the first
            subjects.append(self._subject(chosen[-1], transform, rng))
        path = self.backgrounds[int(rng.integers(len(self.backgrounds)))]
        background = read_rgb(path, max_pixels=self.max_pixels)
        # Large enough to stand behind the first subject pixel for pixel, if the background has the pixels.
        window = covering_window(background.shape[:2], subjects[0].photograph.shape, rng)
        name = f"{' + '.join(pair.name for pair in chosen)} on {path}"
        return ComposedPhotograph(subjects, background, window, rng.random() < 0.5, name)

    def _subject(self, pair: Pair, transform: "TrainTransform", rng: np.random.Generator) -> CroppedSubject:
        solved = self.foregrounds.get(pair.name)
        rgb, alpha = read_pair(pair._replace(image=solved or pair.image), max_pixels=self.max_pixels)
        return CroppedSubject(transform.photograph(rgb, alpha, rng), solved is not None)


def find_backgrounds(folder: Path, *, max_pixels: int = MAX_PIXELS) -> list[Path]:
    """The photographs below a folder, checked, in natural order.

    Raises:
        UserError: there is none, or one is damaged or larger than `max_pixels`.
    """
    if not Path(folder).is_dir():
        raise UserError(f"--backgrounds {folder}: no such folder; check the path")
    paths = list_images(folder, recursive=True)
    if not paths:
        raise UserError(f"--backgrounds {folder}: no images there; give a folder of photographs without a subject")

    if problems := damaged(paths, max_pixels=max_pixels):
        raise UserError(
            f"--backgrounds {folder}: {len(problems)} of {len(paths)} images cannot be used: "
            f"{shorten(problems, '; ')}; replace or remove them"
        )
    return paths


def find_foregrounds(folder: Path, pairs: Sequence[Pair], *, max_pixels: int = MAX_PIXELS) -> dict[str, Path]:
    """The solved colours of each pair, by its name, checked.

    Raises:
        UserError: some are missing, damaged, or of another size than their photograph.
    """
    found, lacking = match_names([pair.name for pair in pairs], folder, "--foregrounds")
    if lacking:
        raise UserError(
            f"--foregrounds {folder}: {len(lacking)} of {len(pairs)} are missing there ({shorten(lacking)}); run "
            f"python -m tools.solve_foreground again, or leave out --foregrounds"
        )
    problems = damaged(list(found.values()), max_pixels=max_pixels) or [
        sizes_differ(found[pair.name], size, pair.alpha, true_size)
        for pair in pairs
        if (size := image_size(found[pair.name])) != (true_size := image_size(pair.alpha))
    ]
    if problems:
        raise UserError(
            f"--foregrounds {folder}: {len(problems)} of {len(pairs)} cannot be used: "
            f"{shorten(problems, '; ')}; remove them and run python -m tools.solve_foreground again"
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
