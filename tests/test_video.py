"""utils.video: frames upright, in order and in time; files that are no whole videos are refused at the door."""

import shutil
import struct
import subprocess
import weakref
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils import video as module
from utils.errors import UserError
from utils.video import open_video, read_frames

HEIGHT, WIDTH = 64, 96
CODECS = {"mp4": "mp4v", "mov": "mp4v", "mkv": "mp4v", "avi": "MJPG", "webm": "VP80"}

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg on this machine")


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """RGB whose green tells its number, up to 25, with a red corner at the top left."""
    rgb = np.full((height, width, 3), (0, 10 * number, 0), np.uint8)
    rgb[:16, :24] = 255, 0, 0
    return rgb


def number_of(rgb: np.ndarray) -> int:
    return round(float(rgb[-8:, -8:, 1].mean()) / 10)


def write_sample(path: Path, frames: int = 20, fps: float = 25) -> Path:
    codec = cv2.VideoWriter.fourcc(*CODECS[path.suffix[1:]])
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, codec, fps, (WIDTH, HEIGHT))
    for number in range(frames):
        writer.write(cv2.cvtColor(picture(number), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


@pytest.mark.parametrize("suffix", CODECS)
def test_frames_come_in_order_once_each(suffix: str, tmp_path: Path) -> None:
    video = open_video(write_sample(tmp_path / f"a clip.{suffix}"))
    frames = list(read_frames(video))
    assert (video.height, video.width, video.fps, video.frames) == (HEIGHT, WIDTH, 25, 20)
    assert [number_of(frame.rgb) for frame in frames] == list(range(20))
    assert [frame.repeats for frame in frames] == [1] * 20
    assert all(frame.rgb.dtype == np.uint8 and frame.rgb.shape == (HEIGHT, WIDTH, 3) for frame in frames)
    assert np.abs(frames[0].rgb[4:12, 4:20].mean((0, 1)) - (255, 0, 0)).max() < 16, "red is the first channel"


def test_the_rotation_of_a_phone_is_applied(tmp_path: Path) -> None:
    path = write_sample(tmp_path / "a.mp4", frames=2)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # behind version, times, duration, layer and volume
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, HEIGHT << 16, 0, 1 << 30)
    path.write_bytes(data)
    video = open_video(path)
    frame = next(read_frames(video)).rgb
    assert (video.height, video.width) == (WIDTH, HEIGHT) == frame.shape[:2]
    assert frame[:20, -12:, 0].mean() > 200 > frame[:20, :12, 0].mean() + 100, "a quarter turn clockwise"


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_file_is_refused(share: float, suffix: str, tmp_path: Path) -> None:
    path = write_sample(tmp_path / f"a.{suffix}")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=rf"a\.{suffix}: (truncated, [\d,]+ of [\d,]+ bytes|the index is missing)"):
        open_video(path)


def test_a_copy_without_its_index_is_refused(tmp_path: Path) -> None:
    """An MP4 whose index comes last, cut exactly before it: no box is cut."""
    path = write_sample(tmp_path / "a.mp4")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])
    with pytest.raises(UserError, match="the index is missing"):
        open_video(path)


def test_what_a_phone_appends_is_no_damage(tmp_path: Path) -> None:
    path = write_sample(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes() + b"\0\0\0\x10SE\0F" + b"\xff" * 20)
    assert len(list(read_frames(open_video(path)))) == 20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", r"empty file \(0 bytes\)"),
        (b"hello world, this is text\n" * 9, "not a video"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "not a video"),
        (struct.pack(">I4s4sI", 16, b"ftyp", b"isom", 0) + struct.pack(">I4s", 8, b"moov"), "no video in it"),
        (struct.pack(">I4s4sI", 16, b"ftyp", b"isom", 0) + struct.pack(">I4sQ", 1, b"mdat", 2**40), "truncated"),
        (b"\x1aE\xdf\xa3", "no video in it"),
        (b"G" * 400, "no video in it"),
    ],
    ids=["missing", "empty", "text", "image", "no stream", "long box", "header only", "stream of nothing"],
)
def test_what_is_no_video_is_one_line(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.mp4: {message}") as caught:
        open_video(path)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read"):
        open_video(tmp_path)


def test_frames_that_are_too_large_are_not_decoded(tmp_path: Path) -> None:
    path = write_sample(tmp_path / "a.mp4", frames=1)
    assert open_video(path, max_pixels=HEIGHT * WIDTH).width == WIDTH
    with pytest.raises(UserError, match=r"96x64 are more than 6143 pixels; raise --max-pixels"):
        open_video(path, max_pixels=HEIGHT * WIDTH - 1)


class Clip:
    """Stands for cv2.VideoCapture: frames at given times."""

    def __init__(self, seconds: Sequence[float], fps: float, count: float):
        self._seconds, self._next = seconds, 0
        self._told = {
            cv2.CAP_PROP_FPS: fps,
            cv2.CAP_PROP_FRAME_COUNT: count,
            cv2.CAP_PROP_FRAME_HEIGHT: 4,
            cv2.CAP_PROP_FRAME_WIDTH: 4,
        }

    def isOpened(self) -> bool:
        return True

    def grab(self) -> bool:
        self._next += 1
        return self._next <= len(self._seconds)

    def get(self, what: int) -> float:
        return 1000 * self._seconds[self._next - 1] if what == cv2.CAP_PROP_POS_MSEC else self._told.get(what, 0)

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.full((4, 4, 3), (self._next - 1) % 256, np.uint8)

    def release(self) -> None:
        pass


@pytest.fixture
def clip(monkeypatch: pytest.MonkeyPatch) -> "type[Clip]":
    """`clip(seconds, fps, count)` opens a video whose frames have these times."""
    monkeypatch.setattr(module, "_require_whole", lambda path: None)

    def clip(seconds: Sequence[float], fps: float, count: float = 0) -> module.Video:
        monkeypatch.setattr(cv2, "VideoCapture", lambda *_: Clip(seconds, fps, count))
        return open_video(Path("clip.mp4"))

    return clip


def shown_at(video: module.Video) -> list[int]:
    """Which frame is seen at each tick of the video's rate."""
    return [int(frame.rgb[0, 0, 0]) for frame in read_frames(video) for _ in range(frame.repeats)]


@pytest.mark.parametrize("fps", [21.05, 30, 1000, 0, float("nan")])
def test_a_rate_that_varies_keeps_the_time(clip: type[Clip], fps: float) -> None:
    """Two seconds with 30 frames a second, then two with 10: whatever rate the header tells, sound stays in step."""
    seconds = [i / 30 for i in range(60)] + [2 + i / 10 for i in range(20)]
    video = clip(seconds, fps)
    shown = shown_at(video)
    assert video.fps == 30 and video.frames is None
    assert shown == sorted(shown) and set(shown) == set(range(80))
    assert max(abs(seconds[frame] - tick / 30) for tick, frame in enumerate(shown)) <= 0.1 + 1e-6
    assert len(shown) == pytest.approx(118, abs=1)


def test_more_frames_than_the_rate_are_dropped(clip: type[Clip]) -> None:
    """It starts slowly: nobody knows what comes."""
    seconds = [i / 10 for i in range(60)] + [6 + i / 40 for i in range(190)]
    shown = shown_at(clip(seconds, 25))
    assert shown == sorted(shown) and len(shown) == pytest.approx(10.75 * 25, abs=2)
    assert all(abs(seconds[frame] - tick / 25) <= 0.1 + 1e-6 for tick, frame in enumerate(shown))


@pytest.mark.parametrize("fps", [30, 30000 / 1001])
def test_times_that_are_rounded_or_tremble_repeat_nothing(clip: type[Clip], fps: float) -> None:
    trembling = np.arange(200) / 30 + np.random.default_rng(0).uniform(-0.008, 0.008, 200)
    late = np.where(np.arange(200) > 0, trembling + 0.015, 0)  # by nearly half a frame, but for the first one
    for seconds in (np.round(np.arange(200) / 30, 3), trembling, late):
        assert shown_at(clip(list(seconds), fps)) == list(range(200))


def test_a_file_without_times_is_shown_frame_by_frame(clip: type[Clip]) -> None:
    assert shown_at(clip([0.0] * 50, 25, 50)) == list(range(50))


def test_the_rates_of_television_are_exact(clip: type[Clip]) -> None:
    for fps in (Fraction(24000, 1001), Fraction(30000, 1001), Fraction(25)):
        assert clip([i / float(fps) for i in range(20)], float(fps)).fps == fps


def test_no_rate_at_all_is_one_line(clip: type[Clip]) -> None:
    with pytest.raises(UserError, match=r"clip\.mp4: has no usable frame rate .* ffmpeg -i clip\.mp4 -r 30"):
        clip([0.0] * 50, 0)
    with pytest.raises(UserError, match="none of its frames"):
        clip([], 25)


def test_damaged_times_do_not_fill_the_disk(clip: type[Clip]) -> None:
    video = clip([0, 0.04, 95443.7], 25)
    with pytest.raises(UserError, match=r"clip\.mp4: no frames from second 0 to second 95444"):
        list(read_frames(video))


@pytest.mark.parametrize(("count", "known"), [(50, 50), (0, None), (-2.7e17, None), (1e18, None)])
def test_a_number_of_frames_is_told_if_it_is_one(clip: type[Clip], count: float, known: int | None) -> None:
    assert clip([i / 25 for i in range(50)], 25, count).frames == known


def test_few_frames_are_in_memory(clip: type[Clip]) -> None:
    frames, most = [], 0
    for frame in read_frames(clip([i / 25 for i in range(100)], 25)):
        frames.append(weakref.ref(frame.rgb))
        del frame
        most = max(most, sum(each() is not None for each in frames))
    assert len(frames) == 100 and most <= 2


@needs_ffmpeg
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_file_whose_rate_varies(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    select = r"select='if(lt(n\,30)\,1\,not(mod(n\,3)))'"
    source = ["-f", "lavfi", "-i", "testsrc=s=64x64:r=30:d=2", "-vf", select, "-vsync", "vfr", "-c:v", "mpeg4"]
    subprocess.run(["ffmpeg", "-v", "error", *source, str(path)], check=True, timeout=60)
    video = open_video(path)
    frames = list(read_frames(video))
    assert video.fps == 30 and len(frames) == 40
    assert [frame.repeats for frame in frames] == [1] * 30 + [3] * 9 + [1]


@needs_ffmpeg
def test_frames_that_were_cut_off_without_encoding_are_not_missed(tmp_path: Path) -> None:
    """Editors that cut without encoding keep frames in the file that are never shown: it is whole all the same."""
    path, cut = tmp_path / "a.mp4", tmp_path / "cut.mp4"
    source = ["-f", "lavfi", "-i", "testsrc=s=64x64:r=30:d=3", "-c:v", "mpeg4", "-g", "30"]
    subprocess.run(["ffmpeg", "-v", "error", *source, str(path)], check=True, timeout=60)
    subprocess.run(["ffmpeg", "-v", "error", "-ss", "1.5", "-i", path, "-c", "copy", cut], check=True, timeout=60)
    video = open_video(cut)
    assert sum(frame.repeats for frame in read_frames(video)) == 45 < video.frames
