"""eval.py, predict.py, export_inference.py as a user meets them: wrong use, results, exit status."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import eval as eval_script
import export_inference
import predict as predict_script
from utils.images import read_alpha, read_rgb, write_image

ROOT = Path(__file__).resolve().parents[1]


def write_photographs(folder: Path, make_pair: Callable, names: list[str]) -> None:
    for index, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_pair(40 + index, 50)[0]).save(path)


def results(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# ------------------------------------------------------------------------------------------------- wrong use


def run_process(script: str, *arguments: Any, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_wrong_use_as_the_shell_sees_it(tmp_path: Path) -> None:
    done = run_process("predict.py", "photos", "--chekpoint", "a.pth", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines() == [done.stderr.strip()] and "--checkpoint" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_default_input_is_missed_in_one_line(refused: Callable[..., str]) -> None:
    assert "test_data" in refused(predict_script.main)


def test_without_a_checkpoint_the_remedy_is_named(
    refused: Callable[..., str], make_pair: Callable, tmp_path: Path
) -> None:
    write_photographs(tmp_path / "photos", make_pair, ["a.png"])
    assert "--checkpoint" in refused(predict_script.main, tmp_path / "photos")
    assert "--checkpoint" in refused(export_inference.main)


@pytest.mark.parametrize("kind", ["missing", "text", "empty", "folder"])
def test_an_unreadable_checkpoint(
    refused: Callable[..., str], make_pair: Callable, write_pairs: Callable, tmp_path: Path, kind: str
) -> None:
    write_photographs(tmp_path / "photos", make_pair, ["a.png"])
    write_pairs(tmp_path / "data" / "test", {"a": (20, 30)})
    path = tmp_path / "model.pth"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(b"hello there\n" if kind == "text" else b"")
    data = ("--data-root", tmp_path / "data", "--benchmarks", "Custom")
    assert str(path) in refused(predict_script.main, tmp_path / "photos", "--checkpoint", path)
    assert str(path) in refused(eval_script.main, *data, "--checkpoint", path)
    assert str(path) in refused(export_inference.main, "--checkpoint", path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_one(
    refused: Callable[..., str], make_pair: Callable, write_pairs: Callable, checkpoint: Path, tmp_path: Path
) -> None:
    write_photographs(tmp_path / "photos", make_pair, ["a.png"])
    write_pairs(tmp_path / "data" / "test", {"a": (20, 30)})
    common = ("--checkpoint", checkpoint, "--device", "cuda")
    assert "--device cuda" in refused(predict_script.main, tmp_path / "photos", *common)
    data = ("--data-root", tmp_path / "data", "--benchmarks", "Custom")
    assert "--device cuda" in refused(eval_script.main, *data, *common)


def test_eval_of_wrong_data(
    refused: Callable[..., str], write_pairs: Callable, checkpoint: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    common = ("--checkpoint", checkpoint, "--data-root", data, "--benchmarks")
    assert str(data) in refused(eval_script.main, *common, "Custom")
    write_pairs(data / "test", {"a": (20, 30), "b": (20, 30)})
    assert "Custom" in refused(eval_script.main, *common, "Costum")
    (data / "test" / "gt" / "b.png").unlink()
    line = refused(eval_script.main, *common, "Custom")
    assert "1 without alpha" in line and "b" in line
    Image.new("L", (31, 20)).save(data / "test" / "gt" / "b.png")
    line = refused(eval_script.main, *common, "Custom")
    assert "30x20" in line and "31x20" in line


def test_an_unreadable_picture_stops_eval(
    run: Callable, write_pairs: Callable, checkpoint: Path, tmp_path: Path
) -> None:
    """A mean over the rest would not be comparable."""
    write_pairs(tmp_path / "data" / "test", {"a": (20, 30), "b": (80, 90)})
    file = tmp_path / "data" / "test" / "im" / "b.png"
    file.write_bytes(file.read_bytes()[:-200])
    finished = run(
        eval_script.main, "--checkpoint", checkpoint, "--data-root", tmp_path / "data", "--benchmarks", "Custom",
        "--num-workers", 0,
    )  # fmt: skip
    assert finished.status == 2 and finished.created == []
    assert str(file) in finished.err.splitlines()[-1] and "Traceback" not in finished.err


def test_results_that_cannot_be_written_are_refused_before_any_work(
    refused: Callable[..., str], make_pair: Callable, write_pairs: Callable, checkpoint: Path, tmp_path: Path
) -> None:
    write_photographs(tmp_path / "photos", make_pair, ["a.png"])
    write_pairs(tmp_path / "data" / "test", {"a": (20, 30)})
    file = tmp_path / "file"
    file.touch()
    assert str(file) in refused(predict_script.main, tmp_path / "photos", "--checkpoint", checkpoint, "--output", file)
    data = ("--data-root", tmp_path / "data", "--benchmarks", "Custom", "--num-workers", 0)
    assert str(file) in refused(eval_script.main, *data, "--checkpoint", checkpoint, "--out", file)
    assert str(file) in refused(export_inference.main, "--checkpoint", checkpoint, "--output", file / "m.pth")


# ------------------------------------------------------------------------------------------------- predict


@pytest.fixture
def predict(run: Callable, checkpoint: Path) -> Callable:
    """`predict(*arguments)` runs predict.py with the nano checkpoint into the folder out."""

    def predict(*arguments: Any) -> Any:
        return run(predict_script.main, *arguments, "--checkpoint", checkpoint, "--output", "out")

    return predict


def test_folders_are_mirrored_and_names_kept_apart(predict: Callable, make_pair: Callable) -> None:
    write_photographs(Path("photos"), make_pair, ["a.jpg", "a.png", "b.png", "x/a.jpg", "x/y/c d é.png", "e.f.png"])
    Path("photos/.DS_Store").write_bytes(b"x")
    Path("photos/notes.txt").write_text("x")
    finished = predict("photos")
    assert finished.status == 0, finished.err
    stems = ["a_jpg", "a_png", "b", "e.f", "x/a", "x/y/c d é"]
    assert results(Path("out")) == sorted(f"{stem}_{kind}.png" for stem in stems for kind in ("alpha", "cutout"))
    for source, stem in (("a.jpg", "a_jpg"), ("a.png", "a_png"), ("x/y/c d é.png", "x/y/c d é")):
        assert read_alpha(Path("out") / f"{stem}_alpha.png").shape == read_rgb(Path("photos") / source).shape[:2]


def test_a_cutout_is_the_photograph_under_the_alpha(predict: Callable, make_pair: Callable) -> None:
    write_photographs(Path("photos"), make_pair, ["a.png"])
    assert predict("photos/a.png").status == 0
    with Image.open("out/a_alpha.png") as alpha, Image.open("out/a_cutout.png") as cutout:
        assert (alpha.mode, cutout.mode) == ("L", "RGBA")
        level, pixels = np.array(alpha), np.array(cutout)
    rgb = read_rgb(Path("photos/a.png"))
    assert np.array_equal(pixels[..., 3], level)
    assert np.array_equal(pixels[level > 0, :3], rgb[level > 0])


def test_rendering_by_hand() -> None:
    rgb = np.full((1, 3, 3), 90, np.uint8)
    alpha = np.array([[0.0, 0.001, 1.0]], np.float32)
    assert predict_script.render("alpha", rgb, alpha).tolist() == [[0, 0, 255]]
    assert predict_script.render("cutout", rgb, alpha).tolist() == [[[0, 0, 0, 0], [0, 0, 0, 0], [90, 90, 90, 255]]]


def test_only_what_is_asked_for_is_saved(predict: Callable, make_pair: Callable) -> None:
    write_photographs(Path("photos"), make_pair, ["a.png"])
    assert predict("photos", "--save", "cutout").status == 0
    assert results(Path("out")) == ["a_cutout.png"]


def test_results_are_kept_unless_overwrite_is_given(predict: Callable, make_pair: Callable) -> None:
    write_photographs(Path("photos"), make_pair, ["a.png", "b.png"])
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


def test_another_kind_does_not_overwrite_the_first(predict: Callable, make_pair: Callable) -> None:
    write_photographs(Path("photos"), make_pair, ["a.png"])
    predict("photos", "--save", "alpha")
    retouched = np.full((40, 50), 77, np.uint8)
    write_image(Path("out/a_alpha.png"), retouched)
    assert predict("photos", "--save", "alpha", "cutout").status == 0
    assert results(Path("out")) == ["a_alpha.png", "a_cutout.png"]
    assert (read_alpha(Path("out/a_alpha.png")) * 255).round().astype(np.uint8).tolist() == retouched.tolist()


def test_a_corrupt_picture_is_named_and_the_rest_is_done(predict: Callable, make_pair: Callable) -> None:
    write_photographs(Path("photos"), make_pair, ["a.png", "b.jpg", "c.jpg", "e.png"])
    broken = Path("photos/b.jpg")
    broken.write_bytes(broken.read_bytes()[:-100])
    Path("photos/d.png").write_text("not a picture")
    finished = predict("photos", "--save", "alpha")
    assert finished.status == 1
    failures = [line for line in finished.err.splitlines() if line.startswith("failed")]
    assert len(failures) == 2 and "b.jpg" in failures[0] and "d.png" in failures[1]
    assert results(Path("out")) == ["a_alpha.png", "c_alpha.png", "e_alpha.png"]
    assert "Traceback" not in finished.err and "3 of 5" in finished.out


def test_the_pixel_limit_is_per_picture(predict: Callable, make_pair: Callable) -> None:
    write_photographs(Path("photos"), make_pair, ["a.png", "b.png"])  # 40x50 and 41x50
    finished = predict("photos", "--save", "alpha", "--max-pixels", 2000)
    assert finished.status == 1 and "--max-pixels" in finished.err
    assert results(Path("out")) == ["a_alpha.png"]


def test_the_output_inside_the_input_is_not_read_again(predict: Callable, make_pair: Callable) -> None:
    write_photographs(Path(), make_pair, ["a.png", "x/b.png"])
    for extra in ([], ["--overwrite"]):
        assert predict(".", *extra).status == 0
        assert results(Path("out")) == [f"{s}_{k}.png" for s in ("a", "x/b") for k in ("alpha", "cutout")]


def test_the_input_folder_as_output_is_refused(
    refused: Callable[..., str], make_pair: Callable, tmp_path: Path, checkpoint: Path
) -> None:
    write_photographs(tmp_path / "out", make_pair, ["a.png", "x/b.png"])
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for given in (tmp_path / "out", tmp_path / "out" / "x" / "..", tmp_path / "link"):
        line = refused(predict_script.main, given, "--checkpoint", checkpoint, "--output", tmp_path / "out")
        assert "--output" in line and "input" in line
    # A folder within the output: its photographs are not results, and "no images" would be untrue.
    line = refused(
        predict_script.main, tmp_path / "out" / "x", "--checkpoint", checkpoint, "--output", tmp_path / "out"
    )
    assert "--output" in line


def test_a_photograph_is_never_overwritten(predict: Callable, make_pair: Callable) -> None:
    """One file given, the output beside it."""
    write_photographs(Path("out"), make_pair, ["a.png"])
    before = Path("out/a.png").read_bytes()
    assert predict("out/a.png", "--overwrite").status == 0
    assert Path("out/a.png").read_bytes() == before
    assert results(Path("out")) == ["a.png", "a_alpha.png", "a_cutout.png"]


def test_inputs_of_one_name_from_two_folders_are_refused_or_kept_apart(
    run: Callable, make_pair: Callable, checkpoint: Path
) -> None:
    write_photographs(Path(), make_pair, ["p/a.png", "q/a.png"])
    finished = run(predict_script.main, "p", "q", "--checkpoint", checkpoint, "--output", "out", "--save", "alpha")
    if finished.status == 0:
        assert len(results(Path("out"))) == 2
    else:
        assert finished.status == 2 and "p/a.png" in finished.err and "q/a.png" in finished.err
        assert not Path("out").exists()


def test_a_long_name_is_no_crash(predict: Callable, make_pair: Callable) -> None:
    name = "n" * 230
    write_photographs(Path("photos"), make_pair, [f"{name}.png", "a.png"])
    finished = predict("photos", "--save", "alpha")
    assert "a_alpha.png" in results(Path("out")) and "Traceback" not in finished.err
    assert finished.status == 0 and f"{name}_alpha.png" in results(Path("out"))


def test_empty_and_missing_inputs(refused: Callable[..., str], checkpoint: Path, tmp_path: Path) -> None:
    empty = tmp_path / "photos"
    empty.mkdir()
    assert str(empty) in refused(predict_script.main, empty, "--checkpoint", checkpoint)
    assert "nowhere.jpg" in refused(predict_script.main, tmp_path / "nowhere.jpg", "--checkpoint", checkpoint)


# ------------------------------------------------------------------------------------------------- predict, eval


def test_predicted_results_can_be_scored(
    run: Callable, write_pairs: Callable, checkpoint: Path, tmp_path: Path
) -> None:
    """What predict.py wrote, against the truths of the same photographs."""
    write_pairs(tmp_path / "set", {"a": (40, 50), "b": (30, 20)})
    run(predict_script.main, tmp_path / "set" / "im", "--checkpoint", checkpoint, "--output", "out")
    finished = run(eval_script.main, "--predictions", "out", "--ground-truth", tmp_path / "set" / "gt", "--out", "s")
    assert finished.status == 0, finished.err
    assert json.loads(Path("s/metrics.json").read_text())["out"]["images"] == 2


# ------------------------------------------------------------------------------------------------- export


def test_an_export_says_what_it_did(run: Callable, checkpoint: Path, make_pair: Callable) -> None:
    write_photographs(Path(), make_pair, ["a.png"])
    finished = run(
        export_inference.main, "--checkpoint", checkpoint, "--output", "new/m.safetensors", "--images", "a.png"
    )
    assert finished.status == 0, finished.err
    assert "MB" in finished.out and "difference" in finished.out and "1 photograph" in finished.out
    assert results(Path("new")) == ["m.safetensors"]


def test_wrong_pictures_stop_an_export(refused: Callable[..., str], checkpoint: Path) -> None:
    assert "nowhere.png" in refused(export_inference.main, "--checkpoint", checkpoint, "--images", "nowhere.png")


def test_an_export_does_not_replace_its_source(
    run: Callable, tmp_path: Path, checkpoint: Path, make_pair: Callable
) -> None:
    """The source holds what a resume needs; the export does not."""
    write_photographs(Path(), make_pair, ["a.png"])
    source = tmp_path / "best.pth"
    source.write_bytes(checkpoint.read_bytes())
    finished = run(export_inference.main, "--checkpoint", source, "--output", source, "--images", "a.png")
    assert finished.status == 2 and "--output" in finished.err
    assert source.read_bytes() == checkpoint.read_bytes()


def test_an_export_that_differs_is_removed(
    run: Callable, checkpoint: Path, make_pair: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photographs(Path(), make_pair, ["a.png"])
    monkeypatch.setitem(export_inference.LARGEST_DIFFERENCE, "float16", 1e-9)
    finished = run(export_inference.main, "--checkpoint", checkpoint, "--output", "m.pth", "--images", "a.png")
    assert finished.status == 2 and "m.pth" in finished.err
    assert not Path("m.pth").exists()


def test_an_input_is_never_the_place_of_a_result(
    refused: Callable[..., str], make_pair: Callable, tmp_path: Path, checkpoint: Path
) -> None:
    write_photographs(tmp_path, make_pair, ["a.png", "a_alpha.png"])
    before = (tmp_path / "a_alpha.png").read_bytes()
    given = (tmp_path / "a.png", tmp_path / "a_alpha.png", "--checkpoint", checkpoint, "--output", tmp_path)
    assert "one of the inputs" in refused(predict_script.main, *given, "--overwrite")
    assert (tmp_path / "a_alpha.png").read_bytes() == before


def test_an_export_replaces_exports_only(
    refused: Callable[..., str], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign, last = tmp_path / "notes.pth", tmp_path / "last.pth"
    foreign.write_text("mine")
    torch.save({**torch.load(checkpoint, weights_only=True), "optimizer": {}}, last)
    for path in (foreign, last):
        before = path.read_bytes()
        line = refused(export_inference.main, "--checkpoint", checkpoint, "--output", path)
        assert "not an export" in line and path.read_bytes() == before


def test_a_loop_of_links_and_an_endless_name_do_not_stop_the_others(
    predict: Callable, make_pair: Callable, tmp_path: Path
) -> None:
    write_photographs(Path("photos"), make_pair, ["a.png", f"{'n' * 246}.png"])
    Path("photos/loop.png").symlink_to("loop.png")
    outcome = predict("photos")
    assert outcome.status == 1
    assert results(Path("out")) == ["a_alpha.png", "a_cutout.png"]
