"""utils.renderings: what is made of a photograph and its alpha."""

from pathlib import Path

import numpy as np
import pytest

from utils.encoding import write_image
from utils.errors import UserError
from utils.images import Photo
from utils.names import RESULT
from utils.renderings import GREEN, WHITE, Matte, Rendering, parse_renderings

ALL = ("alpha", "cutout", "foreground", "green", "white", "color:#ff8000", "blur", "overlay", "trimap")
RED, BLUE = (200, 10, 20), (10, 20, 200)


def matte(shape: tuple[int, int] = (40, 60), *, deep: bool = False) -> Matte:
    """A red subject in front of blue, its alpha a ramp from 0 to 1 in the middle third."""
    height, width = shape
    ramp = np.clip(np.linspace(-1, 2, width), 0, 1).astype(np.float32)
    alpha = np.tile(ramp, (height, 1))
    foreground = np.full((height, width, 3), RED, np.uint8)
    mixed = np.rint(alpha[..., None] * foreground + (1 - alpha[..., None]) * np.uint8(BLUE)).astype(np.uint8)
    if deep:
        foreground = foreground.astype(np.uint16) * 257 + 100
        return Matte(Photo(mixed, mixed.astype(np.uint16) * 257, None), alpha, foreground)
    return Matte(Photo(mixed, None, None), alpha, foreground)


def one(text: str, **options: object) -> Rendering:
    (rendering,) = parse_renderings([text], **options)
    return rendering


def test_alpha_is_rounded_to_its_bits() -> None:
    found = matte()
    assert np.array_equal(one("alpha").draw(found), np.floor(found.alpha * 255 + 0.5))
    deep = one("alpha", alpha_bits=16).draw(found)
    assert deep.dtype == np.uint16 and np.abs(deep - found.alpha.astype(np.float64) * 65535).max() <= 0.5 + 1e-2


@pytest.mark.parametrize("deep", [False, True])
def test_a_cutout_has_the_colours_of_the_subject_and_none_where_nothing_is_seen(deep: bool) -> None:
    found = matte(deep=deep)
    cutout = one("cutout").draw(found)
    assert cutout.dtype == found.foreground.dtype and cutout.shape == (40, 60, 4)
    seen = cutout[..., 3] > 0
    assert seen.any() and not seen.all()
    assert np.array_equal(cutout[seen, :3], found.foreground[seen])
    assert (cutout[~seen] == 0).all()
    top = 65535 if deep else 255
    assert np.abs(cutout[..., 3] / top - found.alpha).max() <= 0.51 / top


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    ("text", "colour"),
    [("green", GREEN), ("white", WHITE), ("color:#ff8000", (255, 128, 0)), ("color:FF8000", (255, 128, 0))],
)
def test_over_a_colour_by_the_compositing_equation(text: str, colour: tuple[int, ...], deep: bool) -> None:
    found = matte(deep=deep)
    drawn = one(text).draw(found)
    assert drawn.dtype == found.foreground.dtype
    background = np.array(colour) * (257 if deep else 1)
    weight = found.alpha[..., None].astype(np.float64)
    assert np.abs(drawn - (weight * found.foreground + (1 - weight) * background)).max() <= 0.501
    assert (drawn[found.alpha == 0] == background).all()


def test_over_a_picture_its_middle_fills_the_photograph(tmp_path: Path) -> None:
    picture = np.zeros((20, 90, 3), np.uint8)  # three squares; a photograph of 3:2 sees the middle of them
    picture[:, :30], picture[:, 30:60], picture[:, 60:] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    write_image(tmp_path / "wide.png", picture)
    rendering = one(f"image:{tmp_path / 'wide.png'}")
    drawn = rendering.draw(matte()._replace(alpha=np.zeros((40, 60), np.float32)))
    assert rendering.label == "image-wide" and drawn.shape == (40, 60, 3)
    assert (drawn == (0, 250, 0)).all()


def test_a_blurred_background_has_nothing_of_the_subject() -> None:
    found = matte((80, 120))
    drawn = one("blur").draw(found)
    assert np.abs(drawn[found.alpha == 0].astype(int) - BLUE).max() <= 8  # without care the red would glow into it
    assert (drawn[found.alpha == 1] == RED).all()
    checks = np.indices((80, 120)).sum(0) % 2 * np.uint8(200)
    checked = found._replace(photo=Photo(np.dstack([checks] * 3), None, None), alpha=np.zeros((80, 120), np.float32))
    assert np.ptp(one("blur").draw(checked).astype(int)) < 60  # half lit, half dark before


def test_a_blurred_background_of_nothing_but_subject() -> None:
    found = matte()._replace(alpha=np.ones((40, 60), np.float32))
    assert np.array_equal(one("blur").draw(found), found.foreground)


def test_a_trimap_is_certain_away_from_the_soft_edge_alone() -> None:
    found = matte((400, 600))
    trimap = one("trimap").draw(found)
    assert set(np.unique(trimap)) == {0, 128, 255}
    assert (trimap[(found.alpha > 0.03) & (found.alpha < 0.97)] == 128).all()
    assert (trimap[:, :180] == 0).all() and (trimap[:, -180:] == 255).all()
    fog = found._replace(alpha=np.full((40, 60), 0.004, np.float32))  # no network says 0 exactly
    assert (one("trimap").draw(fog) == 0).all()


def test_an_overlay_shows_the_subject_as_it_is() -> None:
    found = matte()
    drawn = one("overlay").draw(found)
    inside = found.alpha == 1
    assert np.array_equal(drawn[inside], found.photo.rgb[inside]) and not np.array_equal(drawn, found.photo.rgb)


@pytest.mark.parametrize("text", ALL)
@pytest.mark.parametrize("shape", [(1, 1), (1, 37), (33, 1)])
def test_every_kind_of_the_smallest_pictures(text: str, shape: tuple[int, int]) -> None:
    found = matte(shape)
    assert one(text).draw(found).shape[:2] == shape


def test_drawing_changes_nothing() -> None:
    found = matte()
    before = [each.copy() for each in (found.photo.rgb, found.alpha, found.foreground)]
    for text in ALL:
        one(text).draw(found)
    assert all(
        np.array_equal(*pair) for pair in zip(before, (found.photo.rgb, found.alpha, found.foreground), strict=True)
    )


def test_results_are_known_by_their_names(tmp_path: Path) -> None:
    """eval.py takes them for results of one photograph."""
    write_image(tmp_path / "a b.png", np.zeros((4, 4, 3), np.uint8))
    for rendering in parse_renderings([*ALL, f"image:{tmp_path / 'a b.png'}"]):
        assert RESULT.fullmatch(f"x/photo_{rendering.label}")[1] == "x/photo"


@pytest.mark.parametrize(
    ("texts", "options", "words"),
    [
        (["alhpa"], {}, "choose from alpha"),
        (["color:red"], {}, "hexadecimal"),
        (["color:#ff00"], {}, "hexadecimal"),
        (["image:"], {}, "a file"),
        (["image:nowhere.jpg"], {}, "nowhere.jpg"),
        (["green", "cutout"], {"format": "jpeg"}, "cutout"),
        (["alpha"], {"format": "jpeg"}, "alpha"),
        (["alpha"], {"format": "webp", "alpha_bits": 16}, "--alpha-bits"),
    ],
)
def test_what_cannot_be_saved_is_told(texts: list[str], options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        parse_renderings(texts, **options)
    assert "\n" not in str(caught.value)


def test_two_pictures_of_one_name_would_have_the_same_results(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_image(tmp_path / folder / "sea.png", np.zeros((4, 4, 3), np.uint8))
    texts = [f"image:{tmp_path / folder / 'sea.png'}" for folder in ("a", "b")]
    with pytest.raises(UserError, match="another picture"):
        parse_renderings(texts)
    assert len(parse_renderings([texts[0], texts[0], "green", "green"])) == 2
