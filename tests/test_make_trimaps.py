"""tools.make_trimaps: one trimap an alpha, a function of seed and name, and wrong input."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tools import make_trimaps
from utils.encoding import write_image
from utils.images import read_alpha
from utils.pairs import find_pairs
from utils.seeds import seeded_rng
from utils.trimaps import random_trimap, read_trimap, trimap_from_alpha

NAMES = ("a", "été 1", "deep/er/c.d", "日本")
HERE = ("--num-workers", 1)  # in this process: quicker for small pictures


@pytest.fixture
def alphas(tmp_path: Path, make_pair: Callable) -> Path:
    for index, name in enumerate(NAMES):
        write_image(tmp_path / "set" / "gt" / f"{name}.png", make_pair(60 + index, 80)[1])
    return tmp_path / "set" / "gt"


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.png")}


def age(folder: Path, by_sec: float) -> None:
    for path in folder.rglob("*.png"):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - by_sec))


def test_every_alpha_gets_the_published_trimap_under_its_own_path(run: Callable, alphas: Path, make_pair) -> None:
    output = alphas.parent / "trimap"
    finished = run(make_trimaps.main, "--alphas", alphas, "--output", output, *HERE)
    assert finished.status == 0 and f"4 trimaps made in {output}" in finished.out
    assert set(contents(output)) == {f"{name}.png" for name in NAMES}
    for name in NAMES:
        alpha = read_alpha(alphas / f"{name}.png")
        expected = trimap_from_alpha(alpha, 25)  # the default is P3M's
        assert np.array_equal(read_trimap(output / f"{name}.png", alpha.shape), expected)
    for name in NAMES:  # what eval finds
        write_image(alphas.parent / "im" / f"{name}.png", make_pair(60 + NAMES.index(name), 80)[0])
    assert {pair.trimap for pair in find_pairs(alphas.parent, "custom", "test", trimaps=True)} == {
        output / f"{name}.png" for name in NAMES
    }


def test_random_diameters_depend_on_seed_and_name_alone(run: Callable, alphas: Path, tmp_path: Path) -> None:
    def make(folder: str, *arguments: object) -> dict[str, bytes]:
        arguments = ("--alphas", alphas, "--output", folder, "--kernel-px", 3, 40, *arguments)
        assert run(make_trimaps.main, *arguments).status == 0
        return contents(Path(folder))

    alone = make("one", *HERE)
    assert make("three", "--num-workers", 3) == alone
    assert make("other", *HERE, "--seed", 1) != alone
    for name in NAMES:
        alpha = read_alpha(alphas / f"{name}.png")
        expected = random_trimap(alpha, seeded_rng(0, name), (3, 40))
        assert np.array_equal(read_trimap(Path("one", f"{name}.png"), alpha.shape), expected)
    # Another file beside it changes nothing: the numbers are not drawn from one stream.
    write_image(alphas / "A first.png", np.full((9, 9), 255, np.uint8))
    assert {**make("more", *HERE), "A first.png": b""} == {**alone, "A first.png": b""}


def test_finished_trimaps_are_kept_and_stale_files_are_harmless(run: Callable, alphas: Path) -> None:
    arguments = (make_trimaps.main, "--alphas", alphas, "--output", "T", *HERE)
    run(*arguments)
    whole = contents(Path("T"))
    os.unlink("T/a.png")
    Path("T/deep/.12-34.tmp").write_bytes(b"half")
    old = os.stat("T/été 1.png")
    finished = run(*arguments)
    assert "3 of 4 are already in T and are kept" in finished.out and "1 trimaps made" in finished.out
    assert os.stat("T/été 1.png").st_ino == old.st_ino
    assert contents(Path("T")) == whole


def test_a_changed_alpha_gets_a_new_trimap(run: Callable, alphas: Path) -> None:
    arguments = (make_trimaps.main, "--alphas", alphas, "--output", "T", "--kernel-px", 3, 9, *HERE)
    age(alphas, 60)
    run(*arguments)
    age(Path("T"), 30)
    changed = 255 - np.rint(read_alpha(alphas / "été 1.png") * 255).astype(np.uint8)
    write_image(alphas / "été 1.png", changed)
    finished = run(*arguments)
    assert "3 of 4 are already in T" in finished.out and "1 trimaps made" in finished.out
    run(*arguments, "--output", "fresh")
    assert contents(Path("T")) == contents(Path("fresh"))


@pytest.mark.parametrize("other", [("--kernel-px", 3, 40), ("--seed", 1)])
def test_trimaps_of_other_settings_are_never_mixed(other: tuple, run: Callable, alphas: Path) -> None:
    arguments = (make_trimaps.main, "--alphas", alphas, "--output", "T", "--kernel-px", 3, 30, *HERE)
    run(*arguments)
    whole = contents(Path("T"))
    os.unlink("T/a.png")  # interrupted
    finished = run(*arguments, *other)
    assert finished.status == 2 and f"{other[0][2:].replace('-', '_')} " in finished.err
    assert "--overwrite" in finished.err and contents(Path("T")) == {n: whole[n] for n in whole if n != "a.png"}
    assert run(*arguments).status == 0 and contents(Path("T")) == whole
    assert run(*arguments, *other, "--overwrite").status == 0
    run(*arguments, *other, "--output", "fresh")
    assert contents(Path("T")) == contents(Path("fresh")) != whole
    assert "already in T" in run(*arguments, *other).out


def test_an_interrupted_overwrite_leaves_no_old_trimap(
    run: Callable, alphas: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (make_trimaps.main, "--alphas", alphas, "--output", "T", *HERE)
    run(*arguments)
    with monkeypatch.context() as patch:
        patch.setattr(make_trimaps, "read_alpha", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(*arguments, "--kernel-px", 3, 3, "--overwrite").status == 130
    assert run(*arguments, "--kernel-px", 3, 3).status == 0
    run(*arguments, "--kernel-px", 3, 3, "--output", "fresh")
    assert contents(Path("T")) == contents(Path("fresh"))


def test_files_of_others_are_not_taken_over(run: Callable, alphas: Path) -> None:
    arguments = (make_trimaps.main, "--alphas", alphas, "--output", "T", *HERE)
    write_image(Path("T/a.png"), np.full((60, 80), 128, np.uint8))
    before = contents(Path("T"))
    finished = run(*arguments)
    assert finished.status == 2 and "T holds 1 images that this program has not made (a.png)" in finished.err
    assert "--overwrite" in finished.err and contents(Path("T")) == before
    write_image(Path("T/deep/photo.png"), np.zeros((5, 5), np.uint8))  # no trimap would replace it
    before = contents(Path("T"))
    finished = run(*arguments, "--overwrite")
    assert finished.status == 2 and "1 images that this program has not made (deep/photo.png)" in finished.err
    assert "--overwrite" not in finished.err and contents(Path("T")) == before
    os.unlink("T/deep/photo.png")
    assert run(*arguments, "--overwrite").status == 0 and set(contents(Path("T"))) == {f"{n}.png" for n in NAMES}
    Path("T/.settings.json").write_text("[1]")
    assert ".settings.json: no settings of this program" in run(*arguments).err


def test_damaged_alphas_are_named_and_the_rest_is_made(run: Callable, alphas: Path) -> None:
    data = (alphas / "a.png").read_bytes()
    (alphas / "a.png").write_bytes(data[: len(data) // 2])
    write_image(alphas / "photo.png", np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
    finished = run(make_trimaps.main, "--alphas", alphas, "--output", "T", *HERE)
    assert finished.status == 1 and "3 trimaps made" in finished.out
    lines = [line for line in finished.err.splitlines() if line.startswith("failed: ")]
    assert len(lines) == 2 and "a.png" in lines[0] and "photo.png: a colour image" in lines[1]
    assert set(contents(Path("T"))) == {f"{name}.png" for name in NAMES[1:]}


def test_a_full_disk_is_no_damaged_alpha(run: Callable, alphas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    make_trimaps.require_writable(Path("T"), "--output")
    monkeypatch.setattr(make_trimaps, "require_writable", lambda *_: None)
    monkeypatch.setattr(os, "fsync", full)
    finished = run(make_trimaps.main, "--alphas", alphas, "--output", "T", *HERE)
    assert finished.status == 2 and "No space left on device" in finished.err
    assert "damaged" not in finished.err and contents(Path("T")) == {}


@pytest.mark.parametrize("output", [".", "inside", "..", "deep/../inside"])
def test_output_among_the_alphas_is_refused(output: str, refused: Callable, alphas: Path) -> None:
    before = contents(alphas.parent)
    message = refused(make_trimaps.main, "--alphas", alphas, "--output", alphas / output)
    assert "--output" in message and str(alphas) in message and contents(alphas.parent) == before


def test_wrong_input_is_refused(refused: Callable, alphas: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(alphas)
    assert "lies in it" in refused(make_trimaps.main, "--alphas", alphas, "--output", tmp_path / "alias" / "T")
    assert "no such folder" in refused(make_trimaps.main, "--alphas", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "--alphas" in refused(make_trimaps.main, "--alphas", tmp_path / "empty")
    (alphas / "a.jpg").write_bytes((alphas / "a.png").read_bytes())
    assert "a.jpg = a.png" in refused(make_trimaps.main, "--alphas", alphas)
    assert "--kernel-px" in refused(make_trimaps.main, "--kernel-px", 9, 3)
