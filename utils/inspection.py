"""One pair looked at: can its files be used, and does its alpha look like one?"""

import base64
import hashlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from utils.duplicates import THUMBNAIL_PX, thumbnail
from utils.errors import UserError
from utils.images import exif_orientation, read_alpha, read_rgb, verify_image
from utils.pairs import Pair, sizes_differ

VERSION = 3  # of what is seen: raise it with every change, so that nothing that was remembered is taken for it

_SMALL_PX = 32  # side of what the encoder sees as one pixel at its deepest stage
_ELONGATED = 8  # longer side / shorter side
_FAINT = 0.5
_BORDER = 0.02  # width of the border that is looked at, as a share of the shorter side
_REDUCTIONS = {8: cv2.IMREAD_REDUCED_GRAYSCALE_8, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2}
_REDUCED_PX = 8 * THUMBNAIL_PX  # least shorter side of a reduced JPEG: its thumbnail is that of the whole


class Finding(NamedTuple):
    """One fault: its kind, whose it is, and a line with the file, the fault and the remedy."""

    kind: str
    role: str
    message: str


class Inspection(NamedTuple):
    """What was seen of a pair.

    Attributes:
        findings: Of both files.
        width: Of the image as displayed, px; 0 if it cannot be read.
        height: Likewise.
        grey_image: The image has no colour channels.
        digest: Of the image file's bytes; "" if it cannot be read.
        thumbnail: Of the image, in base64; "" if it cannot be read.
        binary: All of the alpha is 0 or 1; None if it cannot be read.
        wide_alpha: The alpha is stored with 16 bits.
    """

    findings: list[Finding]
    width: int = 0
    height: int = 0
    grey_image: bool = False
    digest: str = ""
    thumbnail: str = ""
    binary: bool | None = None
    wide_alpha: bool = False


class Header(NamedTuple):
    """Of a picture file: whether it is a JPEG, grey, and of more than 8 bits."""

    jpeg: bool
    grey: bool
    wide: bool


def inspect_pair(pair: Pair, max_pixels: int) -> Inspection:
    """Reads both files; one that cannot be used is a finding, not an exception.

    Args:
        pair: What to read.
        max_pixels: Largest file that is decoded.
    """
    findings: list[Finding] = []
    image, image_size = _inspect_image(pair.image, max_pixels, findings)
    alpha, alpha_size = _inspect_alpha(pair.alpha, max_pixels, findings)
    if image_size and alpha_size and image_size != alpha_size:
        remedy = "make them the same size"
        if image_size == alpha_size[::-1] and _only_image_turned(pair):
            remedy = "the image is turned by EXIF, which its alpha most likely was not: turn the alpha as well"
        text = f"{sizes_differ(pair.image, image_size, pair.alpha, alpha_size)}; {remedy}"
        findings.append(Finding("size-differs", "alpha", text))
    elif image_size and alpha_size and _only_image_turned(pair) and _size_tells_nothing(pair.image, image_size):
        text = f"{pair.image}: the image is turned by EXIF, its alpha is not: check that they match"
        findings.append(Finding("exif", "image", text))
    return Inspection(findings, **image, **alpha)


def _inspect_image(path: Path, max_pixels: int, findings: list[Finding]) -> tuple[dict, tuple[int, int] | None]:
    """What is known of an image, as fields of Inspection, and its (height, width)."""
    try:
        (height, width), grey = _read_grey(path, max_pixels)
        digest, header = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest(), read_header(path)
    except (UserError, OSError) as error:
        findings.append(_unusable(path, "image", error))
        return {}, None
    if min(height, width) < _SMALL_PX:
        text = f"{path}: {width}x{height} is too small to hold an edge; remove the pair if it is a mistake"
        findings.append(Finding("small", "image", text))
    if max(height, width) > _ELONGATED * min(height, width):
        text = f"{path}: {width}x{height} is squeezed into a square by the network; crop it"
        findings.append(Finding("elongated", "image", text))
    small = base64.b64encode(thumbnail(grey).tobytes()).decode()
    fields = {"width": width, "height": height, "grey_image": header.grey, "digest": digest, "thumbnail": small}
    return fields, (height, width)


def _only_image_turned(pair: Pair) -> bool:
    """Whether EXIF turns or mirrors the image, and not the alpha."""
    return exif_orientation(pair.image) > 1 and exif_orientation(pair.alpha) == 1


def _size_tells_nothing(path: Path, size: tuple[int, int]) -> bool:
    """Whether an image turned by EXIF is as high and as wide as it is stored."""
    return exif_orientation(path) < 5 or size[0] == size[1]


def _read_grey(path: Path, max_pixels: int) -> tuple[tuple[int, int], np.ndarray]:
    """(height, width) as displayed, and the picture in grey, uint8, at that size or reduced where it saves decoding."""
    with path.open("rb") as file:
        jpeg = file.read(2) == b"\xff\xd8"
    if jpeg:
        size = verify_image(path, max_pixels=max_pixels)
        factor = next((factor for factor in _REDUCTIONS if min(size) >= factor * _REDUCED_PX), 1)
        flag = _REDUCTIONS.get(factor, cv2.IMREAD_GRAYSCALE)
        grey = cv2.imdecode(np.fromfile(path, np.uint8), flag)
        if grey is not None:
            return size, grey
    rgb = read_rgb(path, max_pixels=max_pixels)
    return rgb.shape[:2], cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)


def _inspect_alpha(path: Path, max_pixels: int, findings: list[Finding]) -> tuple[dict, tuple[int, int] | None]:
    """What is known of an alpha, as fields of Inspection, and its (height, width)."""
    try:
        alpha, header = read_alpha(path, max_pixels=max_pixels), read_header(path)
    except (UserError, OSError) as error:
        findings.append(_unusable(path, "alpha", error))
        return {}, None
    findings += alpha_doubts(path, alpha, header)
    binary = bool(((alpha == 0) | (alpha == 1)).all())
    return {"binary": binary, "wide_alpha": header.wide}, alpha.shape


def alpha_doubts(path: Path, alpha: np.ndarray, header: Header) -> list[Finding]:
    """What is doubtful about an alpha that can be used: kinds of `utils.problems.WARNINGS`.

    Args:
        path: Its file.
        alpha: What was read from it, float32 (H, W) in [0, 1].
        header: Of the file.
    """
    low, high = float(alpha.min()), float(alpha.max())
    doubts = []
    if low == high:
        doubts.append(("constant", f"alpha is {low:.3g} everywhere; remove the pair if it is a mistake"))
    elif high < 1.5 / 255:
        cause = "0 to 1 as whole numbers" + (", or 8-bit values in a 16-bit file" if header.wide else "")
        doubts.append(("stored-0-1", f"its largest value is {high:.2g}: {cause}? rescale it to all levels"))
    elif high < _FAINT:
        doubts.append(("faint", f"alpha never exceeds {high:.2g}; rescale it if this is no glass or smoke"))
    if low < high and looks_inverted(alpha / high):
        doubts.append(("inverted", "the border is opaque, the centre is not; invert it if the background is white"))
    if header.jpeg:
        doubts.append(("alpha-jpeg", "an alpha saved as JPEG has rings around edges; take it from a lossless source"))
    return [Finding(kind, "alpha", f"{path}: {text}") for kind, text in doubts]


def looks_inverted(alpha: np.ndarray) -> bool:
    """Whether more than half of the border is opaque, and more of it than of the centre.

    A guess: of 219 real mattes and 960 synthetic ones it accuses none; of their inverses it finds 218 and 929. It
    misses subjects that leave the centre empty, and accuses frames that one looks through.

    Args:
        alpha: float (H, W) in [0, 1].
    """
    height, width = alpha.shape
    band_px = max(1, round(_BORDER * min(height, width)))
    border = np.ones(alpha.shape, dtype=bool)
    border[band_px : height - band_px, band_px : width - band_px] = False
    centre = alpha[height // 4 : height - height // 4, width // 4 : width - width // 4]
    opaque = float(alpha[border].mean())
    return opaque > 0.5 and opaque > float(centre.mean())


def read_header(path: Path) -> Header:
    """What the header of a file says that was read before."""
    with Image.open(path) as image:
        bands, wide = image.getbands(), any(";16" in str(tile.args) for tile in image.tile)
        return Header(image.format in ("JPEG", "MPO"), bands[0][0] in "1LI", wide or "16" in image.mode)


def _unusable(path: Path, role: str, error: UserError | OSError) -> Finding:
    if isinstance(error, OSError):
        text = f"{path}: cannot be read ({error.strerror or error}); check the path and its permissions"
        return Finding("unreadable", role, text)
    return Finding(error.kind, role, str(error))
