"""What can be wrong with a pair of image and alpha, and what to do about it."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from utils.errors import printable
from utils.files import write_atomically

Severity = Literal["error", "warning"]

# Kind of problem to what it means and what to do about it.
ERRORS = {
    "empty": "files of 0 bytes: replace or remove them",
    "not-an-image": "no images, or their headers are damaged: replace or remove them",
    "truncated": "files that end early, most likely a broken download or copy: replace or remove them",
    "damaged": "files that cannot be decoded: replace or remove them",
    "unreadable": "files that cannot be opened: check that they are there, and their permissions",
    "too-large": "more pixels than are decoded: raise --max-pixels if they are meant to be that large",
    "colour-alpha": "colour pictures where alphas are expected: give grey mattes or RGBA cut-outs",
    "pixel-format": "floating-point photographs, alphas outside [0, 1], odd formats: save them with 8 or 16 bits",
    "size-differs": "image and alpha of different size, EXIF orientation applied: make them the same size",
    "no-alpha": "images without alpha: add alphas of the same names, or remove the images",
    "no-image": "alphas without image: add images of the same names, or remove the alphas",
    "other-type": "pictures of a type that is not read: convert them to PNG or JPEG",
    "image-twice": "several images of one name: keep one of each",
    "alpha-twice": "several alphas of one name: keep one of each",
}
WARNINGS = {
    "leak": "one photograph in two splits, so that scores are too good: keep it in one",
    "exif": "images turned by EXIF, their alphas not: check that they match",
    "inverted": "the border is opaque and the centre is not: if the background is white, invert the alphas",
    "stored-0-1": "all but black, such as 0 and 1 stored as whole numbers: rescale these alphas to all levels",
    "constant": "alphas of one value everywhere: remove these pairs if that is a mistake",
    "faint": "alphas that never reach 0.5: if this is no glass or smoke, rescale them",
    "alpha-jpeg": "alphas saved as JPEG, which leaves rings around edges: take them from a lossless source",
    "duplicate": "one photograph twice in a split, where it counts twice: remove one",
    "small": "less than 32 px on a side, too small to show an edge: remove these pairs if that is a mistake",
    "elongated": "more than 8 times as long as wide, squeezed into a square by the network: crop them",
    "no-trimap": "pairs without trimap beside others that have one: evaluation with trimaps is refused",
    "trimap-twice": "several trimaps of one name: keep one of each",
}


class Problem(NamedTuple):
    """One fault of one pair.

    Attributes:
        split: Where.
        name: Of the pair.
        file: To blame.
        kind: A key of ERRORS or WARNINGS.
        message: One line that names the file and the remedy.
        other: The photograph it is a copy of.
    """

    split: str
    name: str
    file: Path
    kind: str
    message: str
    other: Path | None = None

    @property
    def severity(self) -> Severity:
        """An error makes the pair unusable; a warning does not."""
        return "error" if self.kind in ERRORS else "warning"


def write_problems(path: Path, problems: Sequence[Problem]) -> None:
    """Writes a CSV file, a row a problem; what of a file's name is not text is written as escapes.

    Raises:
        UserError: It cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(("split", "name", "severity", "kind", "file", "message"))
    for each in problems:
        writer.writerow((each.split, each.name, each.severity, each.kind, each.file, printable(each.message)))
    write_atomically(path, lambda file: file.write(text.getvalue().encode("utf-8", "backslashreplace")))
