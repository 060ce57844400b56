"""The one writer of result images: whole or not at all, and fast, because it runs beside a network.

Settings by content, measured on cut-outs, mattes and composites of 12 megapixels; all encoders let other threads run:

- PNG, lossless: the filter "up" at zlib's fastest level. Level 6 takes eight times as long to save a twentieth.
- WebP: lossless where an edge matters, in mattes and pictures with an alpha channel; else of quality 95. Its fastest
  method takes a half to a tenth of the time of the usual one; a cut-out gets a fifth larger.
- JPEG: quality 95 and no chroma subsampling (4:4:4), which would smear the colours of an edge over its neighbours.
"""

import io
import struct
import zlib
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from utils.errors import UserError
from utils.files import write_atomically
from utils.images import MAX_PROFILE_BYTES

Format = Literal["png", "webp", "jpeg"]
SUFFIXES: dict[Format, str] = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}

_MAX_SIDE_PX = {".png": 1_000_000, ".webp": 16_383, ".jpg": 65_500}  # libpng's limit, the format's, libjpeg's
_QUALITY = 95

# Up to 4.11, OpenCV has its own filter only, which takes as long and makes larger files that are slower to read.
_PNG = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP] if hasattr(cv2, "IMWRITE_PNG_FILTER") else []
_JPEG = [
    cv2.IMWRITE_JPEG_QUALITY, _QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]  # fmt: skip
_TO_OPENCV = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}

_PNG_HEADER_BYTES = 33  # signature and IHDR, behind which a profile belongs
_JPEG_PROFILE_BYTES = 65_519  # of a profile in each segment


def write_image(path: Path, array: np.ndarray, *, icc_profile: bytes | None = None) -> None:
    """Writes an image whole or not at all: a reader never sees a partial file, whenever the process dies.

    Args:
        path: file to write, its name ending in one of SUFFIXES; missing folders are made, an existing file is replaced.
        array: grey (H, W), RGB (H, W, 3) or, but in a JPEG, RGBA (H, W, 4); uint8 or, in a PNG, uint16. WebP has no
            grey: there it becomes RGB.
        icc_profile: RGB profile of the colours, to be embedded; not of grey, and at most MAX_PROFILE_BYTES.

    Raises:
        ValueError: the array, the name or the profile is none of these.
        UserError: the picture has a longer side than the format can hold, or the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _MAX_SIDE_PX:
        raise ValueError(f"{path}: only {', '.join(_MAX_SIDE_PX)} are written")
    _require_held(path, suffix, array)
    if icc_profile and (array.ndim == 2 or len(icc_profile) > MAX_PROFILE_BYTES):
        raise ValueError(f"{path}: a profile of {len(icc_profile)} bytes for an array of shape {array.shape}")
    if max(array.shape[:2]) > _MAX_SIDE_PX[suffix]:
        size = f"{array.shape[1]}x{array.shape[0]}"
        remedy = "save it as PNG" if suffix != ".png" else "make it smaller"
        raise UserError(f"{path}: {size} is more than the {_MAX_SIDE_PX[suffix]} px a side of {suffix}; {remedy}")
    parts = _ENCODERS[suffix](array, icc_profile)
    write_atomically(path, lambda file: file.writelines(parts))


def _require_held(path: Path, suffix: str, array: np.ndarray) -> None:
    """Raises ValueError for an array that is no image, or none for this format."""
    types = (np.uint8, np.uint16) if suffix == ".png" else (np.uint8,)
    channels = (3,) if suffix == ".jpg" else (3, 4)
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in channels)
    if array.dtype not in types or not is_image or 0 in array.shape:
        raise ValueError(f"{path}: {suffix} holds no {array.dtype} {array.shape}")


def _encode_png(array: np.ndarray, icc_profile: bytes | None) -> list[bytes | np.ndarray]:
    data = _encode_with_opencv(".png", array, _PNG)
    if not icc_profile:
        return [data]
    content = b"iCCP" + b"ICC Profile\0\0" + zlib.compress(icc_profile)
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    return [data[:_PNG_HEADER_BYTES], chunk, data[_PNG_HEADER_BYTES:]]


def _encode_jpeg(array: np.ndarray, icc_profile: bytes | None) -> list[bytes | np.ndarray]:
    data = _encode_with_opencv(".jpg", array, _JPEG)
    pieces = range(0, len(icc_profile or b""), _JPEG_PROFILE_BYTES)
    segments = []
    for number, start in enumerate(pieces, start=1):
        content = b"ICC_PROFILE\0" + bytes([number, len(pieces)]) + icc_profile[start : start + _JPEG_PROFILE_BYTES]
        segments.append(b"\xff\xe2" + struct.pack(">H", len(content) + 2) + content)
    header_bytes = 4 + int.from_bytes(data[4:6].tobytes(), "big")  # start of image, and the JFIF segment that is first
    return [data[:header_bytes], *segments, data[header_bytes:]]


def _encode_with_opencv(suffix: str, array: np.ndarray, options: list[int]) -> np.ndarray:
    if array.ndim == 3:
        array = cv2.cvtColor(array, _TO_OPENCV[array.shape[2]])
    encoded, data = cv2.imencode(suffix, array, options)
    if not encoded:
        raise ValueError(f"OpenCV cannot encode {array.dtype} {array.shape} as {suffix}")
    return data


def _encode_webp(array: np.ndarray, icc_profile: bytes | None) -> list[bytes | np.ndarray]:
    """With Pillow: OpenCV sets no method, and changes the colours of transparent pixels."""
    lossless = array.ndim == 2 or array.shape[2] == 4
    buffer = io.BytesIO()
    Image.fromarray(array).save(
        buffer, "WEBP", method=0, lossless=lossless, quality=0 if lossless else _QUALITY, exact=True,
        icc_profile=icc_profile or b"",
    )  # fmt: skip
    return [buffer.getbuffer()]


_ENCODERS = {".png": _encode_png, ".webp": _encode_webp, ".jpg": _encode_jpeg}
