"""Files paired by name: a name is a file's path below its folder, without extension.

Names are NFC-normalised: macOS writes an accent as a letter and a mark, others as one letter, and a reader sees the
same name.
"""

import os
import re
import unicodedata
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError
from utils.images import IMAGE_EXTENSIONS, list_images, natural_key

# What predict.py makes of NAME is called NAME_alpha.png, NAME_cutout.png, NAME_color-00b140.png ...
RESULT = re.compile(
    "(.+)_(alpha|cutout|foreground|green|white|color-[0-9a-f]{6}|blur|image-.+|overlay|trimap)", re.DOTALL
)
FRAME = re.compile(r"\d{6}\.png")  # of a result that is a folder of frames, from 000001.png on
_NAMED = 3  # how many file names an error lists before it counts the rest


class NamePairs(NamedTuple):
    """Predictions beside their truths, each list in natural order.

    Attributes:
        matched: (name, predicted file, true file); never empty.
        missing: names of truths without a prediction.
        extra: names of predictions without a truth.
    """

    matched: list[tuple[str, Path, Path]]
    missing: list[str]
    extra: list[str]


def pair_by_name(predictions: Path, truths: Path) -> NamePairs:
    """Pairs the images of two folders, searched recursively, by their names.

    A prediction NAME_alpha is taken for the truth NAME if there is no prediction NAME: so predict.py calls its results.
    What else it wrote of NAME is then no extra prediction.

    Args:
        predictions: folder of predicted mattes.
        truths: folder of true mattes, or of trimaps.

    Raises:
        UserError: a folder is missing or empty, both are the same one, a folder has a name twice, or no name at all is
            in both.
    """
    predicted, true = index_images(predictions, "--predictions"), index_images(truths, "--ground-truth")
    if os.path.realpath(predictions) == os.path.realpath(truths):
        raise UserError(
            f"--predictions and --ground-truth are the same folder, {truths}, and would score perfectly; "
            f"give the folder of the predictions"
        )
    results: dict[str, list[str]] = {}
    for name in predicted:
        if made := RESULT.fullmatch(name):
            results.setdefault(made[1], []).append(name)
    matched, missing, used = [], [], set()
    for name in true:
        result = name if name in predicted else f"{name}_alpha"
        if result not in predicted or (result != name and result in true):
            missing.append(name)
            continue
        matched.append((name, predicted[result], true[name]))
        used |= {name} if result == name else set(results[name])
    if not matched:
        raise UserError(
            f"--predictions {predictions}: none of its {len(predicted)} images ({shorten(list(predicted))}) has "
            f"the name of one of the {len(true)} in --ground-truth {truths} ({shorten(list(true))}); "
            f"rename them, or give folders whose inner paths are the same"
        )
    return NamePairs(matched, missing, [name for name in predicted if name not in used])


def match_names(names: Sequence[str], folder: Path, flag: str) -> tuple[dict[str, Path], list[str]]:
    """Finds the file of each name in a folder, searched recursively; other files there are of no interest.

    Args:
        names: as `pair_by_name` or `find_pairs` gives them.
        folder: of trimaps or images, say.
        flag: what gave `folder`, for the messages.

    Returns:
        The files by name, and the names that have none, both in the order of `names`.

    Raises:
        UserError: the folder is missing or empty, or has a name twice.
    """
    there = index_images(folder, flag)
    return {name: there[name] for name in names if name in there}, [name for name in names if name not in there]


def index_images(folder: Path, flag: str) -> dict[str, Path]:
    """The images below a folder by name, in natural order; never empty.

    Args:
        folder: searched recursively.
        flag: what gave it, for the messages.

    Raises:
        UserError: the folder is missing or empty, or has a name twice.
    """
    if not folder.is_dir():
        raise UserError(f"{flag} {folder.absolute()}: no such folder; check the path")
    found = collect([folder])
    if not found:
        raise UserError(f"{flag} {folder.absolute()}: no images there ({', '.join(IMAGE_EXTENSIONS)})")
    if twice := names_twice(found):
        raise UserError(
            f"{flag} {folder.absolute()}: {len(twice)} names twice ({shorten(twice)}); keep one file of each name"
        )
    return {name: found[name][0] for name in sorted(found, key=natural_key)}


def collect(folders: Sequence[Path], exclude: str = "") -> dict[str, list[Path]]:
    """All images below the folders by name: a good folder has one file a name.

    Args:
        folders: each is searched recursively; a name is a path below its own folder.
        exclude: pattern of file names that are left out.
    """
    found: dict[str, list[Path]] = {}
    for folder in folders:
        for path in list_images(folder, recursive=True):
            if not fnmatch(path.name, exclude):
                name = unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
                found.setdefault(name, []).append(path)
    return found


def names_twice(found: dict[str, list[Path]]) -> list[str]:
    """The files that share a name, as "a.jpg = a.png", one entry a name, in natural order."""
    twice = sorted((name for name in found if len(found[name]) > 1), key=natural_key)
    return [" = ".join(path.name for path in found[name]) for name in twice]


def shorten(names: Sequence[str], separator: str = ", ", *, most: int = _NAMED) -> str:
    """Joins the first `most` names and counts the rest."""
    rest = len(names) - most
    return separator.join(names[:most]) + (f"{separator}{rest} more" if rest > 0 else "")


def are_frames(folder: Path) -> bool:
    """Whether a folder holds frames 000001.png, 000002.png, ... without a gap, and nothing else but hidden files."""
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    return bool(names) and names == [f"{number:06d}.png" for number in range(1, len(names) + 1)]


def megabytes(path: Path) -> str:
    """The size of a file: "11.77 MB"."""
    return f"{path.stat().st_size / 1e6:.2f} MB"


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 pair", "2 pairs"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
