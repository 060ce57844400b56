"""Colours of foreground and background: exact where one of them is alone, close to the truth where both show."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from utils.blur_fusion import blur_fusion
from utils.errors import UserError
from utils.foreground import (
    SOFT_BAND,
    Colours,
    estimate_foreground,
    foreground_colours,
    in_soft_band,
    recomposition_error,
    require_method,
)
from utils.synthetic import composite

CPU = torch.device("cpu")

METHODS = ("multilevel", "blur-fusion")
each_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(autouse=True)
def solver(request: pytest.FixtureRequest) -> None:
    if "multilevel" in request.node.name:
        pytest.importorskip("pymatting")


def disc(height: int, width: int, soft_px: float = 25) -> np.ndarray:
    """Alpha of a disc with a soft rim, in 1/255."""
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - height / 2, x - width / 2) - min(height, width) / 4
    return np.rint(np.clip(0.5 - distance / soft_px, 0, 1) * 255).astype(np.float32) / 255


def composed(alpha: np.ndarray, foreground: np.ndarray, background: np.ndarray) -> np.ndarray:
    return np.rint(alpha[..., None] * foreground + (1 - alpha[..., None]) * background).astype(np.uint8)


def colour_error(estimate: np.ndarray, truth: np.ndarray, alpha: np.ndarray) -> float:
    soft = in_soft_band(alpha)
    return np.abs(estimate[soft].astype(float) - truth[soft]).mean()


def two_blurs(rgb: np.ndarray, alpha: np.ndarray) -> Colours:
    """Forte's method as published: windows of 90 and 6 px, float64."""
    image, opacity = rgb.astype(np.float64), alpha[..., None].astype(np.float64)
    foreground = background = image
    for window in (90, 6):
        share = cv2.blur(opacity, (window, window))[..., None]
        blurred = cv2.blur(foreground * opacity, (window, window)) / (share + 1e-5)
        background = cv2.blur(background * (1 - opacity), (window, window)) / (1 - share + 1e-5)
        left = image - opacity * blurred - (1 - opacity) * background
        foreground = np.clip(blurred + opacity * left, 0, 255)
    return Colours(foreground, background)


@each_method
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (1, 333), (222, 1), (5, 3), (37, 53), (130, 515)], ids=str)
def test_where_one_colour_is_alone_it_is_the_picture(method: str, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    before = rgb.copy()
    soft = rng.random(size)
    for alpha in (np.zeros(size), np.ones(size), soft, np.round(soft), np.clip(soft * 3 - 1, 0, 1)):
        given = alpha.copy()
        foreground, background = estimate_foreground(rgb, alpha, method=method)
        for colour in (foreground, background):
            assert colour.shape == rgb.shape and colour.dtype == np.uint8
        assert np.array_equal(foreground[alpha == 1], rgb[alpha == 1])
        assert np.array_equal(background[alpha == 0], rgb[alpha == 0])
        assert np.array_equal(rgb, before) and np.array_equal(alpha, given)


@each_method
@pytest.mark.parametrize("size", [(200, 260), (97, 131)], ids=str)
def test_two_flat_colours_are_recovered(method: str, size: tuple[int, int]) -> None:
    alpha = disc(*size)
    foreground, background = np.array([200, 40, 90]), np.array([20, 160, 230])
    found = estimate_foreground(composed(alpha, foreground, background), alpha, method=method)
    assert np.abs(found.foreground[alpha > 0.05] - foreground).max() <= 2
    assert np.abs(found.background[alpha < 0.95] - background).max() <= 2


def test_a_colour_reaches_a_soft_region_of_any_width() -> None:
    """300 px from the nearest pixel that shows one colour alone, where the picture itself is off by 110 levels."""
    alpha = np.repeat(np.linspace(1, 0.02, 640, dtype=np.float32)[None], 40, axis=0)
    alpha[:, :20], alpha[:, -20:] = 1, 0
    foreground, background = np.array([230, 120, 10]), np.array([10, 30, 140])
    rgb = composed(alpha, foreground, background)
    found = estimate_foreground(rgb, alpha, method="blur-fusion")
    middle = np.s_[:, 280:360]
    assert np.abs(found.foreground[middle] - foreground).max() <= 20
    assert np.abs(found.background[middle] - background).max() <= 20
    assert np.abs(two_blurs(rgb, alpha).foreground[middle] - foreground).max() > 40


def test_blur_fusion_is_closer_than_the_published_method_and_no_worse_than_multilevel() -> None:
    pytest.importorskip("pymatting")
    errors = {"published": [], **{method: [] for method in METHODS}}
    backgrounds = {method: [] for method in METHODS}
    for index in (0, 2, 5, 9, 11):  # fur, glass, leaves: all with a wide soft band
        picture = composite(7, index, height=256, width=320)
        alpha = picture.alpha / np.float32(255)
        errors["published"].append(colour_error(two_blurs(picture.rgb, alpha)[0], picture.foreground, alpha))
        for method in METHODS:
            found = estimate_foreground(picture.rgb, alpha, method=method)
            errors[method].append(colour_error(found.foreground, picture.foreground, alpha))
            backgrounds[method].append(colour_error(found.background, picture.background, alpha))
    mean = {name: np.mean(values) for name, values in errors.items()}
    assert mean["blur-fusion"] < 0.7 * mean["published"], mean
    assert mean["blur-fusion"] < mean["multilevel"], mean
    assert np.mean(backgrounds["blur-fusion"]) < np.mean(backgrounds["multilevel"]), backgrounds


@pytest.mark.parametrize(("method", "most"), [("multilevel", 1.0), ("blur-fusion", 0.5)])
def test_the_colours_recompose_the_picture(method: str, most: float) -> None:
    picture = composite(7, 2, height=200, width=240)
    alpha = picture.alpha / np.float32(255)
    assert recomposition_error(picture.rgb, alpha, estimate_foreground(picture.rgb, alpha, method=method)) < most


def test_blur_fusion_explains_every_pixel_that_needs_no_clipping() -> None:
    """Colours well inside 0..255: only the rounding of 8-bit pictures is left. Many tiles, some of them partial."""
    size = 150, 300
    rng = np.random.default_rng(2)
    noise = [cv2.GaussianBlur(rng.normal(0, 1, (*size, 3)), (0, 0), 3) * 120 + 128 for _ in range(2)]
    alpha = np.clip(cv2.GaussianBlur(rng.normal(0.5, 1, size), (0, 0), 4) * 4 - 1.5, 0, 1).astype(np.float32)
    rgb = composed(alpha, *noise)
    foreground, background = estimate_foreground(rgb, alpha, method="blur-fusion")
    inside = np.all([(colour > 0) & (colour < 255) for colour in (foreground, background)], axis=0)
    recomposed = alpha[..., None] * foreground + (1 - alpha[..., None]) * background
    assert inside.mean() > 0.9
    assert np.abs(recomposed - rgb)[inside].max() <= 0.51  # each colour is rounded by 0.5, and their weights sum to 1


def test_a_pixel_too_dark_for_any_colours_is_clipped_at_black() -> None:
    alpha = disc(64, 64)
    rgb = composed(alpha, np.array([40, 40, 40]), np.array([255, 255, 255]))
    speck = np.unravel_index(np.abs(alpha - 0.7).argmin(), alpha.shape)
    rgb[speck] = 0
    assert np.array_equal(estimate_foreground(rgb, alpha, method="blur-fusion").foreground[speck], [0, 0, 0])


def test_foreground_and_background_change_places_with_alpha() -> None:
    picture = composite(7, 0, height=120, width=170)
    alpha = picture.alpha / np.float32(255)
    found = estimate_foreground(picture.rgb, alpha, method="blur-fusion")
    swapped = estimate_foreground(picture.rgb, 1 - alpha, method="blur-fusion")
    for one, other in zip(found, reversed(swapped), strict=True):
        assert np.abs(one.astype(int) - other).max() <= 2  # 1 - alpha is not exact


@each_method
def test_no_rim_of_the_old_background(method: str) -> None:
    """A red subject before green, pasted on white: the rim has no green, which the picture's own colours have."""
    alpha = disc(160, 160, soft_px=12)
    red, green, white = np.array([200, 30, 30]), np.array([20, 180, 20]), np.array([255, 255, 255])
    rgb = composed(alpha, red, green)
    ideal = composed(alpha, red, white).astype(int)
    pasted = composed(alpha, estimate_foreground(rgb, alpha, method=method).foreground, white)
    assert np.abs(composed(alpha, rgb, white) - ideal).max() > 30
    assert np.abs(pasted - ideal).max() <= 2


def test_a_soft_edge_at_the_sides_of_the_picture() -> None:
    """Beyond them there is nothing that counts: flat colours are found up to the last pixel."""
    foreground, background = np.array([200, 40, 90]), np.array([20, 160, 230])
    for size in ((70, 91), (128, 129), (9, 200)):
        alpha = np.repeat(np.linspace(1, 0, size[1], dtype=np.float32)[None], size[0], axis=0)
        found = blur_fusion(composed(alpha, foreground, background), alpha, CPU, background=True)
        assert np.abs(found[0][alpha > 0.1] - foreground).max() <= 3
        assert np.abs(found[1][alpha < 0.9] - background).max() <= 3


def test_texture_goes_to_the_colour_that_has_texture() -> None:
    """Half transparent grain before a flat background, which is known left and right of it, as the grain is."""
    rng = np.random.default_rng(3)
    alpha = np.repeat(np.interp(np.arange(240), [40, 90, 150, 200], [1, 0.5, 0.5, 0]).astype(np.float32)[None], 90, 0)
    grain = np.clip(128 + rng.normal(0, 30, (90, 240, 1)), 0, 255).repeat(3, axis=2)
    found = foreground_colours(composed(alpha, grain, np.array([60, 90, 120])), alpha, CPU)
    middle = np.s_[:, 90:150]
    flat = np.abs(grain[middle] - grain[middle].mean()).mean()
    # Shared equally, grain would be found at 1 / (0.5^2 + 0.5^2) of its half that shows: all of it, and as much again
    # in the background; the blur takes half of that back.
    assert np.abs(found[middle] - grain[middle]).mean() < 0.25 * flat


@pytest.mark.parametrize("size", [(150, 203), (64, 1), (1, 90), (257, 129)], ids=str)
def test_soft_colours_do_not_depend_on_the_tiles(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    rgb = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    alpha = np.clip(cv2.GaussianBlur(rng.normal(0.5, 1, size), (0, 0), 5) * 4 - 1.5, 0, 1).astype(np.float32)
    alpha = alpha.reshape(size)
    whole = blur_fusion(rgb, alpha, CPU, background=True, tile_px=264, tiles_at_a_time=1)
    told = (alpha > 1 / 255) | (alpha == 1), (alpha < 254 / 255) | (alpha == 0)
    for tile_px in (16, 64, 104):
        each = [blur_fusion(rgb, alpha, CPU, background=True, tile_px=tile_px, tiles_at_a_time=n) for n in (7, 999)]
        for some, all_, expected, here in zip(*each, whole, told, strict=True):
            assert np.array_equal(some, all_)
            assert np.array_equal(all_[here], expected[here])


def test_the_foreground_alone_is_that_of_both() -> None:
    picture = composite(7, 2, height=150, width=200)
    alpha = picture.alpha / np.float32(255)
    alone = foreground_colours(picture.rgb, alpha, CPU)
    assert np.array_equal(alone, estimate_foreground(picture.rgb, alpha, method="blur-fusion").foreground)
    assert np.array_equal(alone, foreground_colours(picture.rgb, alpha))


def test_sixteen_bits_are_kept() -> None:
    picture = composite(7, 2, height=120, width=160)
    alpha = picture.alpha / np.float32(255)
    fine = np.random.default_rng(5).integers(-128, 129, picture.rgb.shape)
    deep = np.clip(picture.rgb * np.int64(257) + fine, 0, 65535).astype(np.uint16)
    found, coarse = foreground_colours(deep, alpha, CPU), foreground_colours(picture.rgb, alpha, CPU)
    assert found.dtype == np.uint16 and np.array_equal(found[alpha == 1], deep[alpha == 1])
    off = np.abs(found / 257 - coarse)[alpha > SOFT_BAND[0]]
    assert off.mean() < 1 and off.max() > 0.01
    soft = in_soft_band(alpha)
    assert np.mean(found[soft] % 257 == 0) < 0.1  # not 8 bits made wider


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (17, 3)], ids=str)
def test_alphas_without_a_soft_pixel(size: tuple[int, int], dtype: type) -> None:
    """Less than a level of 255 shows nothing: no work, and no colour divided by next to nothing."""
    rgb = np.random.default_rng(6).integers(0, np.iinfo(dtype).max, (*size, 3), dtype=dtype, endpoint=True)
    for faint in (0, 1e-6):
        found = foreground_colours(rgb, np.full(size, 1 - faint), CPU)
        assert found.dtype == dtype and np.array_equal(found, rgb)
        flat = foreground_colours(rgb, np.full(size, faint), CPU)
        assert np.ptp(flat.reshape(-1, 3), axis=0).max() <= np.iinfo(dtype).max / 255
    hard = np.random.default_rng(7).random(size) > 0.5
    assert np.array_equal(foreground_colours(rgb, hard.astype(np.float32), CPU)[hard], rgb[hard])


@pytest.mark.filterwarnings("error")
def test_views_and_pictures_that_are_not_ours_to_write() -> None:
    picture = composite(7, 2, height=60, width=90)
    rgb, alpha = picture.rgb.copy(), picture.alpha / np.float64(255)
    expected = foreground_colours(rgb, alpha, CPU)
    for array in (rgb, alpha):
        array.flags.writeable = False
    assert np.array_equal(foreground_colours(rgb, alpha, CPU), expected)
    mirrored = foreground_colours(np.asfortranarray(rgb), np.asfortranarray(alpha), CPU)
    assert np.array_equal(mirrored, expected)


def test_pymatting_and_torch_are_not_loaded_before_they_are_used() -> None:
    code = "import sys, utils.foreground; sys.exit(bool({'torch', 'pymatting'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0


def test_recomposition_error_by_hand() -> None:
    rgb = np.full((1, 4, 3), 100, dtype=np.uint8)
    colours = Colours(np.full((1, 4, 3), 120, dtype=np.uint8), np.full((1, 4, 3), 40, dtype=np.uint8))
    alpha = np.float32([[0.0, 0.5, 0.25, 1.0]])  # outside the band, |80 - 100|, |60 - 100|, outside
    assert recomposition_error(rgb, alpha, colours) == pytest.approx(30)
    assert recomposition_error(rgb, np.round(alpha), colours) is None


def test_without_pymatting_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymatting", None)
    rgb, alpha = np.zeros((4, 4, 3), dtype=np.uint8), np.full((4, 4), 0.5)
    for use in (lambda: require_method("multilevel"), lambda: estimate_foreground(rgb, alpha, method="multilevel")):
        with pytest.raises(UserError, match=r"need pymatting .*pip install pymatting, or choose blur-fusion") as caught:
            use()
        assert "\n" not in str(caught.value)
    require_method("blur-fusion")
    estimate_foreground(rgb, alpha, method="blur-fusion")
