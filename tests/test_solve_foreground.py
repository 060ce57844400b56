"""tools/solve_foreground.py: every image of a split solved once, whatever is interrupted, damaged or changed."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tools import solve_foreground
from utils.encoding import write_image
from utils.foreground import Colours, estimate_foreground, recomposition_error
from utils.images import read_alpha, read_rgb

SIZES = {"one": (40, 50), "zwei drei": (33, 47), "été/b.c": (24, 64), "été/tief/日本": (50, 30)}


@pytest.fixture
def data(tmp_path: Path, write_pairs: Callable) -> Path:
    write_pairs(tmp_path / "set" / "train", SIZES)
    return tmp_path / "set"


@pytest.fixture
def solve(run: Callable, data: Path, tmp_path: Path) -> Callable:
    """`solve(*flags)` solves the set by blur-fusion to tmp_path/F, in this process."""

    def solve(*flags: object) -> object:
        first = ("--data-root", data, "--output", tmp_path / "F", "--method", "blur-fusion", "--num-workers", 1)
        return run(solve_foreground.main, *first, *flags)

    return solve


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}


def age(folder: Path, by_sec: float) -> None:
    for path in folder.rglob("*.png"):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - by_sec))


def test_every_image_is_solved_and_measured(solve: Callable, data: Path, tmp_path: Path) -> None:
    done = solve("--backgrounds-output", tmp_path / "B")
    assert done.status == 0, done.err
    errors = {}
    for name in SIZES:
        rgb, alpha = (read_rgb(data / f"train/im/{name}.png"), read_alpha(data / f"train/gt/{name}.png"))
        colours = estimate_foreground(rgb, alpha, method="blur-fusion")
        for folder, colour in zip("FB", colours, strict=True):
            assert np.array_equal(read_rgb(tmp_path / folder / f"{name}.png"), colour)
        errors[name] = recomposition_error(rgb, alpha, colours)
    assert set(contents(tmp_path / "F")) == set(contents(tmp_path / "B")) == {f"{name}.png" for name in SIZES}
    worst = max(errors, key=errors.get)
    assert "4 images solved, 0 kept, 0 failed" in done.out
    assert f"{np.mean(list(errors.values())):.2f} of 255 levels (mean of 4 images; worst {worst}" in done.out


def test_processes_change_nothing(solve: Callable, tmp_path: Path) -> None:
    one = solve("--output", tmp_path / "one")
    two = solve("--output", tmp_path / "two", "--num-workers", 2)
    assert one.status == two.status == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert one.out.replace("/one", "/two") == two.out


def test_blur_fusion_is_the_default(run: Callable, data: Path, tmp_path: Path) -> None:
    assert run(solve_foreground.main, "--data-root", data, "--output", tmp_path / "M", "--num-workers", 1).status == 0
    rgb, alpha = read_rgb(data / "train/im/one.png"), read_alpha(data / "train/gt/one.png")
    solved = estimate_foreground(rgb, alpha, method="blur-fusion").foreground
    assert np.array_equal(read_rgb(tmp_path / "M/one.png"), solved)


def test_what_is_done_is_kept_and_the_rest_continues(solve: Callable, tmp_path: Path) -> None:
    solve("--backgrounds-output", tmp_path / "B")
    whole = contents(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "F").rglob("*.png")}
    (tmp_path / "B" / "one.png").unlink()  # of a pair of files both count
    cut = tmp_path / "F" / "été" / "b.c.png"
    cut.write_bytes(cut.read_bytes()[:-20])
    (tmp_path / "F" / ".99999999-1.tmp").write_bytes(b"half")  # of a process that was killed, just now
    again = solve("--backgrounds-output", tmp_path / "B")
    (tmp_path / "F" / ".99999999-1.tmp").unlink(missing_ok=True)
    assert again.status == 0 and "2 images solved, 2 kept, 0 failed" in again.out
    assert contents(tmp_path) == whole
    changed = {path.name for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed == {"one.png", "b.c.png"}


def test_nothing_left_to_do(solve: Callable) -> None:
    solve()
    again = solve()
    assert again.status == 0 and "0 images solved, 4 kept, 0 failed" in again.out
    assert "levels" not in again.out


def test_overwrite_solves_all_again(solve: Callable, tmp_path: Path) -> None:
    solve()
    good = contents(tmp_path / "F")
    write_image(tmp_path / "F" / "one.png", np.zeros((40, 50, 3), dtype=np.uint8))
    assert "0 images solved" in solve().out
    assert "4 images solved, 0 kept" in solve("--overwrite").out
    assert contents(tmp_path / "F") == good


def test_methods_are_never_mixed(solve: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def black(rgb: np.ndarray, alpha: np.ndarray, *, method: str) -> Colours:
        return Colours(np.zeros_like(rgb), np.zeros_like(rgb))

    solve("--backgrounds-output", tmp_path / "B")
    (tmp_path / "F" / "one.png").unlink()  # interrupted
    before = contents(tmp_path)
    monkeypatch.setattr(solve_foreground, "estimate_foreground", black)
    monkeypatch.setattr(solve_foreground, "require_method", lambda method: None)
    again = solve("--method", "multilevel")
    assert again.status == 2 and "method blur-fusion instead of multilevel" in again.err and "--overwrite" in again.err
    # The folder of the backgrounds is refused before the other one is touched.
    write_image(tmp_path / "B" / "photo.png", np.zeros((9, 9, 3), np.uint8))
    again = solve("--method", "multilevel", "--backgrounds-output", tmp_path / "B", "--overwrite")
    assert again.status == 2 and "--backgrounds-output" in again.err and "(photo.png)" in again.err
    (tmp_path / "B" / "photo.png").unlink()
    assert contents(tmp_path) == before
    again = solve("--method", "multilevel", "--overwrite")
    assert "4 images solved, 0 kept" in again.out
    assert not any(read_rgb(path).any() for path in (tmp_path / "F").rglob("*.png"))


def test_foregrounds_are_not_continued_as_backgrounds(solve: Callable, tmp_path: Path) -> None:
    solve()
    again = solve("--output", tmp_path / "G", "--backgrounds-output", tmp_path / "F")
    assert again.status == 2 and "colours foreground instead of background" in again.err
    assert not (tmp_path / "G").exists()


def test_colours_of_others_are_not_taken_over(solve: Callable, tmp_path: Path) -> None:
    write_image(tmp_path / "F" / "one.png", np.zeros((40, 50, 3), dtype=np.uint8))
    again = solve()
    assert again.status == 2 and "1 images that this program has not made (one.png)" in again.err
    assert not read_rgb(tmp_path / "F" / "one.png").any()
    assert solve("--overwrite").status == 0 and read_rgb(tmp_path / "F" / "one.png").any()


@pytest.mark.parametrize("folder", ["im", "gt"])
def test_a_changed_input_is_solved_again(solve: Callable, data: Path, tmp_path: Path, folder: str) -> None:
    age(data, 60)
    solve()
    age(tmp_path / "F", 30)
    os.utime(data / "train" / folder / "zwei drei.png")
    assert "1 images solved, 3 kept" in solve().out


def test_a_result_of_another_size_is_solved_again(solve: Callable, tmp_path: Path) -> None:
    solve()
    write_image(tmp_path / "F" / "one.png", np.zeros((9, 9, 3), dtype=np.uint8))
    assert "1 images solved, 3 kept" in solve().out
    assert read_rgb(tmp_path / "F" / "one.png").shape == (40, 50, 3)


def test_damaged_files_are_named_and_the_rest_goes_on(solve: Callable, data: Path, tmp_path: Path) -> None:
    broken = data / "train/im/one.png"
    broken.write_bytes(broken.read_bytes()[:-30])
    write_image(data / "train/gt/été/b.c.png", np.zeros((5, 5), dtype=np.uint8))
    done = solve()
    assert done.status == 1 and "2 images solved, 0 kept, 2 failed" in done.out
    failed = [line for line in done.err.splitlines() if line.startswith("failed: ")]
    assert [line.split(": ")[1] for line in failed] == ["one", "été/b.c"]
    assert "damaged" in failed[0] and "is 64x24, but its alpha" in failed[1]
    assert set(contents(tmp_path / "F")) == {"zwei drei.png", "été/tief/日本.png"}
    assert solve().status == 1  # it stays failed


def test_names_of_failed_images_stay_on_their_line(solve: Callable, data: Path) -> None:
    for folder in ("im", "gt"):
        (data / "train" / folder / "one.png").rename(data / "train" / folder / "on\ne\x1b[2J.png")
    (data / "train/im/on\ne\x1b[2J.png").write_bytes(b"no image")
    done = solve()
    assert done.status == 1 and "\x1b" not in done.err
    assert [line for line in done.err.splitlines() if line.startswith("failed: on\\ne\\x1b[2J: ")]


def test_binary_alphas_have_no_recomposition_error(solve: Callable, data: Path) -> None:
    for path in (data / "train" / "gt").rglob("*.png"):
        write_image(path, (read_alpha(path) > 0.5).astype(np.uint8) * 255)
    done = solve()
    assert done.status == 0 and "4 images solved" in done.out and "levels" not in done.out


@pytest.mark.parametrize(
    ("flag", "folder"),
    [("--output", "set/train/im"), ("--output", "set/train/gt/deeper"), ("--backgrounds-output", "set/train/im/été")],
)
def test_results_never_lie_among_the_inputs(
    refused: Callable, data: Path, tmp_path: Path, flag: str, folder: str
) -> None:
    given = {"--output": tmp_path / "F", flag: tmp_path / folder}
    flags = [part for pair in given.items() for part in pair]
    line = refused(solve_foreground.main, "--data-root", data, "--method", "blur-fusion", *flags)
    assert flag in line and "lies in it" in line


def test_names_that_lead_into_the_inputs_are_refused(refused: Callable, write_pairs: Callable, tmp_path: Path) -> None:
    """The image im/gt/x of a set that lies in the output folder would be written over the alpha gt/x."""
    write_pairs(tmp_path / "set" / "train", {"gt/x": (8, 8), "x": (8, 8)})
    root = tmp_path / "set"
    line = refused(solve_foreground.main, "--data-root", root, "--output", root / "train", "--method", "blur-fusion")
    assert "--output" in line and "train holds" in line


def test_a_link_to_the_inputs_is_seen_through(refused: Callable, data: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(data / "train" / "im")
    flags = ("--data-root", data, "--output", tmp_path / "link", "--method", "blur-fusion")
    assert "lies in it" in refused(solve_foreground.main, *flags)


@pytest.mark.parametrize("folder", ["out/F", "out/F/B", "out"])
def test_foregrounds_and_backgrounds_are_kept_apart(refused: Callable, data: Path, tmp_path: Path, folder: str) -> None:
    flags = ("--output", tmp_path / "out/F", "--backgrounds-output", tmp_path / folder)
    line = refused(solve_foreground.main, "--data-root", data, *flags, "--method", "blur-fusion")
    assert "--backgrounds-output" in line and str(tmp_path / "out/F") in line


def test_wrong_use_is_refused_before_any_work(
    refused: Callable, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = ("--output", tmp_path / "F")
    assert "did you mean Custom" in refused(solve_foreground.main, "--data-root", data, "--dataset", "costum", *output)
    assert "no Custom val images" in refused(solve_foreground.main, "--data-root", data, "--split", "val", *output)
    write_image(data / "train/im/one.png", np.zeros((40, 50, 3), dtype=np.uint8))
    (data / "train/im/one.jpg").write_bytes(b"x")
    assert "one.jpg = one.png" in refused(solve_foreground.main, "--data-root", data, *output)
    (data / "train/im/one.jpg").unlink()
    monkeypatch.setitem(sys.modules, "pymatting", None)
    said = refused(solve_foreground.main, "--data-root", data, *output, "--method", "multilevel")
    assert re.search("pip install pymatting.*blur-fusion", said)


def test_a_full_disk_ends_the_run(solve: Callable, tmp_path: Path) -> None:
    (tmp_path / "F").mkdir()
    (tmp_path / "F" / "été").write_bytes(b"")  # a file where a folder is needed
    done = solve()
    assert done.status == 2 and "cannot be written" in done.err and "failed:" not in done.err
