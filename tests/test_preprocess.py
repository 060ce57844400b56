"""preprocess_dis5k.py: the flat tree of every dataset, made once, whole, and checked."""

import hashlib
import json
import os
import shutil
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
from PIL import Image

import preprocess_dis5k
from utils.encoding import write_image
from utils.errors import UserError
from utils.files import CannotWriteError, remove_stale
from utils.flat_tree import published_sets
from utils.images import image_size, read_alpha, read_rgb
from utils.layouts import BENCHMARKS, DATASETS
from utils.manifest import journal, read_records
from utils.pairs import Pair, find_benchmark, find_pairs
from utils.preprocess import Flattened, flatten
from utils.shrinking import shrink_trimap, shrunk_size
from utils.trimaps import read_trimap

ROOT = Path(__file__).resolve().parents[1]
DIS5K, HRSOD, P3M = DATASETS["DIS5K"], DATASETS["HRSOD"], DATASETS["P3M-10K"]
SETS = ("DIS-TR", "DIS-VD", "DIS-TE1", "DIS-TE2", "DIS-TE3", "DIS-TE4")
COUNTS = {"train": 2, "val": 2, "test": 8} | {f"test/DIS-TE{i}": 2 for i in (1, 2, 3, 4)}
FILES = 2 * sum(COUNTS.values())
SIZE = (40, 24)  # (height, width)


def picture(path: Path, text: str = "", size: tuple[int, int] = SIZE, kind: str = "im") -> Path:
    """Writes an image, alpha or trimap that differs for each text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(f"{kind} {text}".encode()))
    small = rng.integers(0, 256, (5, 3, 3) if kind == "im" else (5, 3), dtype=np.uint8)
    pixels = cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)
    if kind == "trimap":
        pixels = np.where(pixels < 85, 0, np.where(pixels > 170, 255, 128)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """DIS5K as published; the training set in category folders."""
    root = tmp_path / "DIS5K"
    for split in SETS:
        for name in ("1#Bag#1", "2#Net#2"):
            category = f"{name[2:5]}/" if split == "DIS-TR" else ""
            for kind, suffix in (("im", ".jpg"), ("gt", ".png")):
                picture(root / split / kind / f"{category}{name}#{split}{suffix}", f"{split} {name}", kind=kind)
    return root


def files(root: Path) -> dict[str, tuple[bytes, int, int]]:
    """Content, time and inode of every file below a folder."""
    found = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {p.relative_to(root).as_posix(): (p.read_bytes(), p.stat().st_mtime_ns, p.stat().st_ino) for p in found}


def images(root: Path) -> dict[str, bytes]:
    return {name: content for name, (content, *_) in files(root).items() if name != "manifest.json"}


def manifest(target: Path) -> dict[str, Any]:
    return json.loads((target / "manifest.json").read_text())


def age(*paths: Path) -> None:
    """Makes files look an hour old, as downloaded ones are."""
    for path in paths:
        then = path.stat().st_mtime_ns - 3600 * 10**9
        os.utime(path, ns=(then, then))


# ------------------------------------------------------------------------------------------------------------ DIS5K


@pytest.mark.parametrize("link", [False, True])
def test_flat_tree_holds_every_pair(link: bool, source: Path, tmp_path: Path) -> None:
    before = files(source)
    target = tmp_path / "new" / "DIS5K_Flat"
    assert flatten(source, target, DIS5K, link=link) == Flattened(COUNTS, FILES, 0, [])
    assert files(source) == before
    made = files(target)
    assert made["train/im/1#Bag#1#DIS-TR.jpg"][:2] == before["DIS-TR/im/Bag/1#Bag#1#DIS-TR.jpg"][:2]
    name = "2#Net#2#DIS-TE3.png"
    assert made[f"test/gt/{name}"] == made[f"test/DIS-TE3/gt/{name}"]  # one file under two names: no disk space
    assert made[f"test/gt/{name}"][0] == before[f"DIS-TE3/gt/{name}"][0]
    assert len(made) == FILES + 1 and "manifest.json" in made
    source_inodes = {inode for _, _, inode in before.values()}
    assert all((inode in source_inodes) == link for name, (_, _, inode) in made.items() if name != "manifest.json")
    # What the other scripts will ask for.
    assert [len(find_pairs(target, "DIS5K", split)) for split in ("train", "val", "test")] == [2, 2, 8]
    assert len(find_benchmark(target, "DIS-TE2")) == 2
    assert len(find_pairs(source, "DIS5K", "train")) == 2


def test_images_and_masks_folders_are_another_way_to_publish_it(source: Path, tmp_path: Path) -> None:
    flatten(source, tmp_path / "flat", DIS5K)
    for split in SETS:
        (source / split / "im").rename(source / split / "images")
        (source / split / "gt").rename(source / split / "masks")
    flatten(tmp_path, tmp_path.parent / f"{tmp_path.name}_other", DIS5K)  # the folder that holds DIS5K
    assert images(tmp_path.parent / f"{tmp_path.name}_other") == images(tmp_path / "flat")
    shutil.rmtree(tmp_path.parent / f"{tmp_path.name}_other")


def test_flat_tree_is_no_source(source: Path, tmp_path: Path) -> None:
    flatten(source, tmp_path / "flat", DIS5K)
    with pytest.raises(UserError, match="no DIS5K DIS-TR images"):
        flatten(tmp_path / "flat", tmp_path / "again", DIS5K)


def test_names_that_would_collide_are_refused(source: Path, tmp_path: Path) -> None:
    for kind, suffix in (("im", ".jpg"), ("gt", ".png")):
        picture(source / "DIS-TE1" / kind / f"same{suffix}")
        picture(source / "DIS-TE2" / kind / f"same{suffix}")
    with pytest.raises(UserError, match=r"--source .*same"):
        flatten(source, tmp_path / "flat", DIS5K)
    assert not (tmp_path / "flat").exists()


@pytest.mark.parametrize("missing", ["", "DIS-TR", "DIS-TE4", "DIS-VD/gt"])
def test_wrong_source_is_refused_before_anything_is_made(missing: str, source: Path, tmp_path: Path) -> None:
    shutil.rmtree(source / missing)
    with pytest.raises(UserError, match=missing.split("/")[0] or "DIS-TR") as caught:
        flatten(source, tmp_path / "flat", DIS5K)
    assert "--source" in str(caught.value) and "\n" not in str(caught.value)
    if missing in SETS:
        assert str(caught.value).endswith(f"--splits {' '.join(split for split in SETS if split != missing)}")
    assert not (tmp_path / "flat").exists()


# ---------------------------------------------------------------------------------------------------- every dataset


def published_trees(dataset: str) -> list[dict[str, tuple[str, str]]]:
    """Every way the layout knows to publish a dataset: set to (images, alphas), below the dataset's folder."""
    layout = DATASETS[dataset]
    sets = published_sets(layout)
    places = {name: layout.splits[name] if dataset != "DIS5K" else (name,) for name in sets}
    return [
        {name: tuple(folder.format(places[name][min(i, len(places[name]) - 1)]) for folder in folders) for name in sets}
        for i in range(max(map(len, places.values())))
        for folders in layout.folders
    ]


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_published_tree_is_found_again_by_all_who_look(dataset: str, tmp_path: Path) -> None:
    layout = DATASETS[dataset]

    def contents(pairs: list[Pair]) -> list[tuple[bytes, bytes]]:
        return [(pair.image.read_bytes(), pair.alpha.read_bytes()) for pair in pairs]

    for i, tree in enumerate(published_trees(dataset)):
        source, target = tmp_path / f"{i}/published", tmp_path / f"{i}/{dataset}_Flat"
        for name, (image_folder, alpha_folder) in tree.items():
            for k in range(2):
                picture(source / image_folder / f"{name}.v{k} ü.jpg", f"{name}{k}")
                picture(source / alpha_folder / f"{name}.v{k} ü.png", f"{name}{k}", kind="gt")
        result = flatten(source, target, layout)
        places = {place for places in published_sets(layout).values() for place in places}
        assert set(result.pairs) == places and not result.failed, tree
        for split in layout.splits:
            assert contents(find_pairs(target, dataset, split)) == contents(find_pairs(source, dataset, split)), tree
        for name, (first, *_) in published_sets(layout).items():
            custom = contents(find_pairs(target, "custom", first))
            assert set(custom) >= set(contents(find_pairs(source, dataset, name if dataset != "DIS5K" else first)))
        for benchmark, (owner, split) in BENCHMARKS.items():
            if owner == dataset:
                expected = contents(find_pairs(source, dataset, split))
                assert contents(find_benchmark(target, benchmark)) == expected
                assert contents(find_benchmark(target.parent, benchmark)) == expected


def test_trimaps_come_along_and_are_found(tmp_path: Path) -> None:
    source, target = tmp_path / "P3M", tmp_path / "P3M-10K_Flat"
    for place in ("train", "validation/P3M-500-P", "validation/P3M-500-NP"):
        picture(source / place / "blurred_image/p.jpg", place)
        picture(source / place / "mask/p.png", place, kind="gt")
        if place != "train":
            picture(source / place / "trimap/p.png", place, kind="trimap")
    assert flatten(source, target, P3M).pairs == {"test": 1, "train": 1, "val": 1}
    assert find_pairs(target, "P3M-10K", "train", trimaps=True)[0].trimap is None
    for dataset, split, place in (
        ("P3M-10K", "P3M-500-P", "validation/P3M-500-P"),
        ("P3M-10K", "P3M-500-NP", "validation/P3M-500-NP"),
        ("custom", "val", "validation/P3M-500-P"),
    ):
        (pair,) = find_pairs(target, dataset, split, trimaps=True)
        assert pair.trimap and pair.trimap.read_bytes() == (source / place / "trimap/p.png").read_bytes()


def test_am2k_has_one_validation_set_and_hrsod_one_test_set(tmp_path: Path) -> None:
    assert published_sets(DATASETS["AM-2K"]) == {"train": ("train",), "val": ("val",)}
    for dataset in ("HRS10K", "HRSOD", "UHRSD", "COD10K"):
        assert published_sets(DATASETS[dataset]) == {"train": ("train",), "test": ("test",)}


def test_subfolders_are_kept_so_that_equal_names_do_not_collide(tmp_path: Path) -> None:
    for name in ("cat/1", "dog/1"):
        picture(tmp_path / f"HRSOD/TR-HRSOD/im/{name}.jpg", name)
        picture(tmp_path / f"HRSOD/TR-HRSOD/gt/{name}.png", name, kind="gt")
    flatten(tmp_path / "HRSOD", tmp_path / "flat", HRSOD, splits=["train"])
    assert [pair.name for pair in find_pairs(tmp_path / "flat", "HRSOD", "train")] == ["cat/1", "dog/1"]


def test_files_that_are_no_samples_stay_out(tmp_path: Path) -> None:
    for name in ("COD10K-CAM-1-a", "COD10K-NonCAM-1-b", ".hidden"):
        picture(tmp_path / f"COD10K/Train/Image/{name}.jpg")
        picture(tmp_path / f"COD10K/Train/GT_Object/{name}.png", kind="gt")
    (tmp_path / "COD10K/Train/Image/Thumbs.db").write_bytes(b"x")
    flatten(tmp_path / "COD10K", tmp_path / "flat", DATASETS["COD10K"], splits=["train"])
    assert sorted(images(tmp_path / "flat")) == ["train/gt/COD10K-CAM-1-a.png", "train/im/COD10K-CAM-1-a.jpg"]


@pytest.mark.parametrize(
    ("layout", "asked", "sets"),
    [
        (DIS5K, ["DIS-VD", "dis-te2"], ["DIS-VD", "DIS-TE2"]),
        (DIS5K, ["test"], ["DIS-TE1", "DIS-TE2", "DIS-TE3", "DIS-TE4"]),
        (P3M, ["P3M-500-NP"], ["test"]),
        (HRSOD, ["val"], ["test"]),  # the layout's rule: val is the test set
    ],
)
def test_sets_go_by_several_names(layout: Any, asked: list[str], sets: list[str], source: Path, tmp_path: Path) -> None:
    picture(tmp_path / "h/test/im/a.jpg")
    picture(tmp_path / "h/test/gt/a.png", kind="gt")
    flatten(source if layout is DIS5K else tmp_path / "h", tmp_path / "flat", layout, splits=asked)
    assert manifest(tmp_path / "flat")["splits"] == sets


def test_unknown_set_is_refused_with_those_there_are(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--splits DIS-TX: .*DIS-TR, DIS-VD, DIS-TE1"):
        flatten(source, tmp_path / "flat", DIS5K, splits=["DIS-TX"])
    assert not (tmp_path / "flat").exists()


def test_sets_can_be_added_one_after_the_other(source: Path, tmp_path: Path) -> None:
    flatten(source, tmp_path / "whole", DIS5K)
    for split in reversed(SETS):
        flatten(source, tmp_path / "flat", DIS5K, splits=[split])
    assert images(tmp_path / "flat") == images(tmp_path / "whole")
    assert manifest(tmp_path / "flat") == manifest(tmp_path / "whole")
    assert flatten(source, tmp_path / "flat", DIS5K).made == 0


# ------------------------------------------------------------------------------------------------ again and again


@pytest.mark.parametrize("options", [{}, {"link": True}, {"max_side": 20}])
def test_second_run_changes_nothing_and_reads_nothing(
    options: dict, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "flat"
    flatten(source, target, DIS5K, **options)
    before = files(target)
    monkeypatch.setattr("utils.preprocess.verify_image", lambda *_, **__: pytest.fail("read again"))
    assert flatten(source, target, DIS5K, **options) == Flattened(COUNTS, 0, FILES, [])
    assert files(target) == before


def test_tree_without_a_manifest_is_read_but_not_made_again(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "flat"
    flatten(source, target, DIS5K)
    before = files(target)
    (target / "manifest.json").unlink()
    assert flatten(source, target, DIS5K) == Flattened(COUNTS, 0, FILES, [])
    after = files(target)
    assert after.pop("manifest.json")[0] == before.pop("manifest.json")[0] and after == before


@pytest.mark.parametrize("options", [{}, {"link": True}, {"max_side": 20}])
def test_missing_and_damaged_files_are_made_again(options: dict, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "flat"
    flatten(source, target, DIS5K, **options)
    before = images(target)
    half = target / "val/im/1#Bag#1#DIS-VD.jpg"
    content = half.read_bytes()
    half.unlink()
    half.write_bytes(content[:-1] + b"?")  # of the same size
    half.with_name(".123-456.tmp").write_bytes(b"of a killed run")
    shutil.rmtree(target / "test/DIS-TE4")
    result = flatten(source, target, DIS5K, **options)
    assert result == Flattened(COUNTS, 5, FILES - 5, [])
    (half.with_name(".123-456.tmp")).unlink(missing_ok=True)
    assert images(target) == before


def test_copy_that_was_only_touched_is_kept(source: Path, tmp_path: Path) -> None:
    flatten(source, tmp_path / "flat", DIS5K)
    age(tmp_path / "flat/val/im/1#Bag#1#DIS-VD.jpg")
    assert flatten(source, tmp_path / "flat", DIS5K) == Flattened(COUNTS, 0, FILES, [])


@pytest.mark.parametrize("max_side", [None, 20])
def test_changed_source_file_is_taken_again(max_side: int | None, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "flat"
    flatten(source, target, DIS5K, max_side=max_side)
    changed = picture(source / "DIS-TE1/gt/1#Bag#1#DIS-TE1.png", "a better mask", kind="gt")
    assert flatten(source, target, DIS5K, max_side=max_side).made == 2
    flatten(source, tmp_path / "new", DIS5K, max_side=max_side)
    assert images(target) == images(tmp_path / "new")
    assert (target / "test/gt" / changed.name).read_bytes() == (target / "test/DIS-TE1/gt" / changed.name).read_bytes()


SLOW = """
import sys, time
from pathlib import Path
import preprocess_dis5k
import utils.preprocess
from utils.errors import run_script
make = utils.preprocess._make
utils.preprocess._make = lambda rules, sample: (time.sleep(0.05), make(rules, sample))[1]
run_script(preprocess_dis5k.main)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_run_that_is_killed_continues_where_it_was(number: signal.Signals, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "flat"
    arguments = ["--source", str(source), "--target", str(target), "--num-workers", "1", "--max-side", "20"]
    process = subprocess.Popen([sys.executable, "-c", SLOW, *arguments], cwd=ROOT, stderr=subprocess.DEVNULL)
    path = target / ".manifest.journal"
    while process.poll() is None and not (path.exists() and path.read_text().count("sha256") >= 8):
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(20) in (-number, 130)
    assert path.exists() and not (target / "manifest.json").exists()
    finished = images(target)
    with path.open("a") as file:
        file.write('[{"path": "train/im/1#B')  # half a line

    result = flatten(source, target, DIS5K, max_side=20)
    assert result.pairs == COUNTS and 0 < result.kept < FILES and result.made + result.kept == FILES
    assert not path.exists()
    flatten(source, tmp_path / "straight", DIS5K, max_side=20)
    assert images(target) == images(tmp_path / "straight") and manifest(target) == manifest(tmp_path / "straight")
    kept = {name for name, content in finished.items() if images(target).get(name) == content}
    assert len(kept) >= result.kept


@pytest.mark.parametrize(("first", "then"), [(None, 20), (20, None), (20, 30)])
@pytest.mark.parametrize("killed", [False, True])
def test_sizes_are_never_mixed(first: int | None, then: int | None, killed: bool, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "flat"
    flatten(source, target, DIS5K, max_side=first)
    if killed:  # as after a kill: no manifest, but a journal
        head = {"dataset": "DIS5K", "max_side": first}
        lines = [head, manifest(target)["files"]]
        (target / ".manifest.journal").write_text("\n".join(map(json.dumps, lines)))
        (target / "manifest.json").unlink()
    before = files(target)
    with pytest.raises(UserError, match=r"--target .*--max-side"):
        flatten(source, target, DIS5K, max_side=then)
    assert files(target) == before
    assert flatten(source, target, DIS5K, max_side=first).made == 0


def test_file_of_a_set_that_is_not_asked_for_is_told_if_it_changed(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "flat"
    flatten(source, target, DIS5K)
    before = manifest(target)
    alpha = target / "val/gt/1#Bag#1#DIS-VD.png"
    good = alpha.read_bytes()
    alpha.write_bytes(good[:-1] + b"?")  # of the same size
    (target / "test/im/2#Net#2#DIS-TE3.jpg").unlink()
    with pytest.raises(UserError, match=r"--target .*2 files .*val/gt/1#Bag.*: add DIS-TE3 DIS-VD to --splits"):
        flatten(source, target, DIS5K, splits=["train"])
    assert manifest(target) == before
    flatten(source, target, DIS5K, splits=["DIS-TE3", "DIS-VD", "train"])
    assert manifest(target) == before and alpha.read_bytes() == good


def test_sets_that_are_not_asked_for_stay_in_the_manifest_unless_they_are_gone(source: Path, tmp_path: Path) -> None:
    made, target = tmp_path / "flat", tmp_path / "moved"
    flatten(source, made, DIS5K)
    shutil.copytree(made, target, copy_function=shutil.copyfile)  # with new times
    flatten(source, target, DIS5K, splits=["train"])
    entries = {entry["path"]: entry for entry in manifest(target)["files"]}
    assert set(entries) == set(images(made))
    assert all(entries[name]["mtime_ns"] == (target / name).stat().st_mtime_ns for name in entries)
    shutil.rmtree(target / "val")
    flatten(source, target, DIS5K, splits=["train"])
    assert manifest(target)["splits"] == [split for split in SETS if split != "DIS-VD"]
    assert {entry["path"] for entry in manifest(target)["files"]} == set(images(target))


def test_copies_become_links_when_asked(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "flat"
    flatten(source, target, DIS5K)
    assert flatten(source, target, DIS5K, link=True) == Flattened(COUNTS, FILES, 0, [])
    inodes = {inode for _, _, inode in files(source).values()}
    assert all(inode in inodes for name, (_, _, inode) in files(target).items() if name != "manifest.json")
    assert flatten(source, target, DIS5K, link=True) == Flattened(COUNTS, 0, FILES, [])


@pytest.mark.parametrize("recorded", [True, False])
def test_links_become_copies_when_not_asked(recorded: bool, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "flat"
    before = files(source)
    flatten(source, target, DIS5K, link=True)
    if not recorded:
        (target / "manifest.json").unlink()
    assert flatten(source, target, DIS5K) == Flattened(COUNTS, FILES, 0, [])
    assert files(source) == before
    flatten(source, tmp_path / "copied", DIS5K)
    assert images(target) == images(tmp_path / "copied") and manifest(target) == manifest(tmp_path / "copied")
    name = "im/2#Net#2#DIS-TE3.jpg"
    assert (target / "test" / name).samefile(target / "test/DIS-TE3" / name)
    inodes = {inode for _, _, inode in before.values()}
    assert not any(inode in inodes for _, _, inode in files(target).values())
    assert flatten(source, target, DIS5K) == Flattened(COUNTS, 0, FILES, [])
    (target / "val/im/1#Bag#1#DIS-VD.jpg").write_bytes(b"edited")
    assert files(source) == before


@pytest.mark.parametrize("link", [False, True])
def test_source_of_symbolic_links_gives_files(link: bool, source: Path, tmp_path: Path) -> None:
    store = tmp_path / "blobs"
    store.mkdir()
    for number, path in enumerate(sorted(path for path in source.rglob("*") if path.is_file())):
        path.rename(store / str(number))
        path.symlink_to(os.path.relpath(store / str(number), path.parent))  # as download caches keep them
    assert flatten(source, tmp_path / "flat", DIS5K, link=link) == Flattened(COUNTS, FILES, 0, [])
    inodes = {path.stat().st_ino for path in store.iterdir()}
    for path in (tmp_path / "flat").rglob("*.jpg"):
        assert not path.is_symlink() and (path.stat().st_ino in inodes) == link


def test_half_made_links_of_a_killed_run_are_removed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, real, names = tmp_path / "flat", os.link, set()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()

    def link(original: Path, path: Path) -> None:
        names.add(Path(path).name)
        real(original, path)

    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(os, "getpid", lambda: dead.pid)
    flatten(source, target, DIS5K, link=True)
    for name in names:
        (target / "val/im" / name).write_bytes(b"")
        age(target / "val/im" / name)
    remove_stale(target, recursive=True)
    assert names and not list(target.rglob("*.tmp"))


def test_two_datasets_never_share_a_target(source: Path, tmp_path: Path) -> None:
    flatten(source, tmp_path / "flat", DIS5K)
    picture(tmp_path / "h/test/im/a.jpg")
    picture(tmp_path / "h/test/gt/a.png", kind="gt")
    with pytest.raises(UserError, match="holds DIS5K, not HRSOD"):
        flatten(tmp_path / "h", tmp_path / "flat", HRSOD, splits=["test"])


# --------------------------------------------------------------------------------------------------------- manifest


@pytest.mark.parametrize("max_side", [None, 20])
def test_manifest_describes_every_file(max_side: int | None, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "flat"
    flatten(source, target, DIS5K, max_side=max_side)
    said = manifest(target)
    assert (said["dataset"], said["max_side"], said["splits"]) == ("DIS5K", max_side, list(SETS))
    assert {entry["path"] for entry in said["files"]} == set(images(target))
    for entry in said["files"]:
        content = (target / entry["path"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest() and entry["bytes"] == len(content)
        size = (entry["height"], entry["width"])
        assert size == image_size(target / entry["path"]) == ((20, 12) if max_side else SIZE)
        assert entry["source_bytes"] == (source / entry["source"]).stat().st_size
        assert Path(entry["path"]).stem == Path(entry["source"]).stem


@pytest.mark.parametrize("text", ["", "[]", '{"files": []}', '{"version": 1, "dataset": "DIS5K", "max_side": null, '
                                  '"files": [{"path": "../../x"}]}'])  # fmt: skip
def test_manifest_of_another_kind_is_refused(text: str, source: Path, tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat/manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json: .*remove it"):
        flatten(source, tmp_path / "flat", DIS5K)
    assert os.listdir(tmp_path / "flat") == ["manifest.json"]


@pytest.mark.parametrize(
    "wrong",
    [{"path": "../../x/im/a.jpg"}, {"path": "/x/im/a.jpg"}, {"path": "train/a.jpg"}, {"path": "train/im"}, {"path": 1},
     {"split": None}, None, "text"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["manifest.json", ".manifest.journal"])
def test_entries_that_no_run_wrote_are_refused(name: str, wrong: Any, source: Path, tmp_path: Path) -> None:
    flatten(source, tmp_path / "flat", DIS5K, splits=["val"])
    known = manifest(tmp_path / "flat")
    entries = known.pop("files")
    entries[0] = entries[0] | wrong if isinstance(wrong, dict) else wrong
    (tmp_path / "new").mkdir()
    lines = [known | {"files": entries}] if name == "manifest.json" else [known, entries]
    (tmp_path / "new" / name).write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(UserError, match=rf"{name}: .*remove it"):
        flatten(source, tmp_path / "new", DIS5K, splits=["train"])
    assert os.listdir(tmp_path / "new") == [name]


def test_journal_survives_being_cut_off_again_and_again(source: Path, tmp_path: Path) -> None:
    flatten(source, tmp_path / "flat", DIS5K)
    entries = manifest(tmp_path / "flat")["files"][:2]
    (tmp_path / "new").mkdir()
    (tmp_path / "new/.manifest.journal").write_text('{"dataset": "DI')
    for entry in entries:
        with journal(tmp_path / "new", "DIS5K", None) as note:
            note([entry])
        with (tmp_path / "new/.manifest.journal").open("a") as file:
            file.write('[{"path": "train/')
    assert list(read_records(tmp_path / "new", "DIS5K", None).values()) == entries
    with pytest.raises(UserError, match="without --max-side"):
        read_records(tmp_path / "new", "DIS5K", 20)


# ---------------------------------------------------------------------------------------------------------- shrinking


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [((40, 24), None, (40, 24)), ((40, 24), 40, (40, 24)), ((40, 24), 20, (20, 12)), ((24, 41), 20, (12, 20)),
     ((20000, 2), 100, (100, 1)), ((7, 5), 1, (1, 1)), ((100, 67), 50, (50, 34))],
)  # fmt: skip
def test_shrunk_size(size: tuple[int, int], max_side: int | None, expected: tuple[int, int]) -> None:
    assert shrunk_size(size, max_side) == expected


def custom(tmp_path: Path, name: str, image: np.ndarray, alpha: np.ndarray, suffix: str = ".png") -> Path:
    """A custom training set with one more pair."""
    root = tmp_path / "mine"
    write_image(root / "train/gt" / f"{name}.png", alpha)
    path = root / "train/im" / f"{name}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **({"quality": 98, "subsampling": 0} if suffix == ".jpg" else {}))
    return root


def flattened(root: Path, max_side: int) -> dict[str, Pair]:
    target = root.with_name("small")
    result = flatten(root, target, DATASETS["Custom"], splits=["train"], max_side=max_side)
    assert not result.failed
    return {pair.name: pair for pair in find_pairs(target, "custom", "train", trimaps=True)}


def test_shrinking_averages_blocks_and_keeps_the_depth_of_alphas(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rgb = cv2.resize(rng.integers(0, 256, (4, 6, 3), np.uint8), (120, 80), interpolation=cv2.INTER_CUBIC)
    deep = rng.integers(0, 65536, (80, 120), np.uint16)
    flat = rng.integers(0, 256, (80, 120), np.uint8)
    custom(tmp_path, "jpeg deep", rgb, deep, ".jpg")
    custom(tmp_path, "png flat", rgb, flat)
    custom(tmp_path, "tiff", rgb, flat, ".tiff")
    root = custom(tmp_path, "little", rgb[:30, :30], flat[:30, :30], ".tiff")
    pairs = flattened(root, 30)

    def blocks(array: np.ndarray) -> np.ndarray:
        return array.astype(np.float64).reshape(20, 4, 30, 4, -1).mean(axis=(1, 3)).squeeze()

    assert [pairs[name].image.suffix for name in ("jpeg deep", "png flat", "tiff")] == [".jpg", ".png", ".png"]
    assert np.abs(read_rgb(pairs["png flat"].image) - blocks(rgb)).max() <= 0.5 + 1e-6
    assert np.abs(read_rgb(pairs["jpeg deep"].image) - blocks(rgb)).mean() < 2
    with Image.open(pairs["jpeg deep"].image) as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3  # 4:4:4
        assert image.quantization[0][0] <= 2  # quality 95
    with Image.open(pairs["jpeg deep"].alpha) as alpha, Image.open(pairs["png flat"].alpha) as other:
        assert alpha.mode == "I;16" and other.mode == "L"
        assert np.abs(np.array(alpha) - blocks(deep)).max() <= 0.51
        assert np.abs(np.array(other) - blocks(flat)).max() <= 0.51
    assert pairs["little"].image.read_bytes() == (root / "train/im/little.tiff").read_bytes()
    assert pairs["little"].alpha.read_bytes() == (root / "train/gt/little.png").read_bytes()


def test_deep_images_shrink_to_8_bit(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (80, 120, 3), np.uint16)
    root = custom(tmp_path, "a", np.zeros((80, 120, 3), np.uint8), np.zeros((80, 120), np.uint8))
    cv2.imwrite(str(root / "train/im/a.png"), deep)
    small = cv2.imread(str(flattened(root, 30)["a"].image), cv2.IMREAD_UNCHANGED)
    expected = deep.reshape(20, 4, 30, 4, 3).mean(axis=(1, 3)) / 257
    assert small.dtype == np.uint8 and np.abs(small - expected).max() <= 1


def test_lossy_alphas_shrink_to_png(tmp_path: Path) -> None:
    for kind in ("im", "gt"):
        picture(tmp_path / f"mine/train/{kind}/a.JPG", size=(90, 60), kind=kind)
    (pair,) = flattened(tmp_path / "mine", 30).values()
    assert (pair.image.name, pair.alpha.name) == ("a.JPG", "a.png")


def test_file_whose_format_changes_does_not_stay_beside_the_new_one(tmp_path: Path) -> None:
    pixels = np.zeros((90, 60, 3), np.uint8)
    root = custom(tmp_path, "a", pixels, pixels[:, :, 0], ".tiff")
    assert flattened(root, 30)["a"].image.name == "a.png"
    custom(tmp_path, "a", pixels[:30, :30], pixels[:30, :30, 0], ".tiff")
    assert flattened(root, 30)["a"].image.name == "a.tiff"
    custom(tmp_path, "a", pixels, pixels[:, :, 0], ".tiff")
    assert flattened(root, 30)["a"].image.name == "a.png"


def test_mean_alpha_stays_at_an_odd_factor(tmp_path: Path) -> None:
    alpha = np.random.default_rng(1).integers(0, 256, (97, 61), np.uint8)
    root = custom(tmp_path, "a", np.zeros((97, 61, 3), np.uint8), alpha)
    (pair,) = flattened(root, 40).values()
    small = read_alpha(pair.alpha)
    assert small.shape == (40, 25) and abs(small.mean() - alpha.mean() / 255) < 1e-3


def test_shrunk_images_are_upright(tmp_path: Path) -> None:
    rgb = np.zeros((40, 80, 3), np.uint8)
    rgb[:, :40] = 255
    root = custom(tmp_path, "a", rgb, np.full((80, 40), 200, np.uint8), ".jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees: 40 wide, 80 high, white on top
    Image.fromarray(rgb).save(root / "train/im/a.jpg", exif=exif, quality=98)
    (pair,) = flattened(root, 20).values()
    shown = read_rgb(pair.image)
    assert shown.shape == (20, 10, 3) and shown[2].min() > 240 and shown[-3].max() < 15


def test_certain_trimap_pixels_cover_certain_pixels_only() -> None:
    rng = np.random.default_rng(2)
    trimap = np.kron(rng.choice([0, 128, 255], (12, 9)), np.ones((5, 5))).astype(np.uint8)
    small = shrink_trimap(trimap, (20, 15))  # by 3: blocks of 5 fall on every offset
    blocks = trimap.reshape(20, 3, 15, 3).transpose(0, 2, 1, 3).reshape(20, 15, 9)
    expected = np.where(blocks.min(2) == blocks.max(2), blocks[:, :, 0], 128)
    assert np.array_equal(small, expected) and set(np.unique(small)) == {0, 128, 255}
    line = np.zeros((64, 64), np.uint8)
    line[:, 31] = 128  # one pixel wide: the nearest neighbour could lose it
    assert (shrink_trimap(line, (9, 9)) == 128).any(axis=1).all()


def test_trimaps_shrink_with_their_images(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    for kind, suffix in (("im", "jpg"), ("gt", "png"), ("trimap", "png")):
        picture(root / f"train/{kind}/a.{suffix}", size=(90, 60), kind=kind)
    (pair,) = flattened(root, 30).values()
    full = read_trimap(root / "train/trimap/a.png", (90, 60))
    assert np.array_equal(read_trimap(pair.trimap, (30, 20)), shrink_trimap(full, (30, 20)))


def test_number_of_workers_changes_nothing(source: Path, tmp_path: Path, run: Callable) -> None:
    arguments = ("--source", source, "--max-side", 20, "--target")
    one = run(preprocess_dis5k.main, *arguments, tmp_path / "one", "--num-workers", 1)
    two = run(preprocess_dis5k.main, *arguments, tmp_path / "two", "--num-workers", 2)
    assert one.status == two.status == 0 and two.out.replace("two", "one") == one.out
    assert images(tmp_path / "two") == images(tmp_path / "one")
    assert manifest(tmp_path / "two") == manifest(tmp_path / "one")


# ------------------------------------------------------------------------------------------------------------- faults


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "other size":
        picture(path, size=(8, 8), kind="gt")
    else:
        path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "text": b"no image"}[how])


@pytest.mark.parametrize("how", ["truncated", "empty", "text", "other size"])
@pytest.mark.parametrize("kind", ["im", "gt"])
@pytest.mark.parametrize("options", [{}, {"link": True}, {"max_side": 20}])
def test_damaged_source_file_is_named_and_the_others_go_on(
    how: str, kind: str, options: dict, source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "flat"
    flatten(source, target, DIS5K, **options)  # then the source goes bad: what was made of it must go as well
    bad = source / f"DIS-TE2/{kind}/1#Bag#1#DIS-TE2.{'jpg' if kind == 'im' else 'png'}"
    good = bad.read_bytes()
    damage(bad, how)
    for where, made in ((target, 0), (tmp_path / "new", FILES - 4)):
        result = flatten(source, where, DIS5K, **options)
        assert len(result.failed) == 1 and "1#Bag#1#DIS-TE2" in result.failed[0] and result.made == made
        assert result.pairs == COUNTS | {"test": 7, "test/DIS-TE2": 1}
        assert [path for path in where.rglob("*") if path.name.startswith("1#Bag#1#DIS-TE2")] == []
        assert not any("1#Bag#1#DIS-TE2" in entry["path"] for entry in manifest(where)["files"])
    bad.unlink()
    bad.write_bytes(good)
    assert flatten(source, target, DIS5K, **options) == Flattened(COUNTS, 4, FILES - 4, [])


def test_larger_files_than_allowed_are_not_decoded(source: Path, tmp_path: Path) -> None:
    picture(source / "DIS-VD/im/1#Bag#1#DIS-VD.jpg", size=(200, 200))
    picture(source / "DIS-VD/gt/1#Bag#1#DIS-VD.png", size=(200, 200), kind="gt")
    result = flatten(source, tmp_path / "flat", DIS5K, max_pixels=30_000, max_side=20)
    assert len(result.failed) == 1 and "--max-pixels" in result.failed[0] and result.pairs["val"] == 1


def test_set_of_damaged_files_only_is_not_an_error_of_the_others(source: Path, tmp_path: Path) -> None:
    for path in (source / "DIS-VD/im").iterdir():
        path.write_bytes(b"")
    result = flatten(source, tmp_path / "flat", DIS5K)
    assert len(result.failed) == 2 and result.pairs == {place: n for place, n in COUNTS.items() if place != "val"}


@pytest.mark.parametrize("link", [False, True])
def test_full_disk_ends_the_run_at_once_and_it_can_be_continued(
    link: bool, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, real, calls = tmp_path / "flat", os.replace, []

    def full(*paths: Path) -> None:
        if str(paths[1]).endswith((".jpg", ".png")):
            calls.append(paths)
            if len(calls) == 6:
                raise OSError(28, "No space left on device")
        real(*paths)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CannotWriteError, match=r"flat/.*No space left") as caught:
        flatten(source, target, DIS5K, link=link)
    monkeypatch.setattr(os, "replace", real)
    assert "\n" not in str(caught.value) and len(calls) == 6
    assert not (target / "manifest.json").exists() and len(images(target)) == 6  # and the journal
    assert not list(target.rglob("*.tmp"))
    assert flatten(source, target, DIS5K, link=link) == Flattened(COUNTS, FILES - 5, 5, [])


def test_full_disk_is_told_by_the_journal_too(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("utils.manifest.json.dumps", full)
    with pytest.raises(CannotWriteError, match=r"journal: .*No space left"):
        flatten(source, tmp_path / "flat", DIS5K)


@pytest.mark.parametrize("fails", [True, False])
def test_disk_without_links_takes_copies(
    fails: bool, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    if fails:  # links are what was asked for
        with pytest.raises(
            UserError, match=r"--link: \S*/flat cannot hold links to \S*/DIS5K/\S*jpg .*; leave out --link"
        ):
            flatten(source, tmp_path / "flat", DIS5K, link=True)
        assert not (tmp_path / "flat").exists()
    else:
        assert flatten(source, tmp_path / "flat", DIS5K) == Flattened(COUNTS, FILES, 0, [])
        assert (tmp_path / "flat/test/im/1#Bag#1#DIS-TE1.jpg").stat().st_nlink == 1


def test_a_link_in_the_target_never_leads_into_the_source(source: Path, tmp_path: Path) -> None:
    before = files(source)
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat/train").symlink_to(source / "DIS-TR")
    with pytest.raises(UserError, match=r"--target .*flat/train/(im|gt) is .*DIS5K, or lies in it"):
        flatten(source, tmp_path / "flat", DIS5K, max_side=4)
    assert files(source) == before


@pytest.mark.parametrize("target", ["DIS5K", "DIS5K/flat", ".", "DIS5K/../DIS5K/DIS-TR", "alias"])
def test_overlapping_folders_are_refused(target: str, source: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(source)
    before = files(source)
    with pytest.raises(UserError, match=r"--target .*choose another folder"):
        flatten(source, tmp_path / target, DIS5K)
    assert files(source) == before


def test_foreign_files_in_the_target_are_refused_before_anything_is_made(source: Path, tmp_path: Path) -> None:
    for kind, suffix in (("im", ".jpg"), ("gt", ".png")):
        picture(tmp_path / "flat/val" / kind / f"old{suffix}")
    before = files(tmp_path / "flat")
    with pytest.raises(UserError, match=r"--target .*2 files in val are not in the source \(old"):
        flatten(source, tmp_path / "flat", DIS5K)
    assert files(tmp_path / "flat") == before


def test_file_that_is_gone_from_the_source_is_noticed(source: Path, tmp_path: Path) -> None:
    flatten(source, tmp_path / "flat", DIS5K)
    (source / "DIS-VD/im/1#Bag#1#DIS-VD.jpg").unlink()
    (source / "DIS-VD/gt/1#Bag#1#DIS-VD.png").unlink()
    with pytest.raises(UserError, match=r"2 files in val are not in the source"):
        flatten(source, tmp_path / "flat", DIS5K)


def test_target_that_changes_meanwhile_fails_the_last_check(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import utils.preprocess

    real = utils.preprocess._verified

    def late(target: Path, *rest: Any) -> dict[str, int]:
        (target / "val/im/1#Bag#1#DIS-VD.jpg").write_bytes(b"changed")
        return real(target, *rest)

    monkeypatch.setattr(utils.preprocess, "_verified", late)
    with pytest.raises(UserError, match=r"1 files in val are not as they were made \(1#Bag#1#DIS-VD.jpg"):
        flatten(source, tmp_path / "flat", DIS5K)
    assert not (tmp_path / "flat/manifest.json").exists()


# ------------------------------------------------------------------------------------------------------------- script


def test_script_prints_counts_and_exits_with_the_right_status(
    source: Path, tmp_path: Path, run: Callable, refused: Callable
) -> None:
    target = tmp_path / "flat"
    options = ("--source", source, "--target", target, "--num-workers", 1)
    done = run(preprocess_dis5k.main, *options)
    assert done.status == 0
    lines = done.out.splitlines()
    assert f"{target / 'test'}: 8 pairs" in lines and lines[-1] == f"{FILES} files made, 0 already there"

    (source / "DIS-VD/im/1#Bag#1#DIS-VD.jpg").write_bytes(b"")
    failed = run(preprocess_dis5k.main, *options)
    assert failed.status == 1 and f"failed: {source}/DIS-VD/im/1#Bag#1#DIS-VD.jpg: empty file" in failed.err
    assert "\n1 sample failed" in failed.err and f"{target / 'val'}: 1 pair\n" in failed.out

    message = refused(preprocess_dis5k.main, "--source", tmp_path / "gone", "--target", target)
    assert str(tmp_path / "gone") in message and "--source" in message
    assert "HRSOD" in refused(preprocess_dis5k.main, "--dataset", "HRSDO")


def test_other_datasets_go_by_their_own_folders(tmp_path: Path, run: Callable) -> None:
    for split in ("TR-HRSOD", "TE-HRSOD"):
        picture(tmp_path / f"cwd/HRSOD/{split}/im/a.jpg", split)
        picture(tmp_path / f"cwd/HRSOD/{split}/gt/a.png", split, kind="gt")
    done = run(preprocess_dis5k.main, "--dataset", "hrsod", "--num-workers", 1)
    assert done.status == 0 and "HRSOD_Flat/train: 1 pair\n" in done.out
    assert find_pairs(Path("HRSOD_Flat"), "HRSOD", "val") == find_pairs(Path("HRSOD_Flat"), "HRSOD", "test")


def own(root: Path, *sets: str) -> Path:
    """A dataset of one's own, a pair in each set."""
    for split in sets:
        picture(root / split / "im/a.jpg", split)
        picture(root / split / "gt/a.png", split, kind="gt")
    return root


@pytest.mark.parametrize("dataset", ["custom", "embedded"])
def test_own_dataset_has_the_sets_that_are_there(dataset: str, tmp_path: Path, run: Callable) -> None:
    source, target = own(tmp_path / "mine", "val", "train"), tmp_path / "flat"
    options = ("--dataset", dataset, "--source", source, "--target", target, "--num-workers", 1)
    done = run(preprocess_dis5k.main, *options)
    lines = [
        f"{target}/train: 1 pair",
        f"{target}/val: 1 pair",
        f"{source}: no test set",
        "4 files made, 0 already there",
    ]
    assert done.status == 0 and done.out.splitlines() == lines
    assert manifest(target)["splits"] == ["train", "val"]

    own(source, "test")
    (source / "test/gt").rename(tmp_path / "labels")  # photographs without labels
    there = {name: content for name, (content, *_) in files(target).items()}
    for splits in ((), ("--splits", "test", "train", "val")):
        failed = run(preprocess_dis5k.main, *options, *splits)
        assert failed.status == 2 and f"no folder {source}/test/gt for the alphas" in failed.err
        assert failed.err.endswith(", or take only what is there: --splits train val\n")
        assert there == {name: content for name, (content, *_) in files(target).items()}

    (tmp_path / "labels").rename(source / "test/gt")
    shutil.rmtree(source / "train")
    done = run(preprocess_dis5k.main, *options)  # train is not asked for, so it stays
    assert done.out.splitlines()[-2:] == [f"{source}: no train set", "2 files made, 2 already there"]
    assert manifest(target)["splits"] == ["train", "val", "test"] and (target / "train/im/a.jpg").is_file()


def test_own_dataset_has_at_least_one_set_and_those_that_are_named(tmp_path: Path) -> None:
    custom, source = DATASETS["Custom"], tmp_path / "mine"
    source.mkdir()
    with pytest.raises(UserError, match=r"^no Custom train images: .*--source [^:]*$"):
        flatten(source, tmp_path / "flat", custom)
    own(source, "val")
    with pytest.raises(UserError, match=r"^no Custom test images: .*: --splits val$"):
        flatten(source, tmp_path / "flat", custom, splits=["val", "test"])
    (source / "train/im").mkdir(parents=True)  # begun, not absent
    with pytest.raises(UserError, match=r"^Custom train: no folder .*: --splits val$"):
        flatten(source, tmp_path / "flat", custom)
    assert not (tmp_path / "flat").exists()
    (source / "train/im").rmdir()
    result = flatten(source, tmp_path / "flat", custom)
    assert result == Flattened({"val": 1}, 2, 0, [], ("train", "test"))


def test_script_starts_without_torch() -> None:
    code = "import sys, preprocess_dis5k; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
