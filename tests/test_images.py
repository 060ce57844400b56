"""utils.images: right values in every mode, upright, with their profile, damage refused, bombs refused."""

import io
import itertools
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile

from utils.errors import UserError
from utils.files import remove_stale, write_atomically
from utils.images import (
    MAX_PROFILE_BYTES,
    image_size,
    list_images,
    quantise,
    read_alpha,
    read_photo,
    read_rgb,
    verify_alpha,
    verify_image,
    verify_rgb,
)

RAMP = np.tile(np.arange(256, dtype=np.uint8), (8, 1))  # 0 to 255, left to right
# 16-bit values whose upper byte alone is not enough: within 128 of the ramp, both above and below it.
RAMP16 = (RAMP.astype(int) * 257 + np.random.default_rng(0).integers(-128, 129, RAMP.shape)).clip(0, 65535)
RAMP16 = RAMP16.astype(np.uint16)
GREY = Image.fromarray(RAMP)
WHITE = Image.new("L", GREY.size, 255)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bytes(size: tuple[int, int], bits: int, colour_type: int, rows: bytes, further: bytes = b"") -> bytes:
    """A PNG of kinds no library at hand writes; `rows` with a filter byte before each row, `further` whole chunks."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", size[0], size[1], bits, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + further + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


def with_filter_bytes(array: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in array)


def save_palette_with_opacities(path: Path) -> None:
    image = GREY.convert("P")
    image.putpalette([7] * 768)  # one colour: only the opacities carry the ramp
    image.save(path, transparency=bytes(range(256)))


GREY_RAMPS = {
    "grey.png": GREY.save,
    "grey.jpg": lambda path: GREY.save(path, quality=100),
    "grey.bmp": GREY.save,
    "grey.tif": GREY.save,
    "grey_lzw.tif": lambda path: GREY.save(path, compression="tiff_lzw"),
    "rgb.png": lambda path: GREY.convert("RGB").save(path),
    "rgb.jpg": lambda path: GREY.convert("RGB").save(path, quality=100),
    "rgb.webp": lambda path: GREY.convert("RGB").save(path, lossless=True),
    "palette.png": lambda path: GREY.convert("P").save(path),
    "la.png": lambda path: GREY.convert("LA").save(path),
    "rgba_opaque.png": lambda path: GREY.convert("RGBA").save(path),
    "cmyk.jpg": lambda path: GREY.convert("RGB").convert("CMYK").save(path, quality=100),
    "cmyk.tif": lambda path: GREY.convert("RGB").convert("CMYK").save(path),
    "grey16.png": lambda path: cv2.imwrite(str(path), RAMP16),
    "grey16.tif": lambda path: cv2.imwrite(str(path), RAMP16),
    "grey16_big_endian.tif": lambda path: Image.fromarray(RAMP16.astype(">u2")).save(path),
    "rgb16.png": lambda path: cv2.imwrite(str(path), np.stack([RAMP16] * 3, 2)),
    "rgb16.tif": lambda path: cv2.imwrite(str(path), np.stack([RAMP16] * 3, 2)),
    "rgba16_opaque.png": lambda path: cv2.imwrite(str(path), np.stack([RAMP16] * 3 + [RAMP16 * 0 + 65535], 2)),
}
ALPHA_CHANNELS = {
    "la.png": lambda path: Image.merge("LA", (WHITE, GREY)).save(path),
    "rgba.png": lambda path: Image.merge("RGBA", (WHITE, WHITE, WHITE, GREY)).save(path),
    "rgba.tif": lambda path: Image.merge("RGBA", (WHITE, WHITE, WHITE, GREY)).save(path),
    "rgba.webp": lambda path: Image.merge("RGBA", (WHITE, WHITE, WHITE, GREY)).save(path, lossless=True, exact=True),
    "rgba16.png": lambda path: cv2.imwrite(str(path), np.stack([RAMP16 * 0 + 65535] * 3 + [RAMP16], 2)),
    "la16.png": lambda path: path.write_bytes(
        png_bytes((256, 8), 16, 4, with_filter_bytes(np.stack([RAMP16 * 0 + 999, RAMP16], 2).astype(">u2")))
    ),
    "palette_opacities.png": save_palette_with_opacities,
    "float.tif": lambda path: cv2.imwrite(str(path), (RAMP16 / 65535).astype(np.float32)),
}


@pytest.mark.parametrize("name", GREY_RAMPS)
def test_grey_ramp_survives_in_every_mode(name: str, tmp_path: Path) -> None:
    GREY_RAMPS[name](tmp_path / name)
    alpha, rgb = read_alpha(tmp_path / name), read_rgb(tmp_path / name)
    assert alpha.dtype == np.float32 and alpha.shape == (8, 256) and alpha.flags.writeable and alpha.flags.c_contiguous
    assert np.abs(alpha - np.linspace(0, 1, 256)).max() <= 1 / 255
    assert rgb.dtype == np.uint8 and rgb.shape == (8, 256, 3) and rgb.flags.writeable and rgb.flags.c_contiguous
    assert np.abs(rgb.astype(int) - np.arange(256)[:, None]).max() <= 1


@pytest.mark.parametrize("name", ALPHA_CHANNELS)
def test_alpha_channel_is_the_alpha(name: str, tmp_path: Path) -> None:
    ALPHA_CHANNELS[name](tmp_path / name)
    assert np.abs(read_alpha(tmp_path / name) - np.linspace(0, 1, 256)).max() <= 1 / 255


@pytest.mark.parametrize("name", ["grey16.png", "rgb16.png", "grey16.tif", "rgb16.tif", "rgba16_opaque.png"])
def test_16_bit_alpha_is_exact(name: str, tmp_path: Path) -> None:
    GREY_RAMPS[name](tmp_path / name)
    np.testing.assert_array_equal(read_alpha(tmp_path / name), RAMP16.astype(np.float32) / np.float32(65535))


def test_16_bit_is_rounded_not_floored_or_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 256, 385, 386, 32767, 65406, 65407, 65535]], dtype=np.uint16)
    for name, array in (("grey.png", values), ("rgb.png", np.stack([values] * 3, 2))):
        cv2.imwrite(str(tmp_path / name), array)
        assert read_rgb(tmp_path / name)[0, :, 0].tolist() == [0, 0, 1, 1, 1, 2, 127, 254, 255, 255]


def test_every_16_bit_value_is_rounded_to_the_nearest(tmp_path: Path) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    cv2.imwrite(str(tmp_path / "all.png"), values)
    np.testing.assert_array_equal(read_rgb(tmp_path / "all.png")[:, :, 1], np.rint(values / 257).astype(np.uint8))


def test_a_16_bit_photograph_keeps_its_bits(tmp_path: Path) -> None:
    rgb = np.stack([RAMP16, RAMP16[:, ::-1], RAMP16 // 3], 2)
    for suffix in (".png", ".tif"):
        cv2.imwrite(str(tmp_path / f"rgb{suffix}"), rgb[:, :, ::-1])
        cv2.imwrite(str(tmp_path / f"rgba{suffix}"), np.dstack([rgb[:, :, ::-1], RAMP16]))
        cv2.imwrite(str(tmp_path / f"grey{suffix}"), RAMP16)
    ALPHA_CHANNELS["la16.png"](tmp_path / "la.png")
    expected = {"rgb": rgb, "rgba": rgb, "grey": np.dstack([RAMP16] * 3), "la": np.full_like(rgb, 999)}
    for path in sorted(tmp_path.iterdir()):
        photo = read_photo(path)
        np.testing.assert_array_equal(photo.deep, expected[path.stem], err_msg=path.name)
        np.testing.assert_array_equal(photo.rgb, read_rgb(path))
        assert photo.deep.dtype == np.uint16 and photo.deep.flags.c_contiguous and photo.deep.flags.writeable


@pytest.mark.parametrize("name", [name for name in GREY_RAMPS if "16" not in name])
def test_8_bits_are_not_called_16(name: str, tmp_path: Path) -> None:
    GREY_RAMPS[name](tmp_path / name)
    photo = read_photo(tmp_path / name)
    assert photo.deep is None and photo.icc_profile is None
    np.testing.assert_array_equal(photo.rgb, read_rgb(tmp_path / name))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "rgba.png", "palette.png", "a.webp", "a.tif"])
def test_profile_of_colours_is_kept_and_changes_no_pixel(name: str, tmp_path: Path) -> None:
    mode = {"rgba.png": "RGBA", "palette.png": "P"}.get(name, "RGB")
    image = Image.merge("RGB", (GREY, WHITE, GREY)).convert(mode)
    image.save(tmp_path / name)
    plain = read_photo(tmp_path / name)
    image.save(tmp_path / name, icc_profile=SRGB)
    photo = read_photo(tmp_path / name)
    assert plain.icc_profile is None and photo.icc_profile == SRGB
    np.testing.assert_array_equal(photo.rgb, plain.rgb)


def test_profile_that_does_not_describe_the_pixels_is_not_given(tmp_path: Path) -> None:
    grey = SRGB[:16] + b"GRAY" + SRGB[20:]
    colour = Image.merge("RGB", (GREY, WHITE, GREY))
    colour.save(tmp_path / "padded.png", icc_profile=SRGB + bytes(3))
    assert read_photo(tmp_path / "padded.png").icc_profile == SRGB + bytes(3)
    for number, (image, profile) in enumerate(
        [
            (GREY, grey),
            (GREY, SRGB),
            (colour, grey),
            (colour, SRGB[:-1]),
            (colour, SRGB.replace(b"acsp", b"ascp")),
            (colour, SRGB[:9]),
            (colour, b"x" * 999),
        ]
    ):
        for suffix in (".png", ".jpg", ".tif"):
            image.save(tmp_path / f"{number}{suffix}", icc_profile=profile)
            photo = read_photo(tmp_path / f"{number}{suffix}")
            assert photo.icc_profile is None and photo.rgb.shape == (8, 256, 3)


def test_large_profile_does_not_stand_in_the_way_of_a_picture(tmp_path: Path) -> None:
    for size, kept in ((MAX_PROFILE_BYTES, True), (MAX_PROFILE_BYTES + 1, False), (4 * MAX_PROFILE_BYTES, False)):
        GREY.convert("RGB").save(tmp_path / "a.png", icc_profile=SRGB.ljust(size, b"\0"))
        photo = read_photo(tmp_path / "a.png")
        assert (photo.icc_profile is not None) == kept
        np.testing.assert_array_equal(photo.rgb[:, :, 0], RAMP)


def cmyk_profile() -> bytes:
    """An ICC profile of a press whose cyan is a mid grey, whose black is black and whose other inks are water."""
    lights = (100 * (1 - 0.5 * c) * (1 - k) for c, _, _, k in itertools.product((0, 1), repeat=4))
    nodes = b"".join(bytes([round(light * 2.55), 128, 128]) for light in lights)  # L*, a* = b* = 0
    row, ramp = struct.pack(">4i", 65536, 0, 0, 0), bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + row + row + row[:4] + ramp * 4 + nodes + ramp * 3
    header = struct.pack(
        ">I4xI4s4s4s12x4s28x3i", 144 + len(table), 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp", 63190, 65536, 54061
    )
    return header.ljust(128, b"\0") + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_inks_have_the_colour_that_their_profile_says(suffix: str, tmp_path: Path) -> None:
    profile, options = cmyk_profile(), {"quality": 100} if suffix == ".jpg" else {}
    inks = np.zeros((16, 64, 4), np.uint8)
    inks[:, 16:48, 0], inks[:, 32:, 3] = 255, 255  # paper, cyan, cyan and black, black
    path = tmp_path / f"a{suffix}"
    for icc_profile, cyan in ((profile, (119, 119, 119)), (None, (0, 255, 255)), (profile[:300], (0, 255, 255))):
        extra = {"icc_profile": icc_profile} if icc_profile else {}
        Image.frombytes("CMYK", (64, 16), inks.tobytes()).save(path, **options, **extra)
        photo = read_photo(path)
        assert photo.icc_profile is None  # of inks: it says nothing of RGB
        for x, expected in ((4, (255, 255, 255)), (24, cyan), (40, (0, 0, 0)), (60, (0, 0, 0))):
            assert np.abs(photo.rgb[8, x].astype(int) - expected).max() <= 3
        assert verify_rgb(path) == (16, 64)


NAMES = ["Été à la plage.png", "日本 語.png", "two\nlines.png", "-rf.png", "%s {0} 'q\".png", "x" * 250 + ".png"]


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_are_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    GREY.save(Path(name).absolute())
    cv2.imwrite("16.png", np.dstack([RAMP16] * 3))
    assert {path.name for path in list_images(Path("."))} == {name, "16.png"}
    np.testing.assert_array_equal(read_photo(Path(name)).rgb[:, :, 0], RAMP)
    os.replace("16.png", name)
    assert read_photo(Path(name)).deep is not None


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_reach_white(bits: int, tmp_path: Path) -> None:
    levels = 2**bits
    values = np.arange(16) % levels
    packed = np.packbits(np.unpackbits(values.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :].ravel())
    (tmp_path / "few.png").write_bytes(png_bytes((16, 1), bits, 0, b"\0" + packed.tobytes()))
    np.testing.assert_allclose(read_alpha(tmp_path / "few.png")[0], values / (levels - 1), atol=1e-6)


def test_one_bit_palette_and_tiff(tmp_path: Path) -> None:
    mask = RAMP > 127
    for name in ("one.png", "one.tif", "one.bmp"):
        Image.fromarray(mask).save(tmp_path / name)
        np.testing.assert_array_equal(read_alpha(tmp_path / name), mask.astype(np.float32))
        np.testing.assert_array_equal(read_rgb(tmp_path / name)[:, :, 1], mask * np.uint8(255))


def test_colour_channels_keep_their_order(tmp_path: Path) -> None:
    colour = np.stack([RAMP, 255 - RAMP, RAMP // 2], 2)
    Image.fromarray(colour).save(tmp_path / "c.png")
    Image.fromarray(colour).save(tmp_path / "c.jpg", quality=100, subsampling=0)
    cv2.imwrite(str(tmp_path / "c16.png"), colour[:, :, ::-1].astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "c16.tif"), colour[:, :, ::-1].astype(np.uint16) * 257)
    for name, tolerance in (("c.png", 0), ("c.jpg", 3), ("c16.png", 0), ("c16.tif", 0)):
        assert np.abs(read_rgb(tmp_path / name).astype(int) - colour).max() <= tolerance, name


def test_16_bit_colour_is_refused_if_the_decoders_disagree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: decode(data, flags)[:, ::-1].copy())
    cv2.imwrite(str(tmp_path / "a.png"), np.stack([RAMP16] * 3, 2))
    with pytest.raises(UserError, match=r"a\.png.*disagree"):
        read_rgb(tmp_path / "a.png")


def test_jpeg_is_read_as_pillow_reads_it(tmp_path: Path) -> None:
    noise = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (67, 91, 3), dtype=np.uint8), (0, 0), 2)
    for options in ({}, {"progressive": True}, {"quality": 50}, {"restart_marker_blocks": 3}):
        Image.fromarray(noise).save(tmp_path / "a.jpg", **options)
        np.testing.assert_array_equal(read_rgb(tmp_path / "a.jpg"), np.array(Image.open(tmp_path / "a.jpg")))


def test_colours_under_transparency_are_kept(tmp_path: Path) -> None:
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[..., 0] = 200  # red, fully transparent
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert (read_rgb(tmp_path / "a.png") == [200, 0, 0]).all()


def test_colour_image_is_no_alpha(tmp_path: Path) -> None:
    Image.fromarray(np.stack([RAMP, 255 - RAMP, RAMP], 2)).save(tmp_path / "photo.png")
    with pytest.raises(UserError, match=r"photo\.png: a colour image"):
        read_alpha(tmp_path / "photo.png")


@pytest.mark.parametrize(("suffix", "options"), [(".png", {}), (".jpg", {"quality": 40})])
def test_a_coloured_mask_of_a_small_subject_is_no_alpha_but_odd_pixels_are_no_colour_image(
    suffix: str, options: dict, tmp_path: Path
) -> None:
    mask = np.zeros((200, 200, 3), np.uint8)
    mask[96:104, 80:124] = (0, 255, 0)  # 0.9 % of the picture
    path = tmp_path / f"a{suffix}"
    Image.fromarray(mask).save(path, **options)
    with pytest.raises(UserError, match="a colour image"):
        read_alpha(path)
    grey = mask[:, :, 1:2].repeat(3, axis=2)
    grey[[5, 50, 150], [5, 90, 30]] = (200, 0, 0)  # three odd pixels of 40000
    Image.fromarray(grey).save(path, **options)
    assert read_alpha(path).max() > 0.95
    grey[:] = 0
    grey[50, 90] = (200, 0, 0)  # beside nothing else
    Image.fromarray(grey).save(path, **options)
    assert read_alpha(path).max() < 0.5


def test_float_files_must_be_alphas_in_range(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "f.tif"), np.full((4, 4), 1.5, np.float32))
    with pytest.raises(UserError, match=r"f\.tif.*\[0, 1\]"):
        read_alpha(tmp_path / "f.tif")
    with pytest.raises(UserError, match=r"f\.tif.*8 or 16 bits"):
        read_rgb(tmp_path / "f.tif")


def save_tiff(path: Path, array: np.ndarray, *, sample_format: int, photometric: int = 1, orientation: int = 1) -> None:
    """A grey or RGB TIFF of any number format: no library at hand writes them all."""
    channels = 1 if array.ndim == 2 else array.shape[2]
    start = 8 + 2 + 11 * 12 + 4  # behind the header, the count, the tags and the offset of the next picture
    bits = struct.pack(f"<{channels}H", *[8 * array.itemsize] * channels)
    numbers = {
        256: array.shape[1], 257: array.shape[0], 258: 8 * array.itemsize if channels == 1 else start, 259: 1,
        262: photometric, 273: start + len(bits), 274: orientation, 277: channels, 278: array.shape[0],
        279: array.nbytes, 339: sample_format,
    }  # fmt: skip
    counts = {258: channels}
    tags = b"".join(
        struct.pack("<HHII", tag, 3 if tag == 258 else 4, counts.get(tag, 1), value) for tag, value in numbers.items()
    )
    path.write_bytes(struct.pack("<4sIH", b"II*\0", 8, len(numbers)) + tags + bytes(4) + bits + array.tobytes())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("dtype", "sample_format", "photometric", "says"),
    [
        ("<f2", 3, 1, "16-bit float"),
        ("<f8", 3, 1, "64-bit float"),
        ("<i4", 2, 1, "32-bit signed integer"),
        ("<u4", 1, 1, "32-bit integer"),
        ("<u1", 1, 8, "LAB"),
    ],
)
def test_an_unsupported_number_format_is_no_damage(
    dtype: str, sample_format: int, photometric: int, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.tif"
    save_tiff(path, RAMP[:, :40].astype(dtype), sample_format=sample_format, photometric=photometric)
    for read in (read_alpha, read_rgb, verify_image, verify_alpha):
        with pytest.raises(UserError, match=rf"a\.tif: pixel format .*{says}.* 8 or 16 bits") as caught:
            read(path)
        assert "damaged" not in str(caught.value)
    whole = path.read_bytes()
    path.write_bytes(whole[:60])  # damaged it is
    with pytest.raises(UserError, match=r"a\.tif.*damaged"):
        read_alpha(path)


def test_the_hand_made_tiff_is_read_where_its_format_is_supported(tmp_path: Path) -> None:
    save_tiff(tmp_path / "a.tif", (RAMP / 255).astype("<f4"), sample_format=3)
    np.testing.assert_allclose(read_alpha(tmp_path / "a.tif"), RAMP / 255, atol=1e-6)


def test_lab_and_colour_floats_are_named(tmp_path: Path) -> None:
    Image.new("LAB", (9, 8)).save(tmp_path / "lab.tif")
    cv2.imwrite(str(tmp_path / "colour.tif"), np.zeros((8, 9, 3), np.float32))
    for name, says in (("lab", "3 x 8-bit integer LAB"), ("colour", "3 x 32-bit float")):
        with pytest.raises(UserError, match=f"{name}.*{says} is not supported"):
            read_rgb(tmp_path / f"{name}.tif")


def test_a_matte_is_verified_as_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photograph = Image.fromarray(np.stack([RAMP, 255 - RAMP, RAMP], 2))
    for name in ("photo.png", "photo.tif", "photo.webp"):
        photograph.save(tmp_path / name)
    photograph.convert("P").save(tmp_path / "palette.png")
    cv2.imwrite(str(tmp_path / "float.tif"), np.full((4, 4), 1.5, np.float32))
    GREY.save(tmp_path / "short.png")
    (tmp_path / "short.png").write_bytes((tmp_path / "short.png").read_bytes()[:-30])
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(UserError, match=path.name):
            verify_alpha(path)
    for name in GREY_RAMPS:
        GREY_RAMPS[name](tmp_path / name)
        assert verify_alpha(tmp_path / name) == (8, 256)

    def decoded(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("utils.images._decode", decoded)
    assert verify_alpha(tmp_path / "grey.png") == verify_alpha(tmp_path / "grey16.png") == (8, 256)
    assert verify_alpha(tmp_path / "grey.jpg") == (8, 256)


def test_a_photograph_is_verified_as_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2.imwrite(str(tmp_path / "float.tif"), np.full((4, 4), 0.5, np.float32))
    Image.fromarray(RAMP16.astype(np.int32)).save(tmp_path / "integers.tif")
    GREY.save(tmp_path / "short.png")
    textured().convert("CMYK").save(tmp_path / "short.jpg")
    for path in tmp_path.glob("short.*"):
        path.write_bytes(path.read_bytes()[:-30])
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(UserError) as of_reader:
            read_rgb(path)
        with pytest.raises(UserError) as caught:
            verify_rgb(path)
        assert str(caught.value) == str(of_reader.value)
    for name, save in {**GREY_RAMPS, **ALPHA_CHANNELS}.items():
        save(tmp_path / name)
        if name != "float.tif":
            assert verify_rgb(tmp_path / name) == (8, 256)
    with pytest.raises(UserError, match="--max-pixels"):
        verify_rgb(tmp_path / "rgb.png", max_pixels=8 * 256 - 1)
    with monkeypatch.context() as patch:
        decode = cv2.imdecode
        patch.setattr(cv2, "imdecode", lambda data, flags: decode(data, flags)[:, ::-1].copy())
        with pytest.raises(UserError, match="disagree"):
            verify_rgb(tmp_path / "rgb16.png")

    exif = Image.Exif()
    exif[0x0112] = 6
    textured().convert("RGB").save(tmp_path / "turned.jpg", exif=exif)

    def decoded(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("utils.images._decode", decoded)
    for name in ("rgb.png", "rgb.jpg", "cmyk.jpg", "grey.png", "rgba.png", "palette.png"):
        assert verify_rgb(tmp_path / name) == (8, 256)
    assert verify_rgb(tmp_path / "turned.jpg") == (80, 64)


# What a camera stores for an upright picture, by EXIF orientation; written from the EXIF table, not from the reader.
STORED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", "_16.tif"])
def test_exif_orientation_is_applied(orientation: int, suffix: str, tmp_path: Path) -> None:
    upright = np.zeros((24, 40), np.uint8)
    upright[:8, :16] = 255  # a block in the top left corner, wider than high
    stored = np.ascontiguousarray(STORED[orientation](upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"o{suffix}"
    options = {"quality": 100} if suffix == ".jpg" else {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(stored.astype(np.uint16) * 257 if "16" in suffix else stored).save(path, exif=exif, **options)
    assert image_size(path) == (24, 40)
    assert np.abs(read_alpha(path) - upright / 255).max() <= 2 / 255
    assert np.abs(read_rgb(path)[:, :, 0].astype(int) - upright).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_exif_orientation_is_applied_to_16_bit_colours(orientation: int, suffix: str, tmp_path: Path) -> None:
    upright = np.random.default_rng(0).integers(0, 65536, (24, 40, 3), dtype=np.uint16)
    stored = np.ascontiguousarray(STORED[orientation](upright))
    path = tmp_path / f"o{suffix}"
    if suffix == ".tif":
        save_tiff(path, stored, sample_format=1, photometric=2, orientation=orientation)
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        rows = with_filter_bytes(stored.astype(">u2"))
        chunk = png_chunk(b"eXIf", exif.tobytes()[6:])  # without the JPEG prefix
        path.write_bytes(png_bytes(stored.shape[1::-1], 16, 2, rows, chunk))
    assert image_size(path) == (24, 40)
    photo = read_photo(path)
    np.testing.assert_array_equal(photo.deep, upright)
    np.testing.assert_array_equal(photo.rgb, np.rint(upright / 257).astype(np.uint8))
    assert photo.deep.flags.c_contiguous and photo.deep.flags.writeable


def test_size_is_read_from_the_header_alone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.png", "a.jpg"):
        textured().convert("RGB").save(tmp_path / name, exif=exif)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])  # pixels that cannot be decoded
        assert image_size(tmp_path / name) == (80, 64)


def test_size_is_read_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "a.jpg", "a.tif", "a.bmp", "a.webp"):
        textured().convert("RGB").save(tmp_path / name)

    def decoded(*_: object) -> None:
        raise AssertionError("the size was not read from the header")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    for name in ("a.png", "a.jpg", "a.tif", "a.bmp", "a.webp"):
        assert image_size(tmp_path / name) == (64, 80)


def test_png_exif_behind_the_pixels_counts(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = exif.tobytes()[6:]  # without the JPEG prefix
    chunk = png_chunk(b"eXIf", content)
    textured().save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:-12] + chunk + data[-12:])
    assert image_size(tmp_path / "a.png") == (80, 64)
    assert read_alpha(tmp_path / "a.png").shape == (80, 64)


def textured() -> Image.Image:
    noise = np.random.default_rng(1).integers(0, 256, (64, 80), dtype=np.uint8)
    return Image.fromarray(cv2.GaussianBlur(noise, (0, 0), 1.5))


def jpeg_with_thumbnail(path: Path) -> None:
    """Its thumbnail has an end-of-image marker of its own, long before the picture's."""
    thumbnail = io.BytesIO()
    textured().resize((20, 16)).save(thumbnail, "JPEG")
    segment = b"Exif\0\0" + thumbnail.getvalue()
    data = io.BytesIO()
    textured().save(data, "JPEG")
    marker = b"\xff\xe1" + struct.pack(">H", len(segment) + 2)
    path.write_bytes(data.getvalue()[:2] + marker + segment + data.getvalue()[2:])


DAMAGEABLE = {
    "grey.jpg": lambda path: textured().save(path),
    "colour.jpg": lambda path: textured().convert("RGB").save(path),
    "progressive.jpg": lambda path: textured().save(path, progressive=True),
    "cmyk.jpg": lambda path: textured().convert("CMYK").save(path),
    "thumbnail.jpg": jpeg_with_thumbnail,
    "grey.png": lambda path: textured().save(path),
    "grey16.png": lambda path: cv2.imwrite(str(path), np.array(textured()).astype(np.uint16) * 257),
    "rgb16.png": lambda path: cv2.imwrite(str(path), np.array(textured().convert("RGB")).astype(np.uint16) * 257),
    "grey.tif": lambda path: textured().save(path, compression="tiff_lzw"),
    "grey.webp": lambda path: textured().convert("RGB").save(path),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", DAMAGEABLE)
def test_truncated_file_is_refused_and_named(name: str, tmp_path: Path) -> None:
    DAMAGEABLE[name](tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    read_rgb(tmp_path / name)
    for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
        (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
        for read in (read_rgb, read_alpha):
            with pytest.raises(UserError, match=name) as caught:
                read(tmp_path / name)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in DAMAGEABLE if name.endswith("jpg")])
def test_truncated_jpeg_is_refused_whatever_the_decoder_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some versions of OpenCV return a truncated JPEG as a whole image filled with grey."""
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: np.full((64, 80), 128, np.uint8))
    DAMAGEABLE[name](tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for length in (len(whole) - 200, len(whole) - 1):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(UserError, match=f"{name}.*truncated"):
            read_rgb(tmp_path / name)


@pytest.mark.parametrize("name", [name for name in DAMAGEABLE if name.endswith(("jpg", "png"))])
def test_file_whose_end_was_never_written_is_refused(name: str, tmp_path: Path) -> None:
    """An interrupted download or a full disk leaves the right size and zeros at the end."""
    DAMAGEABLE[name](tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    with pytest.raises(UserError, match=name):
        read_rgb(tmp_path / name)


def test_flipped_bit_in_a_png_is_refused(tmp_path: Path) -> None:
    textured().save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.png"):
        read_alpha(tmp_path / "a.png")


@pytest.mark.parametrize("name", [name for name in DAMAGEABLE if name.endswith("jpg")])
def test_a_jpeg_with_impossible_markers_in_its_data_is_refused(name: str, tmp_path: Path) -> None:
    """Part of another file in the middle of it: what decoders turn into a picture without a word."""
    DAMAGEABLE[name](tmp_path / name)
    data = bytearray((tmp_path / name).read_bytes())
    start = data.rindex(b"\xff\xda") + 20
    data[start : start + 4] = b"\xff\x30\x00\x02"
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=f"{name}.*overwritten"):
        read_rgb(tmp_path / name)


def test_jpeg_with_something_behind_it_is_read(tmp_path: Path) -> None:
    """Phones append a film or a second picture."""
    textured().save(tmp_path / "a.jpg")
    expected = read_rgb(tmp_path / "a.jpg")
    with (tmp_path / "a.jpg").open("ab") as file:
        file.write(b"\xff\xda film \xff\xd8 film")
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.jpg"), expected)


def test_first_picture_of_a_phones_double_jpeg_is_read(tmp_path: Path) -> None:
    first, second = textured().convert("RGB"), Image.new("RGB", (80, 64))
    first.save(tmp_path / "mpo.jpg", format="MPO", save_all=True, append_images=[second])
    first.save(tmp_path / "plain.jpg")
    np.testing.assert_array_equal(read_rgb(tmp_path / "mpo.jpg"), read_rgb(tmp_path / "plain.jpg"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.jpg", b"", "0 bytes"),
        ("text.jpg", b"this is no photograph", "not an image"),
        ("page.png", b"<!DOCTYPE html><html>404</html>", "not an image"),
        ("script.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),  # runs Ghostscript
    ],
)
def test_what_is_no_image_is_refused(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    for read in (read_rgb, read_alpha, image_size):
        with pytest.raises(UserError, match=f"{name}.*{says}"):
            read(tmp_path / name)


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.jpg: no such file"):
        read_rgb(tmp_path / "gone.jpg")
    with pytest.raises(UserError, match=r"cannot be read .*; check the path"):
        read_rgb(tmp_path)


def test_bomb_is_refused_before_decoding(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_bytes((60_000, 60_000), 8, 0, b"\0" * 1000))  # the pixels are missing: decoding would say so
    for read in (read_rgb, read_alpha):
        with pytest.raises(UserError, match=r"bomb\.png: 60000x60000 .*--max-pixels"):
            read(path)
    assert image_size(path) == (60_000, 60_000)


def test_pixel_limit_is_ours_not_pillows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow's: a warning at this size, an error at twice it
    GREY.save(tmp_path / "a.png")
    with pytest.raises(UserError, match="--max-pixels"):
        read_rgb(tmp_path / "a.png", max_pixels=8 * 256 - 1)
    assert read_rgb(tmp_path / "a.png", max_pixels=8 * 256).shape == (8, 256, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_thin_images(size: tuple[int, int], tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.tif"):
        Image.new("RGB", size, (9, 9, 9)).save(tmp_path / name)
        assert read_rgb(tmp_path / name).shape == (size[1], size[0], 3)
        assert read_alpha(tmp_path / name).shape == (size[1], size[0])


def test_listing_is_natural_and_ignores_litter(tmp_path: Path) -> None:
    for name in ("img10.png", "img2.JPG", "IMG1.png", "a b.jpeg", "é.webp", "c/3.tif", "c/.hidden/4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for litter in (".DS_Store", "Thumbs.db", "._img2.JPG", "notes.txt", "__MACOSX/img2.png", ".x.png.12.tmp"):
        (tmp_path / litter).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / litter).touch()
    flat = ["a b.jpeg", "IMG1.png", "img2.JPG", "img10.png", "é.webp"]
    assert [path.name for path in list_images(tmp_path)] == flat
    nested = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path, recursive=True)]
    assert nested == ["a b.jpeg", "c/3.tif", *flat[1:]]
    with pytest.raises(UserError, match="no such folder"):
        list_images(tmp_path / "gone")


def test_links_to_folders_are_followed_but_never_back(tmp_path: Path) -> None:
    for name in ("set/a.png", "set/in/b.png", "elsewhere/c.png", "elsewhere/deep/d.png", "outside.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    root = tmp_path / "set"
    links = {
        "there": tmp_path / "elsewhere",
        "again": tmp_path / "elsewhere",  # another path to the same images: another name
        "self": root, "up": tmp_path, "in/up": root, "in/top": Path("/"), "gone": tmp_path / "nowhere",
        "turn": root / "turn",
    }  # fmt: skip
    for name, target in links.items():
        (root / name).symlink_to(target)
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    (tmp_path / "elsewhere" / "deep" / "loop").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "way").symlink_to(root)
    expected = ["a.png", "again/c.png", "again/deep/d.png", "in/b.png", "there/c.png", "there/deep/d.png"]
    for start in (root, tmp_path / "way"):
        listed = [path.relative_to(start).as_posix() for path in list_images(start, recursive=True)]
        assert listed == expected
        assert list_images(start) == [start / "a.png"]


def test_links_are_followed_from_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set" / "in").mkdir(parents=True)
    (tmp_path / "set" / "in" / "a.png").touch()
    (tmp_path / "set" / "in" / "back").symlink_to(tmp_path / "set")
    monkeypatch.chdir(tmp_path / "set" / "in")
    for start in (".", "..", "../../set"):
        assert [path.name for path in list_images(Path(start), recursive=True)] == ["a.png"]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    dead, minutes_ago = child.pid, time.time() - 600
    names = [f".{dead}-1.tmp", f"x/.{dead}-2.tmp", f".{os.getpid()}-3.tmp", f".{dead}.tmp", f"{dead}-1.tmp", ".1-4.tmp"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (minutes_ago, minutes_ago))
    (tmp_path / f".{dead}-9.tmp").touch()  # written a moment ago: by another machine, it may be
    remove_stale(tmp_path)
    assert not (tmp_path / names[0]).exists()
    assert all((tmp_path / name).exists() for name in [*names[1:], f".{dead}-9.tmp"])
    remove_stale(tmp_path, recursive=True)
    assert not (tmp_path / names[1]).exists()
    assert all((tmp_path / name).exists() for name in [*names[2:], f".{dead}-9.tmp"])
    remove_stale(tmp_path / "nowhere", recursive=True)


def test_what_a_writer_leaves_is_what_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    write_atomically(tmp_path / "a", lambda file: seen.append(Path(file.name)))
    seen[0].touch()
    os.utime(seen[0], (0, 0))
    remove_stale(tmp_path)
    assert seen[0].exists()  # of a process that lives

    def gone(*_: int) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(os, "kill", gone)
    remove_stale(tmp_path)
    assert not seen[0].exists()


def test_quantise_rounds_and_clips() -> None:
    assert quantise(np.array([-0.1, 0.0, 0.0019, 0.002, 0.5, 0.998, 0.9981, 1.0, 1.1])).tolist() == [
        0, 0, 0, 1, 128, 254, 255, 255, 255,
    ]  # fmt: skip
    assert quantise(np.array([[-9.0, 0.4 / 65535, 0.6 / 65535, 0.5001, 9.0]]), bits=16).tolist() == [
        [0, 0, 1, 32774, 65535]
    ]


@pytest.mark.parametrize("bits", [8, 16])
def test_quantise_gives_back_what_was_read(bits: int) -> None:
    levels = np.arange(2**bits).reshape(-1, 16).astype(f"uint{bits}")
    for dtype in (np.float32, np.float64):
        alpha = (levels / (2**bits - 1)).astype(dtype)
        for given in (alpha, alpha[::-1, ::-1], alpha.T, alpha.reshape(2, -1, 4)):
            quantised = quantise(given, bits=bits)
            assert quantised.dtype == levels.dtype and quantised.shape == given.shape
            np.testing.assert_array_equal(quantised, np.rint(given * np.float64(2**bits - 1)))
