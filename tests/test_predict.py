"""predict.py as a user meets it: strange files, kinds of result, interruptions, lack of memory, videos."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import predict as predict_script
import utils.prediction as prediction
import utils.renderings as renderings
from utils.checkpoint import save_checkpoint
from utils.encoding import write_image
from utils.files import CannotWriteError
from utils.images import read_alpha, read_photo, read_rgb

ROOT = Path(__file__).resolve().parents[1]


def results(folder: Path) -> list[str]:
    """Files below a folder, but for what is hidden."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    )


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


@pytest.fixture
def predict(run: Callable, checkpoint: Path) -> Callable:
    """`predict(*arguments)` runs predict.py with the nano checkpoint into the folder out."""

    def predict(*arguments: Any) -> Any:
        return run(predict_script.main, *arguments, "--checkpoint", checkpoint, "--output", "out")

    return predict


def test_folders_are_mirrored_and_names_kept_apart(predict: Callable, write_photographs: Callable) -> None:
    write_photographs(Path("photos"), ["a.jpg", "a.png", "b.png", "x/a.jpg", "x/y/c d é.png", "e.f.png"])
    Path("photos/.DS_Store").write_bytes(b"x")
    Path("photos/notes.txt").write_text("x")
    finished = predict("photos")
    assert finished.status == 0, finished.err
    stems = ["a_jpg", "a_png", "b", "e.f", "x/a", "x/y/c d é"]
    assert results(Path("out")) == sorted(f"{stem}_{kind}.png" for stem in stems for kind in ("alpha", "cutout"))
    for source, stem in (("a.jpg", "a_jpg"), ("a.png", "a_png"), ("x/y/c d é.png", "x/y/c d é")):
        assert read_alpha(Path("out") / f"{stem}_alpha.png").shape == read_rgb(Path("photos") / source).shape[:2]


def test_only_what_is_asked_for_is_saved(predict: Callable, write_photographs: Callable) -> None:
    write_photographs(Path("photos"), ["a.png"])
    assert predict("photos", "--save", "cutout").status == 0
    assert results(Path("out")) == ["a_cutout.png"]


def test_results_are_kept_unless_overwrite_is_given(predict: Callable, write_photographs: Callable) -> None:
    write_photographs(Path("photos"), ["a.png", "b.png"])
    predict("photos")
    kept = Path("out/a_alpha.png")
    whole = kept.read_bytes()
    Path("out/b_alpha.png").unlink()
    kept.write_bytes(b"mine")
    os.utime(kept, (1000, 1000))
    finished = predict("photos")
    assert finished.status == 0 and "1 of 2" in finished.out
    assert kept.read_bytes() == b"mine" and kept.stat().st_mtime == 1000
    assert read_alpha(Path("out/b_alpha.png")).shape == (41, 50)
    assert predict("photos", "--overwrite").status == 0
    assert kept.read_bytes() == whole


def test_results_of_another_photograph_of_the_same_name_are_not_taken_for_its_own(
    predict: Callable, write_photographs: Callable
) -> None:
    write_photographs(Path("first"), ["a.png", "b.png"])
    write_photographs(Path("second"), ["a.png", "c.png"])
    assert predict("first").status == 0
    before = {path: path.read_bytes() for path in Path("out").glob("*.png")}
    refused = predict("second")
    assert refused.status == 2 and "2 results of another file" in refused.err and "a_alpha.png" in refused.err
    assert {path: path.read_bytes() for path in Path("out").glob("*.png")} == before
    assert predict("second", "--overwrite").status == 0 and predict("second").status == 0
    assert predict("first").status == 2, "it is the second one's now"
    os.utime("second/c.png", (1, 1))
    assert "c_alpha.png" in predict("second").err, "it has changed since"


def test_another_kind_does_not_overwrite_the_first(predict: Callable, write_photographs: Callable) -> None:
    write_photographs(Path("photos"), ["a.png"])
    predict("photos", "--save", "alpha")
    retouched = np.full((40, 50), 77, np.uint8)
    write_image(Path("out/a_alpha.png"), retouched)
    assert predict("photos", "--save", "alpha", "cutout").status == 0
    assert results(Path("out")) == ["a_alpha.png", "a_cutout.png"]
    assert (read_alpha(Path("out/a_alpha.png")) * 255).round().astype(np.uint8).tolist() == retouched.tolist()


def test_a_corrupt_picture_is_named_and_the_rest_is_done(predict: Callable, write_photographs: Callable) -> None:
    write_photographs(Path("photos"), ["a.png", "b.jpg", "c.jpg", "e.png"])
    broken = Path("photos/b.jpg")
    broken.write_bytes(broken.read_bytes()[:-100])
    Path("photos/d.png").write_text("not a picture")
    finished = predict("photos", "--save", "alpha")
    assert finished.status == 1
    failures = [line for line in finished.err.splitlines() if line.startswith("failed")]
    assert len(failures) == 2 and "b.jpg" in failures[0] and "d.png" in failures[1]
    assert results(Path("out")) == ["a_alpha.png", "c_alpha.png", "e_alpha.png"]
    assert "Traceback" not in finished.err and "3 of 5" in finished.out


def test_the_pixel_limit_is_per_picture(predict: Callable, write_photographs: Callable) -> None:
    write_photographs(Path("photos"), ["a.png", "b.png"])  # 40x50 and 41x50
    finished = predict("photos", "--save", "alpha", "--max-pixels", 2000)
    assert finished.status == 1 and "--max-pixels" in finished.err
    assert results(Path("out")) == ["a_alpha.png"]


def test_the_output_inside_the_input_is_not_read_again(predict: Callable, write_photographs: Callable) -> None:
    write_photographs(Path(), ["a.png", "x/b.png"])
    for extra in ([], ["--overwrite"]):
        assert predict(".", *extra).status == 0
        assert results(Path("out")) == [f"{s}_{k}.png" for s in ("a", "x/b") for k in ("alpha", "cutout")]


def test_the_input_folder_as_output_is_refused(
    refused: Callable[..., str], write_photographs: Callable, tmp_path: Path, checkpoint: Path
) -> None:
    write_photographs(tmp_path / "out", ["a.png", "x/b.png"])
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for given in (tmp_path / "out", tmp_path / "out" / "x" / "..", tmp_path / "link"):
        line = refused(predict_script.main, given, "--checkpoint", checkpoint, "--output", tmp_path / "out")
        assert "--output" in line and "input" in line
    # A folder within the output: its photographs are not results, and "no images" would be untrue.
    line = refused(
        predict_script.main, tmp_path / "out" / "x", "--checkpoint", checkpoint, "--output", tmp_path / "out"
    )
    assert "--output" in line


def test_a_photograph_is_never_overwritten(predict: Callable, write_photographs: Callable) -> None:
    """One file given, the output beside it."""
    write_photographs(Path("out"), ["a.png"])
    before = Path("out/a.png").read_bytes()
    assert predict("out/a.png", "--overwrite").status == 0
    assert Path("out/a.png").read_bytes() == before
    assert results(Path("out")) == ["a.png", "a_alpha.png", "a_cutout.png"]


def test_inputs_of_one_name_from_two_folders_are_refused_or_kept_apart(
    run: Callable, write_photographs: Callable, checkpoint: Path
) -> None:
    write_photographs(Path(), ["p/a.png", "q/a.png"])
    finished = run(predict_script.main, "p", "q", "--checkpoint", checkpoint, "--output", "out", "--save", "alpha")
    if finished.status == 0:
        assert len(results(Path("out"))) == 2
    else:
        assert finished.status == 2 and "p/a.png" in finished.err and "q/a.png" in finished.err
        assert not Path("out").exists()


def test_a_long_name_is_no_crash(predict: Callable, write_photographs: Callable) -> None:
    name = "n" * 230
    write_photographs(Path("photos"), [f"{name}.png", "a.png"])
    finished = predict("photos", "--save", "alpha")
    assert "a_alpha.png" in results(Path("out")) and "Traceback" not in finished.err
    assert finished.status == 0 and f"{name}_alpha.png" in results(Path("out"))


def test_empty_and_missing_inputs(refused: Callable[..., str], checkpoint: Path, tmp_path: Path) -> None:
    empty = tmp_path / "photos"
    empty.mkdir()
    assert str(empty) in refused(predict_script.main, empty, "--checkpoint", checkpoint)
    assert "nowhere.jpg" in refused(predict_script.main, tmp_path / "nowhere.jpg", "--checkpoint", checkpoint)


def test_an_input_is_never_the_place_of_a_result(
    refused: Callable[..., str], write_photographs: Callable, tmp_path: Path, checkpoint: Path
) -> None:
    write_photographs(tmp_path, ["a.png", "a_alpha.png"])
    before = (tmp_path / "a_alpha.png").read_bytes()
    given = (tmp_path / "a.png", tmp_path / "a_alpha.png", "--checkpoint", checkpoint, "--output", tmp_path)
    assert "one of the inputs" in refused(predict_script.main, *given, "--overwrite")
    assert (tmp_path / "a_alpha.png").read_bytes() == before


def test_a_loop_of_links_and_an_endless_name_do_not_stop_the_others(
    predict: Callable, write_photographs: Callable, tmp_path: Path
) -> None:
    write_photographs(Path("photos"), ["a.png", f"{'n' * 246}.png"])
    Path("photos/loop.png").symlink_to("loop.png")
    outcome = predict("photos")
    assert outcome.status == 1
    assert results(Path("out")) == ["a_alpha.png", "a_cutout.png"]


# ------------------------------------------------------------------------------------------------- kinds of result


def test_every_kind_of_result(predict: Callable, write_photographs: Callable) -> None:
    write_photographs(Path("photos"), ["a.png"])
    write_photographs(Path("backs"), ["sea.jpg"])
    plain = ["alpha", "cutout", "foreground", "green", "white", "blur", "overlay", "trimap"]
    kinds = [*plain, "color:#FF8000", "image:backs/sea.jpg"]
    finished = predict("photos", "--save", *kinds)
    assert finished.status == 0, finished.err
    labels = [*plain, "color-ff8000", "image-sea"]
    assert results(Path("out")) == sorted(f"a_{label}.png" for label in labels)
    alpha, cutout, white = (pixels(Path(f"out/a_{label}.png")) for label in ("alpha", "cutout", "white"))
    assert np.array_equal(cutout[..., 3], alpha)
    weight = alpha[..., None] / 255
    assert np.abs(white - (weight * cutout[..., :3] + (1 - weight) * 255)).max() <= 1.1


@pytest.fixture
def ramp(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network gives a ramp from left to right, a third of it 0 and a third 1."""

    def ramp_alpha(_: Any, rgb: np.ndarray) -> np.ndarray:
        return np.tile(np.linspace(-1, 2, rgb.shape[1], dtype=np.float32).clip(0, 1), (rgb.shape[0], 1))

    monkeypatch.setattr(prediction, "predict_alpha", ramp_alpha)


@pytest.mark.usefixtures("ramp")
def test_a_cutout_has_the_photographs_colours_where_nothing_else_shows(
    predict: Callable, write_photographs: Callable
) -> None:
    write_photographs(Path("photos"), ["a.png"])
    assert predict("photos/a.png").status == 0
    cutout, rgb = pixels(Path("out/a_cutout.png")), read_rgb(Path("photos/a.png"))
    assert (cutout[cutout[..., 3] == 0] == 0).all()
    inside = cutout[..., 3] == 255
    assert inside.any() and np.abs(cutout[inside, :3].astype(int) - rgb[inside]).max() <= 2


@pytest.mark.parametrize(("format", "suffix"), [("png", "png"), ("webp", "webp"), ("jpeg", "jpg")])
def test_formats(predict: Callable, write_photographs: Callable, format: str, suffix: str) -> None:
    write_photographs(Path("photos"), ["a.png"])
    kinds = ["green", "overlay", *(["alpha", "cutout"] if format != "jpeg" else [])]
    assert predict("photos", "--save", *kinds, "--format", format).status == 0
    assert results(Path("out")) == sorted(f"a_{kind}.{suffix}" for kind in kinds)
    assert predict("photos", "--save", *kinds, "--format", "png").status == 0
    for kind in kinds:
        found, exact = (pixels(Path(f"out/a_{kind}.{each}")).astype(int) for each in (suffix, "png"))
        if kind in ("alpha", "cutout"):
            assert np.array_equal(found if found.ndim == exact.ndim else found[..., 0], exact)
        else:
            assert np.abs(found - exact).mean() < 15


def test_a_format_that_cannot_hold_a_kind_is_refused(refused: Callable[..., str], write_photographs: Callable) -> None:
    write_photographs(Path(), ["a.png"])
    assert "--format jpeg" in refused(predict_script.main, "a.png", "--format", "jpeg")
    assert "--alpha-bits" in refused(predict_script.main, "a.png", "--format", "webp", "--alpha-bits", 16)
    assert "choose from alpha" in refused(predict_script.main, "a.png", "--save", "alfa")


@pytest.mark.usefixtures("ramp")
def test_sixteen_bits_in_sixteen_bits_out(predict: Callable, make_pair: Callable) -> None:
    rgb = make_pair(40, 50)[0].astype(np.uint16) * 257
    rgb[::2] += 3  # what eight bits do not hold
    write_image(Path("a.png"), np.minimum(rgb, 65535))
    assert predict("a.png", "--save", "alpha", "cutout", "white", "--alpha-bits", 16).status == 0
    assert predict("a.png", "--save", "white", "--format", "jpeg", "--alpha-bits", 16).status == 0
    alpha, cutout = (cv2.imread(f"out/a_{kind}.png", cv2.IMREAD_UNCHANGED) for kind in ("alpha", "cutout"))
    assert alpha.dtype == cutout.dtype == np.uint16
    assert np.array_equal(cutout[..., 3], alpha) and (alpha % 257).any()
    certain = alpha == 65535
    assert np.array_equal(cutout[certain, 2::-1], read_photo(Path("a.png")).deep[certain])
    assert cv2.imread("out/a_white.png", cv2.IMREAD_UNCHANGED).dtype == np.uint16
    assert cv2.imread("out/a_white.jpg", cv2.IMREAD_UNCHANGED).dtype == np.uint8


def test_colours_keep_their_profile_and_values_have_none(predict: Callable, make_pair: Callable) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(make_pair(40, 50)[0]).save("a.jpg", icc_profile=profile)
    for format, suffix in (("png", "png"), ("webp", "webp"), ("jpeg", "jpg")):
        kinds = ["green"] if format == "jpeg" else ["green", "cutout", "alpha"]
        assert predict("a.jpg", "--save", *kinds, "--format", format).status == 0
        for kind in kinds:
            with Image.open(f"out/a_{kind}.{suffix}") as image:
                assert image.info.get("icc_profile") == (None if kind == "alpha" else profile)


def test_a_turned_photograph_gives_what_the_upright_one_gives(predict: Callable, make_pair: Callable) -> None:
    upright = Image.fromarray(make_pair(40, 50)[0])
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    Path("photos").mkdir()
    upright.save("photos/1.png")
    for orientation, turn in undo.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        upright.transpose(turn).save(f"photos/{orientation}.png", exif=exif)
    assert predict("photos").status == 0
    for orientation in undo:
        for kind in ("alpha", "cutout"):
            turned = Path(f"out/{orientation}_{kind}.png").read_bytes()
            assert turned == Path(f"out/1_{kind}.png").read_bytes()


def test_strange_photographs(predict: Callable, make_pair: Callable, write_photographs: Callable) -> None:
    """Each with the right size, or named; none takes another one with it."""
    photos = Path("photos")
    write_photographs(photos, ["whole.png"])
    rgb = Image.fromarray(make_pair(40, 50)[0])
    for mode in ("1", "L", "LA", "P", "CMYK", "RGBA", "I;16"):
        suffix = "tif" if mode == "CMYK" else "png"
        (rgb.convert("L").convert("I;16") if mode == "I;16" else rgb.convert(mode)).save(
            photos / f"{mode[0]}{len(mode)}.{suffix}"
        )
    for name, size in (("thin", (1, 70)), ("flat", (70, 1)), ("one", (1, 1)), ("long", (3000, 20))):
        rgb.resize(size).save(photos / f"{name}.png")
    rgb.save(photos / "-dash é\n'.png")
    (photos / "empty.jpg").touch()
    (photos / "text.jpg").write_text("hello")
    rgb.save(photos / "cut.jpg")
    (photos / "cut.jpg").write_bytes((photos / "cut.jpg").read_bytes()[:-300])
    Image.new("1", (30000, 30000)).save(photos / "bomb.png")
    finished = predict("photos", "--save", "cutout", "--max-pixels", 10**6)
    assert finished.status == 1 and "Traceback" not in finished.err
    failures = [line for line in finished.err.splitlines() if line.startswith("failed: ")]
    assert len(failures) == 4 and all(
        any(name in line for line in failures) for name in ("empty", "text", "cut", "bomb")
    )
    good = {path for path in photos.iterdir() if path.stem not in ("empty", "text", "cut", "bomb")}
    assert "13 of 17" in finished.out and len(good) == 13
    for path in good:
        assert pixels(Path("out") / f"{path.stem}_cutout.png").shape[:2] == read_rgb(path).shape[:2]


# ------------------------------------------------------------------------------------------------- once more


def test_results_of_another_model_are_never_mixed_in(
    run: Callable, checkpoint: Path, write_photographs: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photographs(Path("photos"), ["a.png", "b.png"])
    common = ("--output", "out", "--save", "alpha")
    assert run(predict_script.main, "photos/a.png", *common, "--checkpoint", checkpoint).status == 0
    state = torch.load(checkpoint, weights_only=True)
    state["model"]["student.alpha_head.bias"] += 1
    torch.save(state, tmp_path / "best.pth")
    for other in (("--checkpoint", tmp_path / "best.pth"), ("--checkpoint", checkpoint, "--precision", "bf16")):
        finished = run(predict_script.main, "photos", *common, *other)
        assert finished.status == 2 and "--overwrite" in finished.err and "instead of" in finished.err
        assert results(Path("out")) == ["a_alpha.png"]
    other = ("--checkpoint", tmp_path / "best.pth")
    assert run(predict_script.main, "photos/a.png", *common, *other).status == 2, "though nothing is left to do"
    # With --overwrite nothing of the first may stay, however early it ends.
    finished = run(predict_script.main, "photos/b.png", *common, *other, "--overwrite")
    assert finished.status == 2 and "1 result made with checkpoint best.pth" in finished.err
    assert results(Path("out")) == ["a_alpha.png"]
    with monkeypatch.context() as patch:
        patch.setattr(predict_script, "predict_all", lambda *_: sys.exit(7))
        assert run(predict_script.main, "photos", *common, *other, "--overwrite").status == 7
    assert results(Path("out")) == []
    finished = run(predict_script.main, "photos", *common, *other)
    assert finished.status == 0 and results(Path("out")) == ["a_alpha.png", "b_alpha.png"]
    Path("out/a_alpha.png").unlink()
    Path("out/b_alpha.png").unlink()
    Path("out/mine.png").touch()
    assert run(predict_script.main, "photos", *common, "--checkpoint", checkpoint).status == 0, "of no results at all"


def test_folders_named_like_results_are_none(
    predict: Callable, run: Callable, checkpoint: Path, write_photographs: Callable
) -> None:
    """And of results without settings beside them nobody knows what made them."""
    write_photographs(Path("photos"), ["holiday_blur/a.png"])
    assert predict("photos", "--save", "alpha").status == 0
    other = ("photos", "--checkpoint", checkpoint, "--output", "out", "--save", "alpha", "--precision", "bf16")
    assert run(predict_script.main, *other).status == 2
    assert run(predict_script.main, *other, "--overwrite").status == 0
    Path("out/.settings.json").unlink()
    assert "nothing there says what model made them" in predict("photos", "--save", "alpha").out


def test_what_other_kinds_do_not_know_sets_no_bounds(
    predict: Callable, write_photographs: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photographs(Path("photos"), ["a.png"])
    write_photographs(Path("first"), ["sea.jpg"])
    write_photographs(Path("other"), ["lake.jpg", "sea.jpg"])
    assert predict("photos", "--save", "green").status == 0
    assert predict("photos", "--save", "alpha", "image:first/sea.jpg", "--alpha-bits", 16).status == 0
    assert predict("photos", "--save", "green", "white").status == 0
    assert predict("photos", "--save", "image:first/sea.jpg").status == 0
    for given, name in ((("alpha",), "alpha_bits 16 instead of 8"), (("image:other/sea.jpg",), "image-sea")):
        finished = predict("photos", "--save", *given)
        assert finished.status == 2 and name in finished.err, finished.err


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_ended_half_way_and_run_again(
    checkpoint: Path, write_photographs: Callable, tmp_path: Path, number: int
) -> None:
    write_photographs(tmp_path / "photos", [f"{index:02}.png" for index in range(60)])
    command = [
        sys.executable, str(ROOT / "predict.py"), "photos", "--checkpoint", str(checkpoint), "--output", "out",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and len(list((tmp_path / "out").glob("*_alpha.png"))) < 5:
        time.sleep(0.002)
    process.send_signal(number)
    assert process.wait(60) in {-number, 128 + number}, process.communicate()
    there = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
    assert 5 <= len(there) < 120
    for path in there:
        pixels(path)  # whole
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(path.stat().st_mtime_ns == before for path, before in there.items())
    assert results(tmp_path / "out") == [
        f"{index:02}_{kind}.png" for index in range(60) for kind in ("alpha", "cutout")
    ]


def test_a_full_disk_ends_it_at_once(
    predict: Callable, write_photographs: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photographs(Path("photos"), [f"{index}.png" for index in range(9)])
    written = []

    def full(path: Path, *_: Any, **__: Any) -> None:
        written.append(path)
        os_error = OSError(28, "No space left on device")
        raise CannotWriteError(f"{path}: cannot be written (No space left on device)") from os_error

    monkeypatch.setattr(renderings, "write_image", full)
    finished = predict("photos")
    assert finished.status == 2 and "No space left" in finished.err.splitlines()[-1]
    assert len(written) < 9


# ------------------------------------------------------------------------------------------------- memory


def test_where_memory_runs_out_less_is_refined_at_a_time(
    predict: Callable, write_photographs: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photographs(Path("photos"), ["a.png", "b.png", "c.png"])
    assert predict("photos", "--save", "alpha").status == 0
    expected = {path: path.read_bytes() for path in Path("out").glob("*.png")}
    original, tried = prediction.predict_alpha, []

    def short_of_memory(predictor: Any, rgb: np.ndarray) -> np.ndarray:
        tried.append((len(rgb), predictor.routing.batch_px))
        if len(rgb) == 41 and predictor.routing.batch_px > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if len(rgb) == 42:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")
        return original(predictor, rgb)

    monkeypatch.setattr(prediction, "predict_alpha", short_of_memory)
    finished = predict("photos", "--save", "alpha", "--overwrite")
    assert finished.status == 1
    assert "b.png: memory ran out" in finished.out and "c.png" in finished.err.splitlines()[-1]
    assert [batch for height, batch in tried if height == 41] == [65536, 8192, 1]
    for name in ("a", "b"):
        path = Path(f"out/{name}_alpha.png")
        assert path.read_bytes() == expected[path]


def test_without_patches_memory_is_tried_once(
    run: Callable, tmp_path: Path, checkpoint_state: dict, write_photographs: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photographs(Path("photos"), ["a.png"])
    weights = {name: each for name, each in checkpoint_state["model"].items() if not name.startswith("refiner.")}
    network = {**checkpoint_state["network"], "refiner": False}
    save_checkpoint(tmp_path / "coarse.pth", {**checkpoint_state, "network": network, "model": weights})
    calls = []

    def short_of_memory(*_: Any) -> None:
        calls.append(None)
        raise MemoryError

    monkeypatch.setattr(prediction, "predict_alpha", short_of_memory)
    finished = run(predict_script.main, "photos", "--checkpoint", tmp_path / "coarse.pth", "--output", "out")
    assert finished.status == 1 and "a.png" in finished.err and len(calls) == 1


def test_other_errors_are_no_lack_of_memory(
    predict: Callable, write_photographs: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photographs(Path("photos"), ["a.png"])

    def faulty(*_: Any) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(prediction, "predict_alpha", faulty)
    with pytest.raises(RuntimeError, match="shapes differ"):
        predict("photos")


def test_memory_stays_flat_over_many_photographs(checkpoint: Path, write_photographs: Callable, tmp_path: Path) -> None:
    """What a process has, every 50 photographs, in a process of its own."""
    write_photographs(tmp_path / "photos", ["a.jpg"])
    for index in range(499):
        (tmp_path / "photos" / f"{index}.jpg").symlink_to("a.jpg")
    program = f"""
import sys, threading, os
sys.path.insert(0, {str(ROOT)!r})
import predict
seen, count = [], 0
find_alpha = predict.Work.find_alpha
def counted(*arguments):
    global count
    count += 1
    if count % 50 == 0:
        seen.append(int(open("/proc/self/statm").read().split()[1]))
    return find_alpha(*arguments)
predict.Work.find_alpha = counted
sys.argv = ["predict.py", "photos", "--checkpoint", {str(checkpoint)!r}, "--output", "out"]
assert predict.main() == 0
print("pages", *seen)
"""
    if not Path("/proc/self/statm").exists():
        pytest.skip("the system does not tell how much memory a process has")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen = [int(each) for each in done.stdout.splitlines()[-1].split()[1:]]
    assert len(seen) == 10 and max(seen[1:]) < 1.05 * seen[1], seen


# ------------------------------------------------------------------------------------------------- what is told


def test_the_report_splits_the_time(predict: Callable, write_photographs: Callable) -> None:
    write_photographs(Path("photos"), ["a.png", "b.png"])
    finished = predict("photos")
    for words in ("2 of 2", "images/s", "reading", "network", "colours", "writing", "GB"):
        assert words in finished.out


def test_what_a_checkpoint_says_of_itself(run: Callable, checkpoint: Path) -> None:
    finished = run(predict_script.main, "--info", checkpoint)
    assert finished.status == 0 and finished.created == [] and "nano" in finished.out
    assert run(predict_script.main, "--info", "nowhere.pth").status == 2


# ------------------------------------------------------------------------------------------------- videos


@pytest.fixture
def film(make_pair: Callable) -> Path:
    """Nine frames of 50x40, each brighter than the one before."""
    path = Path("film.avi")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (50, 40))
    rgb = make_pair(40, 50)[0]
    for index in range(9):
        writer.write(cv2.cvtColor(cv2.convertScaleAbs(rgb, alpha=0.4 + 0.06 * index), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def frames(path: Path) -> list[np.ndarray]:
    capture, found = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        found.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    return found


@pytest.mark.usefixtures("ramp")
def test_a_video_frame_by_frame(predict: Callable, film: Path) -> None:
    finished = predict(film, "--save", "alpha", "cutout", "green", "--alpha-bits", 16)
    assert finished.status == 0, finished.err
    assert "1 of 1" in finished.out
    cutouts = [f"film_cutout/{index:06}.png" for index in range(1, 10)]
    assert "1 of 1 done in" in finished.out and "images/s" not in finished.out, "a film is not an image"
    assert results(Path("out")) == sorted(["film_alpha.mp4", "film_green.mp4", *cutouts])
    alphas, greens, originals = frames(Path("out/film_alpha.mp4")), frames(Path("out/film_green.mp4")), frames(film)
    assert len(alphas) == len(greens) == 9
    for index, original in enumerate(originals):
        cutout = pixels(Path("out") / cutouts[index])
        assert np.abs(alphas[index][..., 0].astype(int) - cutout[..., 3]).mean() < 8
        assert np.abs(cutout[:, 40:, :3].astype(int) - original[:, 40:]).max() <= 1  # the ramp is 1 there
        assert np.abs(greens[index][:, 40:].astype(int) - original[:, 40:]).mean() < 16
        assert greens[index][:, :8, 1].mean() > greens[index][:, :8, [0, 2]].mean() + 60
    again = predict(film, "--save", "alpha", "cutout", "green", "--alpha-bits", 16)
    assert again.status == 0 and "1 of 1 are already" in again.out


def test_alphas_of_a_video_are_held_together(predict: Callable, film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network flickers from frame to frame, the result does so less."""
    calls = []

    def flickering(_: Any, rgb: np.ndarray) -> np.ndarray:
        calls.append(None)
        return np.full(rgb.shape[:2], 0.45 + 0.1 * (len(calls) % 2), np.float32)

    monkeypatch.setattr(prediction, "predict_alpha", flickering)
    spread = {}
    for strength in (0, 0.8):
        assert predict(film, "--save", "cutout", "--temporal", strength, "--overwrite").status == 0
        means = [pixels(path)[..., 3].mean() for path in sorted(Path("out/film_cutout").iterdir())]
        spread[strength] = np.std(np.diff(means[2:]))
    assert spread[0] > 20 and spread[0.8] < 0.5 * spread[0]


def test_a_video_that_cannot_be_read_is_named_and_leaves_nothing(predict: Callable, film: Path) -> None:
    Path("cut.avi").write_bytes(film.read_bytes()[:-500])
    Path("text.mp4").write_text("hello")
    finished = predict("cut.avi", film, "text.mp4", "--save", "alpha", "cutout")
    failures = [line for line in finished.err.splitlines() if line.startswith("failed: ")]
    assert finished.status == 1 and len(failures) == 2 and "cut.avi" in failures[0] and "text.mp4" in failures[1]
    assert {path.name for path in Path("out").iterdir()} == {"film_alpha.mp4", "film_cutout", ".settings.json"}


def test_memory_that_runs_out_in_a_video_leaves_nothing(
    predict: Callable, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = prediction.predict_alpha, []

    def short_of_memory(predictor: Any, rgb: np.ndarray) -> np.ndarray:
        calls.append(None)
        if len(calls) > 4:
            raise MemoryError
        return original(predictor, rgb)

    monkeypatch.setattr(prediction, "predict_alpha", short_of_memory)
    finished = predict(film)
    assert finished.status == 1 and "film.avi: too large for the memory" in finished.err.splitlines()[-1]
    assert {path.name for path in Path("out").iterdir()} == {".settings.json"}
