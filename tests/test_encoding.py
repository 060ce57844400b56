"""utils.encoding: what is written is read back, with its profile; no format gets what it cannot hold; atomic writes."""

import io
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from utils.encoding import SUFFIXES, write_image
from utils.errors import UserError
from utils.images import MAX_PROFILE_BYTES, list_images, quantise, read_alpha, read_photo, read_rgb

RAMP = np.tile(np.arange(256, dtype=np.uint8), (8, 1))
COLOUR = np.stack([RAMP, 255 - RAMP, RAMP // 2], 2)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(shape: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_written_png_is_read_back(shape: tuple[int, ...], dtype: type, tmp_path: Path) -> None:
    array = noise(shape, dtype)
    path = tmp_path / "new folder" / "a.png"
    write_image(path, array)
    if len(shape) == 2:
        np.testing.assert_array_equal(read_alpha(path), array.astype(np.float32) / np.float32(np.iinfo(dtype).max))
    elif dtype == np.uint8:
        np.testing.assert_array_equal(read_rgb(path), array[:, :, :3])
        np.testing.assert_array_equal(np.array(Image.open(path)), array)
    else:
        np.testing.assert_array_equal(read_photo(path).deep, array[:, :, :3])
    if len(shape) == 3 and shape[2] == 4:
        np.testing.assert_array_equal(quantise(read_alpha(path), bits=8 * array.itemsize), array[:, :, 3])
    assert os.listdir(path.parent) == ["a.png"]


@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 4)])
def test_webp_keeps_mattes_and_cutouts_exactly(shape: tuple[int, ...], tmp_path: Path) -> None:
    """Also the colours where alpha is 0."""
    array = noise(shape)
    if len(shape) == 3:
        array[:15, :, 3] = 0
    write_image(tmp_path / "a.webp", array)
    expected, alpha = (array, array[:, :, 3]) if len(shape) == 3 else (np.dstack([array] * 3), array)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "a.webp")), expected)
    np.testing.assert_array_equal(quantise(read_alpha(tmp_path / "a.webp")), alpha)


def test_lossy_formats_keep_a_photograph_but_for_a_few_levels(tmp_path: Path) -> None:
    smooth = cv2.GaussianBlur(noise((200, 300, 3)), (0, 0), 4)
    smooth = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)
    for name in ("a.jpg", "a.webp"):
        write_image(tmp_path / name, smooth)
        error = np.abs(read_rgb(tmp_path / name).astype(int) - smooth)
        assert error.mean() < 3 and error.max() < 25
        assert (tmp_path / name).stat().st_size < smooth.size / 5
    write_image(tmp_path / "grey.jpg", RAMP)
    assert Image.open(tmp_path / "grey.jpg").mode == "L"
    assert np.abs(read_rgb(tmp_path / "grey.jpg")[:, :, 0].astype(int) - RAMP).max() <= 2


def test_jpeg_keeps_the_colours_of_an_edge(tmp_path: Path) -> None:
    """Red beside green, of one luminance: with half the chroma they would run into each other."""
    edge = np.zeros((64, 64, 3), np.uint8)
    edge[:, :33], edge[:, 33:] = (200, 0, 0), (0, 102, 0)
    write_image(tmp_path / "a.jpg", edge)
    assert np.abs(read_rgb(tmp_path / "a.jpg").astype(int) - edge).max() < 20


@pytest.mark.parametrize("suffix", SUFFIXES.values())
@pytest.mark.parametrize("size", [len(SRGB), 65_519, 65_520, 200_000, MAX_PROFILE_BYTES])
def test_profile_is_embedded_and_changes_no_pixel(suffix: str, size: int, tmp_path: Path) -> None:
    profile = SRGB + noise((size - len(SRGB),)).tobytes()  # what is behind it counts as a part of it
    write_image(tmp_path / f"plain{suffix}", COLOUR)
    write_image(tmp_path / f"a{suffix}", COLOUR, icc_profile=profile)
    photo = read_photo(tmp_path / f"a{suffix}")
    assert photo.icc_profile == profile
    plain = read_photo(tmp_path / f"plain{suffix}")
    assert plain.icc_profile is None
    np.testing.assert_array_equal(photo.rgb, plain.rgb)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / f"a{suffix}"))[:, :, ::-1], photo.rgb)


@pytest.mark.parametrize("channels", [3, 4])
def test_profile_of_a_16_bit_png(channels: int, tmp_path: Path) -> None:
    array = noise((9, 11, channels), np.uint16)
    write_image(tmp_path / "a.png", array, icc_profile=SRGB)
    photo = read_photo(tmp_path / "a.png")
    assert photo.icc_profile == SRGB
    np.testing.assert_array_equal(photo.deep, array[:, :, :3])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", SUFFIXES.values())
@pytest.mark.parametrize("profile", [b"x", b"no profile" * 99, SRGB[:200], SRGB[:16] + b"CMYK" + SRGB[20:]])
def test_damaged_profile_does_not_damage_the_picture(suffix: str, profile: bytes, tmp_path: Path) -> None:
    write_image(tmp_path / f"plain{suffix}", COLOUR)
    write_image(tmp_path / f"a{suffix}", COLOUR, icc_profile=profile)
    photo = read_photo(tmp_path / f"a{suffix}")
    assert photo.icc_profile is None
    np.testing.assert_array_equal(photo.rgb, read_rgb(tmp_path / f"plain{suffix}"))
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / f"a{suffix}"))[:, :, ::-1], photo.rgb)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("a.gif", RAMP),
        ("a", RAMP),
        ("a.png", RAMP / 255),
        ("a.png", RAMP[..., None]),
        ("a.png", RAMP[:0]),
        ("a.png", RAMP[0]),
        ("a.jpg", noise((4, 5, 4))),
        ("a.jpg", RAMP.astype(np.uint16)),
        ("a.webp", COLOUR.astype(np.uint16)),
    ],
)
def test_only_what_a_format_can_hold_is_written(name: str, array: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=name):
        write_image(tmp_path / name, array)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("array", "profile"), [(RAMP, SRGB), (COLOUR, bytes(MAX_PROFILE_BYTES + 1))])
def test_profile_must_describe_colours_and_be_readable(array: np.ndarray, profile: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.png.*profile"):
        write_image(tmp_path / "a.png", array, icc_profile=profile)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("suffix", "side"), [(".webp", 16_383), (".jpg", 65_500), (".png", 1_000_000)])
def test_side_that_a_format_cannot_hold_is_told(suffix: str, side: int, tmp_path: Path) -> None:
    remedy = "make it smaller" if suffix == ".png" else "save it as PNG"
    for shape in ((1, side), (side, 1)):
        path = tmp_path / f"a{suffix}"
        write_image(path, np.zeros(shape, np.uint8))
        assert read_rgb(path).shape == (*shape, 3)
        path.unlink()
        with pytest.raises(UserError, match=f"a\\{suffix}: .* {side} px .*{remedy}") as caught:
            write_image(path, np.zeros([each + (each > 1) for each in shape], np.uint8))
        assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", [*SUFFIXES.values(), ".PNG", ".JPG"])
@pytest.mark.parametrize("stem", ["Été à la plage", "日本 語", "two\nlines", "-rf", "%s {0} 'q\"", "x" * 250])
def test_odd_names_are_written(stem: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_image(Path(stem + suffix), COLOUR)
    assert os.listdir(tmp_path) == [stem + suffix]
    assert read_rgb(Path(stem + suffix)).shape == COLOUR.shape


@pytest.mark.parametrize("suffix", SUFFIXES.values())
def test_failed_write_leaves_the_old_file_and_nothing_else(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    write_image(path, COLOUR)
    before = path.read_bytes()

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match=rf"a\{suffix}: cannot be written \(No space left on device\)"):
        write_image(path, 255 - COLOUR)
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_bytes() == before


def test_new_file_appears_only_when_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    rename = os.replace

    def watched(temporary: Path, path: Path) -> None:
        seen.append((list_images(tmp_path), np.array(Image.open(io.BytesIO(temporary.read_bytes())))))
        rename(temporary, path)

    monkeypatch.setattr(os, "replace", watched)
    write_image(tmp_path / "a.png", COLOUR, icc_profile=SRGB)
    ((listed, content),) = seen
    assert listed == []
    np.testing.assert_array_equal(content, COLOUR)
