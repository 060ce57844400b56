"""utils.trimaps: the published recipe, and files that are no trimaps."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.encoding import write_image
from utils.errors import UserError
from utils.trimaps import BACKGROUND, FOREGROUND, UNKNOWN, random_trimap, read_trimap, trimap_from_alpha

RNG = np.random.default_rng(7)


def trimap_by_definition(alpha: np.ndarray, kernel_px: int) -> np.ndarray:
    """A pixel is certain if every pixel under the kernel that lies in the image has its own value, 0 or 1."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (kernel_px, kernel_px))
    offsets = np.argwhere(kernel) - kernel_px // 2
    height, width = alpha.shape
    trimap = np.full(alpha.shape, UNKNOWN, dtype=np.uint8)
    for y in range(height):
        for x in range(width):
            inside = [(y + dy, x + dx) for dy, dx in offsets if 0 <= y + dy < height and 0 <= x + dx < width]
            for value, level in ((0, BACKGROUND), (1, FOREGROUND)):
                if all(alpha[position] == value for position in inside):
                    trimap[y, x] = level
    return trimap


def blobs(height: int, width: int) -> np.ndarray:
    """Float32 (H, W) with regions of 0 and 1 and soft edges between them."""
    noise = cv2.GaussianBlur(RNG.standard_normal((height, width)), (0, 0), 3)
    return np.clip(noise * 8 + 0.5, 0, 1).astype(np.float32)


@pytest.mark.parametrize("kernel_px", [1, 2, 3, 4, 5, 8, 25])
def test_trimap_is_the_definitions(kernel_px: int) -> None:
    alpha = blobs(29, 23)
    assert {0, 1} < set(alpha.ravel())
    expected = trimap_by_definition(alpha, kernel_px)
    assert np.array_equal(trimap_from_alpha(alpha, kernel_px), expected)
    # P3M and GFM write it as a dilation of everything that is not background.
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (kernel_px, kernel_px))
    not_background = cv2.dilate((alpha != 0).astype(np.uint8), kernel)
    assert np.array_equal(not_background == 0, expected == BACKGROUND)


@pytest.mark.parametrize(("kernel_px", "reach_px"), [(1, 0), (3, 1), (5, 2), (11, 5), (25, 12)])
def test_straight_edge_gets_a_band_of_half_a_kernel_on_each_side(kernel_px: int, reach_px: int) -> None:
    alpha = np.zeros((40, 60), dtype=np.float32)
    alpha[:, 30:] = 1
    trimap = trimap_from_alpha(alpha, kernel_px)
    assert trimap.dtype == np.uint8 and trimap.shape == alpha.shape
    assert (trimap[:, : 30 - reach_px] == BACKGROUND).all()
    assert (trimap[:, 30 - reach_px : 30 + reach_px] == UNKNOWN).all()
    assert (trimap[:, 30 + reach_px :] == FOREGROUND).all()


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("kernel_px", [1, 4, 51])
def test_nothing_is_unknown_where_all_is_certain_not_even_at_the_border(value: int, kernel_px: int) -> None:
    trimap = trimap_from_alpha(np.full((9, 12), value, dtype=np.float32), kernel_px)
    assert (trimap == 255 * value).all()


@pytest.mark.parametrize("value", [1e-6, 1 / 255, 0.5, 254 / 255, 1 - 1e-6])
def test_soft_pixels_are_unknown(value: float) -> None:
    alpha = np.zeros((9, 9), dtype=np.float32)
    alpha[4, 4] = value
    assert np.argwhere(trimap_from_alpha(alpha, 1) == UNKNOWN).tolist() == [[4, 4]]
    ring = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    assert np.array_equal(trimap_from_alpha(alpha, 5)[2:7, 2:7] == UNKNOWN, ring == 1)


# ------------------------------------------------------------------------------------------------- random width


def edge_widths(trimap: np.ndarray) -> tuple[int, int]:
    """Unknown pixels on the background's and on the foreground's side of an edge at column 40."""
    return int((trimap[20, :40] == UNKNOWN).sum()), int((trimap[20, 40:] == UNKNOWN).sum())


def test_random_trimap_has_two_independent_widths_from_the_whole_range() -> None:
    alpha = np.zeros((41, 80), dtype=np.float32)
    alpha[:, 40:] = 1
    drawn = [edge_widths(random_trimap(alpha, np.random.default_rng(seed), (3, 21))) for seed in range(300)]
    outside, inside = map(np.array, zip(*drawn, strict=True))
    for widths in (outside, inside):
        assert set(widths) == set(range(1, 11))  # half a diameter of 3 to 21 px; both ends included
    assert abs(np.corrcoef(outside, inside)[0, 1]) < 0.15


def test_random_trimap_of_one_diameter_is_the_fixed_one() -> None:
    alpha = blobs(60, 50)
    for kernel_px in (1, 4, 25):
        made = random_trimap(alpha, np.random.default_rng(0), (kernel_px, kernel_px))
        assert np.array_equal(made, trimap_from_alpha(alpha, kernel_px))


def test_random_trimap_erodes_each_region_as_the_fixed_one_of_its_diameter() -> None:
    alpha = blobs(60, 50)
    fixed = {kernel_px: trimap_from_alpha(alpha, kernel_px) for kernel_px in range(3, 10)}
    for seed in range(20):
        made = random_trimap(alpha, np.random.default_rng(seed), (3, 9))
        for level in (BACKGROUND, FOREGROUND):
            assert any(np.array_equal(made == level, each == level) for each in fixed.values())
        assert (made[(alpha > 0) & (alpha < 1)] == UNKNOWN).all() and set(np.unique(made)) <= {0, 128, 255}


def test_random_trimap_is_a_function_of_its_generator() -> None:
    alpha = blobs(60, 50)
    made = [random_trimap(alpha, np.random.default_rng(seed), (1, 29)) for seed in (5, 5, 6)]
    assert np.array_equal(made[0], made[1]) and not np.array_equal(made[0], made[2])


# ------------------------------------------------------------------------------------------------- files

TRIMAP = RNG.choice(np.array([BACKGROUND, UNKNOWN, FOREGROUND], dtype=np.uint8), (6, 9))


def palette(array: np.ndarray) -> Image.Image:
    image = Image.fromarray(np.searchsorted([0, 128, 255], array).astype(np.uint8), mode="P")
    image.putpalette([0, 0, 0, 128, 128, 128, 255, 255, 255])
    return image


STORED = {
    "grey": Image.fromarray,
    "rgb": lambda array: Image.fromarray(np.dstack([array] * 3)),
    "opaque": lambda array: Image.fromarray(np.dstack([array] * 3 + [np.full_like(array, 255)])),
    "palette": palette,
    "wide": lambda array: Image.fromarray(array.astype(np.uint16) * 257),
    "half": lambda array: Image.fromarray(np.where(array == UNKNOWN, 32768, array.astype(np.uint16) * 257)),
    "127": lambda array: Image.fromarray(np.where(array == UNKNOWN, np.uint8(127), array)),
    "129": lambda array: Image.fromarray(np.where(array == UNKNOWN, np.uint8(129), array)),
}


@pytest.mark.filterwarnings("ignore:.*mode.*:DeprecationWarning")
@pytest.mark.parametrize("stored", STORED)
def test_trimap_is_read_however_it_is_stored(stored: str, tmp_path: Path) -> None:
    path = tmp_path / "t.png"
    STORED[stored](TRIMAP).save(path)
    trimap = read_trimap(path, (6, 9))
    assert trimap.dtype == np.uint8 and np.array_equal(trimap, TRIMAP)


def test_written_trimap_is_read_back(tmp_path: Path) -> None:
    trimap = trimap_from_alpha(blobs(31, 17), 3)
    write_image(tmp_path / "t.png", trimap)
    assert np.array_equal(read_trimap(tmp_path / "t.png", (31, 17)), trimap)


@pytest.mark.parametrize("value", [1, 126, 130, 254])
def test_other_values_are_no_trimap(value: int, tmp_path: Path) -> None:
    path = tmp_path / "t.png"
    array = TRIMAP.copy()
    array[2, 3:5] = value
    write_image(path, array)
    with pytest.raises(UserError, match=rf"{path}: value {value}, .* \(2 of 54 pixels\); give trimaps.*PNG") as caught:
        read_trimap(path, (6, 9))
    assert "\n" not in str(caught.value)


def test_16_bit_values_are_not_rounded_to_a_trimaps(tmp_path: Path) -> None:
    write_image(tmp_path / "t.png", np.full((6, 9), 65500, dtype=np.uint16))
    with pytest.raises(UserError, match=r"value 254\.86, where a trimap has"):
        read_trimap(tmp_path / "t.png", (6, 9))


def test_jpeg_trimap_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.repeat(np.repeat(TRIMAP, 8, 0), 8, 1)[:, 3:-5]).save(tmp_path / "t.jpg", quality=90)
    with pytest.raises(UserError, match=r"t\.jpg: value .* not JPEG"):
        read_trimap(tmp_path / "t.jpg", (48, 64))


def test_size_must_be_the_alphas(tmp_path: Path) -> None:
    write_image(tmp_path / "t.png", TRIMAP)
    with pytest.raises(UserError, match=r"t\.png is 9x6, but its alpha is 6x9; give the trimap"):
        read_trimap(tmp_path / "t.png", (9, 6))
    with pytest.raises(UserError, match="raise --max-pixels"):
        read_trimap(tmp_path / "t.png", (6, 9), max_pixels=53)
