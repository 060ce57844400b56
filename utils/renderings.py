"""What can be made of a photograph and its alpha: the kinds of result that predict.py saves.

A kind is named by a text, such as "cutout", "color:#00b140" or "image:beach.jpg".
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from utils.augment import defocus_kernel
from utils.compositing import compose, cover
from utils.contact_sheet import matte_overlay
from utils.encoding import Format, write_image
from utils.errors import UserError
from utils.foreground import SOFT_BAND
from utils.images import MAX_PIXELS, Photo, eight_bits, quantise, read_rgb
from utils.shrinking import shrink, shrunk_size
from utils.trimaps import trimap_from_alpha

GREEN = (0, 177, 64)  # of the screens in studios, sRGB
WHITE = (255, 255, 255)

_BLURRED_SIDE_PX = 768  # longer side at which a background is put out of focus: finer detail does not survive it
_BLUR_RADIUS = 0.015  # of the longer side
_TRIMAP_KERNEL = 0.012  # of the longer side: what is eroded of each certain region


class Matte(NamedTuple):
    """A photograph with what was found out about it.

    Attributes:
        photo: The photograph.
        alpha: float32 (H, W) in [0, 1].
        foreground: Colours of its subject, uint8 or, of a photograph with 16 bits, uint16 (H, W, 3); None where no
            rendering asks for them.
    """

    photo: Photo
    alpha: np.ndarray
    foreground: np.ndarray | None


class Rendering(NamedTuple):
    """A kind of result.

    Attributes:
        label: What it is called in the names of files, such as "color-00b140"; see utils.names.RESULT.
        draw: Makes it: uint8 or uint16 (H, W), (H, W, 3) or (H, W, 4).
        is_matte: A plane of values, which no lossy format should hold.
        has_alpha: An RGBA picture.
        has_foreground: Drawn with the colours of the subject.
        picture: The file of the background, if it is a picture's.
    """

    label: str
    draw: Callable[[Matte], np.ndarray]
    is_matte: bool = False
    has_alpha: bool = False
    has_foreground: bool = True
    picture: Path | None = None

    def write(self, path: Path, matte: Matte) -> None:
        """Makes it and writes it into a file whose suffix says the format.

        Raises:
            UserError: The file cannot be written.
        """
        drawn = self.draw(matte)
        profile = None if self.is_matte else matte.photo.icc_profile
        write_image(path, drawn if path.suffix == ".png" else eight_bits(drawn), icc_profile=profile)


def parse_renderings(
    texts: Sequence[str], *, format: Format = "png", alpha_bits: int = 8, max_pixels: int = MAX_PIXELS
) -> list[Rendering]:
    """The kinds of result that some texts name, each once.

    Args:
        texts: As given with --save.
        format: Of the files.
        alpha_bits: Of the kind "alpha", 8 or 16.
        max_pixels: The largest background that is read.

    Raises:
        UserError: There is no such kind, the format cannot hold one, or a background cannot be read.
    """
    renderings: dict[str, Rendering] = {}
    for text in texts:
        rendering = _parse(text, alpha_bits, max_pixels)
        if format == "jpeg" and (rendering.is_matte or rendering.has_alpha):
            held = "mattes lose their edges in it" if rendering.is_matte else "it has no alpha channel"
            raise UserError(f"--save {text} --format jpeg: {held}; save {text} as png or webp, by a run of its own")
        if renderings.setdefault(rendering.label, rendering).picture != rendering.picture:
            raise UserError(f"--save {text}: another picture has that name; save it into another --output")
    if format == "webp" and alpha_bits == 16 and "alpha" in renderings:
        raise UserError("--alpha-bits 16 --format webp: WebP has 8 bits; use --format png")
    return list(renderings.values())


def _parse(text: str, alpha_bits: int, max_pixels: int) -> Rendering:
    kind, _, value = text.partition(":")
    if text in _PLAIN:
        return _PLAIN[text] if (text, alpha_bits) != ("alpha", 16) else _ALPHA_16
    if kind == "color" and re.fullmatch("#?[0-9a-fA-F]{6}", value):
        digits = value.removeprefix("#").lower()
        return Rendering(f"color-{digits}", _over_colour(tuple(bytes.fromhex(digits))))
    if kind == "image" and value:
        path = Path(os.path.realpath(value))
        draw = _over_picture(read_rgb(Path(value), max_pixels=max_pixels))
        return Rendering(f"image-{Path(value).stem}", draw, picture=path)
    hint = {"color": ", six hexadecimal digits, in quotes", "image": ", a file"}.get(kind, "")
    raise UserError(f"--save {text}: unknown; choose from {_KNOWN}{hint}")


# ------------------------------------------------------------------------------------------------ planes of values


def _alpha(matte: Matte) -> np.ndarray:
    return quantise(matte.alpha)


def _alpha_16(matte: Matte) -> np.ndarray:
    return quantise(matte.alpha, bits=16)


def _trimap(matte: Matte) -> np.ndarray:
    """Certain is what is nearly so: a network's alpha is never quite 0 or 1."""
    least, most = SOFT_BAND
    certain = np.select([matte.alpha <= least, matte.alpha >= most], [np.float32(0), np.float32(1)], np.float32(0.5))
    return trimap_from_alpha(certain, max(1, round(_TRIMAP_KERNEL * max(matte.alpha.shape))))


# ------------------------------------------------------------------------------------------------ pictures


def _cutout(matte: Matte) -> np.ndarray:
    """RGBA, not premultiplied. Colours under alpha 0 are never seen; zeroed, they compress, and nothing leaks out."""
    level = quantise(matte.alpha, bits=8 * matte.foreground.itemsize)
    rgba = np.empty((*level.shape, 4), level.dtype)
    cv2.mixChannels([matte.foreground, level], [rgba], [0, 0, 1, 1, 2, 2, 3, 3])
    return cv2.copyTo(rgba, (level > 0).view(np.uint8))


def _foreground(matte: Matte) -> np.ndarray:
    return matte.foreground


def _over(background: np.ndarray, matte: Matte) -> np.ndarray:
    """The subject over uint8 (H, W, 3)."""
    foreground = matte.foreground
    if foreground.dtype == np.uint16:
        background = background * np.uint16(257)
    return compose(foreground, background, matte.alpha)


def _over_colour(colour: tuple[int, ...]) -> Callable[[Matte], np.ndarray]:
    def draw(matte: Matte) -> np.ndarray:
        return _over(np.full(matte.photo.rgb.shape, colour, np.uint8), matte)

    return draw


def _over_picture(picture: np.ndarray) -> Callable[[Matte], np.ndarray]:
    """Over the middle of a picture that is enlarged or reduced to fill the photograph."""

    def draw(matte: Matte) -> np.ndarray:
        return _over(cover(picture, matte.alpha.shape), matte)

    return draw


def _over_blurred(matte: Matte) -> np.ndarray:
    """Over its own background, out of focus; the subject itself takes no part in the blur and leaves no glow around."""
    rgb, shape = matte.photo.rgb, matte.alpha.shape
    size = shrunk_size(shape, _BLURRED_SIDE_PX)
    small = shrink(rgb, size).astype(np.float32)
    seen = 1 - shrink(matte.alpha, size).reshape(size)
    seen += 1e-4  # so that there is a colour everywhere
    kernel = defocus_kernel(_BLUR_RADIUS * max(size))
    weighted = cv2.filter2D(small * seen[..., None], -1, kernel, borderType=cv2.BORDER_REPLICATE)
    weights = cv2.filter2D(seen, -1, kernel, borderType=cv2.BORDER_REPLICATE)
    blurred = np.clip(weighted / weights[..., None], 0, 255)
    background = cv2.resize(blurred, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return _over(np.rint(background).astype(np.uint8), matte)


def _overlay(matte: Matte) -> np.ndarray:
    return matte_overlay(matte.photo.rgb, matte.alpha)


_ALPHA_16 = Rendering("alpha", _alpha_16, is_matte=True, has_foreground=False)
_PLAIN = {
    rendering.label: rendering
    for rendering in (
        Rendering("alpha", _alpha, is_matte=True, has_foreground=False),
        Rendering("trimap", _trimap, is_matte=True, has_foreground=False),
        Rendering("cutout", _cutout, has_alpha=True),
        Rendering("foreground", _foreground),
        Rendering("green", _over_colour(GREEN)),
        Rendering("white", _over_colour(WHITE)),
        Rendering("blur", _over_blurred),
        Rendering("overlay", _overlay, has_foreground=False),
    )
}
_KNOWN = ", ".join([*_PLAIN, "color:#RRGGBB", "image:PATH"])
