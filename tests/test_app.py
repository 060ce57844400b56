"""utils.page, and tools.app where gradio is installed: what the demo page does with what it is given."""

import re
import shutil
import socket
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from config import AppConfig
from tools import app
from utils import page
from utils.encoding import write_image
from utils.errors import UserError
from utils.images import Photo, read_photo
from utils.inference import Predictor, predict_alpha
from utils.memory import OutOfMemory
from utils.page import Subject, choose_rendering, draw_for_screen, explain, find_subject, hex_colour, write_result
from utils.renderings import Matte
from utils.shrinking import shrink

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
MAX_PIXELS = 1_000_000


@pytest.fixture
def photograph(tmp_path: Path, make_pair: Callable) -> Path:
    """A photograph with a profile, in a folder of its own."""
    path = tmp_path / "files" / "1" / "IMG 7.png"
    write_image(path, make_pair(90, 130)[0], icc_profile=PROFILE)
    return path


@pytest.fixture
def files(photograph: Path) -> Path:
    """The folder that holds the page's files."""
    return photograph.parents[1]


@pytest.fixture
def subject(photograph: Path, predictor: Predictor) -> Subject:
    return find_subject(photograph, predictor, max_pixels=MAX_PIXELS)


def rendering(view: page.ViewName, colour: str = "#102030", picture: Path | None = None) -> Any:
    return choose_rendering(view, colour=colour, picture=picture, max_pixels=MAX_PIXELS)


def flat(alpha: np.ndarray, colour: tuple[int, int, int] = (200, 10, 20)) -> Subject:
    """A subject of one colour."""
    foreground = np.full((*alpha.shape, 3), colour, np.uint8)
    matte = Matte(Photo(foreground, None, None), alpha.astype(np.float32), foreground)
    return Subject("flat", matte, matte, 0.0)


# ------------------------------------------------------------------------------------------------ without widgets


def test_the_subject_is_what_the_network_finds(photograph: Path, subject: Subject, predictor: Predictor) -> None:
    photo = read_photo(photograph, max_pixels=MAX_PIXELS)
    assert subject.name == "IMG 7" and subject.seconds > 0
    assert np.array_equal(subject.matte.alpha, predict_alpha(predictor, photo.rgb))
    assert np.array_equal(subject.screen.foreground, subject.matte.foreground)  # smaller than any screen
    assert page.describe_subject(subject, predictor).startswith("130 × 90 px · network ")


def test_a_screen_is_sent_a_small_picture_that_looks_the_same(
    photograph: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "_SCREEN_PX", 65)
    small = find_subject(photograph, predictor, max_pixels=MAX_PIXELS)
    assert small.matte.alpha.shape == (90, 130) and small.screen.alpha.shape == (45, 65)
    for view in ("White", "Green", "Matte"):
        full = shrink(rendering(view).draw(small.matte), (45, 65))
        assert np.abs(draw_for_screen(small, rendering(view)).astype(int) - full).mean() < 1.5, view


def test_sixteen_bits_are_kept_for_the_file_and_reduced_for_the_screen(tmp_path: Path, predictor: Predictor) -> None:
    levels = np.linspace(0, 65535, 40 * 60 * 3).reshape(40, 60, 3).astype(np.uint16)
    write_image(tmp_path / "deep.png", levels)
    deep = find_subject(tmp_path / "deep.png", predictor, max_pixels=MAX_PIXELS)
    assert deep.matte.foreground.dtype == np.uint16
    assert deep.screen.foreground.dtype == np.uint8
    assert np.array_equal(deep.screen.foreground, np.rint(deep.matte.foreground / 257))
    assert draw_for_screen(deep, rendering("Transparent")).dtype == np.uint8
    assert cv2.imread(str(write_result(deep, rendering("Transparent"), tmp_path)), -1).dtype == np.uint16


def test_where_nothing_is_there_a_checkerboard_shows() -> None:
    alpha = np.zeros((120, 60))
    alpha[:, 30:] = 1
    shown = draw_for_screen(flat(alpha), rendering("Transparent"))
    assert (shown[:, 30:] == (200, 10, 20)).all()
    empty = shown[:, :30]
    assert (np.ptp(empty, axis=2) == 0).all() and set(np.unique(empty)) == {226, 255}
    assert (empty[:2, :2] == empty[0, 0]).all()  # squares of 120 / 60 px
    assert (empty[0, 2] != empty[0, 0]).all() and (empty[2, 0] != empty[0, 0]).all()
    assert (empty[2, 2] == empty[0, 0]).all()


def test_views_show_their_backgrounds(tmp_path: Path) -> None:
    nothing = flat(np.zeros((20, 30)))
    write_image(tmp_path / "red.png", np.full((50, 40, 3), (255, 0, 0), np.uint8))
    expected = {"White": (255, 255, 255), "Green": (0, 177, 64), "Colour": (16, 32, 48), "Picture": (255, 0, 0)}
    for view, colour in expected.items():
        assert (draw_for_screen(nothing, rendering(view, picture=tmp_path / "red.png")) == colour).all(), view
    assert (draw_for_screen(nothing, rendering("Matte")) == 0).all()
    assert all(draw_for_screen(nothing, rendering(view, picture=tmp_path / "red.png")).size for view in page.VIEWS)
    with pytest.raises(UserError, match="choose a picture"):
        rendering("Picture")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#0a0B0c", "#0a0b0c"),
        ("#fff", "#ffffff"),
        ("rgba(12.5, 254.6, 0, 1)", "#0cff00"),
        ("rgb(1, 2, 300)", "#0102ff"),
        ("hsl(120, 100%, 50%)", "#00ff00"),
    ],
)
def test_colours_of_pickers(text: str, expected: str) -> None:
    assert hex_colour(text) == expected


@pytest.mark.parametrize("text", ["", "no colour", "rgb(1.2.3, 2, 3)", "#12345"])
def test_what_is_no_colour_is_told(text: str) -> None:
    with pytest.raises(UserError, match="not a colour"):
        hex_colour(text)


def test_files_have_the_photographs_name_size_and_profile(subject: Subject, files: Path) -> None:
    shown = [write_result(subject, rendering(view), files) for view in ("Transparent", "Matte", "Colour", "Colour")]
    assert [path.name for path in shown] == [
        "IMG 7_cutout.png", "IMG 7_alpha.png", "IMG 7_color-102030.png", "IMG 7_color-102030.png"
    ]  # fmt: skip
    assert len(set(shown)) == 4 and all(path.parents[1] == files for path in shown)
    images = [Image.open(path) for path in shown]
    assert [image.size for image in images] == [(130, 90)] * 4
    assert [image.mode for image in images] == ["RGBA", "L", "RGB", "RGB"]
    assert ["icc_profile" in image.info for image in images] == [True, False, True, True]
    sent = page.write_for_screen(draw_for_screen(subject, rendering("White")), subject, files)
    assert Image.open(sent).info["icc_profile"] == PROFILE and sent.suffix == ".jpg"


def test_errors_are_told_without_our_paths_and_flags(photograph: Path, files: Path, predictor: Predictor) -> None:
    whole = photograph.read_bytes()
    cases = {
        "cut.png": (whole[: len(whole) // 2], "cut.png: "),
        "text.png": (b"hello", "text.png is no picture that can be read here. Save it as JPEG, PNG, WebP or TIFF."),
        "large.png": (whole, "large.png has more than 0.005 megapixels. Reduce it first."),
    }
    for name, (content, expected) in cases.items():
        path = photograph.with_name(name)
        path.write_bytes(content)
        limit = 5000 if name == "large.png" else MAX_PIXELS
        with pytest.raises(UserError) as caught:
            find_subject(path, predictor, max_pixels=limit)
        told = explain(caught.value, files, max_pixels=limit)
        assert told.startswith(expected) and str(files) not in told and "--" not in told and "\n" not in told


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), OutOfMemory()])
def test_lack_of_memory_is_told(error: Exception, files: Path) -> None:
    assert "Reduce it" in explain(error, files, max_pixels=MAX_PIXELS)


def test_a_fault_of_ours_is_not_explained_away(files: Path) -> None:
    assert explain(ValueError("shapes"), files, max_pixels=MAX_PIXELS) is None


# ------------------------------------------------------------------------------------------------ the script


@pytest.fixture
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the script tells gradio by the environment ends with the test."""
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "GRADIO_RUN_HISTORY"):
        monkeypatch.setenv(name, "")


@pytest.mark.usefixtures("own_environment")
def test_without_gradio_the_remedy_is_told(
    refused: Callable[..., str], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert refused(app.main, "--checkpoint", checkpoint).endswith("pip install gradio")
    monkeypatch.setitem(sys.modules, "gradio", types.ModuleType("gradio"))  # a folder of that name
    assert refused(app.main, "--checkpoint", checkpoint).endswith("pip install gradio")
    monkeypatch.setitem(sys.modules, "gradio", types.SimpleNamespace(__version__="6.9.1"))
    assert "gradio 6.24, not 6.9.1: pip install" in refused(app.main, "--checkpoint", checkpoint)


def test_impossible_ports_are_refused(refused: Callable[..., str]) -> None:
    assert "--port 0: must be from 1 to 65535" in refused(app.main, "--port", 0)


# ------------------------------------------------------------------------------------------------ with gradio


class Counting(torch.nn.Module):
    """A network that counts how often it predicts, and can be told to fail."""

    def __init__(self, network: Any):
        super().__init__()
        self.network, self.refiner, self.calls, self.error = network, network.refiner, 0, None

    def predict(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return self.network.predict(*arguments, **options)


@pytest.fixture
def gradio(files: Path, own_environment: None) -> Any:
    pytest.importorskip("gradio", minversion="6.24")
    return app.import_gradio(files)


@pytest.fixture
def network(predictor: Predictor) -> Counting:
    return Counting(predictor.network)


@pytest.fixture
def handlers(gradio: Any, network: Counting, predictor: Predictor, files: Path) -> dict[str, Any]:
    """What happens when widgets are used, by the name of the function; it has `fn`, `inputs` and `outputs`."""
    made = app.build_page(gradio, replace(predictor, network=network), files, MAX_PIXELS)
    return {each.name: each for each in made.fns.values()}


def test_the_network_runs_once_for_all_views(handlers: dict, network: Counting, photograph: Path, files: Path) -> None:
    found = handlers["find"].fn({"path": str(photograph)})
    assert len(found) == len(handlers["find"].outputs)
    shown, (left, right), *_ = found
    sent = {view: handlers["draw"].fn(shown, view, "#fff", str(photograph)) for view in page.VIEWS}
    assert {pair[0] for pair in sent.values()} == {left}
    pictures = [cv2.imread(str(path)) for path in (left, right, *(pair[1] for pair in sent.values()))]
    assert all(picture.shape == (90, 130, 3) for picture in pictures)
    distinct = [one for one in pictures[2:] if sum(np.array_equal(one, other) for other in pictures[2:]) == 1]
    assert len(distinct) == len(page.VIEWS) - 2  # of "White" and a colour that is white
    names = [Path(handlers["write"].fn(shown, view, "#fff", None)).name for view in ("Transparent", "Matte")]
    assert names == ["IMG 7_cutout.png", "IMG 7_alpha.png"]
    assert network.calls == 1


def test_errors_become_a_line(gradio: Any, handlers: dict, network: Counting, photograph: Path) -> None:
    text = photograph.with_name("<b>.png")
    text.write_text("hello")
    cases = [
        (lambda: handlers["find"].fn({"path": str(text)}), "&lt;b&gt;.png is no picture", False),
        (lambda: handlers["draw"].fn(None, "White", "", None), "no longer kept", False),
        (lambda: handlers["find"].fn({"path": str(photograph)}), "The terminal", True),
    ]
    network.error = ValueError("a fault of ours")
    for fail, expected, printed in cases:
        with pytest.raises(gradio.Error) as caught:
            fail()
        assert expected in caught.value.message and caught.value.print_exception == printed
        assert str(photograph.parent) not in caught.value.message and "\n" not in caught.value.message


def test_what_is_not_chosen_yet_changes_nothing(gradio: Any, handlers: dict, photograph: Path) -> None:
    assert handlers["find"].fn(None) == gradio.skip()
    shown, *_ = handlers["find"].fn({"path": str(photograph)})
    assert handlers["draw"].fn(shown, "Picture", "", None) == gradio.skip()


def test_no_other_file_of_the_machine_is_read(gradio: Any, handlers: dict, photograph: Path, files: Path) -> None:
    shown, *_ = handlers["find"].fn({"path": str(photograph)})
    other = files.parent / "private.png"
    other.write_bytes(photograph.read_bytes())
    (files / "link.png").symlink_to(other)
    for path in (other, files / ".." / other.name, files / "link.png"):
        with pytest.raises(gradio.Error, match="not given to this page"):
            handlers["find"].fn({"path": str(path)})
        with pytest.raises(gradio.Error, match="not given to this page"):
            handlers["draw"].fn(shown, "Picture", "", str(path))


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
def test_the_page_stands_in_a_browser_that_reaches_nothing_else(gradio: Any, predictor: Predictor, files: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    made = app.build_page(gradio, predictor, files, MAX_PIXELS)
    (address,) = app.launch(gradio, made, AppConfig(port=port))
    try:
        drawn = subprocess.run(
            [
                "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={files / 'profile'}",
                "--virtual-time-budget=20000", "--dump-dom", address,
            ],
            capture_output=True, text=True, timeout=120, check=True,
        ).stdout  # fmt: skip
        with pytest.raises(UserError, match=f"--port {port}: cannot be used"):
            app.launch(gradio, app.build_page(gradio, predictor, files, MAX_PIXELS), AppConfig(port=port))
    finally:
        made.close(verbose=False)
    assert address == f"http://127.0.0.1:{port}/"
    assert "Drop a photograph" in drawn and 'id="photo"' in drawn
    assert not re.search(r"""(src|href)=["']https?://(?!127\.0\.0\.1)""", drawn)
