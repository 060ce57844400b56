"""utils.video_writer: videos with their sound and their colours, with ffmpeg and without; all whole, or none."""

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils import video_writer as module
from utils.errors import UserError
from utils.files import CannotWriteError
from utils.images import read_alpha, read_rgb
from utils.video import Frame, Video, open_video, read_frames
from utils.video_writer import appear_together, find_ffmpeg, write_frames, write_video

ROOT = Path(__file__).resolve().parents[1]
FFMPEG = find_ffmpeg()

needs_ffmpeg = pytest.mark.skipif(FFMPEG is None, reason="no ffmpeg with libx264 on this machine")
encoders = pytest.mark.parametrize("ffmpeg", [pytest.param(FFMPEG, marks=needs_ffmpeg), None], ids=["ffmpeg", "OpenCV"])


def describe(path: Path, height: int = 64, width: int = 96, fps: Fraction = Fraction(25)) -> Video:
    """A video of which nothing but its header is needed."""
    return Video(path, height, width, fps, None, 0.0)


def written(path: Path) -> list[Frame]:
    return list(read_frames(open_video(path)))


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*")]


@pytest.fixture
def fake_ffmpeg(tmp_path: Path) -> Callable[[str], str]:
    """`fake_ffmpeg(lines)`: a program that runs these lines of shell, whatever it is asked for."""
    if os.name == "nt":
        pytest.skip("no shell scripts there")

    def fake_ffmpeg(lines: str) -> str:
        path = tmp_path / "bin" / "ffmpeg"
        path.parent.mkdir(exist_ok=True)
        # The question for the sound is answered at once.
        path.write_text(f'#!/bin/sh\ncase "$*" in *pipe:0*) ;; *) exit 1;; esac\n{lines}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return fake_ffmpeg


@encoders
def test_colours_stay(ffmpeg: str | None, tmp_path: Path) -> None:
    """Large areas: neither codec keeps the colours of single pixels."""
    colours = np.uint8([[0, 255, 0], [255, 255, 255], [0, 0, 0], [200, 30, 60], [32, 192, 64], [20, 60, 230]])
    with write_video(tmp_path / "a.mp4", describe(tmp_path, 64, 192), grey=False, ffmpeg=ffmpeg) as write:
        for _ in range(5):
            write(np.repeat(np.repeat(colours[None], 64, 0), 32, 1))
    for frame in written(tmp_path / "a.mp4"):
        assert np.abs(frame.rgb[16:48, 16::32].astype(int) - colours).max() <= (5 if ffmpeg else 12)


@encoders
def test_alphas_stay(ffmpeg: str | None, tmp_path: Path) -> None:
    ramp = np.repeat(np.linspace(0, 255, 256).round().astype(np.uint8)[None], 64, 0)
    with write_video(tmp_path / "a.mp4", describe(tmp_path, 64, 256), grey=True, ffmpeg=ffmpeg) as write:
        for _ in range(5):
            write(ramp)
    for frame in written(tmp_path / "a.mp4"):
        assert np.abs(frame.rgb.astype(int) - ramp[..., None]).max() <= (4 if ffmpeg else 10)
        assert frame.rgb[:, 0].max() == 0 and frame.rgb[:, -1].min() >= (254 if ffmpeg else 247)


@encoders
@pytest.mark.parametrize(("height", "width"), [(63, 96), (64, 95), (33, 47), (64, 96)])
@pytest.mark.parametrize("grey", [True, False])
def test_odd_sides_grow_by_a_pixel(grey: bool, height: int, width: int, ffmpeg: str | None, tmp_path: Path) -> None:
    frame = np.full((height, width) if grey else (height, width, 3), 200, np.uint8)
    with write_video(tmp_path / "a.mp4", describe(tmp_path, height, width), grey=grey, ffmpeg=ffmpeg) as write:
        write(frame, 3)
    (first, *_) = frames = written(tmp_path / "a.mp4")
    assert len(frames) == 3
    assert first.rgb.shape == (height + height % 2, width + width % 2, 3)
    assert np.abs(first.rgb.astype(int) - 200).max() <= 10, "the border is repeated"


@encoders
def test_frames_keep_their_order_number_and_rate(ffmpeg: str | None, tmp_path: Path) -> None:
    fps = Fraction(30000, 1001)
    with write_video(tmp_path / "a.mp4", describe(tmp_path, fps=fps), grey=True, ffmpeg=ffmpeg) as write:
        for number in range(12):
            write(np.full((64, 96), 20 * number, np.uint8), 1 + (number == 5))
    video = open_video(tmp_path / "a.mp4")
    shown = [round(float(frame.rgb.mean()) / 20) for frame in read_frames(video)]
    assert shown == [0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 11] and abs(video.fps - fps) < 0.01


@encoders
@pytest.mark.parametrize(
    "frame", [np.zeros((64, 96, 3), np.float32), np.zeros((64, 96), np.uint8), np.zeros((96, 64, 3), np.uint8)]
)
def test_another_kind_of_frame_is_refused(frame: np.ndarray, ffmpeg: str | None, tmp_path: Path) -> None:
    """Raw pixels have no header: ffmpeg would cut a picture out of others."""
    with (
        pytest.raises(ValueError, match=r"a\.mp4: expected uint8 \(64, 96, 3\)"),
        write_video(tmp_path / "a.mp4", describe(tmp_path), grey=False, ffmpeg=ffmpeg) as write,
    ):
        write(frame)


def streams(path: Path) -> str:
    told = subprocess.run([FFMPEG, "-hide_banner", "-i", path], capture_output=True, text=True)
    return "\n".join(re.findall("Stream.*", told.stderr))


def sound_starts_sec(path: Path) -> float:
    """When a sine after silence is heard first, by the clock of the file."""
    filters = ["-af", "aresample=async=1:first_pts=0,silencedetect=n=-40dB:d=0.05"]
    told = subprocess.run(
        [FFMPEG, "-hide_banner", "-i", path, "-vn", *filters, "-f", "null", "-"], capture_output=True, text=True
    )
    return float(re.search(r"silence_end: ([\d.]+)", told.stderr)[1])


def flash_sec(path: Path) -> float:
    """When a dark video turns bright."""
    video, ticks = open_video(path), 0
    for frame in read_frames(video):
        if frame.rgb.mean() > 128:
            break
        ticks += frame.repeats
    return ticks / float(video.fps)


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "codecs", "sound"),
    [
        ("a.mp4", ["-c:a", "aac"], "aac"),
        ("a.mov", ["-c:a", "pcm_s16le"], "aac"),
        ("a.mkv", ["-c:a", "mp3"], "mp3"),
        ("-odd name: %d'.mkv", ["-c:a", "flac"], "aac"),
    ],
)
@pytest.mark.parametrize("late_sec", [0, 0.52])
def test_sound_stays_with_the_picture(
    late_sec: float, name: str, codecs: list[str], sound: str, tmp_path: Path
) -> None:
    """After 0.96 s the picture turns bright and a tone is heard, also where the picture begins after the sound.

    Its rate varies: 25 frames a second, then 12.5.
    """
    source, result = tmp_path / name, tmp_path / "result.mp4"
    late = ["-itsoffset", str(late_sec)]
    picture = ["-f", "lavfi", "-i", "nullsrc=s=64x64:r=25:d=2,geq=lum='if(gte(T,0.95),230,20)':cb=128:cr=128"]
    select = ["-vf", r"select='if(lt(n\,20)\,1\,not(mod(n\,2)))'", "-vsync", "vfr"]
    sine = ["-f", "lavfi", "-i", f"aevalsrc='0.5*sin(2000*t)*gte(t,{0.96 + late_sec})':d=2.5:s=44100"]
    files = [*late, *picture, *sine, "-map", "0:v", "-map", "1:a", *select, "-c:v", "libx264", *codecs]
    subprocess.run([FFMPEG, "-v", "error", *files, f"file:{source}"], check=True, timeout=60)
    video = open_video(source)
    with write_video(result, video, grey=True, ffmpeg=FFMPEG) as write:
        for frame in read_frames(video):
            write(frame.rgb[..., 1].copy(), frame.repeats)
    assert f"Audio: {sound}" in streams(result) and "Video: h264" in streams(result)
    assert sound_starts_sec(result) == pytest.approx(0.96 + late_sec, abs=0.06)
    assert flash_sec(result) == pytest.approx(0.96 + late_sec, abs=0.06)


@needs_ffmpeg
def test_the_colours_are_tagged(tmp_path: Path) -> None:
    with write_video(tmp_path / "a.mp4", describe(tmp_path), grey=False, ffmpeg=FFMPEG) as write:
        write(np.zeros((64, 96, 3), np.uint8))
    assert re.search(r"h264 .*yuv420p\(tv, bt709", streams(tmp_path / "a.mp4"))


def test_an_ffmpeg_without_h264_is_none(
    tmp_path: Path, fake_ffmpeg: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert find_ffmpeg() is None
    program = fake_ffmpeg("")
    monkeypatch.setattr(shutil, "which", lambda name: program)
    assert find_ffmpeg() is None
    Path(program).write_text('#!/bin/sh\necho " V....D libx264   H.264"\n')
    assert find_ffmpeg() == program
    Path(program).write_text("no program\0")
    assert find_ffmpeg() is None


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("echo first >&2; echo 'No space left on device' >&2; exit 1", "No space left on device"),
        ("head -c 100000 > /dev/null; echo 'Killed by a test' >&2; exit 1", "Killed by a test"),
        ("kill -9 $$", "signal 9"),
        ("cat > /dev/null; exit 3", "status 3"),
        ("yes 'much to say' | head -c 1000000 >&2; echo >&2; cat > /dev/null; echo 'the end' >&2; exit 1", "the end"),
    ],
    ids=["at once", "in the middle", "killed", "at the end", "talkative"],
)
def test_an_ffmpeg_that_dies_is_one_line(
    lines: str, reason: str, fake_ffmpeg: Callable[[str], str], tmp_path: Path
) -> None:
    program, target = fake_ffmpeg(lines), tmp_path / "out" / "a.mp4"
    with (
        pytest.raises(UserError, match=rf"^a\.mp4: ffmpeg has ended early \({reason}\)") as caught,
        appear_together([target]) as (path,),
        write_video(path, describe(tmp_path), grey=False, ffmpeg=program) as write,
    ):
        write(np.zeros((64, 96, 3), np.uint8), 100)
    assert "\n" not in str(caught.value)
    assert list(target.parent.iterdir()) == []


def test_an_ffmpeg_that_does_not_start_is_one_line(fake_ffmpeg: Callable[[str], str], tmp_path: Path) -> None:
    program = fake_ffmpeg("")
    Path(program).chmod(0o600 if os.getuid() else 0o000)
    with (
        pytest.raises(UserError, match="ffmpeg: cannot be started"),
        write_video(tmp_path / "a.mp4", describe(tmp_path), grey=False, ffmpeg=program),
    ):
        pass


def test_an_exception_ends_an_ffmpeg_that_waits(fake_ffmpeg: Callable[[str], str], tmp_path: Path) -> None:
    program = fake_ffmpeg(f"echo $$ > '{tmp_path}/pid'; exec sleep 60")
    started = time.monotonic()

    def wait_for_it() -> None:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
            time.sleep(0.01)
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        write_video(tmp_path / "a.mp4", describe(tmp_path), grey=False, ffmpeg=program),
    ):
        wait_for_it()
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)  # not even a zombie
    assert time.monotonic() - started < 30


@needs_ffmpeg
@pytest.mark.skipif(os.name == "nt", reason="no signals to groups there")
@pytest.mark.parametrize("noted", [True, False])
def test_ctrl_c_at_a_terminal_is_not_ffmpegs_to_handle(noted: bool, tmp_path: Path) -> None:
    """The terminal sends it to the whole group of processes. One that only notes it goes on to the last frame."""
    code = f"""
import signal, sys, time
from fractions import Fraction
from pathlib import Path
import numpy as np
from utils.video import Video
from utils.video_writer import appear_together, write_video
came = []
if {noted}:
    signal.signal(signal.SIGINT, lambda *_: came.append(True))
video = Video(Path("none"), 64, 96, Fraction(25), None, 0.0)
try:
    with appear_together([Path({str(tmp_path)!r}, "out", "a.mp4")]) as (path,):
        with write_video(path, video, grey=True, ffmpeg={FFMPEG!r}) as write:
            print("started", flush=True)
            while not came:
                write(np.zeros((64, 96), np.uint8))
                time.sleep(0.001)
            time.sleep(0.3)
            write(np.zeros((64, 96), np.uint8), 1000)
except KeyboardInterrupt:
    sys.exit(130)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout.readline() == b"started\n"
        time.sleep(0.3)
        assert hidden(tmp_path)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == (0 if noted else 130) and err == b""
    assert [path.name for path in (tmp_path / "out").iterdir()] == (["a.mp4"] if noted else [])
    assert not noted or len(written(tmp_path / "out" / "a.mp4")) > 1000


def test_opencv_tells_of_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf:
        """cv2.VideoWriter on a full disk: it takes everything, and an unusable file stays."""

        fourcc = staticmethod(cv2.VideoWriter.fourcc)

        def __init__(self, path: str, *_: object):
            Path(path).write_bytes(b"\0\0\0\x08ftyp")

        def isOpened(self) -> bool:
            return True

        def write(self, frame: np.ndarray) -> None:
            pass

        def release(self) -> None:
            pass

    monkeypatch.setattr(cv2, "VideoWriter", Deaf)
    with (
        pytest.raises(CannotWriteError, match=r"^a\.mp4: OpenCV cannot write it; free space"),
        write_video(tmp_path / "a.mp4", describe(tmp_path), grey=False, ffmpeg=None) as write,
    ):
        write(np.zeros((64, 96, 3), np.uint8))


def test_opencv_without_the_codec_is_told_before_the_first_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closed:  # no subclass: OpenCV would free it as if it were its own
        fourcc = staticmethod(cv2.VideoWriter.fourcc)

        def __init__(self, *_: object):
            pass

        def isOpened(self) -> bool:
            return False

    monkeypatch.setattr(cv2, "VideoWriter", Closed)
    with (
        pytest.raises(CannotWriteError, match=r"^a\.mp4: OpenCV cannot write it"),
        write_video(tmp_path / "a.mp4", describe(tmp_path), grey=False, ffmpeg=None),
    ):
        pytest.fail("frames were asked for")


@needs_ffmpeg
def test_pixels_that_are_not_square_stay_so(tmp_path: Path) -> None:
    video = describe(tmp_path)._replace(pixel_ratio=Fraction(8, 3))
    with write_video(tmp_path / "a.mp4", video, grey=True, ffmpeg=FFMPEG) as write:
        for _ in range(3):
            write(np.zeros((64, 96), np.uint8))
    assert open_video(tmp_path / "a.mp4").pixel_ratio == Fraction(8, 3)


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    for ffmpeg in {None, FFMPEG}:
        with (
            pytest.raises(CannotWriteError, match=r"^a\.mp4: "),
            write_video(tmp_path / "none" / "a.mp4", describe(tmp_path), grey=False, ffmpeg=ffmpeg) as write,
        ):
            write(np.zeros((64, 96, 3), np.uint8))


def test_frames_are_numbered_files(tmp_path: Path) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 4), dtype=np.uint8)
    with write_frames(tmp_path / "clip") as write:
        write(rgba[0])
        write(rgba[1], 2)
        write(rgba[2].astype(np.uint16)[..., 0] * 257)
    files = sorted((tmp_path / "clip").iterdir())
    assert [path.name for path in files] == ["000001.png", "000002.png", "000003.png", "000004.png"]
    assert np.array_equal(read_rgb(files[0]), rgba[0, ..., :3])
    assert files[1].read_bytes() == files[2].read_bytes() != files[0].read_bytes()
    assert np.array_equal(read_alpha(files[3]), rgba[2, ..., 0] / np.float32(255))


def test_results_appear_together(tmp_path: Path) -> None:
    targets = [tmp_path / "out" / "a.mp4", tmp_path / "out" / "a"]
    with appear_together(targets) as (file, folder):
        file.write_bytes(b"film")
        folder.mkdir()
        (folder / "1").touch()
        assert [path for path in targets if path.exists()] == []
        assert (file.name, folder.name) == ("a.mp4", "a"), "messages name them"
    assert targets[0].read_bytes() == b"film" and [path.name for path in targets[1].iterdir()] == ["1"]
    assert hidden(tmp_path) == []


def test_results_replace_what_was_there(tmp_path: Path) -> None:
    targets = [tmp_path / "file", tmp_path / "folder", tmp_path / "file now", tmp_path / "folder now"]
    for path in targets:
        if "folder" in path.name:
            path.mkdir()
            (path / "old").touch()
        else:
            path.write_text("old")
    with appear_together(targets) as (file, folder, now_file, now_folder):
        for path in (file, now_folder):
            path.write_text("new")
        for path in (folder, now_file):
            path.mkdir()
            (path / "new").touch()
        assert all(path.exists() for path in targets), "until there is something to replace them"
    assert targets[0].read_text() == targets[3].read_text() == "new"
    assert [path.name for folder in targets[1:3] for path in folder.iterdir()] == ["new", "new"]
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(error: type[BaseException], tmp_path: Path) -> None:
    targets = [tmp_path / "a.mp4", tmp_path / "a"]
    targets[0].write_text("old")

    def fail_with(file: Path, folder: Path) -> None:
        file.write_text("new")
        folder.mkdir()
        raise error

    with pytest.raises(error), appear_together(targets) as unfinished:
        fail_with(*unfinished)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"] and targets[0].read_text() == "old"


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(CannotWriteError, match=r"file: cannot be written \(Not a directory\)"),
        appear_together([tmp_path / "file" / "a.mp4"]),
    ):
        pass


def test_photographs_are_written_beside_an_unfinished_video(tmp_path: Path) -> None:
    with appear_together([tmp_path / "a"]) as (folder,):
        with write_frames(folder) as write:
            write(np.zeros((2, 2), np.uint8))
        module.write_image(tmp_path / "photo.png", np.zeros((2, 2), np.uint8))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "photo.png"]


@encoders
def test_memory_does_not_grow(ffmpeg: str | None, tmp_path: Path) -> None:
    """Frames are handed on, not kept."""

    frame = np.zeros((64, 96, 3), np.uint8)
    with write_video(tmp_path / "a.mp4", describe(tmp_path), grey=False, ffmpeg=ffmpeg) as write:
        write(frame)
        tracemalloc.start()
        try:
            for _ in range(200):
                write(frame.copy())
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert grown < 10 * frame.nbytes
