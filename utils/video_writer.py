"""Writing videos and folders of frames, which appear whole and together, or not at all; no torch."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count, islice
from pathlib import Path

import cv2
import numpy as np

from utils.encoding import write_image
from utils.errors import UserError
from utils.files import CannotWriteError, sync_folder, temporary_name
from utils.video import Video

NO_FFMPEG = (
    "no ffmpeg with libx264 was found: videos are written as MPEG-4 Part 2, larger and without sound; to have H.264 "
    "and sound install it (apt install ffmpeg, brew install ffmpeg, winget install ffmpeg)"
)

Write = Callable[..., None]  # write(pixels, repeats=1)

_CRF, _ALPHA_CRF = "16", "10"  # of x264: an error of an alpha shows on every background
_COPIED_SOUND = ("aac", "mp3", "ac3", "eac3", "alac")  # what players expect in an MP4; all else is encoded again


def find_ffmpeg() -> str | None:
    """The ffmpeg that is installed, if it can write H.264; tell NO_FFMPEG once where there is none."""
    program = shutil.which("ffmpeg")
    if program is None:
        return None
    with suppress(OSError):
        listing = subprocess.run([program, "-hide_banner", "-encoders"], capture_output=True, stdin=subprocess.DEVNULL)
        return program if b" libx264 " in listing.stdout else None
    return None


@contextmanager
def write_video(path: Path, video: Video, *, grey: bool, ffmpeg: str | None) -> Iterator[Write]:
    """Writes an .mp4 in a block: its end finishes the file, an exception in it ends all at once.

    With ffmpeg the file is H.264 in the colours of BT.709, with the first sound of the source: copied, or encoded again
    as AAC. Without, it is MPEG-4 Part 2, and silent. Either has 4:2:0 colours, which need even sides: an odd one grows
    by a pixel that repeats the border.

    Args:
        path: The file; its folder exists. Nothing hides it while it is unfinished: `appear_together` does.
        video: Where size, rate and sound come from.
        grey: Frames are alphas, (H, W), kept closer than colours, (H, W, 3).
        ffmpeg: From `find_ffmpeg`.

    Yields:
        A function that adds a frame, uint8 of the video's size.

    Raises:
        UserError: The disk is full, or ffmpeg does not start or has ended; the function raises it too.
    """
    shape = (video.height, video.width) if grey else (video.height, video.width, 3)
    size = video.width + video.width % 2, video.height + video.height % 2
    encoder = _opencv(path, video, size) if ffmpeg is None else _ffmpeg(path, video, size, grey, ffmpeg)
    with encoder as encode:

        def write(pixels: np.ndarray, repeats: int = 1) -> None:
            if pixels.dtype != np.uint8 or pixels.shape != shape:
                raise ValueError(f"{path}: expected uint8 {shape}, got {pixels.dtype} {pixels.shape}")
            if size != (video.width, video.height):
                more = 0, video.height % 2, 0, video.width % 2
                pixels = cv2.copyMakeBorder(pixels, *more, cv2.BORDER_REPLICATE)
            for _ in range(repeats):
                encode(pixels)

        yield write


@contextmanager
def _ffmpeg(
    path: Path, video: Video, size: tuple[int, int], grey: bool, ffmpeg: str
) -> Iterator[Callable[[np.ndarray], None]]:
    """An encoder of frames of `size`, (width, height), in a process of ffmpeg's."""
    with tempfile.TemporaryFile() as said:  # not a pipe, for which ffmpeg would wait while nobody reads it
        try:
            command = _command(path, video, size, grey, ffmpeg)
            # In a session of its own, where Ctrl-C does not reach it: this process lets it finish, or ends it.
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
            )
        except OSError as error:
            raise UserError(f"{ffmpeg}: cannot be started ({error.strerror}); reinstall ffmpeg") from error

        def failure() -> UserError:
            status = process.wait()
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            reason = lines[-1] if lines else f"signal {-status}" if status < 0 else f"status {status}"
            text = f"{path.name}: ffmpeg has ended early ({reason}); free space, choose another folder or reinstall it"
            return CannotWriteError(text)

        def encode(pixels: np.ndarray) -> None:
            try:
                process.stdin.write(np.ascontiguousarray(pixels).data)
            except OSError as error:  # nobody reads it any more
                raise failure() from error

        try:
            yield encode
            with suppress(OSError):  # its status tells
                process.stdin.close()
            if process.wait():
                raise failure()
        finally:
            process.kill()  # which does nothing to one that has ended
            process.wait()
            with suppress(OSError):  # of what it did not read
                process.stdin.close()


@contextmanager
def _opencv(path: Path, video: Video, size: tuple[int, int]) -> Iterator[Callable[[np.ndarray], None]]:
    """An encoder of frames of `size`, (width, height), that every installation has."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), float(video.fps), size)
    failure = CannotWriteError(f"{path.name}: OpenCV cannot write it; free space, choose another folder or get ffmpeg")
    if not writer.isOpened():
        raise failure
    written = 0

    def encode(pixels: np.ndarray) -> None:
        nonlocal written
        written += 1
        writer.write(cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR if pixels.ndim == 2 else cv2.COLOR_RGB2BGR))

    try:
        yield encode
    finally:
        writer.release()
    # It does not tell of a full disk, but then the index, which comes last, is missing.
    result = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    frames = round(result.get(cv2.CAP_PROP_FRAME_COUNT))
    result.release()
    if frames != written:
        raise failure


def _command(path: Path, video: Video, size: tuple[int, int], grey: bool, ffmpeg: str) -> list[str]:
    """How ffmpeg is called to encode what it reads from its standard input, with the sound of the source."""
    source = f"file:{os.path.abspath(video.path)}"  # no name is taken for an option or a protocol
    asked = subprocess.run([ffmpeg, "-hide_banner", "-i", source], capture_output=True, stdin=subprocess.DEVNULL)
    told = asked.stderr.decode(errors="replace")
    # Of a damaged file, sound may be announced that has neither a rate nor channels.
    codec = re.search(r"^ *Stream #0:.*: Audio: (\w+)\b.*, [1-9]\d* Hz, (?!0 channels)", told, re.MULTILINE)
    start = re.search(r"^ *Duration: .*start: (-?[0-9.]+)", told, re.MULTILINE)
    # The picture may begin later than the file; ffmpeg then shows its first frame from there on. One frame does not
    # count: the times of a file are rounded.
    late_sec = video.start_sec - float(start[1]) if codec and start else 0.0
    late = ["-itsoffset", f"{late_sec:.4f}"] if late_sec * video.fps >= 1.5 else []
    frames = ["-f", "rawvideo", "-pixel_format", "gray" if grey else "rgb24", "-video_size", "{}x{}".format(*size)]
    frames += ["-framerate", f"{video.fps.numerator}/{video.fps.denominator}", *late, "-i", "pipe:0"]
    colours = ["-vf", "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int+bicubic,"]
    colours[1] += f"setsar={video.pixel_ratio.numerator}/{video.pixel_ratio.denominator}"
    colours += ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
    picture = ["-c:v", "libx264", "-preset", "veryfast", "-crf", _ALPHA_CRF if grey else _CRF, "-pix_fmt", "yuv420p"]
    sound, sound_file = [], []
    if codec:
        sound_file = ["-i", source]
        sound = ["-map", "1:a:0", "-c:a", *(["copy"] if codec[1] in _COPIED_SOUND else ["aac", "-b:a", "192k"])]
    result = ["-movflags", "+faststart", "-f", "mp4", f"file:{os.path.abspath(path)}"]
    quiet = ["-nostdin", "-v", "error", "-y"]
    return [ffmpeg, *quiet, *frames, *sound_file, "-map", "0:v", *colours, *picture, *sound, *result]


@contextmanager
def write_frames(folder: Path) -> Iterator[Write]:
    """Writes frames as 000001.png, 000002.png, ... into a new folder.

    Yields:
        A function that adds a frame as `write_image` takes it, as often as it is shown.

    Raises:
        UserError: The function cannot write one.
    """
    numbers = count(1)

    def write(pixels: np.ndarray, repeats: int = 1) -> None:
        for number in islice(numbers, repeats):
            write_image(folder / f"{number:06d}.png", pixels)

    yield write


@contextmanager
def appear_together(targets: Sequence[Path]) -> Iterator[list[Path]]:
    """Names for results of a block, files or folders, that get their own when it ends well and are removed otherwise.

    They lie in a hidden folder beside the targets, one that `remove_stale` knows. What was at a target before is
    replaced, a folder with all that is in it.

    Args:
        targets: In one folder, which is made if it is missing.

    Raises:
        CannotWriteError: The folder cannot be written.
    """
    parent = targets[0].parent
    assert {target.parent for target in targets} == {parent}, "results of one video lie in one folder"
    hidden = parent / temporary_name(".old")  # the other name is the one of files that are written meanwhile
    try:
        with _told_of(parent):
            (hidden / "old").mkdir(parents=True)
        unfinished = [hidden / "new" / target.name for target in targets]
        (hidden / "new").mkdir()
        yield unfinished
        with _told_of(parent):
            for path in unfinished:
                if path.is_file():
                    with open(path, "rb+") as file:
                        os.fsync(file.fileno())
            for path, target in zip(unfinished, targets, strict=True):
                if target.is_dir() or (path.is_dir() and target.exists()):  # nothing takes the place of a folder
                    os.replace(target, hidden / "old" / target.name)
                os.replace(path, target)
            sync_folder(parent)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


@contextmanager
def _told_of(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise CannotWriteError(
            f"{folder}: cannot be written ({reason}); free space or choose another folder"
        ) from error
