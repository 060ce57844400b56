"""Reading videos: frames as their viewer sees them, one after the other, at a constant rate; no torch.

- Frames are upright: the rotation that a phone notes is applied.
- Frames have the times their file gives them. Where their distance varies, as phones and screen recorders have it,
  some are shown more than once and others dropped, so that sound stays with the picture.
- A file that ends early is an error, told before the first frame. What cannot be noticed is damage in the middle: a
  decoder goes on with what it can make of it, as a player does.
"""

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np

from utils.errors import UserError
from utils.images import MAX_PIXELS

VIDEO_EXTENSIONS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mts", ".m2ts")

_MAX_FPS = 240  # frames a second; recordings of browsers, which have no rate, claim 1000
_FIRST_FRAMES = 48  # by whose times a rate is judged
_VARIES = 1.1  # a rate at the start that is so much above the mean one tells of a rate that varies
_DRIFT = 0.75  # frames that a picture may be shown too early or too late: times are rounded, and rates too
_LONGEST_SEC = 3600.0  # that one frame can be shown
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")  # what an MP4 or QuickTime file begins with
_UNKNOWN_SIZE = 2**56 - 1  # of a Matroska file that was written without knowing its end


class Video(NamedTuple):
    """What the header of a video tells.

    Attributes:
        path: The file.
        height: Pixels, upright.
        width: Pixels, upright.
        fps: Frames a second at which `read_frames` shows them.
        frames: About how many different frames there are, for a progress bar; None if that is unknown.
        start_sec: Time of the first frame by the file's clock.
        pixel_ratio: Width of a pixel as it is shown, in its heights.
    """

    path: Path
    height: int
    width: int
    fps: Fraction
    frames: int | None
    start_sec: float
    pixel_ratio: Fraction = Fraction(1)


class Frame(NamedTuple):
    """A frame and how long it is shown.

    Attributes:
        rgb: uint8 (H, W, 3).
        repeats: Times it is shown in a row at the video's rate, at least 1.
    """

    rgb: np.ndarray
    repeats: int


def open_video(path: Path, *, max_pixels: int = MAX_PIXELS) -> Video:
    """Reads the header of a video, and makes sure that its file is whole and its frames can be decoded.

    Args:
        path: A file of one of VIDEO_EXTENSIONS.
        max_pixels: The largest width * height of a frame.

    Raises:
        UserError: The file is missing, empty, no video, truncated, has no frames, no rate or too large ones.
    """
    path = Path(path)
    _require_whole(path)
    with _Capture(path) as capture:
        height, width = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        if height * width > max_pixels:
            raise UserError(
                f"{path}: frames of {width}x{height} are more than {max_pixels} pixels; raise --max-pixels if the file "
                f"is meant to be that large",
                kind="too-large",
            )
        ratio = [round(capture.get(each)) for each in (cv2.CAP_PROP_SAR_NUM, cv2.CAP_PROP_SAR_DEN)]
        fps, frames = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        seconds, start = [], 0
        while len(seconds) < _FIRST_FRAMES and capture.grab():
            seconds.append(capture.seconds())
            # In frames of the rate above; OpenCV before 4.11 does not tell.
            start = start if len(seconds) > 1 else capture.get(getattr(cv2, "CAP_PROP_PTS", -1))
    if not seconds:
        raise UserError(
            f"{path}: none of its frames can be decoded; convert it to H.264: ffmpeg -i {path.name} out.mp4"
        )
    start_sec = start / fps if 0 < fps < float("inf") else 0.0
    first_rate = 1 / max(median(np.diff(seconds)), 1e-6) if len(seconds) > 1 else fps
    if not 0 < fps <= _MAX_FPS or _MAX_FPS >= first_rate > _VARIES * fps:
        fps = round(first_rate)
    if not 0 < fps <= _MAX_FPS:
        raise UserError(
            f"{path}: has no usable frame rate ({fps:g} a second); set one: ffmpeg -i {path.name} -r 30 out.mp4"
        )
    rate = Fraction(fps).limit_denominator(1001)  # 30000 / 1001 and its like, exactly
    known = round(frames) if 0 < frames < 1e9 else None  # no count is stored as a large negative one
    return Video(path, height, width, rate, known, start_sec, Fraction(*ratio) if min(ratio) > 0 else Fraction(1))


def read_frames(video: Video) -> Iterator[Frame]:
    """Decodes a video from its first frame to its last; two frames are in memory at a time.

    Args:
        video: From `open_video`.

    Yields:
        The frames in order, each once. Over all of them, as many are shown as fit into the video's time.

    Raises:
        UserError: The picture changes its size, or stands still for an hour.
    """
    with _Capture(video.path) as capture:
        held, shown, before = None, 0, -1.0  # the frame that is decoded but not given, and how many are shown before it
        while capture.grab():
            seconds = capture.seconds()
            # A file without times, or with times that go backwards, is shown frame by frame.
            position = seconds * video.fps if seconds > before else shown + 1
            repeats = 1 if abs(position - shown - 1) <= _DRIFT else max(0, round(position) - shown)
            if repeats > _LONGEST_SEC * video.fps:
                raise UserError(
                    f"{video.path}: no frames from second {before:.0f} to second {seconds:.0f}; its times are damaged: "
                    f"convert it (ffmpeg -i {video.path.name} out.mp4)"
                )
            if held is not None and repeats:
                yield Frame(held, repeats)
                shown += repeats
            held, before = capture.retrieve(video), seconds
        if held is not None:
            yield Frame(held, 1)


class _Capture:
    """cv2.VideoCapture, closed at the end of a block."""

    def __init__(self, path: Path):
        self._path = path
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            text = f"{path}: no video in it that can be decoded; convert it to H.264: ffmpeg -i {path.name} out.mp4"
            raise UserError(text)
        self.grab, self.get = self._capture.grab, self._capture.get

    def __enter__(self) -> "_Capture":
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()

    def seconds(self) -> float:
        """Time of the frame that was grabbed, from the first one on."""
        return self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000

    def retrieve(self, video: Video) -> np.ndarray:
        """The frame that was grabbed, RGB uint8 (H, W, 3)."""
        decoded, bgr = self._capture.retrieve()
        if not decoded or bgr.shape != (video.height, video.width, 3):
            raise UserError(
                f"{self._path}: a frame cannot be decoded, or is not {video.width}x{video.height} as others"
            )
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _require_whole(path: Path) -> None:
    """Raises if a file is none of the known kinds of video, or ends before its end.

    The number of frames in a header does not tell: a film that was cut without encoding it again keeps frames that are
    never shown.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(12)
            if start[4:8] in _BOXES:
                needed, has_index = _mp4_end(file)
            elif start[:4] == b"\x1aE\xdf\xa3":
                needed, has_index = _matroska_end(file), True
            elif start[:4] == b"RIFF" and start[8:] == b"AVI ":
                needed, has_index = _avi_end(file), True
            elif b"G" in (start[:1], start[4:5]):  # an MPEG transport stream, which has no end
                needed, has_index = 0, True
            else:
                text = (
                    f"{path}: not a video ({', '.join(VIDEO_EXTENSIONS)})" if size else f"{path}: empty file (0 bytes)"
                )
                raise UserError(f"{text}; replace or remove it", kind="" if size else "empty")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; check the path", kind="unreadable") from error
    except OSError as error:
        text = f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        raise UserError(text, kind="unreadable") from error
    if needed > size:
        text = f"{path}: truncated, {size:,} of {needed:,} bytes are there; copy it again"
        raise UserError(text, kind="truncated")
    if not has_index:
        text = f"{path}: the index is missing, as the recording or the copy was not finished; copy it again"
        raise UserError(text, kind="truncated")


def _mp4_end(file: BinaryIO) -> tuple[int, bool]:
    """Where the last box of an MP4 or QuickTime file ends, in bytes, and whether one of them is the index."""
    position, has_index = 0, False
    while True:
        file.seek(position)
        header = file.read(16)
        length, kind = struct.unpack(">I4s", header[:8]) if len(header) >= 8 else (0, b"")
        if length == 1 and len(header) == 16:
            length = int.from_bytes(header[8:], "big")
        has_index = has_index or kind == b"moov"
        if length < 8 or not kind.isalnum():  # up to the end of the file, or what a phone appended
            return position, has_index
        position += length


def _matroska_end(file: BinaryIO) -> int:
    """Where the one segment of a Matroska or WebM file ends, in bytes; 0 if that was not known when it was written."""
    file.seek(4)
    length = _matroska_number(file)
    file.seek(length, 1)
    identifier, length = file.read(4), _matroska_number(file)
    return file.tell() + length if identifier == b"\x18S\x80g" and length != _UNKNOWN_SIZE else 0


def _matroska_number(file: BinaryIO) -> int:
    """A number whose first byte tells by its leading zeros how many bytes follow it."""
    first = (file.read(1) or b"\x01")[0]
    more = 8 - first.bit_length()
    number = int.from_bytes(bytes([first & (0x7F >> more)]) + file.read(more), "big")
    return _UNKNOWN_SIZE if number == 2 ** (7 * (more + 1)) - 1 else number


def _avi_end(file: BinaryIO) -> int:
    """Where the last part of an AVI ends, in bytes."""
    position = 0
    while True:
        file.seek(position)
        header = file.read(8)
        if header[:4] != b"RIFF" or len(header) < 8:
            return position
        position += 8 + struct.unpack("<I", header[4:])[0]
