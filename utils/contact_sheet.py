"""Contact sheets: many small pictures with captions on one page, and views that show whether a matte fits its photo."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.shrinking import shrink_to_fit

Colour = tuple[int, int, int]

NEUTRAL: Colour = (206, 208, 212)  # frames of pictures with nothing to say
AMBER: Colour = (255, 176, 0)  # of warnings
RED: Colour = (214, 40, 40)  # of errors

_PAGE: Colour = (250, 250, 250)
_EMPTY: Colour = (232, 233, 236)
_INK: Colour = (24, 24, 28)
_GREEN: Colour = (60, 190, 90)
_TINT: Colour = (190, 0, 160)  # a magenta photographs hardly have
_CONTOUR: Colour = (200, 255, 0)
_BACKGROUND_LEFT = 0.45  # share of the photograph that shows through the tint
_GAP_PX = 12  # between tiles
_FRAME_PX = 4


class Tile(NamedTuple):
    """Pictures side by side with one caption.

    Attributes:
        caption: Shown below the pictures; shortened in the middle if it does not fit.
        pictures: uint8 (H, W) or (H, W, 3) of any size. A text stands for a picture that cannot be shown: an empty box
            with this reason.
        colour: Of the frame and of the strip below the pictures.
    """

    caption: str
    pictures: tuple[np.ndarray | str, ...] = ()
    colour: Colour = NEUTRAL


def contact_sheet(
    tiles: Sequence[Tile], *, columns: int = 3, tile_px: int = 240, title: str = "", legend: str = ""
) -> np.ndarray:
    """Draws tiles in rows.

    Args:
        tiles: In reading order; the widest decides the columns' width.
        columns: Tiles a row, at least 1.
        tile_px: Side of the square each picture is fitted into: larger ones are averaged, smaller ones are enlarged.
        title: Above all; "" for none.
        legend: How to read the pictures, below the title; "" for none.

    Returns:
        uint8 (H, W, 3). A row is as high as its highest picture.
    """
    columns = max(1, min(columns, len(tiles)))
    slots = max((len(tile.pictures) for tile in tiles), default=1) or 1
    inner_px = slots * tile_px + (slots - 1) * _FRAME_PX
    tile_width = inner_px + 2 * _FRAME_PX
    width = columns * (tile_width + _GAP_PX) + _GAP_PX
    font, strip_px = _font(_font_px(tile_px)), round(1.7 * _font_px(tile_px))
    rows = [
        _row(tiles[first : first + columns], tile_px, inner_px, strip_px, font)
        for first in range(0, len(tiles), columns)
    ]
    heading = _font(round(1.3 * _font_px(tile_px)), bold=True)
    heading_px = round(2.2 * _font_px(tile_px)) if title else 0
    legend_px = strip_px if legend else 0
    height = heading_px + legend_px + _GAP_PX + sum(row[0].height + _GAP_PX for row in rows)
    page = Image.new("RGB", (width, height), _PAGE)
    if title:
        place = (_GAP_PX, _GAP_PX + heading_px // 2)
        ImageDraw.Draw(page).text(place, _fit_text(title, heading, width - 2 * _GAP_PX), _INK, heading, anchor="lm")
    if legend:
        place = (_GAP_PX, heading_px + legend_px // 2)
        ImageDraw.Draw(page).text(place, _fit_text(legend, font, width - 2 * _GAP_PX), _INK, font, anchor="lm")
    top = heading_px + legend_px + _GAP_PX
    for row in rows:
        for column, tile in enumerate(row):
            page.paste(tile, (_GAP_PX + column * (tile_width + _GAP_PX), top))
        top += row[0].height + _GAP_PX
    return np.array(page)


def _row(
    tiles: Sequence[Tile], tile_px: int, inner_px: int, strip_px: int, font: ImageFont.FreeTypeFont
) -> list[Image.Image]:
    """The tiles of a row as pictures of one size."""
    fitted = [
        [each if isinstance(each, str) else _fit(each, tile_px) for each in tile.pictures or ("no picture",)]
        for tile in tiles
    ]
    box_px = max(
        tile_px // 2 if isinstance(each, str) else each.shape[0] for pictures in fitted for each in pictures
    )  # half a square holds a reason
    drawn = []
    for tile, pictures in zip(tiles, fitted, strict=True):
        size = (inner_px + 2 * _FRAME_PX, box_px + strip_px + _FRAME_PX)
        card = Image.new("RGB", size, tile.colour)
        draw = ImageDraw.Draw(card)
        for slot, each in enumerate(pictures):
            left = _FRAME_PX + slot * (tile_px + _FRAME_PX)
            right = left + tile_px if len(pictures) > 1 else size[0] - _FRAME_PX  # a lone picture has all the room
            draw.rectangle((left, _FRAME_PX, right - 1, _FRAME_PX + box_px - 1), _EMPTY)
            centre = ((left + right) // 2, _FRAME_PX + box_px // 2)
            if isinstance(each, str):
                lines = _wrap(each, font, right - left - 2 * _GAP_PX, most=box_px // (_font_px(tile_px) + 5))
                draw.multiline_text(centre, "\n".join(lines), _INK, font, anchor="mm", align="center")
            else:
                picture = Image.fromarray(each).convert("RGB")
                card.paste(picture, (centre[0] - picture.width // 2, centre[1] - picture.height // 2))
        caption = _fit_text(tile.caption, font, inner_px - 2 * _FRAME_PX)
        ink = _INK if sum(tile.colour) > 360 else (255, 255, 255)
        draw.text((2 * _FRAME_PX, size[1] - strip_px // 2), caption, ink, font, anchor="lm")
        drawn.append(card)
    return drawn


def _fit(picture: np.ndarray, side_px: int) -> np.ndarray:
    """The picture with its longer side `side_px`; enlarged pixels stay visible as pixels."""
    longer = max(picture.shape[:2])
    if longer >= side_px:
        return shrink_to_fit(picture, side_px)
    size = tuple(max(1, round(side * side_px / longer)) for side in picture.shape[1::-1])
    return cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST)


# -------------------------------------------------------------------------------------------------------- the matte


def matte_overlay(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The matte drawn over its photograph: one sees at once whether it fits, is shifted or inverted.

    The foreground is untouched, the background is dimmed and magenta, and a bright line runs around alpha = 0.5, on the
    outside, so that thin foreground stays visible. The line's width grows with the picture: it survives shrinking.

    Args:
        rgb: uint8 (H, W, 3).
        alpha: float (H, W) in [0, 1].

    Returns:
        uint8 (H, W, 3).
    """
    opacity = alpha[..., None].astype(np.float32)
    dimmed = _BACKGROUND_LEFT * rgb.astype(np.float32) + (1 - _BACKGROUND_LEFT) * np.float32(_TINT)
    view = np.rint(opacity * rgb + (1 - opacity) * dimmed).astype(np.uint8)
    inside = (alpha >= 0.5).astype(np.uint8)
    line_px = max(1, round(max(alpha.shape) / 160))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * line_px + 1, 2 * line_px + 1))
    view[(cv2.dilate(inside, kernel) > 0) & (inside == 0)] = _CONTOUR
    return view


def over_green(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """alpha * rgb over green, uint8 (H, W, 3): without the true foreground, fringes show the old background.

    Args:
        rgb: uint8 (H, W, 3).
        alpha: float (H, W) in [0, 1].
    """
    opacity = alpha[..., None].astype(np.float32)
    return np.rint(opacity * rgb + (1 - opacity) * np.float32(_GREEN)).astype(np.uint8)


# --------------------------------------------------------------------------------------------------------- captions


def _font_px(tile_px: int) -> int:
    return max(9, min(15, tile_px // 16))


@cache
def _font(size_px: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings: Pillow's own font has no Greek, Cyrillic or Arabic letters."""
    return ImageFont.truetype(_font_file(bold), size_px)


def _font_file(bold: bool) -> str:
    from matplotlib import get_data_path  # here, because worker processes that draw nothing import this module too

    return str(Path(get_data_path(), "fonts", "ttf", f"DejaVuSans{'-Bold' if bold else ''}.ttf"))


@cache
def _letters() -> frozenset[int]:
    """The code points the font can draw."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(_font_file(False)).get_charmap())


def _drawable(text: str) -> str:
    r"""The text with what the font cannot draw, and line breaks, as escapes: \u6f22 can be told from \u5b57."""
    return "".join(
        letter if letter.isprintable() and ord(letter) in _letters() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def _fit_text(text: str, font: ImageFont.FreeTypeFont, width_px: int) -> str:
    """The text, its middle left out if it is wider than `width_px`."""
    text = _drawable(text[:2000])  # nobody reads more, and measuring is slow
    if font.getlength(text) <= width_px:
        return text
    fits, too_many = 0, len(text)  # letters that are kept
    while too_many - fits > 1:
        kept = (fits + too_many) // 2
        if font.getlength(_without_middle(text, kept)) <= width_px:
            fits = kept
        else:
            too_many = kept
    return _without_middle(text, fits)


def _without_middle(text: str, kept: int) -> str:
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"


def _wrap(text: str, font: ImageFont.FreeTypeFont, width_px: int, most: int) -> list[str]:
    """The text in lines of at most `width_px`, broken between words; the last of `most` lines takes what is left."""
    words, lines = _drawable(text).split(" "), [""]
    for number, word in enumerate(words):
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or font.getlength(longer) <= width_px:
            lines[-1] = longer
        elif len(lines) < most:
            lines.append(word)
        else:
            lines[-1] = " ".join([lines[-1], *words[number:]])
            break
    return [_fit_text(line, font, width_px) for line in lines]
