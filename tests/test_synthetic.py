"""The procedural composites: exact, reproducible, soft-edged; and their files: complete, kept, replaced."""

import json
import multiprocessing
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools import make_embedded
from utils.contact_sheet import Tile, contact_sheet
from utils.errors import UserError
from utils.images import read_rgb
from utils.synthetic import VAL_FIRST_INDEX, composite, has_embedded, write_embedded
from utils.synthetic.composites import recipe_name
from utils.synthetic.embedded import MANIFEST
from utils.synthetic.subjects import RECIPES, ROUND

GREEN = (60, 190, 90)  # behind the cut-outs
SMALL = {"train": 3, "val": 2, "long_side": (40, 56), "workers": 1}


def checksums(job: tuple[int, int]) -> list[int]:
    seed, index = job
    return [zlib.crc32(plane.tobytes()) for plane in render(seed, index)]


def render(seed: int, index: int) -> tuple[np.ndarray, ...]:
    return tuple(composite(seed, index, height=72, width=96))


def files(root: Path) -> dict[str, int]:
    """Every file below `root`, hidden ones too, with its time of change in nanoseconds."""
    return {str(p.relative_to(root)): p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("index", range(len(ROUND)), ids=recipe_name)
def test_rgb_is_the_composite_of_its_parts(index: int) -> None:
    picture = composite(3, index, height=96, width=80)
    opacity = picture.alpha[..., None] / 255
    exact = opacity * picture.foreground + (1 - opacity) * picture.background
    assert all(plane.dtype == np.uint8 for plane in picture)
    assert np.abs(picture.rgb - exact).max() <= 0.5 + 1e-9


def test_every_recipe_has_its_turn_in_training_and_in_validation() -> None:
    for first in (0, VAL_FIRST_INDEX):
        assert {recipe_name(first + i) for i in range(len(ROUND))} == set(RECIPES)


def test_a_picture_depends_on_its_arguments_only() -> None:
    jobs = [(0, 4), (0, 9), (1, 4)]
    forwards = [checksums(job) for job in jobs]
    np.random.seed(5)  # noqa: NPY002  (the global generator must not matter)
    assert [checksums(job) for job in reversed(jobs)] == forwards[::-1]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(checksums, jobs) == forwards
    assert len({tuple(sums) for sums in forwards}) == 3


def test_seed_and_index_each_change_all_planes() -> None:
    step = len(ROUND)  # the same recipe, so that only chance differs
    reference = render(0, 1)
    for other in (render(1, 1), render(0, 1 + step)):
        assert all((a != b).any() for a, b in zip(reference, other, strict=True))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (7, 300), (300, 7), (2, 3), (64, 64), (513, 257)])
def test_any_size(height: int, width: int) -> None:
    for index in range(len(ROUND) if height * width < 2500 else 3):
        picture = composite(0, index, height=height, width=width)
        assert picture.alpha.shape == (height, width)
        assert picture.rgb.shape == picture.foreground.shape == picture.background.shape == (height, width, 3)


@pytest.mark.parametrize("name", RECIPES)
def test_edges_are_soft_in_many_steps(name: str) -> None:
    """A hard or a two-step edge would pass no more than a few distinct values."""
    alpha = composite(0, ROUND.index(name), height=160, width=160).alpha
    soft = alpha[(alpha > 0) & (alpha < 255)]
    assert len(np.unique(soft)) > 30
    assert soft.size > (0.04 if name in ("hair", "fur", "seedhead", "wire", "net") else 0.003) * alpha.size


def test_alpha_is_neither_empty_nor_full() -> None:
    for index in range(3 * len(ROUND)):
        share = composite(7, index, height=64, width=80).alpha.mean() / 255
        assert 0.005 < share < 0.95, (index, recipe_name(index), share)


def test_foreground_continues_where_alpha_is_zero() -> None:
    """No black behind the matte: that would bleed into fringes when the foreground is resampled."""
    for index in range(4):
        picture = composite(0, index, height=128, width=128)
        inside, outside = (picture.foreground[mask].mean() for mask in (picture.alpha > 250, picture.alpha == 0))
        assert outside > 0.5 * inside, recipe_name(index)


def test_embedded_data_is_written_and_then_left_alone(tmp_path: Path) -> None:
    write_embedded(tmp_path, **SMALL)
    written = files(tmp_path)
    assert len(written) == 2 * (3 + 2) + 1
    assert all(name.endswith((".jpg", ".png", MANIFEST)) for name in written)
    for image_path in tmp_path.glob("*/im/*.jpg"):
        image, alpha = Image.open(image_path), Image.open(image_path.parents[1] / "gt" / f"{image_path.stem}.png")
        assert image.mode == "RGB" and alpha.mode == "L" and image.size == alpha.size
        assert 40 <= max(image.size) <= 56
    train, val = ({path.name for path in (tmp_path / split / "im").iterdir()} for split in ("train", "val"))
    assert not train & val
    write_embedded(tmp_path, **SMALL)
    assert files(tmp_path) == written


def test_embedded_data_resumes_after_an_interruption(tmp_path: Path) -> None:
    write_embedded(tmp_path, **SMALL)
    before = files(tmp_path)
    (tmp_path / MANIFEST).unlink()
    lost = next((tmp_path / "train" / "gt").iterdir())
    content = lost.read_bytes()
    lost.unlink()
    (tmp_path / "train" / "im" / ".77-140.tmp").write_bytes(b"half a picture")
    write_embedded(tmp_path, **SMALL)
    after = files(tmp_path)
    assert set(after) == set(before)
    assert lost.read_bytes() == content
    changed = {name for name in before if before[name] != after[name]}
    assert {Path(name).stem for name in changed} == {lost.stem, "manifest"}


def test_embedded_data_of_other_parameters_is_replaced(tmp_path: Path) -> None:
    write_embedded(tmp_path, **SMALL)
    old = {path.name: path.read_bytes() for path in tmp_path.glob("train/im/*.jpg")}
    write_embedded(tmp_path, **SMALL | {"train": 2, "seed": 1})
    new = {path.name: path.read_bytes() for path in tmp_path.glob("train/im/*.jpg")}
    assert len(new) == 2 and all(new[name] != old[name] for name in new)
    assert json.loads((tmp_path / MANIFEST).read_text())["seed"] == 1


def test_a_run_interrupted_under_other_parameters_is_not_mixed_in(tmp_path: Path, monkeypatch) -> None:
    rename = os.replace

    def stop_before_the_manifest(source: Path, target: Path) -> None:
        if target.name == MANIFEST:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr("utils.synthetic.embedded.os.replace", stop_before_the_manifest)
    with pytest.raises(KeyboardInterrupt):
        write_embedded(tmp_path, **SMALL)
    monkeypatch.undo()
    left = {path.name: path.read_bytes() for path in tmp_path.glob("train/im/*.jpg")}
    assert len(left) == 3 and not (tmp_path / MANIFEST).exists()
    write_embedded(tmp_path, **SMALL | {"seed": 9})
    assert all(path.read_bytes() != left[path.name] for path in tmp_path.glob("train/im/*.jpg"))


def test_processes_write_what_one_process_writes(tmp_path: Path) -> None:
    options = {"train": 14, "val": 2, "long_side": (32, 40)}
    for workers in (1, 2):
        write_embedded(tmp_path / str(workers), **options, workers=workers)
    alone, together = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*.*")
            if path.is_file()
        }
        for name in ("1", "2")
    )
    assert alone == together


def test_somebody_elses_files_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "train" / "im").mkdir(parents=True)
    (tmp_path / "train" / "im" / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"holiday\.jpg"):
        write_embedded(tmp_path, **SMALL)
    assert files(tmp_path).keys() == {"train/im/holiday.jpg"}


def test_wrong_parameters_are_refused_before_any_work(tmp_path: Path) -> None:
    for wrong in ({"train": -1}, {"seed": -1}, {"long_side": (50, 40)}, {"long_side": (0, 40)}):
        with pytest.raises(UserError):
            write_embedded(tmp_path / "new", **SMALL | wrong)
    assert not (tmp_path / "new").exists()


def test_contact_sheet_shows_picture_alpha_and_cut_out_of_both_splits(run: Callable, tmp_path: Path) -> None:
    options = ("--train", 3, "--val", 2, "--long-side", 40, 56, "--workers", 1, "--output", tmp_path / "data")
    finished = run(make_embedded.main, *options, "--contact-sheet", tmp_path / "new folder" / "sheet.png")
    assert finished.status == 0 and str(tmp_path / "new folder" / "sheet.png") in finished.out
    sheet = read_rgb(tmp_path / "new folder" / "sheet.png")
    five, four = (contact_sheet([Tile("", (np.zeros((192, 192), np.uint8),) * 3)] * n, tile_px=192) for n in (5, 4))
    assert sheet.shape[1] == five.shape[1] == four.shape[1]  # three tiles of three pictures
    assert (sheet == GREEN).all(axis=2).sum() > 5 * 40 * 40, "no cut-out over green"


def test_contact_sheet_that_cannot_be_written_is_refused_before_any_work(refused: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = refused(
        make_embedded.main, "--output", tmp_path / "data", "--contact-sheet", tmp_path / "file" / "sheet.png"
    )
    assert "--contact-sheet" in said


def test_nobody_elses_files_are_removed(tmp_path: Path) -> None:
    """`train.py demo --data-root my_photos`, where --dataset custom was forgotten."""
    mine = tmp_path / "train" / "im"
    mine.mkdir(parents=True)
    for name in ("notes.tmp", "0000001_fur.jpg"):
        (mine / name).write_bytes(b"mine")
    with pytest.raises(UserError, match="--dataset custom"):
        write_embedded(tmp_path, **SMALL)
    assert sorted(path.name for path in mine.iterdir()) == ["0000001_fur.jpg", "notes.tmp"]
    assert not (tmp_path / "val").exists()


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff", b'{"version": 4}', b'"version"', b"null"])
def test_a_manifest_of_something_else_is_none_of_ours(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    assert not has_embedded(tmp_path)
    with pytest.raises(UserError, match=rf"\({MANIFEST}\).*--dataset custom"):
        write_embedded(tmp_path, **SMALL)
    assert (tmp_path / MANIFEST).read_bytes() == content and len(list(tmp_path.iterdir())) == 1


def test_pictures_of_an_unknown_start_are_made_anew(tmp_path: Path) -> None:
    """The power went while the parameters were written down."""
    write_embedded(tmp_path, **SMALL | {"seed": 9})
    before = files(tmp_path)
    (tmp_path / MANIFEST).unlink()
    (tmp_path / f".{MANIFEST}.started").write_text('{"version"')
    write_embedded(tmp_path, **SMALL)
    assert has_embedded(tmp_path)
    write_embedded(tmp_path / "straight", **SMALL)
    straight = {path.name: path.read_bytes() for path in (tmp_path / "straight").rglob("*.*") if path.is_file()}
    assert all((tmp_path / name).read_bytes() == straight[Path(name).name] for name in before)
