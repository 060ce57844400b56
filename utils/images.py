"""The one reader of image files: every script sees the same pixels for the same file.

Decoding rules, for images and alphas alike:

- EXIF orientation is applied, so an array has the orientation a viewer shows.
- 16-bit values are reduced by rounding, v / 257. (Pillow's `convert("L")` clips: a 16-bit ramp becomes 99.6 % white.)
- A damaged file is an error. JPEG and PNG are checked for completeness before they are decoded, because decoders do
  not agree on it. What cannot be noticed is a JPEG with some bytes in its middle overwritten: it has no checksums, and
  most wrong data decodes to something; only markers that are impossible there give it away.
- The pixel limit is read from the header, before anything is decoded.
- RGB and grey come as they are stored, whatever colour profile the file has. CMYK is converted to sRGB by its profile,
  without which ink has no colour.
- Of an animation or a multi-page file the first frame is read.
"""

import io
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageCms, PngImagePlugin, TiffImagePlugin

from utils.errors import UserError

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff")
# Pictures that are not read; who puts one into a dataset expects it to be used.
OTHER_EXTENSIONS = (
    ".heic", ".heif", ".hif", ".avif", ".gif", ".jxl", ".jp2", ".psd", ".psb", ".xcf", ".exr", ".hdr", ".tga", ".ppm",
    ".pgm", ".pbm", ".pnm", ".mpo", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2",
)  # fmt: skip
MAX_PIXELS = 200_000_000  # pixels; a 16384 x 12000 photograph passes, a 12 kB file that claims 1 gigapixel does not

MAX_PROFILE_BYTES = 2**20  # of a colour profile; Pillow refuses a PNG with a larger one
_MAX_PNG_TEXT_BYTES = 2**26  # the largest profile or text of a PNG that is read: a small file cannot fill memory

# The content decides the decoder, not the name. The list keeps Pillow from starting others (EPS runs Ghostscript).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_CHECKED_WITHOUT_DECODING = ("JPEG", "MPO", "PNG")
_DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError, struct.error)
_IGNORED = ("thumbs.db", "desktop.ini", "__macosx")  # and everything that starts with a dot

# A channel difference a grey matte never has after JPEG (which keeps grey within 2 levels): then it is a colour image.
_COLOUR_TOLERANCE = 32 / 255
_COLOUR_FRACTION = 0.01  # of the pixels that are not black: a mask of a small subject is black all around
_LEAST_LIT = 0.01  # share of the picture that counts as not black at least: some odd pixels are no colour image


class Photo(NamedTuple):
    """A photograph as it was read; arrays are upright, writable and contiguous.

    Attributes:
        rgb: uint8 (H, W, 3), what networks see.
        deep: uint16 (H, W, 3) of the same picture where the file has 16 bits a colour, else None.
        icc_profile: The colour profile of these pixels. None where the file has none that can describe them: it is
            grey, CMYK, damaged or larger than MAX_PROFILE_BYTES.
    """

    rgb: np.ndarray
    deep: np.ndarray | None
    icc_profile: bytes | None


def natural_key(text: str) -> tuple[list[str | int], str]:
    """Sort key under which "img2" comes before "img10"; equal keys only for equal texts."""
    parts = re.split(r"([0-9]+)", text)
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], text


def list_images(folder: Path, *, recursive: bool = False, extensions: tuple[str, ...] = IMAGE_EXTENSIONS) -> list[Path]:
    """Lists the image files of a folder in natural order of their path below it.

    Hidden files and folders, Thumbs.db, desktop.ini, __MACOSX and files of other types are left out. Links to folders
    are followed, but for those that lead back to a folder they lie in.

    Args:
        folder: folder to look in.
        recursive: also look in its folders, at any depth.
        extensions: in small letters, of the files that are listed.

    Returns:
        Paths that start with `folder`; empty if there are no images.

    Raises:
        UserError: `folder` is not a folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder.absolute()}: no such folder; check the path")
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [
            name for name in folders if recursive and not _is_ignored(name) and not _leads_back(folder, parent, name)
        ]
        found += [
            Path(parent, name) for name in files if not _is_ignored(name) and Path(name).suffix.lower() in extensions
        ]
    return sorted(found, key=lambda path: natural_key(path.relative_to(folder).as_posix()))


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in _IGNORED


def _leads_back(root: Path, parent: str, name: str) -> bool:
    """Whether `name` in `parent` is a link to a folder that holds one of those on the way there from `root`."""
    link = Path(parent, name)
    if not link.is_symlink():
        return False
    target, way = os.path.realpath(link), (each for each in link.parents if each.is_relative_to(root))
    return any(Path(os.path.realpath(each)).is_relative_to(target) for each in way)


def image_size(path: Path) -> tuple[int, int]:
    """Reads (height, width) in pixels, as displayed, from the header only.

    Raises:
        UserError: the file is missing, empty, not an image, or of an unsupported pixel format.
    """
    with _open(path, max_pixels=None) as image:
        width, height = image.size
        return (width, height) if _orientation(path, image) >= 5 else (height, width)


def exif_orientation(path: Path) -> int:
    """Reads the EXIF orientation that is applied to a file, 1 (as stored) to 8, from the header only.

    Raises:
        UserError: as `image_size`.
    """
    with _open(path, max_pixels=None) as image:
        return _orientation(path, image)


def verify_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Checks that a file is a whole image, without decoding a JPEG or PNG, which takes ten times as long.

    Returns:
        (height, width) in pixels, as displayed.

    Raises:
        UserError: the file is missing, damaged, not an image, or larger than `max_pixels`.
    """
    with _open(path, max_pixels) as image:
        orientation = _orientation(path, image)
        _require_whole(path, image)
        if image.format not in _CHECKED_WITHOUT_DECODING:
            image.load()
        width, height = image.size
        return (width, height) if orientation >= 5 else (height, width)


def verify_alpha(path: Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Checks that `read_alpha` will read a file; a grey JPEG or PNG, where nothing else can be wrong, is not decoded.

    Returns:
        (height, width) in pixels, as displayed.

    Raises:
        UserError: as `read_alpha`.
    """
    with _open(path, max_pixels) as image:
        grey = image.format in _CHECKED_WITHOUT_DECODING and image.mode in ("1", "L", "LA", "I;16")
    if grey:
        return verify_image(path, max_pixels=max_pixels)
    return read_alpha(path, max_pixels=max_pixels).shape


def verify_rgb(path: Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Checks that `read_rgb` will read a file; a JPEG or PNG, unless it has 16-bit colours, is not decoded.

    Returns:
        (height, width) in pixels, as displayed.

    Raises:
        UserError: as `read_rgb`.
    """
    with _open(path, max_pixels) as image:
        nothing_else = image.format in _CHECKED_WITHOUT_DECODING and not _has_16_bit_colours(image)
    if nothing_else:
        return verify_image(path, max_pixels=max_pixels)
    return read_rgb(path, max_pixels=max_pixels).shape[:2]


def read_rgb(path: Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads any supported image as 8-bit RGB: the `rgb` of `read_photo`."""
    return read_photo(path, max_pixels=max_pixels).rgb


def read_photo(path: Path, *, max_pixels: int = MAX_PIXELS) -> Photo:
    """Reads any supported image with all that its file says of its colours.

    Grey is repeated three times; an alpha channel is dropped and the colours are kept as they are stored (nothing is
    composited over black or white).

    Args:
        path: image file of one of IMAGE_EXTENSIONS.
        max_pixels: the largest width * height that is decoded.

    Raises:
        UserError: the file is missing, damaged, not an image, or larger than `max_pixels`.
    """
    with _open(path, max_pixels) as image:
        profile = _rgb_profile(image)
        pixels = _decode(path, image)
    if pixels.dtype == np.float32:
        raise UserError(f"{path}: floating-point image; save it with 8 or 16 bits per channel", kind="pixel-format")
    pixels = _three_channels(pixels)
    if pixels.dtype == np.uint16:
        return Photo(eight_bits(pixels), pixels, profile)
    return Photo(pixels, None, profile)


def _three_channels(pixels: np.ndarray) -> np.ndarray:
    """Repeats grey and drops an alpha channel: (H, W, 1 to 4) to contiguous (H, W, 3)."""
    if pixels.shape[2] < 3:
        return cv2.cvtColor(np.ascontiguousarray(pixels[:, :, 0]), cv2.COLOR_GRAY2RGB)
    pixels = np.ascontiguousarray(pixels)
    return pixels if pixels.shape[2] == 3 else cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB)


def _rgb_profile(image: Image.Image) -> bytes | None:
    """The colour profile of an opened file, if file and profile are RGB and it looks whole."""
    profile = image.info.get("icc_profile") or b""
    is_rgb = image.mode.startswith(("RGB", "P", "YCbCr")) and profile[16:20] == b"RGB " and profile[36:40] == b"acsp"
    return profile if is_rgb and int.from_bytes(profile[:4], "big") <= len(profile) <= MAX_PROFILE_BYTES else None


def read_alpha(path: Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads an alpha from any supported file: 8 bit as v / 255, 16 bit as v / 65535, float as it is.

    If the file has an alpha channel that is not constant, that channel is the alpha. Otherwise it is the grey value,
    or the luminance (Rec. 601) of colour channels that are nearly grey.

    Args:
        path: image file of one of IMAGE_EXTENSIONS.
        max_pixels: the largest width * height that is decoded.

    Returns:
        float32 (H, W) in [0, 1], upright, writable and contiguous.

    Raises:
        UserError: the file is missing, damaged, not an image, larger than `max_pixels`, a colour image, or a float
            image with values outside [0, 1].
    """
    with _open(path, max_pixels) as image:
        pixels = _decode(path, image)
    if pixels.shape[2] in (2, 4) and np.ptp(pixels[:, :, -1]) > 0:
        return _to_unit(path, pixels[:, :, -1])
    first = pixels[:, :, 0]
    if pixels.shape[2] < 3 or (np.array_equal(first, pixels[:, :, 1]) and np.array_equal(first, pixels[:, :, 2])):
        return _to_unit(path, first)  # exact: no weighted sum of equal values
    colour = _to_unit(path, pixels[:, :, :3])
    lit = max(np.mean(colour.max(axis=2) > _COLOUR_TOLERANCE), _LEAST_LIT)
    if np.mean(np.ptp(colour, axis=2) > _COLOUR_TOLERANCE) > _COLOUR_FRACTION * lit:
        text = f"{path}: a colour image where an alpha is expected; give a grey matte or an alpha channel"
        raise UserError(text, kind="colour-alpha")
    return colour @ np.array([0.299, 0.587, 0.114], dtype=np.float32)


def _to_unit(path: Path, values: np.ndarray) -> np.ndarray:
    """Maps stored values to contiguous float32 in [0, 1]."""
    if values.dtype == np.float32:
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise UserError(f"{path}: a floating-point alpha must lie in [0, 1]; rescale it", kind="pixel-format")
        return np.ascontiguousarray(values)
    return np.divide(values, np.float32(np.iinfo(values.dtype).max), dtype=np.float32, order="C")


def eight_bits(pixels: np.ndarray) -> np.ndarray:
    """uint16 to uint8, rounded to the nearest: there are no ties; uint8 as it is."""
    return pixels if pixels.dtype == np.uint8 else cv2.convertScaleAbs(pixels, alpha=1 / 257).reshape(pixels.shape)


def quantise(alpha: np.ndarray, *, bits: int = 8) -> np.ndarray:
    """Rounds float alpha in [0, 1] to levels: uint8 in [0, 255] or uint16 in [0, 65535]; values outside are clipped.

    Rounding, never flooring: flooring turns 0.999 into 254 and makes a matte darker by half a level on average.
    """
    levels, depth = {8: (255, cv2.CV_8U), 16: (65535, cv2.CV_16U)}[bits]
    # In one pass, a quarter of what the steps take one by one. OpenCV's other scaling, convertScaleAbs, drops the sign.
    return cv2.addWeighted(alpha, levels, alpha, 0, 0, dtype=depth).reshape(alpha.shape)


@contextmanager
def _open(path: Path, max_pixels: int | None) -> Iterator[Image.Image]:
    """Opens the header of an image file; whatever Pillow raises inside becomes a UserError that names the file."""
    path = Path(path)
    # Pillow's own limits are globals: one warns at one size and raises at another, where ours replaces it; the other
    # refuses a whole PNG for a large colour profile.
    Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = None, _MAX_PNG_TEXT_BYTES
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: empty file (0 bytes); replace or remove it", kind="empty")
        # From a file object, not from a path: Pillow would map uncompressed TIFFs into memory and then forget to
        # turn them upright.
        with path.open("rb") as file, Image.open(file, formats=_FORMATS) as image:
            width, height = image.size
            if max_pixels is not None and width * height > max_pixels:
                raise UserError(
                    f"{path}: {width}x{height} is more than {max_pixels} pixels and was not decoded; "
                    f"raise --max-pixels if the file is meant to be that large",
                    kind="too-large",
                )
            if image.mode in ("I", "LAB"):
                raise _unsupported(path, _tiff_format(path) or image.mode)
            yield image
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; check the path", kind="unreadable") from error
    except Image.UnidentifiedImageError as error:
        if pixel_format := _tiff_format(path):
            raise _unsupported(path, pixel_format) from error
        text = f"{path}: not an image, or its header is damaged; replace or remove it"
        raise UserError(text, kind="not-an-image") from error
    except _DECODER_ERRORS as error:
        if isinstance(error, OSError) and error.errno:  # the system's, not the decoder's
            text = f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
            raise UserError(text, kind="unreadable") from error
        text = f"{path}: cannot be read ({error}); the file is damaged: replace or remove it"
        # Decoders tell by their words only.
        raise UserError(text, kind="truncated" if "truncated" in str(error).lower() else "damaged") from error


def _tiff_format(path: Path) -> str:
    """The pixel format of a TIFF from its header, such as "64-bit float"; empty if the file is none, or damaged."""
    try:
        with Path(path).open("rb") as file:
            header = file.read(8)
            if header[:4] not in TiffImagePlugin.PREFIXES:
                return ""
            header += file.read(8) if b"+" in header[2:4] else b""  # BigTIFF
            tags = TiffImagePlugin.ImageFileDirectory_v2(header)
            file.seek(tags.next)
            tags.load(file)
        bits = tags[TiffImagePlugin.BITSPERSAMPLE]
        kind = _TIFF_SAMPLES.get(tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))[0], "unknown")
        colours = _TIFF_COLOURS.get(tags[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION])
    except _DECODER_ERRORS:
        return ""
    return f"{f'{len(bits)} x ' if len(bits) > 1 else ''}{bits[0]}-bit {kind}{f' {colours}' if colours else ''}"


_TIFF_SAMPLES = {1: "integer", 2: "signed integer", 3: "float", 5: "complex integer", 6: "complex float"}
_TIFF_COLOURS = {6: "YCbCr", 8: "LAB", 9: "LAB", 10: "LAB"}


def _unsupported(path: Path, pixel_format: str) -> UserError:
    text = f"{path}: pixel format {pixel_format} is not supported; save it with 8 or 16 bits per channel"
    return UserError(text, kind="pixel-format")


def _decode(path: Path, image: Image.Image) -> np.ndarray:
    """Decodes an opened file as it is stored.

    Returns:
        uint8, uint16 or float32 (H, W, C), upright; C is 1 grey, 2 grey + alpha, 3 RGB or 4 RGBA.
    """
    if image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB"):
        data = Path(path).read_bytes()
        _require_whole_jpeg(data)
        return _upright(_decode_jpeg(data), _orientation(path, image))
    _require_whole(path, image)
    return _upright(_decode_with_pillow(path, image), _orientation(path, image))


def _orientation(path: Path, image: Image.Image) -> int:
    """EXIF orientation of an opened file, 1 to 8, from its header; 1 for TIFF, which Pillow turns upright itself."""
    if image.format == "TIFF":
        return 1
    try:
        # Pillow decodes a whole PNG before it tells its EXIF.
        exif = _png_exif(path) if image.format == "PNG" else image.getexif()
        value = exif.get(ExifTags.Base.Orientation, 1)
    except _DECODER_ERRORS:
        return 1  # damaged EXIF beside intact pixels: viewers show them as stored, and so do we
    return value if value in range(1, 9) else 1


def _png_exif(path: Path) -> Image.Exif:
    """Reads a PNG's EXIF chunk, wherever it is, skipping the others; empty if there is none."""
    exif = Image.Exif()
    with Path(path).open("rb") as file:
        file.seek(8)  # the signature
        while len(header := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", header)
            if kind == b"eXIf":
                exif.load(file.read(length))
                break
            file.seek(length + 4, os.SEEK_CUR)  # and its checksum
    return exif


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes an EXIF orientation of (H, W, C) pixels; OpenCV's copies take a third of the time of NumPy's."""
    height, width, channels = pixels.shape
    if orientation >= 5:
        pixels = cv2.transpose(pixels).reshape(width, height, channels)
    if orientation in _FLIPS:
        pixels = cv2.flip(pixels, _FLIPS[orientation]).reshape(pixels.shape)
    return pixels


_FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}  # 0 upside down, 1 left to right, -1 both; after the transposition


def _require_whole(path: Path, image: Image.Image) -> None:
    """Raises, what `_open` turns into a UserError, if a JPEG or PNG ends early or a checksum is wrong."""
    if image.format in ("JPEG", "MPO"):
        _require_whole_jpeg(Path(path).read_bytes())
    elif image.format == "PNG":
        with Image.open(path, formats=_FORMATS) as other:  # verify() makes its object unusable
            other.verify()  # the checksum of every chunk up to the last one


def _require_whole_jpeg(data: bytes) -> None:
    """Walks a JPEG's segments up to the end-of-image marker; raises OSError if the file ends before it.

    OpenCV's answer to a truncated JPEG depends on its version: nothing, or a whole image filled with grey.

    Searching for the last two bytes FFD9 is not enough: an EXIF thumbnail has its own end marker, and phones append a
    film or a second picture behind the true one.
    """
    position, scanned = 2, False  # behind the start-of-image marker
    while marker := _JPEG_MARKER.search(data, position):
        kind = data[marker.start() + 1]
        if kind == 0xD9:
            return
        if scanned and kind not in _BETWEEN_JPEG_SCANS:
            raise OSError("damaged JPEG, its data was overwritten")
        scanned = scanned or kind == 0xDA
        # A segment with a length: skip its content. Entropy-coded data follows a start of scan (DA); the pattern
        # passes over it, since FF is always followed by 00 or a restart number there.
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    raise OSError("truncated JPEG, the end of the image is missing")


_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]", re.DOTALL)
_BETWEEN_JPEG_SCANS = {0xC4, 0xCC, *range(0xDA, 0xE0), *range(0xE0, 0xF0), 0xFE}  # tables, scans, comments


def _decode_jpeg(data: bytes) -> np.ndarray:
    """Decodes a grey or YCbCr JPEG that is known to be whole to uint8 (H, W, 1 or 3).

    OpenCV gives the same pixels as Pillow in a third of the time.
    """
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise OSError("damaged JPEG")
    return pixels[:, :, None] if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _decode_with_pillow(path: Path, image: Image.Image) -> np.ndarray:
    """Decodes what has no faster safe way, by mode."""
    wide = _has_16_bit_colours(image)  # asked now: Pillow forgets when it loads
    image.load()
    if wide:
        return _decode_16_bit_colour(path, np.array(image))
    if image.mode.startswith("I;16"):
        return np.array(image).astype(np.uint16)[:, :, None]
    if image.mode == "F":
        return np.array(image)[:, :, None]
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("P", "PA"):
        # One transparent index is a colour key, not a matte; a list of opacities is an alpha channel.
        opacities = image.mode == "PA" or isinstance(image.info.get("transparency"), bytes)
        image = image.convert("RGBA" if opacities else "RGB")
    elif image.mode == "CMYK":
        image = _cmyk_to_rgb(image)
    elif image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("RGBA" if image.mode.endswith(("A", "a")) else "RGB")
    pixels = np.array(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _cmyk_to_rgb(image: Image.Image) -> Image.Image:
    """Converts to sRGB by the file's profile, as Photoshop does by default, or plainly, (1 - C)(1 - K), without one."""
    try:
        return ImageCms.profileToProfile(
            image,
            io.BytesIO(image.info.get("icc_profile") or b""),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except ImageCms.PyCMSError:  # none, of other colours, or damaged
        return image.convert("RGB")


def _has_16_bit_colours(image: Image.Image) -> bool:
    """Whether an opened file, not yet loaded, has 16 bits per colour channel, of which Pillow reads eight."""
    return any(";16" in str(tile.args) for tile in image.tile) and not image.mode.startswith("I")


def _decode_16_bit_colour(path: Path, high_bytes: np.ndarray) -> np.ndarray:
    """Decodes 16-bit colour with OpenCV, which keeps all bits, and checks it against Pillow, which finds damage.

    Args:
        path: the file.
        high_bytes: Pillow's 8-bit reading of it, uint8 (H, W, C): the upper half of each value.
    """
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(Path(path).read_bytes(), np.uint8), flags)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        raise OSError("unsupported 16-bit image, save it as a 16-bit PNG")
    pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    if pixels.shape != high_bytes.shape or not np.array_equal(pixels >> 8, high_bytes):
        raise OSError("two decoders disagree about this 16-bit image, save it as a 16-bit PNG")
    return pixels
