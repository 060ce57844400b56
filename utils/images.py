"""The one reader and writer of image files: every script sees the same pixels for the same file.

Decoding rules, for images and alphas alike:

- EXIF orientation is applied, so an array has the orientation a viewer shows.
- 16-bit values are reduced by rounding, v / 257. (Pillow's `convert("L")` clips: a 16-bit ramp becomes 99.6 % white.)
- A damaged file is an error. JPEG and PNG are checked for completeness before they are decoded, because decoders do
  not agree on it. What cannot be noticed is a JPEG with some bytes in its middle overwritten: it has no checksums, and
  most wrong data decodes to something; only markers that are impossible there give it away.
- The pixel limit is read from the header, before anything is decoded.
- Colour profiles are ignored, and of an animation or a multi-page file the first frame is read.
"""

import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from utils.errors import UserError
from utils.files import write_atomically

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff")
# Pictures that are not read; who puts one into a dataset expects it to be used.
OTHER_EXTENSIONS = (
    ".heic", ".heif", ".hif", ".avif", ".gif", ".jxl", ".jp2", ".psd", ".psb", ".xcf", ".exr", ".hdr", ".tga", ".ppm",
    ".pgm", ".pbm", ".pnm", ".mpo", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2",
)  # fmt: skip
MAX_PIXELS = 200_000_000  # pixels; a 16384 x 12000 photograph passes, a 12 kB file that claims 1 gigapixel does not

# The content decides the decoder, not the name. The list keeps Pillow from starting others (EPS runs Ghostscript).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_CHECKED_WITHOUT_DECODING = ("JPEG", "MPO", "PNG")
_DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError, struct.error)
_IGNORED = ("thumbs.db", "desktop.ini", "__macosx")  # and everything that starts with a dot

# A channel difference a grey matte never has after JPEG (which keeps grey within 2 levels): then it is a colour image.
_COLOUR_TOLERANCE = 32 / 255
_COLOUR_FRACTION = 0.01  # of the pixels that are not black: a mask of a small subject is black all around
_LEAST_LIT = 0.01  # share of the picture that counts as not black at least: some odd pixels are no colour image


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
    """Reads any supported image as 8-bit RGB.

    Grey is repeated three times; 16 bits are rounded to 8; an alpha channel is dropped and the colours are kept as
    they are stored (nothing is composited over black or white).

    Args:
        path: image file of one of IMAGE_EXTENSIONS.
        max_pixels: the largest width * height that is decoded.

    Returns:
        uint8 (H, W, 3), upright, writable and contiguous.

    Raises:
        UserError: the file is missing, damaged, not an image, or larger than `max_pixels`.
    """
    pixels = _decode(path, max_pixels)
    if pixels.dtype == np.float32:
        raise UserError(f"{path}: floating-point image; save it with 8 or 16 bits per channel", kind="pixel-format")
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.shape[2] < 3:  # grey, grey + alpha
        pixels = np.repeat(pixels[:, :, :1], 3, axis=2)
    return np.ascontiguousarray(pixels[:, :, :3])


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
    pixels = _decode(path, max_pixels)
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


def quantise(alpha: np.ndarray) -> np.ndarray:
    """Rounds float alpha in [0, 1] to uint8 in [0, 255]; values outside are clipped.

    Rounding, never flooring: flooring turns 0.999 into 254 and makes a matte darker by half a level on average.
    """
    return np.rint(np.clip(alpha, 0, 1) * 255).astype(np.uint8)


def write_image(path: Path, array: np.ndarray) -> None:
    """Writes a PNG whole or not at all: a reader never sees a partial file, whenever the process dies.

    Args:
        path: file to write, its name ending in .png; missing folders are made, an existing file is replaced.
        array: uint8 or uint16; grey (H, W), RGB (H, W, 3) or RGBA (H, W, 4).

    Raises:
        ValueError: the array or the name is none of these.
        UserError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: only .png is written")
    if array.dtype not in (np.uint8, np.uint16) or array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(f"{path}: expected a uint8 or uint16 image, got {array.dtype} {array.shape}")
    if array.ndim == 3:
        if array.shape[2] not in (3, 4):
            raise ValueError(f"{path}: expected 3 or 4 channels, got {array.shape}")
        array = cv2.cvtColor(array, cv2.COLOR_RGB2BGR if array.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    encoded, data = cv2.imencode(".png", array)  # without a level: OpenCV's defaults are its fastest for mattes
    if not encoded:
        raise ValueError(f"{path}: OpenCV cannot encode {array.dtype} {array.shape}")
    write_atomically(path, lambda file: file.write(data))


@contextmanager
def _open(path: Path, max_pixels: int | None) -> Iterator[Image.Image]:
    """Opens the header of an image file; whatever Pillow raises inside becomes a UserError that names the file."""
    path = Path(path)
    # Pillow's own limit is a global that warns at one size and raises at another; ours replaces it.
    Image.MAX_IMAGE_PIXELS = None
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


def _decode(path: Path, max_pixels: int) -> np.ndarray:
    """Decodes a file as it is stored.

    Returns:
        uint8, uint16 or float32 (H, W, C), upright; C is 1 grey, 2 grey + alpha, 3 RGB or 4 RGBA.
    """
    with _open(path, max_pixels) as image:
        _require_whole(path, image)
        if image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB"):
            return _upright(_decode_jpeg(Path(path).read_bytes()), _orientation(path, image))
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
    """Undoes an EXIF orientation of (H, W, C) pixels."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


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
    elif image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("RGBA" if image.mode.endswith(("A", "a")) else "RGB")
    pixels = np.array(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


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
