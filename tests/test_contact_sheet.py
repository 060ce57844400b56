"""utils.contact_sheet: every picture and caption is there, nothing overlaps, any name and any size can be shown."""

import numpy as np
import pytest

from utils.contact_sheet import AMBER, NEUTRAL, RED, Tile, contact_sheet, matte_overlay, over_green

TILE = 96


def solid(height: int, width: int, colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((height, width, 3), colour, dtype=np.uint8)


def count(sheet: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((sheet == colour).all(axis=2).sum())


def box(sheet: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int]:
    """(height, width) of what has this colour."""
    rows, columns = np.nonzero((sheet == colour).all(axis=2))
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def test_every_picture_is_whole_in_its_aspect_and_nothing_lies_over_it() -> None:
    colours = [(10, 20, 200), (20, 200, 10), (200, 10, 20), (9, 90, 99), (70, 0, 70)]
    sizes = [(300, 600), (600, 300), (50, 50), (8, 4), (1, 3)]  # larger and smaller than their place
    tiles = [Tile("caption " * 20, (solid(*size, colour),)) for size, colour in zip(sizes, colours, strict=True)]
    sheet = contact_sheet(tiles, columns=2, tile_px=TILE, title="title " * 50)
    expected = [(48, 96), (96, 48), (96, 96), (96, 48), (32, 96)]
    assert [box(sheet, colour) for colour in colours] == expected
    assert [count(sheet, colour) for colour in colours] == [height * width for height, width in expected]


def test_tiles_are_in_reading_order() -> None:
    colours = [(10 * i, 0, 255 - 10 * i) for i in range(5)]
    sheet = contact_sheet([Tile("", (solid(9, 9, colour),)) for colour in colours], columns=2, tile_px=TILE)
    centres = [np.argwhere((sheet == colour).all(axis=2)).mean(axis=0) for colour in colours]
    rows, columns = np.array(centres).T
    assert rows[0] == rows[1] < rows[2] == rows[3] < rows[4]
    pale = (sheet == sheet[0, 0]).all(axis=(1, 2))
    assert all(pale[int(rows[i]) : int(rows[i + 2])].any() for i in (0, 2)), "no gap between rows"
    assert columns[0] == columns[2] == columns[4] < columns[1] == columns[3]


def test_grey_pictures_and_several_in_a_tile_are_side_by_side() -> None:
    tile = Tile("x", (solid(20, 20, (1, 2, 3)), np.full((20, 20), 77, np.uint8)))
    sheet = contact_sheet([tile], tile_px=TILE)
    assert count(sheet, (1, 2, 3)) == count(sheet, (77, 77, 77)) == TILE * TILE
    assert sheet.dtype == np.uint8 and sheet.shape[1] < 3 * TILE  # one tile takes the room of one


def test_the_frame_says_what_is_wrong() -> None:
    plain, red = (contact_sheet([Tile("a", (solid(9, 9, (0, 0, 0)),), colour)]) for colour in (NEUTRAL, RED))
    assert count(plain, RED) == 0 and count(red, NEUTRAL) == 0
    assert count(plain, NEUTRAL) > 4 * 240 and count(red, RED) > 4 * 240


@pytest.mark.parametrize(
    "caption",
    ["", "a" * 3000, "Ελλάδα Россия עברית عربي", "漢字 🙂", "new\nline\ttab", "latin \udce9.jpg", "\0", "e\u0301"],
)
def test_any_name_is_shown_on_one_line(caption: str) -> None:
    def draw(text: str) -> np.ndarray:
        return contact_sheet([Tile(text, (solid(9, 9, (0, 0, 255)),), AMBER)], tile_px=TILE)

    sheet, empty = draw(caption), draw("")
    assert sheet.shape == empty.shape and count(sheet, (0, 0, 255)) == TILE * TILE
    differing = np.argwhere((sheet != empty).any(axis=2))
    assert bool(len(differing)) == bool(caption)
    if caption:  # within the strip, with a margin left and right
        assert (
            differing[:, 0].min() > TILE and differing[:, 1].min() > 12 and differing[:, 1].max() < len(sheet[0]) - 12
        )


def test_names_the_font_lacks_can_be_told_apart() -> None:
    one, other = (contact_sheet([Tile(name, (solid(9, 9, (0, 0, 0)),))]) for name in ("漢", "字"))
    assert (one != other).any()


def test_long_captions_keep_their_beginning_and_their_end() -> None:
    def strip(caption: str) -> np.ndarray:
        return contact_sheet([Tile(caption, (solid(9, 9, (0, 0, 0)),))], tile_px=TILE)[TILE + 20 :]

    middle = "m" * 60
    full = strip(f"start{middle}end")
    assert (full == strip(f"start{middle}m{middle}end")).all()  # what is left out does not matter
    assert (full != strip(f"Xtart{middle}end")).any() and (full != strip(f"start{middle}enX")).any()


def test_a_reason_takes_the_place_of_a_picture() -> None:
    def draw(*pictures: np.ndarray | str) -> np.ndarray:
        return contact_sheet([Tile("name", pictures, RED)], tile_px=TILE)

    blue = solid(60, 90, (0, 0, 255))
    with_reason, with_other = draw(blue, "cannot be read: " + "long words " * 40), draw(blue, "x")
    assert with_reason.shape == with_other.shape
    half = with_reason.shape[1] // 2
    assert (with_reason[:, :half] == with_other[:, :half]).all()  # never over the picture beside it
    assert (with_reason[:, half:] != with_other[:, half:]).any()
    assert draw().shape == draw("why").shape and (draw("why") != draw("not")).any()


@pytest.mark.parametrize("tiles", [[], [Tile("only a caption")]])
def test_a_sheet_can_be_empty(tiles: list[Tile]) -> None:
    sheet = contact_sheet(tiles, title="nothing")
    assert sheet.ndim == 3 and min(sheet.shape[:2]) > 0


# ------------------------------------------------------------------------------------------------- the matte


def test_overlay_shows_the_foreground_untouched_and_marks_the_rest() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    alpha = np.zeros((80, 120), np.float32)
    alpha[20:60, 30:90] = 1
    view = matte_overlay(rgb, alpha)
    changed = (view != rgb).any(axis=2)
    assert view.dtype == np.uint8 and not changed[alpha == 1].any()
    assert changed[alpha == 0].mean() > 0.99
    inverse = matte_overlay(rgb, 1 - alpha)
    assert (inverse != rgb).any(axis=2)[alpha == 1].mean() > 0.99  # an inverted matte looks inverted
    assert not (inverse != rgb).any(axis=2)[alpha == 0].any()


def test_contour_lies_around_one_half_on_the_outside() -> None:
    alpha = np.tile(np.linspace(0, 1, 320, dtype=np.float32), (40, 1))
    view = matte_overlay(np.zeros((40, 320, 3), np.uint8), alpha)
    bright = np.flatnonzero((view[20].max(axis=1) > 190) & (view[20, :, 1] > 200))  # the tint has no green
    half = int(np.flatnonzero(alpha[0] >= 0.5)[0])
    assert bright.max() == half - 1 and 1 <= len(bright) <= 4
    flat = matte_overlay(np.zeros((40, 320, 3), np.uint8), np.full((40, 320), 0.4, np.float32))
    assert not (flat[..., 1] > 200).any()


def test_contour_survives_shrinking() -> None:
    alpha = np.zeros((900, 1200), np.float32)
    alpha[240:660, 300:900] = 1
    sheet = contact_sheet([Tile("", (matte_overlay(np.zeros((900, 1200, 3), np.uint8), alpha),))], tile_px=240)
    assert (sheet[..., 1].astype(int) - sheet[..., 2] > 100).sum() > 200  # as long as the outline, at least


def test_over_green_is_the_composite() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    alpha = np.random.default_rng(1).random((5, 7), dtype=np.float32)
    green = np.array([60, 190, 90])
    expected = np.rint(alpha[..., None] * rgb + (1 - alpha[..., None]) * green)
    assert np.abs(over_green(rgb, alpha) - expected).max() <= 1e-3
    assert (over_green(rgb, np.ones((5, 7))) == rgb).all() and (over_green(rgb, np.zeros((5, 7))) == green).all()
